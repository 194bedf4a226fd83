"""A pair whose last layer alone learns: its readings against autograd, and the suffix pair that it starts from."""

from functools import partial

import numpy as np
import pytest
import torch

import gentangle as g
from gentangle.alignment.last_layer import LastLayerPair, suffix_pair
from gentangle.alignment.softmax import probabilities


@pytest.fixture
def random_pair():
    """Responses of 3 and 5 tokens from 6, states of width 4: the pair, and a last layer."""
    rng = np.random.default_rng(0)
    states, tokens = zip(*((rng.normal(size=(n, 4)), rng.integers(6, size=n)) for n in (3, 5)), strict=True)
    return LastLayerPair(states, tokens), rng.normal(size=(6, 4))


def test_readings_are_autograds(random_pair, tolerance):
    pair, start = random_pair
    weight = torch.from_numpy(start).requires_grad_()
    states, tokens = (torch.from_numpy(np.concatenate(part)) for part in (pair.states, pair.tokens))
    values = (states @ weight.T).log_softmax(-1)[torch.arange(8), tokens]
    exact = {"rtol": tolerance.identity, "atol": tolerance.identity}
    np.testing.assert_allclose(pair.token_log_probs(start), values.detach(), **exact)
    np.testing.assert_allclose(pair.log_probs(start), [values[:3].sum().item(), values[3:].sum().item()], **exact)
    rows = torch.stack([torch.autograd.grad(v, weight, retain_graph=True)[0] for v in values])
    w, l = rows[:3].sum(0), rows[3:].sum(0)
    np.testing.assert_allclose(pair.gradients(start), torch.stack([w, l]), **exact)
    flat = rows.flatten(1)
    np.testing.assert_allclose(pair.token_gram(start), flat @ flat.T, **exact)
    np.testing.assert_allclose(pair.gram(start), [[(a * b).sum().item() for b in (w, l)] for a in (w, l)], **exact)


def test_variances_are_the_second_derivatives_along_a_direction(random_pair, tolerance):
    pair, start = random_pair
    direction = np.random.default_rng(1).normal(size=start.shape)

    def log_prob(eta, states, tokens):
        logits = torch.from_numpy(states) @ (torch.from_numpy(start) + eta * torch.from_numpy(direction)).T
        return logits.log_softmax(-1).gather(1, torch.from_numpy(tokens)[:, None]).sum()

    at = torch.tensor(0.0, dtype=torch.float64)
    second = [
        torch.autograd.functional.hessian(partial(log_prob, states=h, tokens=y), at).item()
        for h, y in zip(pair.states, pair.tokens, strict=True)
    ]
    np.testing.assert_allclose(pair.variances(start, direction), np.negative(second), rtol=tolerance.identity)


def test_the_gram_matrix_is_the_token_grams_sum(random_pair, tolerance):
    pair, start = random_pair
    sides = np.stack([pair.signs > 0, pair.signs < 0]).astype(float)
    found = sides @ pair.token_gram(start) @ sides.T
    np.testing.assert_allclose(found, pair.gram(start), rtol=tolerance.identity)
    np.testing.assert_array_equal(pair.sums(np.ones(8)), [3, 5])


def test_suffix_pair_starts_from_the_distributions_it_was_asked_for(tolerance):
    pair, weight = suffix_pair(7, (0.2, 0.5), 0.9)
    expected = [1 / 6, *[0.8] * 7, 1 / 6, *[0.5] * 7]
    np.testing.assert_allclose(np.exp(pair.token_log_probs(weight)), expected, rtol=tolerance.identity)
    np.testing.assert_allclose(probabilities(pair.states[0][0] @ weight.T), 1 / 6)
    cosines = np.eye(8)
    cosines[1:, 1:] *= 0.9
    np.testing.assert_allclose(pair.states[0] @ pair.states[1].T, cosines, atol=tolerance.identity)
    np.testing.assert_allclose(np.linalg.norm(np.concatenate(pair.states), axis=1), 1)
    np.testing.assert_array_equal(pair.tokens[0][1:], pair.tokens[1][1:])
    assert (pair.tokens[0][0], pair.tokens[1][0]) == (0, 1)


@pytest.mark.parametrize(
    "given", [(3, (0.0, 0.5), 0.9), (3, (0.2, 1.0), 0.9), (3, (0.2, 0.5), 1.0), (3, (0.2, 0.5), -1.0)]
)
def test_a_suffix_pair_that_cannot_be_is_refused(given):
    with pytest.raises(g.InputError, match="expected probabilities between 0 and 1, and a cosine"):
        suffix_pair(*given)


@pytest.mark.parametrize(
    ("states", "tokens"),
    [
        ((np.ones((2, 3)), np.ones((2, 3))), (np.zeros(2, int), np.zeros(3, int))),
        ((np.ones((2, 3)), np.ones((2, 4))), (np.zeros(2, int), np.zeros(2, int))),
        ((np.ones((2, 3)), np.ones((0, 3))), (np.zeros(2, int), np.zeros(0, int))),
    ],
)
def test_shapes_that_do_not_fit_are_refused(states, tokens):
    with pytest.raises(g.InputError, match=r"expected \(T, d\) and \(T,\)"):
        LastLayerPair(states, tokens)
