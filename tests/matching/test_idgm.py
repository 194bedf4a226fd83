"""IDGM by double backward: against finite differences and pairs, its sign, its cost, and where it has no minimum."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_domains import (
    Point,
    derivatives,
    losses,
    matching_gradient,
    minibatches,
    network,
    quadratics,
    random_quadratics,
    seeds,
    vector,
)
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from gentangle.matching.domains import domain_gram
from gentangle.matching.erm import erm_gradient
from gentangle.matching.gip import gip
from gentangle.matching.idgm import idgm_gradient


def objective(model, domains, gamma):
    """L_idgm from the exact Gram matrix."""
    return sum(f(model).item() for f in domains.values()) / len(domains) - gamma * gip(domain_gram(model, domains))


def test_the_gradient_is_that_of_finite_differences():
    model, domains, gamma = network(1), losses(minibatches(1)), 0.7
    found = parameters_to_vector(idgm_gradient(model, domains, gamma=gamma)[0])
    start = vector(model)
    for k in range(len(start)):
        sides = []
        for h in (1e-5, -1e-5):
            moved = start.clone()
            moved[k] += h
            vector_to_parameters(moved, model.parameters())
            sides.append(objective(model, domains, gamma))
        assert (sides[0] - sides[1]) / 2e-5 == pytest.approx(float(found[k]), rel=1e-5, abs=1e-8)


@given(seed=seeds, count=st.integers(2, 5), gamma=st.floats(-2, 2))
@settings(max_examples=10, deadline=None)
def test_the_fast_form_is_the_sum_over_pairs(seed, count, gamma):
    model, domains = network(seed), losses(minibatches(seed, count))
    gradients, hessians = derivatives(model, domains)
    matching = matching_gradient(gradients, hessians)
    expected = gradients.mean(0) - gamma * 2 / (count * (count - 1)) * matching
    found, metrics = idgm_gradient(model, domains, gamma=gamma)
    torch.testing.assert_close(parameters_to_vector(found), expected, rtol=1e-9, atol=1e-12)
    assert metrics["gip"] == pytest.approx(gip(gradients @ gradients.T), rel=1e-9, abs=1e-12)


@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_gamma_0_is_erm(seed):
    model, domains = network(seed), losses(minibatches(seed))
    (erm, seen), (idgm, also) = erm_gradient(model, domains), idgm_gradient(model, domains, gamma=0.0)
    torch.testing.assert_close(idgm, erm, rtol=1e-10, atol=1e-13)
    assert also == pytest.approx(seen, rel=1e-10)
    mean = derivatives(model, domains)[0].mean(0)
    torch.testing.assert_close(parameters_to_vector(erm), mean, rtol=1e-10, atol=1e-13)


def test_a_step_down_its_gradient_raises_the_gip_and_one_up_lowers_it():
    model, domains = network(2), losses(minibatches(2))
    pure = parameters_to_vector(idgm_gradient(model, domains, gamma=1e6)[0]) / 1e6
    start, before = vector(model), gip(domain_gram(model, domains))
    for step in (1e-3, -1e-3):
        vector_to_parameters(start - step * pure, model.parameters())
        assert (gip(domain_gram(model, domains)) - before) * step > 0


def test_it_takes_one_gradient_a_domain_and_one_more(monkeypatch):
    calls, plain = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(1) or plain(*a, **k))
    for count in (2, 4, 8):
        calls.clear()
        idgm_gradient(network(), losses(minibatches(count=count)), gamma=1.0)
        assert len(calls) == count + 1


@pytest.mark.parametrize("curvature", [0.5, 2.0])
@pytest.mark.parametrize("count", [2, 5])
def test_it_is_unbounded_below_beyond_one_over_twice_the_shared_curvature(curvature, count):
    _, minima = random_quadratics(0, count)
    domains = quadratics(torch.eye(4).double().expand(count, 4, 4) * curvature, minima)
    for factor, sign in ((0.99, 1), (1.01, -1)):
        far = [objective(Point(torch.full((4,), x)), domains, factor / (2 * curvature)) for x in (1e3, 2e3)]
        assert (far[1] - far[0]) * sign > 0


def test_with_a_matrix_of_curvature_the_largest_eigenvalue_decides():
    hessian = random_quadratics(3, 1)[0][0]
    values, vectors = torch.linalg.eigh(hessian)
    domains = quadratics(hessian.expand(3, 4, 4), random_quadratics(4, 3)[1])
    for factor, sign in ((0.99, 1), (1.01, -1)):
        gamma = factor / (2 * float(values[-1]))
        far = [objective(Point(vectors[:, -1] * x), domains, gamma) for x in (1e4, 2e4)]
        assert (far[1] - far[0]) * sign > 0
