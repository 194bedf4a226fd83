"""The neighbours of Fish that are coefficients from the Gram matrix, by TorchJD, and formulas of the table."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_domains import Point, derivatives, quadratics, random_quadratics, vector
from torch.nn.utils import vector_to_parameters
from torchjd.aggregation import CAGradWeighting, GradVacWeighting, PCGradWeighting, UPGradWeighting

from gentangle.matching.algorithms import ERM
from gentangle.matching.domains import domain_gram, domains_of
from gentangle.matching.expansion import LOGISTIC_LOSS, logistic_problem

WEIGHTINGS = {
    "PCGrad": PCGradWeighting,
    "GradVac": GradVacWeighting,
    "CAGrad": partial(CAGradWeighting, c=0.5),
    "UPGrad": UPGradWeighting,
}
seeds = st.integers(0, 10_000)


def coefficients(name, gram):
    """Of a step along sum_i c_i g_i; the sums that PCGrad and GradVac define are divided by S."""
    torch.manual_seed(0)
    found = WEIGHTINGS[name]()(torch.as_tensor(gram))
    return (found / len(gram) if name in ("PCGrad", "GradVac") else found).numpy()


def in_conflict(steps=10):
    """The chapter's problem after ten steps of ERM: the mean step would raise a domain's loss."""
    model, batches = logistic_problem(0)
    erm = ERM(model, LOGISTIC_LOSS, partial(torch.optim.SGD, lr=1.0))
    for _ in range(steps):
        erm.update(batches)
    return model, domains_of(model, LOGISTIC_LOSS, batches)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_small_step_changes_each_loss_as_the_gram_matrix_says(name):
    model, domains = in_conflict()
    gram, start = domain_gram(model, domains), vector(model)
    c = coefficients(name, gram)
    gradients = derivatives(model, domains)[0]
    before = np.array([loss(model).item() for loss in domains.values()])
    misses = []
    for eta in (1e-2, 1e-3):
        vector_to_parameters(start - eta * torch.as_tensor(c) @ gradients, model.parameters())
        after = np.array([loss(model).item() for loss in domains.values()])
        misses.append(np.abs((after - before) / eta + gram @ c).max())
    assert misses[1] < misses[0] / 8
    assert misses[1] < 1e-3


def test_of_three_domains_the_mean_and_pcgrad_raise_a_loss_and_cagrad_and_upgrad_do_not():
    gram = domain_gram(*in_conflict())
    assert (gram.mean(1) < 0).any()
    changes = {name: -gram @ coefficients(name, gram) for name in WEIGHTINGS}
    assert changes["PCGrad"].max() > 0.01
    assert changes["GradVac"].max() > 0
    assert changes["CAGrad"].max() < 0
    assert changes["UPGrad"].max() < 0


def test_where_erm_rests_upgrad_and_cagrad_rest_and_pcgrad_does_not():
    gram = domain_gram(*in_conflict(600))
    moved = {name: float(c @ gram @ c) for name in WEIGHTINGS for c in [coefficients(name, gram)]}
    assert max(moved["CAGrad"], moved["UPGrad"]) < 1e-6
    assert moved["PCGrad"] > 1e-3


@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_upgrad_raises_no_loss_and_cagrad_stays_in_its_ball(seed):
    rows = np.random.default_rng(seed).normal(size=(3, 6))
    gram = rows @ rows.T
    assert (-gram @ coefficients("UPGrad", gram)).max() < 1e-3
    c, mean = coefficients("CAGrad", gram), np.ones(3) / 3
    ball = 0.5 * np.sqrt(mean @ gram @ mean)
    assert np.sqrt((c - mean) @ gram @ (c - mean)) <= ball * 1.01
    assert (gram @ c).min() >= (gram @ mean).min() - 1e-6


@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_gradvac_at_targets_of_zero_is_pcgrad_for_two_domains(seed):
    rows = np.random.default_rng(seed).normal(size=(2, 3))
    gram = rows @ rows.T
    np.testing.assert_allclose(coefficients("GradVac", gram), coefficients("PCGrad", gram), rtol=1e-5)


@given(seed=seeds, count=st.integers(2, 5))
@settings(max_examples=10, deadline=None)
def test_igas_penalty_is_a_reading_of_the_gram_matrix(seed, count):
    """(1/S) sum |g_i - gbar|^2 = (S-1)/S (mean of the squared norms - GIP)."""
    rows = np.random.default_rng(seed).normal(size=(count, 4))
    gram = rows @ rows.T
    penalty = np.mean(np.sum((rows - rows.mean(0)) ** 2, axis=1))
    gip = (gram.sum() - np.trace(gram)) / (count * (count - 1))
    assert penalty == pytest.approx((count - 1) / count * (np.trace(gram) / count - gip))


@given(seed=seeds, beta=st.floats(0, 3))
@settings(max_examples=10, deadline=None)
def test_v_rex_is_coefficients_from_the_losses(seed, beta):
    """grad of mean + beta Var: c_i = (1 + 2 beta (L_i - mean)) / S."""
    hessians, minima = random_quadratics(seed)
    model, domains = Point(torch.ones(4)), quadratics(hessians, minima)
    values = torch.stack([loss(model) for loss in domains.values()])
    (found,) = torch.autograd.grad(values.mean() + beta * values.var(correction=0), [model.theta])
    c = (1 + 2 * beta * (values - values.mean()).detach()) / 3
    torch.testing.assert_close(found, c @ derivatives(model, domains)[0], rtol=1e-8, atol=1e-9)
