"""Records that no chapter makes again from its beginning: their first look comes out, by the code of now."""

import json
from pathlib import Path

import numpy as np
import pytest

from gentangle.matching import experiment
from gentangle.matching.recipes import load_matching_recipe

ROOT = Path(__file__).parents[2]


@pytest.mark.training
@pytest.mark.parametrize(
    ("recipe", "name"),
    [("text", "fish-slow"), ("text_controls", "fish-fast"), ("cdsprites_controls", "sgd-fish-N15")],
)
def test_the_first_look_comes_out(recipe, name, tolerance):
    variant = load_matching_recipe(ROOT / "recipes" / f"{recipe}.yaml").variants()[name]
    rows = json.loads((ROOT / "results" / recipe / f"{name}.json").read_text("utf-8"))["rows"]
    stored = min(rows, key=lambda row: row["step"])
    (live,) = experiment.run_algorithm(variant, stored["seed"], stored["left_out"], steps=stored["step"])
    assert live["step"] == stored["step"] > 0
    for reading in ("loss", "gip", "domain_gip"):
        assert live[reading] == pytest.approx(stored[reading], rel=0.01, abs=tolerance.rerun / 10), reading
    for part in ("validation", "test"):
        assert live[part].keys() == stored[part].keys()
        gaps = [live[part][key] - stored[part][key] for key in live[part]]  # a domain can be of 20 examples
        assert abs(np.mean(gaps)) < tolerance.rerun / 2, part


@pytest.mark.training
def test_the_first_look_of_a_changed_dial_comes_out(tolerance):
    """One setting of the ten, the cheapest to make again."""
    test_the_first_look_comes_out("cdsprites_dials", "sgd-0.03", tolerance)
