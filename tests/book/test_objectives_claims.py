"""The ledger's row on the objectives follows from the committed records, and the records from the committed recipe."""

from pathlib import Path

import numpy as np

from gentangle.alignment.experiment import preference_data
from gentangle.alignment.forecasts import agreement
from gentangle.alignment.policy import load_policy, tokenise
from gentangle.alignment.recipes import load_recipe
from gentangle.alignment.records import rows_of
from gentangle.alignment.verdicts import LONG_SUFFIX, held_out, objectives_verdicts, start_ratios
from gentangle.profiles import profile

ROOT = Path(__file__).parents[2]
RECIPE = load_recipe(ROOT / "recipes" / "objectives.yaml")


def test_another_order_of_the_objectives_would_differ(records):
    """The records of the objectives dealt out anew: what each loss did no longer follows its ratio."""
    names = list(records)
    dealt = {name: records[names[-1 - k]] for k, name in enumerate(names)}
    assert objectives_verdicts(dealt)["objectives-differ"][0] == "differs"


def test_responses_have_the_length_that_the_slopes_are_given(corpus):
    _, tokenizer = load_policy(ROOT / RECIPE.base)
    _, pairs, _ = preference_data(RECIPE, "long-suffix")
    examples = [tokenise(tokenizer, pair) for pair in pairs[: RECIPE.measure.tracked_pairs]]
    assert {len(e[side]) for e in examples for side in ("chosen_ids", "rejected_ids")} == {LONG_SUFFIX}


def test_groups_lie_where_the_figure_shows_them(records):
    ratios = start_ratios(records)
    final = {n: np.mean([[r.chosen, r.rejected] for r in map(held_out, seeds)], axis=0) for n, seeds in records.items()}
    above = np.array([final[n] for n in final if ratios[n] > 1])
    same = np.array([final[n] for n in final if ratios[n] == 1])
    assert above[:, 0].min() > 0
    assert same[:, 0].min() > -9
    assert same[:, 1].min() > -16
    assert final["apo-down"].max() < -25


def test_the_optimizers_own_step_is_forecast(records):
    for seeds in records.values():
        rows = [row for record in seeds for row in rows_of(record["rows"], "forecast")]
        assert agreement(rows, "step", profile().tolerance.noise_floor).signs >= 0.95
