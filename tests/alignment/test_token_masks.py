"""Token masks: the objective's gradients by autograd, what a mask of the contrast alone does, and what masks learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gentangle as g
from gentangle.alignment.last_layer import LastLayerPair, suffix_pair
from gentangle.alignment.softmax import probabilities
from gentangle.alignment.theory_verdicts import FALLING_PAIR, PENALTIES
from gentangle.alignment.token_masks import (
    BETA,
    learn_masks,
    masked_changes,
)


def random_pair(seed, length, overlap=1.0):
    """Contrast 0 or 1 after one state, then a shared suffix of tokens 2..5 under states of each response's own."""
    rng = np.random.default_rng(seed)
    first, suffix = rng.normal(size=(1, 4)), rng.integers(2, 6, size=length)
    states = tuple(np.vstack([first, overlap * rng.normal(size=(length, 4))]) for _ in range(2))
    return LastLayerPair(states, (np.r_[0, suffix], np.r_[1, suffix])), rng.normal(size=(6, 4))


def contrast_only(pair):
    half = len(pair.tokens[0])
    return np.isin(np.arange(2 * half), [0, half]).astype(float)


def autograd_log_probs(pair, weights):
    states, tokens = (torch.from_numpy(np.concatenate(part)) for part in (pair.states, pair.tokens))
    return (states @ weights.T).log_softmax(-1)[torch.arange(len(tokens)), tokens]


def test_the_token_gram_is_of_autograds_gradients():
    pair, start = random_pair(0, 3)
    weights = torch.from_numpy(start).requires_grad_()
    values = autograd_log_probs(pair, weights)
    np.testing.assert_allclose(pair.token_log_probs(start), values.detach())
    rows = torch.stack([torch.autograd.grad(v, weights, retain_graph=True)[0].flatten() for v in values])
    np.testing.assert_allclose(pair.token_gram(start), rows @ rows.T, atol=1e-12)
    sums = np.array([pair.signs > 0, pair.signs < 0], dtype=float)
    np.testing.assert_allclose(sums @ pair.token_gram(start) @ sums.T, pair.gram(start))


@given(seed=st.integers(0, 10_000), length=st.integers(0, 4))
@settings(max_examples=50, deadline=None)
def test_masked_changes_are_those_of_a_small_step(seed, length):
    pair, start = random_pair(seed, length)
    mask = np.random.default_rng(seed).uniform(size=len(pair.signs))
    weights = torch.from_numpy(start).requires_grad_()
    margin = (torch.from_numpy(pair.signs * mask) * autograd_log_probs(pair, weights)).sum()
    step = torch.autograd.grad(margin, weights)[0].numpy()
    eta = 1e-6
    moved = [pair.log_probs(start + sign * eta * step) for sign in (1, -1)]
    np.testing.assert_allclose(
        (moved[0] - moved[1]) / (2 * eta), masked_changes(pair, start, mask), rtol=1e-4, atol=1e-4
    )


def test_a_mask_of_ones_is_the_pairs_own_forecast():
    pair, start = suffix_pair(*FALLING_PAIR)
    matrix = pair.gram(start)
    np.testing.assert_allclose(masked_changes(pair, start, np.ones(42)), g.first_order_changes(matrix))
    assert g.case(g.first_order_changes(matrix)) == "both-down"


@given(seed=st.integers(0, 10_000), length=st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_a_mask_of_the_contrast_alone_moves_the_suffix_through_the_states_only(seed, length):
    """The formula of the theorem, token by token, with probabilities taken from the logits."""
    pair, start = random_pair(seed, length)
    states = np.concatenate(pair.states)
    p = probabilities(states @ start.T)
    h, half = states[0], 1 + length
    gap = p[:, 0] - p[:, 1]  # of the chosen contrast token over the rejected one, at each position
    moved = [
        sign * (h @ h) * (1 - sign * gap[0]) - sum((h @ states[t]) * gap[t] for t in range(begin + 1, begin + half))
        for sign, begin in ((1, 0), (-1, half))
    ]
    np.testing.assert_allclose(masked_changes(pair, start, contrast_only(pair)), moved, rtol=1e-9, atol=1e-9)


@given(length=st.integers(1, 8), eps=st.tuples(st.floats(0.05, 0.9), st.floats(0.05, 0.9)), rho=st.floats(0.1, 0.95))
@settings(max_examples=50, deadline=None)
def test_with_orthogonal_positions_it_always_gives_the_first_case(length, eps, rho):
    pair, start = suffix_pair(length, eps, rho)
    np.testing.assert_allclose(masked_changes(pair, start, contrast_only(pair)), [1, -1], atol=1e-7)


def test_with_overlapping_states_chosen_can_fall_all_the_same():
    """The hypothesis dropped: the suffix is predicted from the contrast's state, where token 0 is likely."""
    pair = LastLayerPair((np.ones((4, 1)),) * 2, (np.array([0, 2, 2, 2]), np.array([1, 2, 2, 2])))
    assert masked_changes(pair, np.array([[2.0], [0.0], [0.0]]), contrast_only(pair))[0] < 0


@pytest.mark.parametrize("tied", [False, True])
def test_learning_descends_the_printed_objective(tied):
    """Some steps of autograd on the objective as it is written, in W and phi at once."""
    (pair, start), penalty, rate = random_pair(3, 3), 0.01, 20.0
    half = len(pair.tokens[0])
    weights = torch.from_numpy(start.copy()).requires_grad_()
    phi = torch.full((half if tied else 2 * half,), 2.0, dtype=torch.float64, requires_grad=True)
    reference, signs = torch.from_numpy(pair.token_log_probs(start)), torch.from_numpy(pair.signs)
    for _ in range(5):
        mask = torch.sigmoid(phi).repeat(2 if tied else 1)
        margin = (signs * mask * (autograd_log_probs(pair, weights) - reference)).sum()
        loss = -torch.nn.functional.logsigmoid(BETA * margin) + penalty * mask.sum()
        slopes = torch.autograd.grad(loss, (weights, phi))
        with torch.no_grad():
            weights -= slopes[0]
            phi -= rate * slopes[1]
    found_mask, found_changes = learn_masks(pair, start, penalty, steps=5, mask_rate=rate, tied=tied)
    np.testing.assert_allclose(found_mask, torch.sigmoid(phi).detach().repeat(2 if tied else 1), rtol=1e-9)
    expected = (autograd_log_probs(pair, weights) - reference).detach()
    np.testing.assert_allclose(found_changes, expected, rtol=1e-7, atol=1e-10)


def test_what_is_not_given_is_100_steps_at_rate_100_untied():
    pair, start = random_pair(3, 3)
    for found, expected in zip(
        learn_masks(pair, start, 0.01),
        learn_masks(pair, start, 0.01, steps=100, mask_rate=100.0, tied=False),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


def test_what_the_masks_learn_depends_on_the_penalty():
    """Small: chosen suffix out, rejected one kept, chosen falls further. One value prunes both; above it all goes."""
    pair, start = suffix_pair(*FALLING_PAIR)
    bare = pair.sums(learn_masks(pair, start, 0.0, mask_rate=0.0)[1])
    masks, changes = {}, {}
    for penalty in PENALTIES:
        mask, moved = learn_masks(pair, start, penalty)
        masks[penalty], changes[penalty] = mask[[0, 1, 21, 22]] > 0.5, pair.sums(moved)
    assert masks[0.003].tolist() == masks[0.01].tolist() == [True, False, True, True]
    assert changes[0.003][0] < bare[0] < 0
    assert masks[0.02].tolist() == [True, False, True, False]
    assert changes[0.02][0] > 0 > changes[0.02][1]
    assert not masks[0.1].any()
    assert np.abs(changes[0.1]).max() < 1


def test_tied_masks_drop_the_suffix_at_half_the_penalty():
    pair, start = suffix_pair(*FALLING_PAIR)
    mask, moved = learn_masks(pair, start, 0.01, tied=True)
    assert (mask[[0, 1, 21, 22]] > 0.5).tolist() == [True, False, True, False]
    assert pair.sums(moved)[0] > 0 > pair.sums(learn_masks(pair, start, 0.01)[1])[0]
