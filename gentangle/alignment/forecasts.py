"""How forecasts of a training step fared against what the step then did.

Three readings, each named for its update. The first two are made before the step; the third takes the gradients
from before it and the displacement that the optimizer then made, and tests the linear picture.

``pair``
    this pair alone by SGD, the paper's condition;
``batch``
    the whole batch by SGD, a row of the batch's Gram matrix;
``step``
    the optimizer's own step, <g_i, theta_after - theta_before>: momentum, preconditioner and clipping included.

Two more lie between SGD and Adam: ``preconditioned_pair`` and ``preconditioned_batch`` are the first two with every
gradient multiplied by Adam's own diagonal, without its momentum (see
:func:`gentangle.gradients.preconditioner.adam_preconditioner`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gentangle.alignment.conditions import case
from gentangle.errors import InputError, one_of

FORECASTS = ("pair", "batch", "step")
PRECONDITIONED = ("preconditioned_pair", "preconditioned_batch")


@dataclass(frozen=True)
class Agreement:
    """How a forecast fared.

    Attributes:
        signs: share of changes whose sign it has.
        error: median of the relative error, (forecast - measured) over measured without its sign.
        commoner: share of changes that have the commoner sign, which a guess without a forecast gets right.
        cases: changes counted.
    """

    signs: float
    error: float
    commoner: float
    cases: int


def agreement(
    rows: Sequence[Mapping[str, Any]], forecast: str, noise_floor: float, side: str | None = None
) -> Agreement:
    """Compare a forecast with the measured changes.

    Args:
        rows: of :class:`gentangle.alignment.callback.EntanglementCallback`, those that hold ``measured``.
        forecast: one of ``FORECASTS`` or ``PRECONDITIONED``.
        noise_floor: only changes of at least so many nats count; below it float32 decides the sign.
        side: ``"chosen"`` or ``"rejected"``; both where it is left out.

    Raises:
        InputError: an unknown forecast or side, or no change that counts.
    """
    one_of(forecast, FORECASTS + PRECONDITIONED, f"Unknown forecast {forecast!r}.")
    predicted = _of_side([row["forecast"][forecast] for row in rows], side)
    measured = _of_side([row["measured"] for row in rows], side)
    counted = (np.abs(measured) >= noise_floor) & np.isfinite(predicted)
    predicted, measured = predicted[counted], measured[counted]
    if not len(measured):
        raise InputError(f"No measured change reaches the noise floor of {noise_floor} nats: nothing to compare.")
    rising = float(np.mean(measured > 0))
    return Agreement(
        signs=float(np.mean(np.sign(predicted) == np.sign(measured))),
        error=float(np.median(np.abs(predicted - measured) / np.abs(measured))),
        commoner=max(rising, 1 - rising),
        cases=len(measured),
    )


def measured_cases(rows: Sequence[Mapping[str, Any]], noise_floor: float) -> np.ndarray:
    """Case of each pair from its measured changes, of the pairs whose two changes both reach ``noise_floor`` nats."""
    changes = np.concatenate([np.reshape(row["measured"], (2, -1)).T for row in rows])
    return case(changes[(np.abs(changes) >= noise_floor).all(axis=1)])


def _of_side(values: Sequence[Sequence[float]], side: str | None) -> np.ndarray:
    """Values of batches, 2P each with the chosen ones first, as one array of the side asked for."""
    halves = {"chosen": slice(0, 1), "rejected": slice(1, 2), None: slice(0, 2)}
    if side is not None:
        one_of(side, ("chosen", "rejected"), f"Unknown side {side!r}.")
    return np.concatenate([np.reshape(np.array(v, dtype=float), (2, -1))[halves[side]].ravel() for v in values])
