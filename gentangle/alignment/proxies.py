"""What others rank pairs by without a gradient: hidden states (CHES), and how much the two responses differ."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

#: Name -> whether the pairs that pull chosen down are those where it is large.
RANKINGS = {"entanglement": True, "ches": True, "edit-distance": False}


def ches(model: Any, batch: Mapping[str, torch.Tensor]) -> np.ndarray:
    r"""Centred hidden embedding similarity of each pair, shape (P,):

    .. math:: \Bigl\langle \sum_t h^w_t, \sum_t h^l_t\Bigr\rangle - \Bigl\lVert\sum_t h^w_t\Bigr\rVert^2

    with :math:`h_t` the last layer's state that predicts a response's token t. A proxy, by one forward pass, of
    :math:`\langle w,l\rangle - \lVert w\rVert^2`.

    Args:
        model: a causal language model of transformers.
        batch: as :func:`gentangle.alignment.policy.collate` makes it.

    Source: Razin et al., arXiv 2410.08847.
    """
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        states = model(**inputs, use_cache=False, output_hidden_states=True).hidden_states[-1][:, :-1].double()
    chosen, rejected = (states * batch["completion_mask"][:, 1:, None]).sum(1).chunk(2)
    return np.asarray(((chosen * rejected).sum(-1) - chosen.square().sum(-1)).cpu())


def edit_distance(chosen: Sequence[int], rejected: Sequence[int]) -> float:
    """Levenshtein distance of two token sequences over the longer one's length, in [0, 1].

    Source: Pal et al. (DPOP), arXiv 2402.13228, who find that close pairs pull chosen down.
    """
    from rapidfuzz.distance import Levenshtein

    return float(Levenshtein.normalized_distance(chosen, rejected))


def rankings(model: Any, batch: Mapping[str, torch.Tensor], examples: Sequence[Mapping[str, list[int]]]) -> Any:
    """Columns ``ches`` and ``edit-distance`` of a batch of pairs, by name."""
    return {
        "ches": ches(model, batch),
        "edit-distance": [edit_distance(e["chosen_ids"], e["rejected_ids"]) for e in examples],
    }
