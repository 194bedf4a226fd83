"""The matching records are of the committed recipes, whole and small, and the ledger's rows follow from them."""

from dataclasses import asdict
from pathlib import Path

import pytest

from gentangle.cli import MATCHING_RECIPES
from gentangle.matching.recipes import load_matching_recipe
from gentangle.matching.verdicts import load_matching_records, matching_verdicts
from gentangle.runs import RECORD_LIMIT, rounded

ROOT = Path(__file__).parents[2]


@pytest.fixture(
    scope="module",
    params=[
        *MATCHING_RECIPES,
        *(Path(f"recipes/{name}.yaml") for name in ("cdsprites_dials", "cdsprites_controls", "text_controls")),
    ],
    ids=lambda path: path.stem,
)
def recipe(request):
    return load_matching_recipe(ROOT / request.param)


@pytest.fixture(scope="module")
def records(recipe):
    return load_matching_records(ROOT / "results", recipe)


def test_records_are_of_the_committed_recipe_whole_and_small(recipe, records):
    for name, variant in recipe.variants().items():
        assert records[name]["config"] == rounded(asdict(variant))
        ends = {
            (row["seed"], tuple(row["left_out"]))
            for row in records[name]["rows"]
            if row["step"] == variant.training.steps
        }
        assert ends == {(seed, tuple(out)) for seed in recipe.seeds for out in recipe.left_out}
        assert (ROOT / "results" / recipe.name / f"{name}.json").stat().st_size <= RECORD_LIMIT


@pytest.mark.claims(
    "random-groups",
    "cdsprites-fish",
    "cdsprites-erm",
    "gip-rises",
    "text-fish",
    "text-gip",
    "rotated-digits",
    "colored-digits",
)
def test_status_follows_from_the_records(recipe, records, ledger):
    for name, (status, measured) in matching_verdicts(recipe.name, records).items():
        assert (ledger[name].status, ledger[name].measured) == (status, measured)
