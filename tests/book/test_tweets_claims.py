"""The ledger's rows on the tweets runs follow from the committed records, and the records from the committed recipe."""

from pathlib import Path

import numpy as np

from gentangle.alignment.forecasts import agreement
from gentangle.alignment.recipes import load_recipe
from gentangle.alignment.records import rows_of
from gentangle.profiles import profile

ROOT = Path(__file__).parents[2]
RECIPE = load_recipe(ROOT / "recipes" / "tweets.yaml")


def test_the_optimizers_own_step_is_forecast(records):
    """Right sign in at least 95 % of changes above the noise floor, median relative error under 10 %."""
    for seeds in records.values():
        rows = [row for record in seeds for row in rows_of(record["rows"], "forecast")]
        found = agreement(rows, "step", profile().tolerance.noise_floor)
        assert found.cases > 200
        assert found.signs >= 0.95
        assert found.error < 0.1


def test_fine_tuning_beats_the_majority_class(records):
    for record in (record for seeds in records.values() for record in seeds):
        after = next(row for row in rows_of(record["rows"], "accuracy") if row["stage"] == "supervised")
        assert after["held_out"] > after["majority"]


def test_every_fall_has_a_cause(records):
    """In Adam's inner product the pair's own two responses explain most falls, and the second order none of them."""
    for seeds in records.values():
        own, fell, unexplained = 0, 0, 0
        for look in (look for record in seeds for look in rows_of(record["rows"], "forecast")):
            parts = np.array(look["preconditioned_attribution"], dtype=float)
            moved, step = (np.array(values)[: len(parts)] for values in (look["measured"], look["forecast"]["step"]))
            falls = moved < -profile().tolerance.noise_floor
            fell += falls.sum()
            own += (falls & (parts[:, :2].sum(1) < 0)).sum()
            unexplained += (falls & (parts[:, :2].sum(1) >= 0) & (parts.sum(1) >= 0) & (step >= 0)).sum()
        assert 0.4 * fell < own < 0.75 * fell
        assert unexplained < 0.05 * fell
