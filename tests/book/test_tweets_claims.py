"""The ledger's rows on the tweets runs follow from the committed records, and the records from the committed recipe."""

from pathlib import Path

import pytest

from gentangle.alignment.experiment import run_config
from gentangle.alignment.forecasts import agreement
from gentangle.alignment.recipes import load_recipe
from gentangle.alignment.records import load_records, rows_of
from gentangle.alignment.verdicts import verdicts
from gentangle.display.claims import load_claims
from gentangle.profiles import profile
from gentangle.runs import RECORD_LIMIT, rounded

ROOT = Path(__file__).parents[2]
RECIPE = load_recipe(ROOT / "recipes" / "tweets.yaml")


@pytest.fixture(scope="module")
def records():
    return load_records(ROOT / "results", RECIPE)


def test_records_are_of_the_committed_recipe_and_small(records):
    for form, seeds in records.items():
        for seed, record in zip(RECIPE.seeds, seeds, strict=True):
            assert record["config"] == rounded(run_config(RECIPE, form, seed))
            assert rows_of(record["rows"], "log")[-1]["step"] == RECIPE.preference.steps
    assert all(path.stat().st_size <= RECORD_LIMIT for path in (ROOT / "results" / "tweets").glob("*.json"))


def test_status_follows_from_the_records(records):
    ledger = {claim.id: claim for claim in load_claims(ROOT / "book" / "claims.yml")}
    for name, (status, measured) in verdicts(records).items():
        assert (ledger[name].status, ledger[name].measured) == (status, measured)


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
