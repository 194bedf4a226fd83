"""The three forecasts against an update whose answer is known, inside an unmodified TRL trainer."""

import copy

import numpy as np
import pytest
import torch

from gentangle import InputError, objective
from gentangle.alignment.conditions import BOTH_UP, INTENDED, REVERSED
from gentangle.alignment.forecasts import FORECASTS, ForecastCallback, agreement, measured_cases
from gentangle.alignment.policy import load_policy
from gentangle.alignment.recipes import Stage
from gentangle.alignment.training import LogCallback, preference

pytestmark = pytest.mark.training


def forecast_rows(policy, pairs, *, steps, extra, rate, stride=1):
    model, tokenizer = copy.deepcopy(policy[0]), policy[1]
    reference, rows = copy.deepcopy(model).eval(), []
    callback = ForecastCallback(objective("dpo"), {"beta": 0.5}, reference, stride, rows.append)
    stage = Stage(steps, len(pairs), rate, schedule="constant", extra={"beta": 0.5, **extra})
    preference(model, tokenizer, pairs, stage, seed=0, callbacks=[callback], reference=reference)
    return rows


def test_under_plain_sgd_the_batch_forecast_is_the_step(tiny_policy, tiny_pairs, tolerance):
    """SGD without clipping: (ii) and (iii) are two computations of one number, and both are what happened."""
    rows = forecast_rows(tiny_policy, tiny_pairs, steps=3, rate=1e-2, extra={"optim": "sgd", "max_grad_norm": 0.0})
    for row in rows:
        batch, step = (np.array(row["forecast"][name]) for name in ("batch", "step"))
        np.testing.assert_allclose(batch, step, atol=1e-3 * np.abs(step).max())
    found = agreement(rows, "step", noise_floor=1e-4)
    sign, error, counted = found.signs, found.error, found.cases
    assert counted >= 12
    assert sign == 1
    assert error < 0.05


def test_for_one_pair_the_pair_forecast_is_the_batch_forecast(tiny_policy, tiny_pairs):
    rows = forecast_rows(tiny_policy, tiny_pairs[:1], steps=2, rate=1e-2, extra={"optim": "sgd", "max_grad_norm": 0.0})
    for row in rows:
        np.testing.assert_allclose(row["forecast"]["pair"], row["forecast"]["batch"], rtol=1e-6)


def test_under_adamw_only_the_optimizers_own_step_is_right(tiny_policy, tiny_pairs):
    rows = forecast_rows(tiny_policy, tiny_pairs, steps=6, rate=2e-4, extra={})
    scale = {name: np.abs(np.concatenate([r["forecast"][name] for r in rows])).mean() for name in FORECASTS}
    found = agreement(rows, "step", noise_floor=1e-4)
    sign, error = found.signs, found.error
    assert sign >= 0.95
    assert error < 0.1
    assert not 0.5 < scale["batch"] / scale["step"] < 2  # SGD's rate is not AdamW's: the sizes have nothing in common


def test_forecasts_do_not_change_the_training(tiny_policy, tiny_pairs):
    weights = []
    for callbacks in (True, False):
        model, tokenizer = copy.deepcopy(tiny_policy[0]), tiny_policy[1]
        reference, rows = copy.deepcopy(model), []
        watching = [ForecastCallback(objective("dpo"), {}, reference, 1, rows.append)] if callbacks else []
        preference(model, tokenizer, tiny_pairs, Stage(3, 2, 1e-3), seed=0, callbacks=watching, reference=reference)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


def test_steps_are_on_the_stride_whatever_they_show(tiny_policy, tiny_pairs):
    rows = forecast_rows(tiny_policy, tiny_pairs, steps=7, rate=1e-3, extra={}, stride=3)
    assert [row["step"] for row in rows] == [1, 4, 7]


def test_what_cannot_be_forecast_says_so(tiny_policy, tiny_pairs):
    with pytest.raises(InputError, match="gradient_accumulation_steps is 2"):
        forecast_rows(tiny_policy, tiny_pairs, steps=1, rate=1e-3, extra={"gradient_accumulation_steps": 2})
    with pytest.raises(InputError, match="noise floor"):
        agreement([{"forecast": {"step": [0.0, 0.0]}, "measured": [1e-9, 0.0]}], "step", 1e-4)
    with pytest.raises(InputError, match="DPOConfig of TRL has no setting 'betta'. Did you mean 'beta'"):
        forecast_rows(tiny_policy, tiny_pairs, steps=1, rate=1e-3, extra={"betta": 1})


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


def test_measured_cases_are_of_pairs_whose_two_changes_count():
    assert measured_cases(ROWS, 1e-3).tolist() == [INTENDED, REVERSED, BOTH_UP]


@pytest.mark.parametrize(
    ("arguments", "message"), [(("pairs", 1e-3), "Did you mean 'pair'"), (("pair", 1e-3, "chose"), "'chosen'")]
)
def test_an_unknown_forecast_or_side_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        agreement(ROWS, *arguments)
