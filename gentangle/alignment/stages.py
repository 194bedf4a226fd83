"""Between the stages of a run: pairs looked at as the suffix theorem sees them, and layer by layer."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from gentangle.alignment.heatmap import token_heatmap
from gentangle.alignment.policy import response_log_probs, to_device, tokenise
from gentangle.alignment.preference import Pair
from gentangle.alignment.suffix import Span, SuffixPair, same_position
from gentangle.gradients.engine import engine_gram
from gentangle.gradients.pairs import pair_blocks

#: Kinds of parameters, by a word in the parameter's name; the first that fits.
KINDS = {"norm": r"norm|ln_", "attention": r"attn", "MLP": r"mlp", "embedding": r"emb|wte|wpe|lm_head"}

SUFFIX_FIGURES = ("miss_chosen", "miss_rejected", "state_cosine", "head_slack", "head_norm_sq", "same_position")


def suffix_look(model: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, list[float | None]]:
    r"""What the suffix theorem asks about, of every pair whose responses differ in their first token alone.

    Returns:
        One entry a pair, for each of ``SUFFIX_FIGURES``: the means over the suffix's tokens of
        :math:`1 - q_t(s_t)` after chosen and after rejected, and of :math:`\cos(h_t^w, h_t^l)` of the last layer's
        states; in the head's own gradients :math:`\lVert w\rVert^2 - \langle w,l\rangle`, :math:`\lVert w\rVert^2`, and
        the part of the former that each suffix position has with itself, :math:`\sum_t D_t`. None where the responses
        differ elsewhere, or share no suffix. And ``argmax_mass``, the largest probability at a response's first token.
    """
    batch = to_device(batch, next(model.parameters()).device)
    with torch.no_grad():
        out = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            use_cache=False,
            output_hidden_states=True,
        )
    pairs, found = len(out.logits) // 2, []
    for pair in range(pairs):
        sides = [_response(out, batch, row) for row in (pair, pair + pairs)]
        found.append([*_of_pair(*sides), float(sides[0].p[0].max())])
    return dict(zip((*SUFFIX_FIGURES, "argmax_mass"), map(list, zip(*found, strict=True)), strict=True))


def _response(out: Any, batch: Mapping[str, torch.Tensor], row: int) -> Span:
    at = batch["completion_mask"][row, 1:].nonzero()[:, 0]
    states, p = out.hidden_states[-1][row, at].double(), out.logits[row, at].double().softmax(-1)
    return Span(*(t.cpu().numpy() for t in (states, p, batch["input_ids"][row, 1:][at])))


def _of_pair(chosen: Span, rejected: Span) -> list[float | None]:
    after = [Span(*(part[1:] for part in side)) for side in (chosen, rejected)]
    if not len(after[0].tokens) or not np.array_equal(after[0].tokens, after[1].tokens):
        return [None] * len(SUFFIX_FIGURES)
    pair = SuffixPair(chosen.states[0], chosen.p[0], int(chosen.tokens[0]), int(rejected.tokens[0]), *after)
    miss_w, miss_l = (1 - np.take_along_axis(s.p, s.tokens[:, None], 1).mean() for s in after)
    h, k = (span.states for span in after)
    rho = (h * k).sum(1) / np.linalg.norm(h, axis=1) / np.linalg.norm(k, axis=1)
    own, gram = same_position(*after), pair.gram()
    return [float(x) for x in (miss_w, miss_l, rho.mean(), gram[0, 0] - gram[0, 1], gram[0, 0], own.sum())]


def token_look(model: Any, tokenizer: Any, pairs: Sequence[Pair]) -> dict[str, list[Any]]:
    r"""The block of each pair's token heatmap between chosen and rejected, as cosines, position by position.

    Returns:
        One entry a pair: ``contrast_cosine``, of the first tokens of both responses; ``shared_cosine``, of the tokens
        that both have at one position, wherever they have; ``heatmap_sum``, the sum of the whole block's inner
        products, which is :math:`\langle w,l\rangle`.
    """
    found: dict[str, list[Any]] = {"contrast_cosine": [], "shared_cosine": [], "heatmap_sum": []}
    for pair in pairs:
        ids = tokenise(tokenizer, pair)
        heat = token_heatmap(model, tokenizer, ids)
        own, other = ids["chosen_ids"], ids["rejected_ids"]
        same = [t for t in range(1, min(len(own), len(other))) if own[t] == other[t]]
        found["contrast_cosine"].append(float(heat.cosine[0, len(own)]))
        found["shared_cosine"].append([float(heat.cosine[t, len(own) + t]) for t in same])
        found["heatmap_sum"].append(float(heat.pair[0, 1]))
    return found


def part_grams(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> dict[str, list[list[float]]]:
    r"""Each layer's and each kind's share of the pairs' Gram matrices.

    Args:
        model: the policy; only its trainable parameters count, so with an adapter only the adapter's.
        batch: pairs, as :func:`gentangle.alignment.policy.collate` makes them.

    Returns:
        For ``layer 0``, ... (parameters outside the layers: ``no layer``) and for each of ``KINDS`` a row a pair:
        :math:`\lVert w\rVert^2, \langle w,l\rangle, \lVert l\rVert^2`. Layers add up to the whole, and so do kinds.
    """
    batch = to_device(batch, next(model.parameters()).device)
    shares = engine_gram(model, partial(response_log_probs, batch=batch), pairs=True)
    parts: dict[str, np.ndarray] = {}
    for name, share in shares.items():
        blocks = pair_blocks(share)[:, [0, 0, 1], [0, 1, 1]]
        for part in (_layer(name), _kind(name)):
            parts[part] = parts.get(part, 0) + blocks
    return {part: values.tolist() for part, values in parts.items()}


def _layer(name: str) -> str:
    number = re.search(r"\.(?:h|layers)\.(\d+)\.", name)
    return f"layer {number[1]}" if number else "no layer"


def _kind(name: str) -> str:
    return next((kind for kind, word in KINDS.items() if re.search(word, name)), "other")
