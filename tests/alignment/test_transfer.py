"""What a batch's step does to pairs outside it: against the rows of autograd, and against the step itself."""

import numpy as np
import pytest
import torch

from gentangle.alignment.callback import EntanglementCallback
from gentangle.alignment.policy import collate, fresh_copy, response_log_probs
from gentangle.alignment.recipes import Stage
from gentangle.alignment.training import preference
from gentangle.alignment.transfer import Transfer
from gentangle.gradients.oracle import jacobian, trainable_parameters

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]


def test_changes_along_a_direction(tiny_policy, tiny_pairs, tolerance):
    model, tokenizer = tiny_policy
    batch = collate(tokenizer, tiny_pairs)
    torch.manual_seed(0)
    direction = {name: torch.randn_like(p) for name, p in trainable_parameters(model).items()}
    rows = jacobian(model, lambda m: response_log_probs(m, batch))
    expected = sum((rows[n].double() @ d.flatten().double()).numpy() for n, d in direction.items())[: len(tiny_pairs)]
    found = Transfer(model, batch).chosen(direction)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance.gram * np.abs(expected).max())


def test_the_two_sides_make_up_a_step_of_plain_sgd(tiny_policy, tiny_pairs, tolerance):
    """Unclipped SGD: what the chosen and what the rejected sides do is what the step does, and what is measured."""
    model, tokenizer = fresh_copy(tiny_policy[0]), tiny_policy[1]
    outside, rows = collate(tokenizer, tiny_pairs[2:]), []
    before = response_log_probs(model, outside)[:2].detach()
    stage = Stage(1, 2, 0.3, "constant", extra={"optim": "sgd", "max_grad_norm": 0.0})
    callback = EntanglementCallback(forecast_every=1, seen=rows.append, held_out=outside)
    preference(model, tokenizer, tiny_pairs[:2], stage, seed=0, callbacks=[callback])
    found = {name: np.array(values) for name, values in rows[0]["transfer"].items()}
    scale = np.abs(found["chosen"]).max()
    np.testing.assert_allclose(found["chosen"] + found["rejected"], found["step"], atol=tolerance.gram * scale)
    measured = (response_log_probs(model, outside)[:2].detach() - before).numpy()
    np.testing.assert_allclose(found["step"], measured, rtol=0.05, atol=tolerance.gram * scale)
    assert "preconditioned_pair" not in rows[0]["forecast"]


def test_adam_s_first_step_is_the_batch_under_its_diagonal(tiny_policy, tiny_pairs, tolerance):
    """No momentum yet and no clipping: the forecast under the preconditioner is the step's.

    Epsilon is large enough that gradients which are nothing but rounding are not blown up to a step.
    """
    model, tokenizer, rows = fresh_copy(tiny_policy[0]), tiny_policy[1], []
    stage = Stage(2, 4, 1e-3, "constant", extra={"max_grad_norm": 0.0, "adam_epsilon": 1e-3})
    callback = EntanglementCallback(forecast_every=1, seen=rows.append)
    preference(model, tokenizer, tiny_pairs, stage, seed=0, callbacks=[callback])
    first, second = (
        {name: np.array(values) for name, values in row["forecast"].items()}
        | {"parts": np.array(row["preconditioned_attribution"])}
        for row in rows
    )
    scale = np.abs(first["step"]).max()
    np.testing.assert_allclose(first["preconditioned_batch"], first["step"], rtol=0, atol=tolerance.gram * scale)
    for row in (first, second):
        np.testing.assert_allclose(row["parts"].sum(-1), row["preconditioned_batch"][:4], rtol=tolerance.gram)
    assert np.abs(second["preconditioned_batch"] - second["step"]).max() > 0.05 * np.abs(second["step"]).max()
