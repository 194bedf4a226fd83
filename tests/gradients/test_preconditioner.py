"""Adam's own diagonal: with it the plain gradient is the step that Adam takes before it has a memory."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from gentangle.alignment.conditions import REVERSED, case, first_order_changes
from gentangle.gradients.capture import Capture
from gentangle.gradients.oracle import jacobian, trainable_parameters
from gentangle.gradients.preconditioner import adam_preconditioner
from gentangle.gradients.step import parameter_step, snapshot

sys.path.insert(0, str(Path(__file__).parent))

from models import language_model, responses


def small():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)).double()
    return model, torch.randn(4, 3, dtype=torch.float64)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_without_momentum_the_step_is_the_diagonal_times_the_gradient(kind, tolerance):
    model, x = small()
    optimizer = kind(model.parameters(), lr=1e-3, betas=(0.0, 0.9), weight_decay=0.0)
    for _ in range(3):  # a second moment with a history
        optimizer.zero_grad()
        model(x).square().sum().backward()
        before = snapshot(model)
        optimizer.step()
    step = parameter_step(before, snapshot(model))
    diagonal = adam_preconditioner(optimizer, model)
    for name, p in trainable_parameters(model).items():
        torch.testing.assert_close(step[name], -1e-3 * diagonal[name] * p.grad, rtol=1e-8, atol=tolerance.identity)


@pytest.mark.parametrize(
    "make",
    [
        partial(torch.optim.SGD, momentum=0.9),
        torch.optim.RMSprop,
        partial(torch.optim.AdamW, amsgrad=True),
        torch.optim.NAdam,
        torch.optim.RAdam,
    ],
    ids=["SGD", "RMSprop", "AMSGrad", "NAdam", "RAdam"],
)
def test_another_rule_has_none(make):
    """Some of them keep a second moment under Adam's name for it."""
    model, x = small()
    optimizer = make(model.parameters(), lr=0.1)
    model(x).sum().backward()
    optimizer.step()
    assert adam_preconditioner(optimizer, model) is None


def test_the_matrix_under_a_diagonal_is_that_of_scaled_gradients(tolerance):
    model, x = small()
    torch.manual_seed(1)
    diagonal = {name: torch.rand_like(p) + 0.1 for name, p in trainable_parameters(model).items()}
    with Capture(model, keep=True) as seen:
        model(x).sum().backward()
    rows = jacobian(model, lambda m: m(x)[:, 0])
    scaled = torch.cat([rows[n].flatten(1) * d.flatten().sqrt() for n, d in diagonal.items()], 1)
    expected = (scaled @ scaled.T).numpy()
    np.testing.assert_allclose(seen.gram_under(diagonal), expected, rtol=0, atol=tolerance.identity * expected.max())


@pytest.mark.parametrize("tied", [True, False])
def test_it_is_that_of_a_language_model_too_whose_embedding_may_be_its_head(tied, tolerance):
    model, scalars = language_model("gpt2", tied=tied).double(), responses(4, 10)
    torch.manual_seed(1)
    diagonal = {name: torch.rand_like(p) + 0.1 for name, p in trainable_parameters(model).items()}
    with Capture(model, 4, keep=True) as seen:
        scalars(model).sum().backward()
    rows = jacobian(model, scalars)
    scaled = torch.cat([rows[n].flatten(1) * d.flatten().sqrt() for n, d in diagonal.items()], 1)
    expected = (scaled @ scaled.T).numpy()
    np.testing.assert_allclose(seen.gram_under(diagonal), expected, rtol=0, atol=tolerance.identity * expected.max())


def test_under_any_fixed_diagonal_the_fourth_case_never_happens():
    """Cauchy-Schwarz holds in every inner product; with momentum, or in a batch, nothing forbids it."""
    rng = np.random.default_rng(0)
    gradients, diagonal = rng.normal(size=(5000, 2, 3)), rng.lognormal(sigma=2, size=(5000, 1, 3))
    under = (gradients * diagonal) @ np.swapaxes(gradients, 1, 2)
    changes = first_order_changes(under, *rng.lognormal(size=(2, 5000)))
    assert REVERSED not in case(changes)
    plain = case(first_order_changes(gradients @ np.swapaxes(gradients, 1, 2)))
    assert np.mean(plain != case(first_order_changes(under))) > 0.05  # yet D turns many a case
