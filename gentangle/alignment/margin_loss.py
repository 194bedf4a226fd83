r"""A margin loss of one preference pair as one symbolic definition: its LaTeX, its slopes, and the loss that trains.

.. math:: L = -\bigl( m(h_w(\log\pi_w) - h_l(\log\pi_l)) + \Lambda(\log\pi_w) + \Lambda_l(\log\pi_l) \bigr)

Source: Yuan et al., arXiv 2410.13828, the general margin-based objective, which has no :math:`\Lambda_l`: it is 0 in
all but Cal-DPO.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import sympy as sp

from gentangle.alignment.compile import compiled
from gentangle.alignment.symbols import (
    LEN_CHOSEN,
    LEN_REJECTED,
    LOGP_CHOSEN,
    LOGP_REJECTED,
    MARGIN,
    REF_CHOSEN,
    REF_REJECTED,
    log_odds,
)
from gentangle.errors import InputError, one_of

DATA_SYMBOLS = (LOGP_CHOSEN, LOGP_REJECTED, REF_CHOSEN, REF_REJECTED, LEN_CHOSEN, LEN_REJECTED)

#: Hyperparameters that have a range: (whether a value lies in it, what is expected).
_RANGES = {
    "beta": (lambda x: x > 0, "a positive number"),
    "tau": (lambda x: x > 0, "a positive number"),
    "epsilon": (lambda x: (x > 0) & (x < 0.5), "a share of flipped labels above 0 and below 1/2"),
    "len_chosen": (lambda x: x >= 1, "at least one token: the response is empty"),
    "len_rejected": (lambda x: x >= 1, "at least one token: the response is empty"),
}


@dataclass(frozen=True)
class Objective:
    r"""A margin loss of one preference pair.

    Attributes:
        name: key in :func:`gentangle.objective`.
        title: how its paper writes it.
        m: function of the margin u = h_chosen - h_rejected.
        h_chosen, h_rejected: functions of the chosen and of the rejected log-probability.
        source: paper and equation.
        likelihood: the term Lambda(log pi_w) beside the margin; 0 where there is none.
        likelihood_rejected: a term Lambda_l(log pi_l), which the paper's general form does not have; 0 where there is
            none.
        defaults: hyperparameters by symbol, with the value used where none is given.
        trl: ``trainer:loss_type`` of TRL's own loss of that name, "" where TRL has none.
    """

    name: str
    title: str
    m: sp.Expr
    h_chosen: sp.Expr
    h_rejected: sp.Expr
    source: str
    likelihood: sp.Expr = sp.S.Zero
    likelihood_rejected: sp.Expr = sp.S.Zero
    defaults: Mapping[sp.Symbol, float] = field(default_factory=dict)
    trl: str = ""

    @cached_property
    def loss(self) -> sp.Expr:
        """L as an expression of the log-probabilities, in nats."""
        margin_term = self.m.subs(MARGIN, self.h_chosen - self.h_rejected)
        return -(margin_term + self.likelihood + self.likelihood_rejected)

    @cached_property
    def d_chosen(self) -> sp.Expr:
        r"""Slope :math:`d_w = -\partial L / \partial \log\pi_w`."""
        return self._derivative(-self.loss, LOGP_CHOSEN)

    @cached_property
    def d_rejected(self) -> sp.Expr:
        r"""Slope :math:`d_l = \partial L / \partial \log\pi_l`."""
        return self._derivative(self.loss, LOGP_REJECTED)

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
            InputError: an argument that the objective does not know, or one out of its range (a length below 1,
                beta <= 0, a probability above 1 where the loss takes its odds).
        """
        return self._evaluate(self.loss, logp_chosen, logp_rejected, given)

    def slopes(self, logp_chosen: Any, logp_rejected: Any, **given: Any) -> tuple[Any, Any]:
        """The pair (d_w, d_l), each in the shape of the log-probabilities; arguments as in a call.

        Raises:
            InputError: as a call, or sympy finds no derivative of the definition.
        """
        return (
            self._evaluate(self.d_chosen, logp_chosen, logp_rejected, given),
            self._evaluate(self.d_rejected, logp_chosen, logp_rejected, given),
        )

    def _derivative(self, expression: sp.Expr, symbol: sp.Symbol) -> sp.Expr:
        try:
            found = sp.diff(expression, symbol)
        except sp.core.function.ArgumentIndexError as error:
            raise InputError(
                f"{self.title}: {error}: give the function an fdiff, as gentangle's symbols do."
            ) from error
        if unknown := found.atoms(sp.Derivative, sp.Subs):
            raise InputError(
                f"{self.title}: sympy knows no derivative of {sorted(map(str, unknown))[0]}: write the definition with "
                "functions that have one, or give the function an fdiff, as gentangle's have."
            )
        return found

    def _evaluate(self, expression: sp.Expr, logp_chosen: Any, logp_rejected: Any, given: Mapping[str, Any]) -> Any:
        values = {"ref_chosen": 0.0, "ref_rejected": 0.0, "len_chosen": 1.0, "len_rejected": 1.0}
        values |= {symbol.name: value for symbol, value in self.defaults.items()}
        for name in given:
            one_of(name, values, f"{self.title} has no argument {name!r}.")
        values |= given
        for name, (accepts, expected) in _RANGES.items():
            if name in values and not _all(accepts(values[name])):
                raise InputError(f"{self.title} got {name} = {values[name]}, expected {expected}.")
        if self.loss.has(log_odds) and not (_all(logp_chosen <= 0) and _all(logp_rejected <= 0)):
            raise InputError(
                f"{self.title} takes odds, and a log-probability above 0 has none: pass log-probabilities."
            )
        backend = "torch" if type(logp_chosen).__module__.startswith("torch") else "numpy"
        arguments = (*DATA_SYMBOLS, *self.hyperparameters)
        result = compiled(arguments, expression, backend)(
            logp_chosen, logp_rejected, *(values[symbol.name] for symbol in arguments[2:])
        )
        # A slope may be free of the log-probabilities (Lambda alone, say): the zero gives it their shape.
        return result + 0 * (logp_chosen + logp_rejected)


def _all(condition: Any) -> bool:
    return bool(condition.all()) if hasattr(condition, "all") else bool(condition)
