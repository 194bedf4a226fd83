"""The menu of objectives: both slopes of each at one pair, as numbers and as a formula in plain text."""

import re
from functools import cache
from typing import Any

import sympy as sp

from gentangle.alignment.margin_loss import Objective
from gentangle.alignment.objectives import OBJECTIVES
from gentangle.alignment.symbols import (
    LOGP_CHOSEN,
    LOGP_REJECTED,
    MARGIN,
    REF_CHOSEN,
    REF_REJECTED,
    inverse_complement,
    is_negative,
)

#: The pair at which the menu reads the slopes. Both responses have fallen below the reference, chosen further, and
#: their lengths differ: so penalties are active, hinges too, and losses per token part from losses of sums.
PAIR = {
    "logp_chosen": -40.0,
    "logp_rejected": -38.0,
    "ref_chosen": -36.0,
    "ref_rejected": -36.0,
    "len_chosen": 20.0,
    "len_rejected": 25.0,
}
#: The pair in words; ``_w`` and ``_l`` are subscripts.
PAIR_IN_WORDS = (
    (
        "log \u03c0_w = {logp_chosen:g} and log \u03c0_l = {logp_rejected:g} nats (reference: {ref_chosen:g} and "
        "{ref_rejected:g}), {len_chosen:g} and {len_rejected:g} tokens"
    )
    .format(**PAIR)
    .replace("-", "\u2212")
)

#: Slope m' of a loss in its margin, where that is no constant.
MARGIN_SLOPE = sp.Symbol("m\u2032")
_RATIO_W, _RATIO_L = sp.symbols("r_w r_l", real=True)
_RATIOS = {LOGP_CHOSEN: _RATIO_W + REF_CHOSEN, LOGP_REJECTED: _RATIO_L + REF_REJECTED}
#: What sympy writes, and what the widget does.
_WRITTEN = {
    "logp_chosen": "log \u03c0_w",
    "logp_rejected": "log \u03c0_l",
    "len_chosen": "|y_w|",
    "len_rejected": "|y_l|",
    "lam_chosen": "\u03bb_w",
    "lam_rejected": "\u03bb_l",
    "lam": "\u03bb",
    "beta": "\u03b2",
    "anchor": "z_0",
    "sigmoid": "\u03c3",
    "{": "[",  # which sorts behind the letters
    "}": "]",
    "*": " ",
    "-": "\u2212",
}


@cache
def objective_menu() -> tuple[tuple[str, str, float, float, str, str], ...]:
    """Of every objective its name, its title, d_w and d_l at ``PAIR``, and the formulas of both.

    Hyperparameters are each objective's defaults. The slopes are rounded to 12 digits, so that machines whose last
    digits differ write the same page.
    """
    return tuple(_row(objective) for objective in OBJECTIVES.values())


def _row(objective: Objective) -> tuple[str, str, float, float, str, str]:
    d_chosen, d_rejected = (float(f"{float(slope):.12g}") for slope in objective.slopes(**PAIR))
    chosen, rejected = map(plain, chain_rule(objective))
    return objective.name, objective.title, d_chosen, d_rejected, chosen, rejected


def chain_rule(objective: Objective) -> tuple[sp.Expr, sp.Expr]:
    r"""The slopes :math:`d_w = m' h_w' + \Lambda'` and :math:`d_l = m' h_l' - \Lambda_l'`, with m' left as a symbol.

    Where the margin enters linearly its constant slope stands in place of m'. Log-ratios :math:`r = \log\pi -
    \log\pi^{ref}` are written where the reference occurs.
    """
    slope = sp.diff(objective.m, MARGIN)
    slope = slope if slope.is_number else MARGIN_SLOPE
    chosen = slope * sp.diff(objective.h_chosen, LOGP_CHOSEN) + sp.diff(objective.likelihood, LOGP_CHOSEN)
    rejected = slope * sp.diff(objective.h_rejected, LOGP_REJECTED)
    rejected -= sp.diff(objective.likelihood_rejected, LOGP_REJECTED)
    return tuple(d.subs(_RATIOS) if d.has(REF_CHOSEN, REF_REJECTED) else d for d in (chosen, rejected))


def plain(expression: Any) -> str:
    r"""A slope in plain text: ``_w`` and ``_l`` are subscripts, ``[...]`` is 1 where it holds and 0 elsewhere.

    >>> from gentangle.alignment.objectives import objective
    >>> plain(chain_rule(objective("dpop"))[0])
    'β m′ (λ [r_w < 0] + 1)'
    """
    written = expression.replace(is_negative, lambda x: sp.Symbol(f"{{{x} < 0}}"))
    written = written.replace(inverse_complement, lambda x: 1 / (1 - sp.exp(x)))
    return re.sub("|".join(map(re.escape, _WRITTEN)), lambda found: _WRITTEN[found[0]], sp.sstr(written))
