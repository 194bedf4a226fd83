"""The gradient inner product: its convention, its two forms, and where ERM stops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_domains import Point, derivatives, losses, minibatches, network, quadratics, random_quadratics

from gentangle import InputError
from gentangle.matching.domains import domain_gram
from gentangle.matching.erm import erm_gradient
from gentangle.matching.gip import cosines, gip, mean_cosine, mean_inner_product

seeds = st.integers(0, 10_000)


@given(seed=seeds, count=st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_the_gip_is_the_mean_over_pairs_in_both_its_forms(seed, count):
    gradients = np.random.default_rng(seed).normal(size=(count, 5))
    gram = gradients @ gradients.T
    pairs = [gram[i, j] for i in range(count) for j in range(i + 1, count)]
    assert gip(gram) == pytest.approx(np.mean(pairs), rel=1e-10, abs=1e-12)
    by_norms = mean_inner_product(np.sum(gradients.sum(0) ** 2), np.diag(gram))
    assert by_norms == pytest.approx(gip(gram), rel=1e-10, abs=1e-12)


@given(seed=seeds, count=st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_the_mean_cosine_is_the_pairs_weighted_by_their_norms(seed, count):
    gradients = np.random.default_rng(seed).normal(size=(count, 3))
    gram, norms = gradients @ gradients.T, np.linalg.norm(gradients, axis=1)
    upper = np.triu_indices(count, 1)
    expected = np.average(cosines(gram)[upper], weights=np.outer(norms, norms)[upper])
    found = mean_cosine(np.sum(gradients.sum(0) ** 2), list(norms**2))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert abs(found) <= 1 + 1e-12


def test_no_cosine_leaves_its_range_by_rounding():
    """Gradients along one line, as long as they may be: some quotient rounds to more than 1."""
    rng = np.random.default_rng(0)
    along = rng.lognormal(size=40) * np.resize([1, -1], 40)
    rows = np.outer(along, rng.normal(size=5))
    gram = rows @ rows.T
    norms = np.sqrt(np.diag(gram))
    assert np.abs(gram / np.outer(norms, norms)).max() > 1
    assert (np.abs(cosines(gram)) <= 1).all()
    np.testing.assert_allclose(cosines(gram), np.sign(gram), rtol=1e-12)


def test_the_sign_is_that_of_agreement():
    assert gip([[1, 1], [1, 1]]) == cosines([[1, 1], [1, 1]])[0, 1] == mean_cosine(4.0, [1.0, 1.0]) == 1
    assert gip([[1, -1], [-1, 1]]) == cosines([[1, -1], [-1, 1]])[0, 1] == mean_cosine(0.0, [1.0, 1.0]) == -1
    assert mean_cosine(4.0, [4.0, 0.0]) == 0


def test_the_gram_matrix_of_domains_is_exact_and_leaves_the_buffers(tolerance):
    model, batches = network(norm=True), minibatches()
    before = [b.clone() for b in model.buffers()]
    matrix = domain_gram(model, losses(batches))
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    metrics = erm_gradient(model, losses(batches))[1]
    assert metrics["gip"] == pytest.approx(gip(matrix), rel=tolerance.identity)
    gradients = derivatives(plain := network(), losses(batches))[0]
    np.testing.assert_allclose(domain_gram(plain, losses(batches)), gradients @ gradients.T, rtol=1e-9)


@given(seed=seeds, count=st.integers(2, 5))
@settings(max_examples=15, deadline=None)
def test_erm_stops_where_the_domains_cancel(seed, count):
    hessians, minima = random_quadratics(seed, count)
    hessians = hessians + 0.1 * torch.eye(4)  # far enough from singular for the stationary point to be exact
    at = torch.linalg.solve(hessians.sum(0), (hessians @ minima[..., None]).sum(0)).squeeze(-1)
    model, domains = Point(at), quadratics(hessians, minima)
    gradient, metrics = erm_gradient(model, domains)
    matrix = domain_gram(model, domains)
    assert gradient[0].abs().max() < 1e-8
    assert count * (count - 1) * metrics["gip"] == pytest.approx(-np.trace(matrix), rel=1e-6)
    assert metrics["gip"] <= 0


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4,)])
def test_another_shape_gets_one_clear_error(shape):
    for reading in (gip, cosines):
        with pytest.raises(InputError, match="one domain has no pair"):
            reading(np.ones(shape))


def test_a_gradient_of_zero_has_no_cosine():
    with pytest.raises(InputError, match="domain 1 is 0"):
        cosines([[1, 0], [0, 0]])
