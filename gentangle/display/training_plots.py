"""The two pictures of a preference run: forecasts against what happened, and the paper's figure over training."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gentangle.alignment.records import rows_of
from gentangle.alignment.verdicts import median_cosine
from gentangle.atomic import write_atomic
from gentangle.display.figure import CHOSEN, REJECTED, STYLE
from gentangle.runs import RunDirectory
from gentangle.verdict import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]
FORM_COLOURS = ("C0", "C1", "C2", "C4")
FORM_MARKERS = ("o", "s", "^", "D")
TITLES = {"pair": "this pair, SGD", "batch": "batch, SGD", "step": "the step taken"}


def mean_log_probs(rows: Rows, side: str, group: str = "held_out") -> np.ndarray:
    """Mean log-probability of the tracked pairs at each look, in nats; ``side`` is ``chosen`` or ``rejected``."""
    return np.array([np.mean(look[side]) for look in rows_of(rows, "track", group)])


def draw_forecasts(figure: "Figure", rows_by_form: Mapping[str, Rows], forecasts: Sequence[str]) -> None:
    """Measured change against each forecast, a panel a forecast, a colour and a marker a form.

    SGD's forecasts are rescaled, form by form, to the spread of the measured changes: their size is that of another
    learning rate, their sign and order are what can be compared, and the diagonal is only a guide to the eye.
    """
    axes = figure.subplots(1, len(forecasts), sharey=True)
    for panel, name in zip(axes, forecasts, strict=True):
        for k, (form, rows) in enumerate(rows_by_form.items()):
            looks = rows_of(rows, "forecast")
            predicted = np.concatenate([row["forecast"][name] for row in looks])
            measured = np.concatenate([row["measured"] for row in looks])
            if name != "step":
                predicted = predicted * np.std(measured) / np.std(predicted)
            style = {"color": FORM_COLOURS[k], "marker": FORM_MARKERS[k], "label": form.replace("-", " ")}
            panel.plot(predicted, measured, linestyle="", alpha=0.6, markersize=3.5, markeredgewidth=0, **style)
        panel.axline((0, 0), slope=1, color="0.5", linewidth=0.8)
        panel.axhline(0, color="0.5", linewidth=0.4)
        panel.axvline(0, color="0.5", linewidth=0.4)
        panel.set(title=TITLES[name], xlabel="reading (nats)" if name == "step" else "forecast (rescaled)")
    axes[0].set_ylabel("measured change (nats)")
    axes[0].legend(fontsize="small")


def draw_paths(figure: "Figure", records: Mapping[str, Sequence[Record]]) -> None:
    """Change of the mean held-out log-probabilities since step 0, and median cosine, a column a form.

    The bands are the range over seeds; the upper panels have axes of their own.
    """
    axes = figure.subplots(2, len(records), sharex=True, squeeze=False)
    for column, (form, seeds) in enumerate(records.items()):
        looks = [rows_of(record["rows"], "track", "held_out") for record in seeds]
        steps = [look["step"] for look in looks[0]]
        for side, colour in (("chosen", CHOSEN), ("rejected", REJECTED)):
            paths = np.array([mean_log_probs(record["rows"], side) for record in seeds])
            _band(axes[0, column], steps, paths - paths[:, :1], colour, side)
        cosines = np.array([[median_cosine(look) for look in one] for one in looks])
        _band(axes[1, column], steps, cosines, "C2", "cosine")
        axes[0, column].axhline(0, color="0.5", linewidth=0.6)
        axes[1, column].axhline(0, color="0.5", linewidth=0.6)
        axes[0, column].set_title(form.replace("-", " "))
        axes[1, column].set(xlabel="step", ylim=(-1.05, 1.05))
    axes[0, 0].set_ylabel("change (nats)")
    axes[1, 0].set_ylabel("median cosine")
    axes[0, 0].legend()


def draw_run(folder: Path) -> Path:
    """Draw the metrics of a preference run into its directory, as ``figures/paths.png``; returns the picture's path."""
    from matplotlib import style
    from matplotlib.figure import Figure

    rows = RunDirectory(folder, json.loads((folder / "config.json").read_text())).rows()
    buffer = io.BytesIO()
    with style.context(STYLE):
        figure = Figure(figsize=(4.2, 4.6), layout="constrained")
        draw_paths(figure, {folder.name: [{"rows": rows}]})
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return write_atomic(folder / "figures" / "paths.png", buffer.getvalue())


def _band(axes: Any, steps: Sequence[int], paths: np.ndarray, colour: str, label: str) -> None:
    axes.fill_between(steps, paths.min(0), paths.max(0), color=colour, alpha=0.25, linewidth=0)
    axes.plot(steps, paths.mean(0), color=colour, label=label)
