r"""From one step to a run: a preference pair whose last layer alone learns, by SGD and along its gradient flow.

The flow :math:`dW/dt = -\nabla L = d_w w - d_l l` is SGD's limit of small steps; t is eta times the number of steps.

Source: ours, from the conditions of Yuan et al., arXiv 2410.13828.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import sympy as sp
from scipy.integrate import solve_ivp

from gentangle.alignment.conditions import case, first_order_changes
from gentangle.alignment.last_layer import LastLayerPair
from gentangle.alignment.symbols import ETA
from gentangle.errors import InputError

#: d_w and d_l from the two log-probabilities: ``functools.partial(objective("dpo").slopes, beta=0.1, ...)``.
Slopes = Callable[[Any, Any], tuple[Any, Any]]

#: A log-probability's change under W + eta U to second order, from its slope <g, U> and its summed variances.
SLOPE, VARIANCE = sp.Symbol("slope", real=True), sp.Symbol("variance", positive=True)
SECOND_ORDER_CHANGE = ETA * SLOPE - ETA**2 * VARIANCE / 2
SECOND_ORDER_LATEX = {SLOPE: r"\langle g,U\rangle", VARIANCE: r"\sum_t\mathrm{Var}_{q_t}(Uh_t)"}


def update(pair: LastLayerPair, slopes: Slopes, weight: Any) -> np.ndarray:
    """Direction U = d_w w - d_l l of the pair's SGD step, the velocity of its flow; shape (V, d)."""
    w, l = pair.gradients(weight)
    d_w, d_l = slopes(*pair.log_probs(weight))
    return np.asarray(d_w * w - d_l * l)


def rates(pair: LastLayerPair, slopes: Slopes, weight: Any) -> np.ndarray:
    """d/dt of log pi_w and log pi_l along the flow: the first-order changes at eta = 1; shape (2,)."""
    return first_order_changes(pair.gram(weight), *slopes(*pair.log_probs(weight)))


def sgd(pair: LastLayerPair, slopes: Slopes, weight: Any, eta: float, steps: int) -> np.ndarray:
    """Last layers of SGD on this pair, the start first; shape (steps + 1, V, d)."""
    run = [np.asarray(weight, dtype=float)]
    for _ in range(steps):
        run.append(run[-1] + eta * update(pair, slopes, run[-1]))
    return np.stack(run)


@dataclass(frozen=True)
class Flow:
    """A solved flow: ``weight(t)`` for t in [0, end], and ``turns``, the times at which a log-probability turns.

    Where a run comes to rest, as IPO's does, both rates are rounding and so are further turns.
    """

    pair: LastLayerPair
    slopes: Slopes
    end: float
    weight: Callable[[float], np.ndarray]
    turns: tuple[float, ...]

    def log_probs(self, times: Any) -> np.ndarray:
        """log pi_w and log pi_l at each time, shape (n, 2)."""
        return np.stack([self.pair.log_probs(self.weight(t)) for t in times])

    def cases(self) -> list[tuple[float, float, str]]:
        """The cases that the run passes through: (from, to, name as in :mod:`conditions`), in order."""
        spans = list(pairwise([0.0, *self.turns, self.end]))
        return [(a, b, str(case(rates(self.pair, self.slopes, self.weight((a + b) / 2))))) for a, b in spans]


def flow(pair: LastLayerPair, slopes: Slopes, weight: Any, end: float) -> Flow:
    """Solve dW/dt = d_w w - d_l l from ``weight`` until t = ``end`` (DOP853, relative tolerance 1e-10).

    Raises:
        InputError: end is not positive, or the solver gave up.
    """
    if not end > 0:
        raise InputError(f"flow got end = {end}, expected a positive time: eta times the number of steps.")
    start = np.asarray(weight, dtype=float)
    solved = solve_ivp(
        lambda _, y: update(pair, slopes, y.reshape(start.shape)).ravel(),
        (0.0, end),
        start.ravel(),
        method="DOP853",
        rtol=1e-10,
        atol=1e-12,
        dense_output=True,
        events=[lambda _, y, i=i: rates(pair, slopes, y.reshape(start.shape))[i] for i in (0, 1)],
    )
    if not solved.success:
        raise InputError(f"The flow stopped at t = {solved.t[-1]:.3g} of {end:.3g}: {solved.message}")
    turns = tuple(float(t) for t in np.sort(np.concatenate(solved.t_events)))
    return Flow(pair, slopes, end, lambda t: solved.sol(t).reshape(start.shape), turns)
