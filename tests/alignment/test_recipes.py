"""Recipes: the committed ones load, and a mistake in one is named."""

from pathlib import Path

import pytest
import yaml

from gentangle import InputError
from gentangle.alignment.recipes import BaseRecipe, PreferenceRecipe, load_recipe, recipe_from
from gentangle.matching.recipes import load_matching_recipe
from gentangle.matching.wilds_run import load_wilds_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def given():
    return yaml.safe_load((RECIPES / "tweets.yaml").read_text())


@pytest.mark.parametrize(
    "path", sorted([*RECIPES.glob("*.yaml"), *RECIPES.glob("gpu/*.yaml")]), ids=lambda path: path.name
)
def test_every_committed_recipe_loads(path):
    readers = {"matching": load_matching_recipe, "wilds": load_wilds_recipe}
    kind = yaml.safe_load(path.read_text())["kind"]
    assert readers.get(kind, load_recipe)(path).name == path.stem


def test_both_tweets_recipes_hold_the_same_tweets_out():
    base, preference = load_recipe(RECIPES / "tweets_base.yaml"), load_recipe(RECIPES / "tweets.yaml")
    assert isinstance(base, BaseRecipe)
    assert isinstance(preference, PreferenceRecipe)
    assert base.held_out == preference.held_out


MISTAKES = {
    "misspelt key": ({"seedz": [0]}, "unknown key 'seedz'. Did you mean 'seeds'"),
    "misspelt key in a part": ({"supervised": {"stepz": 3}}, "supervised: unknown key 'stepz'. Did you mean 'steps'"),
    "unknown form": ({"forms": ["one-tokn"]}, "unknown form 'one-tokn'. Did you mean 'one-token'"),
    "unknown objective": ({"objective": "dppo"}, "Unknown objective 'dppo'. Did you mean"),
    "a loss beside the objective's": (
        {"preference": {"steps": 1, "batch_size": 1, "learning_rate": 1e-3, "extra": {"loss_type": "hinge"}}},
        "the objective names the loss: leave it out",
    ),
    "an unknown one of the objectives": ({"objectives": ["dpo", "ipoo"], "forms": ["one-token"]}, "Unknown objective"),
    "objectives on several forms": ({"objectives": ["dpo", "ipo"]}, "compared on one form, got 4 forms"),
    "unknown kind": ({"kind": "preferences"}, "kind is 'preferences'. Did you mean 'preference'"),
    "a number as text": ({"supervised": {"steps": 3, "batch_size": 4, "learning_rate": "5e-4"}}, "write 5.0e-4"),
    "not a list": ({"seeds": 3}, "seeds is 3, expected a list"),
    "negative": ({"held_out": -1}, "held_out is -1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_clear_error(name):
    change, message = MISTAKES[name]
    with pytest.raises(InputError) as error:
        recipe_from(given() | change, "r.yaml")
    assert message in str(error.value)
    assert str(error.value).startswith("r.yaml") or message.startswith("Unknown objective")


def test_objectives_are_variants_of_one_form():
    recipe = recipe_from(given() | {"objectives": ["dpo", "ipo"], "forms": ["one-token"], "seeds": [0, 1]}, "r.yaml")
    assert recipe.runs() == [("dpo", 0), ("ipo", 0), ("dpo", 1), ("ipo", 1)]
    ipo, form = recipe.variants()["ipo"]
    assert (ipo.objective, form, ipo.runs()) == ("ipo", "one-token", [("one-token", 0), ("one-token", 1)])


def test_a_missing_key_is_named():
    recipe = given()
    del recipe["base"]
    with pytest.raises(InputError, match="r.yaml: the key 'base' is missing"):
        recipe_from(recipe, "r.yaml")
