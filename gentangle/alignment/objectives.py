r"""Margin-based objectives, each defined once, symbolically.

Every one has the form (Yuan et al., arXiv 2410.13828, the general margin-based objective)

.. math:: L = -\bigl( m(h_w(\log\pi_w) - h_l(\log\pi_l)) + \Lambda(\log\pi_w) \bigr)

From that definition come the LaTeX of the book, the slopes d_w and d_l by differentiation, and the
loss for numpy or torch. To add an objective, add a row to ``_DEFINITIONS``: its tests and its row
of the book's table follow.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import sympy as sp

from gentangle.alignment.compile import compiled
from gentangle.alignment.symbols import (
    ALPHA,
    BETA,
    DELTA,
    GAMMA,
    LAMBDA,
    LEN_CHOSEN,
    LEN_REJECTED,
    LOGP_CHOSEN,
    LOGP_REJECTED,
    MARGIN,
    REF_CHOSEN,
    REF_REJECTED,
    log_sigmoid,
    min0,
)
from gentangle.errors import InputError, nearest

DATA_SYMBOLS = (LOGP_CHOSEN, LOGP_REJECTED, REF_CHOSEN, REF_REJECTED, LEN_CHOSEN, LEN_REJECTED)


@dataclass(frozen=True)
class Objective:
    """A margin loss of one preference pair.

    Attributes:
        name: key in :func:`objective`.
        title: how its paper writes it.
        m: function of the margin u = h_chosen - h_rejected.
        h_chosen, h_rejected: functions of the chosen and of the rejected log-probability.
        likelihood: the term Lambda(log pi_w) beside the margin; 0 where there is none.
        defaults: hyperparameters by symbol, with the value used where none is given.
        source: paper and equation.
    """

    name: str
    title: str
    m: sp.Expr
    h_chosen: sp.Expr
    h_rejected: sp.Expr
    likelihood: sp.Expr
    defaults: Mapping[sp.Symbol, float]
    source: str

    @cached_property
    def loss(self) -> sp.Expr:
        """L as an expression of the log-probabilities, in nats."""
        return -(self.m.subs(MARGIN, self.h_chosen - self.h_rejected) + self.likelihood)

    @cached_property
    def d_chosen(self) -> sp.Expr:
        r"""Slope :math:`d_w = -\partial L / \partial \log\pi_w`."""
        return sp.diff(-self.loss, LOGP_CHOSEN)

    @cached_property
    def d_rejected(self) -> sp.Expr:
        r"""Slope :math:`d_l = \partial L / \partial \log\pi_l`."""
        return sp.diff(self.loss, LOGP_REJECTED)

    @property
    def hyperparameters(self) -> tuple[sp.Symbol, ...]:
        return tuple(self.defaults)

    def __call__(self, logp_chosen: Any, logp_rejected: Any, **given: Any) -> Any:
        """Loss of each pair, in the shape of the log-probabilities.

        Args:
            logp_chosen, logp_rejected: log-probabilities of the responses in nats, summed over
                tokens: floats, numpy arrays, or torch tensors (then the loss is differentiable).
            given: ``ref_chosen`` and ``ref_rejected`` (default 0), ``len_chosen`` and
                ``len_rejected`` in tokens (default 1), and hyperparameters by name.

        Raises:
            InputError: an argument that the objective does not know, a length below 1, beta <= 0.
        """
        return self._evaluate(self.loss, logp_chosen, logp_rejected, given)

    def slopes(self, logp_chosen: Any, logp_rejected: Any, **given: Any) -> tuple[Any, Any]:
        """The pair (d_w, d_l), each in the shape of the log-probabilities; arguments as in a call."""
        return (
            self._evaluate(self.d_chosen, logp_chosen, logp_rejected, given),
            self._evaluate(self.d_rejected, logp_chosen, logp_rejected, given),
        )

    def _evaluate(self, expression: sp.Expr, logp_chosen: Any, logp_rejected: Any, given: Mapping[str, Any]) -> Any:
        values = {"ref_chosen": 0.0, "ref_rejected": 0.0, "len_chosen": 1.0, "len_rejected": 1.0}
        values |= {symbol.name: value for symbol, value in self.defaults.items()}
        for name in given:
            if name not in values:
                raise InputError(f"{self.title} has no argument {name!r}. {nearest(name, values)}")
        values |= given
        _check_ranges(self.title, values)
        backend = "torch" if type(logp_chosen).__module__.startswith("torch") else "numpy"
        arguments = (*DATA_SYMBOLS, *self.hyperparameters)
        result = compiled(arguments, expression, backend)(
            logp_chosen, logp_rejected, *(values[symbol.name] for symbol in arguments[2:])
        )
        # A slope may be free of the log-probabilities (Lambda alone, say): the zero gives it their shape.
        return result + 0 * (logp_chosen + logp_rejected)


def _check_ranges(title: str, values: Mapping[str, Any]) -> None:
    if "beta" in values and not _all(values["beta"] > 0):
        raise InputError(f"{title} got beta = {values['beta']}, expected a positive number.")
    for side in ("len_chosen", "len_rejected"):
        if not _all(values[side] >= 1):
            raise InputError(
                f"{title} got {side} = {values[side]}, expected at least one token: the response is empty."
            )


def _all(condition: Any) -> bool:
    return bool(condition.all()) if hasattr(condition, "all") else bool(condition)


_LOG_RATIO_REF = BETA * (REF_CHOSEN - REF_REJECTED)

_DEFINITIONS = (
    Objective(
        name="dpo",
        title="DPO",
        m=log_sigmoid(MARGIN - _LOG_RATIO_REF),
        h_chosen=BETA * LOGP_CHOSEN,
        h_rejected=BETA * LOGP_REJECTED,
        likelihood=sp.Integer(0),
        defaults={BETA: 0.1},
        source="Rafailov et al., arXiv 2305.18290, Equation 7",
    ),
    Objective(
        name="r-dpo",
        title="R-DPO",
        m=log_sigmoid(MARGIN - _LOG_RATIO_REF + ALPHA * (LEN_CHOSEN - LEN_REJECTED)),
        h_chosen=BETA * LOGP_CHOSEN,
        h_rejected=BETA * LOGP_REJECTED,
        likelihood=sp.Integer(0),
        defaults={BETA: 0.1, ALPHA: 0.2},
        source="Park et al., arXiv 2403.19159; the sign of the length term follows from the reward r - alpha len",
    ),
    Objective(
        name="ipo",
        title="IPO",
        m=-((MARGIN - (REF_CHOSEN - REF_REJECTED) - 1 / (2 * BETA)) ** 2),
        h_chosen=LOGP_CHOSEN,
        h_rejected=LOGP_REJECTED,
        likelihood=sp.Integer(0),
        defaults={BETA: 0.1},
        source="Azar et al., arXiv 2310.12036, Equation 17 (its tau is beta here, as in TRL); summed over tokens",
    ),
    Objective(
        name="simpo",
        title="SimPO",
        m=log_sigmoid(MARGIN - GAMMA),
        h_chosen=BETA * LOGP_CHOSEN / LEN_CHOSEN,
        h_rejected=BETA * LOGP_REJECTED / LEN_REJECTED,
        likelihood=sp.Integer(0),
        defaults={BETA: 2.0, GAMMA: 1.0},
        source="Meng et al., arXiv 2405.14734, Equation 6",
    ),
    Objective(
        name="rrhf",
        title="RRHF",
        m=min0(MARGIN),
        h_chosen=LOGP_CHOSEN / LEN_CHOSEN,
        h_rejected=LOGP_REJECTED / LEN_REJECTED,
        likelihood=LAMBDA * LOGP_CHOSEN,
        defaults={LAMBDA: 1.0},
        source="Yuan et al., arXiv 2304.05302",
    ),
    Objective(
        name="slic-hf",
        title="SLiC-HF",
        m=min0(MARGIN - DELTA),
        h_chosen=LOGP_CHOSEN,
        h_rejected=LOGP_REJECTED,
        likelihood=LAMBDA * LOGP_CHOSEN,
        defaults={DELTA: 1.0, LAMBDA: 0.1},
        source="Zhao et al., arXiv 2305.10425, Equation 1",
    ),
    Objective(
        name="cpo",
        title="CPO",
        m=log_sigmoid(MARGIN),
        h_chosen=BETA * LOGP_CHOSEN,
        h_rejected=BETA * LOGP_REJECTED,
        likelihood=LAMBDA * LOGP_CHOSEN,
        defaults={BETA: 0.1, LAMBDA: 1.0},
        source="Xu et al., arXiv 2401.08417",
    ),
    Objective(
        name="dpop",
        title="DPOP",
        m=log_sigmoid(MARGIN - _LOG_RATIO_REF),
        h_chosen=BETA * (LOGP_CHOSEN + LAMBDA * min0(LOGP_CHOSEN - REF_CHOSEN)),
        h_rejected=BETA * LOGP_REJECTED,
        likelihood=sp.Integer(0),
        defaults={BETA: 0.1, LAMBDA: 50.0},
        source="Pal et al., arXiv 2402.13228 (Smaug), Equation 3",
    ),
)

OBJECTIVES: Mapping[str, Objective] = MappingProxyType({o.name: o for o in _DEFINITIONS})


def objective(name: str) -> Objective:
    """The objective called ``name``.

    Raises:
        InputError: there is none; the message lists the names, the nearest one first.

    >>> objective("dpo").d_chosen == objective("dpo").d_rejected
    True
    """
    if name not in OBJECTIVES:
        raise InputError(f"Unknown objective {name!r}. {nearest(name, OBJECTIVES)}")
    return OBJECTIVES[name]
