r"""The bridge between the two papers: a preference pair as two domains, and runs read at the same margin.

A margin loss has the gradient :math:`-d_w w + d_l l`, the sum of those of :math:`L_1 = -d_w\log\pi_w` and
:math:`L_2 = d_l\log\pi_l` with the slopes held fixed. Since
:math:`\langle\nabla L_1,\nabla L_2\rangle = -d_w d_l\langle w,l\rangle`, what *raises* the inner product of domains
*lowers* that of chosen and rejected.

Source: ours, of Yuan et al., arXiv 2410.13828, and Shi et al., arXiv 2104.09937; the split of a pair's step is
J. Yu's (2026).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from gentangle.alignment.last_layer import LastLayerPair
from gentangle.alignment.records import look_cosines, rows_of
from gentangle.errors import InputError
from gentangle.verdict import Record, Verdict, in_part


def parts(pair: LastLayerPair, d_chosen: float = 1.0, d_rejected: float = 1.0) -> dict[str, tuple[Any, Any]]:
    r"""The pair's two parts as minibatches (x, y) for :func:`part_loss`: hidden states, and signed one-hot targets.

    Args:
        pair: its states go through whatever model of logits is trained.
        d_chosen, d_rejected: slopes, held fixed until the parts are made anew.

    Returns:
        ``chosen`` and ``rejected``: x of shape (T, d); y of shape (T, V), :math:`-d_w` or :math:`+d_l` at the tokens
        and 0 elsewhere, with V one more than the largest token id. float64.
    """
    size = 1 + max(int(max(tokens)) for tokens in pair.tokens)
    signed, found = (-float(d_chosen), float(d_rejected)), {}
    for name, states, tokens, slope in zip(("chosen", "rejected"), pair.states, pair.tokens, signed, strict=True):
        targets = slope * np.eye(size)[np.asarray(tokens)]
        found[name] = torch.as_tensor(np.asarray(states, dtype=float)), torch.as_tensor(targets)
    return found


def part_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    r"""A part's loss, :math:`\sum_{t,v} y_{tv}\log\mathrm{softmax}(z_t)_v`: so :math:`L_1` or :math:`L_2`, in nats.

    Args:
        logits: z, shape (T, V).
        targets: y, shape (T, V') with V' at most V, as :func:`parts` makes them.
    """
    return (targets * logits.log_softmax(dim=-1)[..., : targets.shape[-1]]).sum()


#: What :func:`path` reads at a look, in the order of its columns.
READINGS = ("margin", "chosen", "rejected", "inner_product", "chosen_norm_sq", "rejected_norm_sq", "cosine")


def path(record: Record, group: str) -> np.ndarray:
    """A run as its looks show it, a row a look, columns as in ``READINGS``; shape (looks, 7).

    The first three are mean changes since the first look, in nats, of all tracked pairs; inner product and norms are
    means over the pairs whose Gram matrices were taken, the cosine their median.

    Args:
        record: a record of a preference run, as :func:`gentangle.alignment.records.load_record` returns it.
        group: ``train`` or ``held_out``.
    """
    looks = rows_of(record["rows"], "track", group)
    read = {name: np.array([look[name] for look in looks]) for name in READINGS[1:-1]}
    means = {name: values.mean(axis=1) for name, values in read.items()}
    for side in ("chosen", "rejected"):
        means[side] = means[side] - means[side][0]
    margin = means["chosen"] - means["rejected"]
    return np.stack([margin, *means.values(), np.median(look_cosines(read), axis=1)], axis=1)


def at_margin(run: np.ndarray, margin: float) -> dict[str, float]:
    """The readings of a :func:`path` where it first passes a margin, linear between the two looks about it.

    Raises:
        InputError: the run never gets there.
    """
    after = int(np.argmax(run[:, 0] >= margin))
    if not 0 < margin <= run[:, 0].max():
        raise InputError(f"The run passes no margin of {margin:.3g}: it has margins up to {run[:, 0].max():.3g} nats.")
    low, high = run[after - 1], run[after]
    share = (margin - low[0]) / (high[0] - low[0])
    return dict(zip(READINGS, (low + share * (high - low)).tolist(), strict=True))


def beside(one: Record, other: Record, group: str) -> tuple[dict[str, float], dict[str, float]]:
    """Two runs' readings at the largest margin that both of them pass."""
    runs = path(one, group), path(other, group)
    margin = min(float(run[:, 0].max()) for run in runs)
    first, second = (at_margin(run, margin) for run in runs)
    return first, second


def bridge_verdicts(records: Mapping[str, Sequence[Record]]) -> dict[str, Verdict]:
    r"""Whether the split step of plain SGD lowers :math:`\langle w,l\rangle` beside the plain step, by claim's id.

    Read at the largest margin that both runs of a seed pass, with kappa 1. ``reproduced in part`` where the mean inner
    product of the held-out pairs is lower by the split step in every seed; else ``differs``.
    """
    pairs = zip(records["plain-sgd"], records["split-sgd"], strict=True)
    found = [beside(plain, split, "held_out") for plain, split in pairs]
    holds = all(split["inner_product"] < plain["inner_product"] for plain, split in found)
    margins = ", ".join(f"{plain['margin']:.1f}" for plain, _ in found)
    told = [
        f"at a margin of {margins} nats, plain -> split",
        *(
            f"{name} {', '.join(f'{plain[key]:{form}} -> {split[key]:{form}}' for plain, split in found)}"
            for name, key, form in (
                ("<w,l>", "inner_product", ".0f"),
                ("median cosine", "cosine", ".2f"),
                ("chosen", "chosen", "+.2f"),
            )
        ),
    ]
    return {"split-step-lowers-inner-product": (in_part(holds), "; ".join(told))}
