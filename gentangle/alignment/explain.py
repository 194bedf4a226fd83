"""What a trainer's log alone says: which case the run shows, since when, and what to try."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gentangle.alignment.conditions import BOTH_DOWN, BOTH_UP, CASE_TITLES, INTENDED, REVERSED, UNMOVED, case
from gentangle.errors import InputError
from gentangle.settings import parse_json, read_text

#: Metrics of TRL that tell where a response stands against the reference; else what tells it against the start.
REWARDS = ("rewards/chosen", "rewards/rejected")
LOG_PROBS = ("logps/chosen", "logps/rejected")
#: A tracker puts one of these before a metric's name.
_PREFIXES = ("", "train/", "train_")
_STEPS = ("step", "train/global_step", "global_step", "_step", "Step")
#: Beyond it no metric is one, and sums of several are not finite.
LARGEST = 1e100
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 60

ADVICE = {
    INTENDED: "as the loss intends.",
    BOTH_DOWN: (
        "the margin grows while both lose probability. Look at the median and at how much probability both hold, not "
        "at the mean alone. To first order a likelihood term on chosen (CPO, SLiC-HF) or DPOP's penalty raises d_w/d_l "
        "and with it chosen; a larger beta or a lower rate leaves the case as it is. Which gradients pull chosen down, "
        "its own pair's or the others', EntanglementCallback tells."
    ),
    BOTH_UP: (
        "rejected rises along with chosen: likely in a run that still learns the form of its answers, and where "
        "rejected's gradient is short. A smaller d_w/d_l, or fine-tuning on chosen first, works against it."
    ),
    REVERSED: (
        "no step on a pair alone does this for positive slopes: other pairs, momentum, or a negative slope (IPO past "
        "its target) do. Check that chosen and rejected are not exchanged in the data."
    ),
    UNMOVED: "nothing has moved: is the learning rate 0, or the log of the first step alone?",
}


@dataclass(frozen=True)
class Explanation:
    """The case that a run shows at its end, the step since which it shows it, and the two smoothed curves."""

    case: str
    since: int
    measure: str
    steps: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{CASE_TITLES[self.case]}, since step {self.since} of {int(self.steps[-1])} ({self.measure})",
                f"chosen   {_drawn(self.chosen)} {self.chosen[-1]:+.3g}",
                f"rejected {_drawn(self.rejected)} {self.rejected[-1]:+.3g}",
                ADVICE[self.case],
            ]
        )


def explain(path: Path) -> Explanation:
    """Read a log and say which case its run shows.

    Rewards are measured against the reference; where a log has none, log-probabilities are measured against the mean of
    the first tenth of the run. Both are smoothed by a running mean over a tenth of it.

    Args:
        path: ``trainer_state.json`` of transformers, or a CSV exported from a tracker, with TRL's metric names.

    Raises:
        InputError: no such file, neither JSON nor CSV, or no metrics of chosen and rejected.
    """
    rows = read_log(path)
    steps, values = _series(rows, REWARDS)
    against_start = not len(steps)
    if against_start:
        steps, values = _series(rows, LOG_PROBS)
    if not len(steps):
        wanted = f"neither {' and '.join(REWARDS)} nor {' and '.join(LOG_PROBS)}"
        raise InputError(f"{path} holds {wanted}, as TRL logs them.")
    window = max(1, len(steps) // 10)
    if against_start:
        values = values - values[:, :window].mean(axis=1, keepdims=True)
    smooth = np.array([_running_mean(side, window) for side in values])
    cases = case(smooth.T)
    measure = "log-probabilities, from the start" if against_start else "rewards, against the reference"
    other = np.flatnonzero(cases != cases[-1])
    first = other[-1] + 1 if len(other) else 0
    return Explanation(str(cases[-1]), int(steps[first]), measure, steps, smooth[0], smooth[1])


def read_log(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a log; see :func:`explain`."""
    text = read_text(path, "trainer_state.json or a CSV file", "utf-8-sig")
    if text.lstrip().startswith(("{", "[")):
        try:
            given = parse_json(text)
        except InputError as error:
            raise InputError(f"{path} is {error}.") from error
        rows = given.get("log_history") if isinstance(given, Mapping) else given
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise InputError(f"{path} holds no list 'log_history', expected trainer_state.json of transformers.")
        return rows
    try:
        return list(csv.DictReader(text.splitlines()))
    except csv.Error as error:
        raise InputError(f"{path} is neither JSON nor CSV ({error}): give trainer_state.json or a CSV file.") from error


def _series(rows: Sequence[Mapping[str, Any]], names: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the two metrics at them, (2, n), from the rows that hold both as numbers below ``LARGEST``."""
    found = []
    for number, row in enumerate(rows):
        pair = [_number(row, [prefix + name for prefix in _PREFIXES]) for name in names]
        if all(value is not None for value in pair):
            step = _number(row, _STEPS)
            found.append([number if step is None else step, *pair])
    table = np.array(found, dtype=float).reshape(-1, 3)
    return table[:, 0], table[:, 1:].T


def _number(row: Mapping[str, Any], names: Sequence[str]) -> float | None:
    for name in names:
        try:
            value = float(row[name])
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if abs(value) < LARGEST:  # a NaN is not
            return value
    return None


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last ``window`` values up to each, of fewer at the beginning."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(total))
    starts = np.maximum(0, ends - window)
    return (total[ends] - total[starts]) / (ends - starts)


def _drawn(values: np.ndarray) -> str:
    picked = values[np.linspace(0, len(values) - 1, min(_WIDTH, len(values))).astype(int)]
    low, high = picked.min(), picked.max()
    levels = np.zeros(len(picked)) if high == low else (picked - low) / (high - low) * (len(_BARS) - 1)
    return "".join(_BARS[round(level)] for level in levels)
