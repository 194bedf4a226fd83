"""The picture of the mitigations' chapter says what the records say."""

from pathlib import Path

import numpy as np
import pytest

from gentangle.alignment.recipes import load_recipe
from gentangle.alignment.records import rows_of
from gentangle.alignment.verdicts import held_out, mitigations_verdicts

ROOT = Path(__file__).parents[2]
RECIPE = load_recipe(ROOT / "recipes" / "mitigations.yaml")


@pytest.fixture(scope="module")
def final(records):
    """Change of held-out chosen and rejected by change of the setting, a row a seed."""
    return {name: np.array([[r.chosen, r.rejected] for r in map(held_out, runs)]) for name, runs in records.items()}


def test_points_lie_where_the_figure_shows_them(records, final):
    """Those that change the geometry lie above DPO's own path; a lower rate and token masks lie close to it."""
    looks = [rows_of(record["rows"], "track", "held_out") for record in records["plain"]]
    path = np.mean([[[np.mean(k["chosen"]), np.mean(k["rejected"])] for k in one] for one in looks], axis=0)
    path -= path[0]
    above = {}
    for name, ends in final.items():
        chosen, rejected = ends.mean(0)
        above[name] = chosen - np.interp(chosen - rejected, path[:, 0] - path[:, 1], path[:, 0])
    assert min(above[name] for name in ("normalised", "calibrated", "pcgrad", "split", "split-wide", "likelihood")) > 1
    assert abs(above["lower-rate"]) < 0.1
    assert all(abs(above[name]) < 0.8 for name in above if name.startswith("token-masks") or name == "larger-beta")


def test_the_rules_can_fail(records):
    """DPO's own records in the place of the mitigations' would decide otherwise."""
    dealt = records | {"normalised": records["plain"], "token-masks": records["plain"]}
    assert {status for status, _ in mitigations_verdicts(dealt).values()} == {"differs"}
