"""The three forecasts against an update whose answer is known, inside an unmodified TRL trainer."""

import copy

import numpy as np
import pytest
import torch

from gentangle import InputError, objective
from gentangle.alignment.forecasts import FORECASTS, ForecastCallback, agreement
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
    sign, error, counted = agreement(rows, "step", noise_floor=1e-4)
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
    sign, error, _ = agreement(rows, "step", noise_floor=1e-4)
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
        agreement([{"forecast": {"step": [0.0]}, "measured": [1e-9]}], "step", 1e-4)
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
