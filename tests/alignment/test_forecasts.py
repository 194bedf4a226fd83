"""How forecasts are counted against what was measured; TRL's settings and its reference as the training passes them."""

import numpy as np
import pytest
import torch

from gentangle import InputError
from gentangle.alignment.conditions import BOTH_UP, INTENDED, REVERSED
from gentangle.alignment.forecasts import agreement, measured_cases
from gentangle.alignment.policy import fresh_copy, load_policy
from gentangle.alignment.recipes import Stage
from gentangle.alignment.training import LogCallback, preference


def test_the_reference_is_the_policy_as_it_is_given(tiny_policy, tiny_pairs, tmp_path):
    """Saved, loaded, changed in memory: the first loss must be log 2, so the reference is not what the folder holds."""
    tiny_policy[0].save_pretrained(tmp_path)
    tiny_policy[1].save_pretrained(tmp_path)
    model, tokenizer = load_policy(tmp_path)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    seen = []
    preference(model, tokenizer, tiny_pairs, Stage(1, 4, 1e-4), seed=0, callbacks=[LogCallback(seen.append)])
    assert seen[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)


@pytest.mark.training
def test_a_misspelt_setting_of_trl_is_named(tiny_policy, tiny_pairs):
    with pytest.raises(InputError, match="DPOConfig of TRL has no setting 'betta'. Did you mean 'beta'"):
        preference(
            fresh_copy(tiny_policy[0]), tiny_policy[1], tiny_pairs, Stage(1, 4, 1e-3, extra={"betta": 1}), seed=0
        )


ROWS = [
    # Two pairs: chosen +1, -2; rejected -3, +4. The forecast has two of the four signs, one on each side.
    {"measured": [1.0, -2.0, -3.0, 4.0], "forecast": {"pair": [0.5, 1.0, -3.0, -1.0]}},
    {"measured": [1.0, 1e-9, 1.0, 1.0], "forecast": {"pair": [1.0, 1.0, 1.0, 1.0]}},
]


@pytest.mark.parametrize(
    ("side", "signs", "commoner", "cases"),
    [("chosen", 2 / 3, 2 / 3, 3), ("rejected", 3 / 4, 3 / 4, 4), (None, 5 / 7, 5 / 7, 7)],
)
def test_agreement_is_counted_by_side_beside_the_guess_that_needs_no_forecast(side, signs, commoner, cases):
    found = agreement(ROWS, "pair", 1e-3, side)
    assert (found.signs, found.commoner, found.cases) == (pytest.approx(signs), pytest.approx(commoner), cases)


def test_the_median_error_is_relative():
    assert agreement(ROWS[:1], "pair", 1e-3, "chosen").error == pytest.approx((0.5 + 1.5) / 2)
    rows = [{"measured": [2.0, -4.0, 1.0, 8.0], "forecast": {"pair": [3.0, -2.0, 1.0, 0.0]}}]
    assert agreement(rows, "pair", 1e-3).error == pytest.approx(np.median([0.5, 0.5, 0.0, 1.0]))
    assert agreement(rows, "pair", 1e-3, "chosen").error == pytest.approx(0.5)


def test_a_change_of_exactly_the_noise_floor_counts_and_one_of_0_does_not_rise():
    rows = [{"measured": [0.25, -0.25, -0.25, 0.5], "forecast": {"pair": [1.0, 1.0, 1.0, 1.0]}}]
    assert agreement(rows, "pair", 0.25).cases == 4
    assert len(measured_cases(rows, 0.25)) == 2
    still = [{"measured": [0.0, 0.0, 0.0, 0.5], "forecast": {"pair": [1.0, 1.0, 1.0, 1.0]}}]
    with np.errstate(invalid="ignore", divide="ignore"):
        assert agreement(still, "pair", 0.0).commoner == 0.75


def test_measured_cases_are_of_pairs_whose_two_changes_count():
    assert measured_cases(ROWS, 1e-3).tolist() == [INTENDED, REVERSED, BOTH_UP]


@pytest.mark.parametrize(
    ("arguments", "message"), [(("pairs", 1e-3), "Did you mean 'pair'"), (("pair", 1e-3, "chose"), "'chosen'")]
)
def test_an_unknown_forecast_or_side_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        agreement(ROWS, *arguments)


def test_where_no_change_counts_there_is_nothing_to_compare():
    with pytest.raises(InputError, match="noise floor"):
        agreement([{"forecast": {"step": [0.0, 0.0]}, "measured": [1e-9, 0.0]}], "step", 1e-4)


def test_an_undefined_forecast_does_not_count():
    rows = [{"forecast": {"pair": [None, 1.0]}, "measured": [1.0, 1.0]}]
    assert agreement(rows, "pair", 1e-4).cases == 1
