"""The ledger's rows on real runs follow from the committed records, and the records from the committed recipes."""

from pathlib import Path

import pytest

from gentangle.alignment.experiment import run_config
from gentangle.alignment.recipes import load_recipe
from gentangle.alignment.records import load_records, rows_of
from gentangle.alignment.verdicts import run_verdicts
from gentangle.cli import RECIPES
from gentangle.runs import RECORD_LIMIT, rounded

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=RECIPES, ids=lambda path: path.stem)
def recipe(request):
    return load_recipe(ROOT / request.param)


@pytest.fixture(scope="module")
def records(recipe):
    return load_records(ROOT / "results", recipe)


def test_records_are_of_the_committed_recipe_and_small(recipe, records):
    for name, (variant, form) in recipe.variants().items():
        for seed, record in zip(recipe.seeds, records[name], strict=True):
            assert record["config"] == rounded(run_config(variant, form, seed))
            assert rows_of(record["rows"], "log")[-1]["step"] == variant.preference.steps
            assert record["minutes"] > 0
    assert all(path.stat().st_size <= RECORD_LIMIT for path in (ROOT / "results" / recipe.name).glob("*.json"))


def test_all_that_a_processor_made_is_made_again_in_a_night():
    """Two runs at once on two cores, each with its minutes, pauses included."""
    made = [
        run
        for path in RECIPES
        for runs in load_records(ROOT / "results", load_recipe(ROOT / path)).values()
        for run in runs
    ]
    minutes = [run["minutes"] for run in made if run["provenance"]["device"] == "cpu"]
    assert len(minutes) > 100
    assert sum(minutes) / 2 < 12 * 60


@pytest.mark.claims(
    "one-token-run",
    "long-suffix-run",
    "short-suffix-between",
    "suffix-order-run",
    "one-token-run-pretrained",
    "long-suffix-run-pretrained",
    "short-suffix-between-pretrained",
    "suffix-order-run-pretrained",
    "token-heatmap-pretrained",
    "one-token-run-schedule",
    "long-suffix-run-schedule",
    "short-suffix-between-schedule",
    "suffix-order-run-schedule",
    "token-heatmap-schedule",
    "sentences-together",
    "lora-rank",
    "on-policy",
    "split-step-lowers-inner-product",
    "token-heatmap",
    "objectives-differ",
    "normalised-run",
    "token-masks-run",
)
def test_status_follows_from_the_records(recipe, records, ledger):
    for name, (status, measured) in run_verdicts(recipe.name, records).items():
        assert (ledger[name].status, ledger[name].measured) == (status, measured)
