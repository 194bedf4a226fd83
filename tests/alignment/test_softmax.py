"""Closed forms of last-layer softmax policies against the oracle on a torch model of the same numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gentangle as g
from gentangle.alignment.softmax import probabilities, token_residual

VOCABULARY, WIDTH = 5, 3


def last_layer(seed):
    torch.manual_seed(seed)
    return torch.nn.Linear(WIDTH, VOCABULARY, bias=False).double()


@given(seed=st.integers(0, 1000), lengths=st.tuples(st.integers(1, 6), st.integers(1, 6)))
@settings(max_examples=40, deadline=None)
def test_last_layer_gram_is_the_oracles(seed, lengths):
    model, rng = last_layer(seed), np.random.default_rng(seed)
    states = [rng.normal(size=(length, WIDTH)) for length in lengths]
    tokens = [rng.integers(VOCABULARY, size=length) for length in lengths]

    def scalars(m):
        return [
            m(torch.tensor(h)).log_softmax(-1)[torch.arange(len(y)), torch.tensor(y)].sum()
            for h, y in zip(states, tokens, strict=True)
        ]

    weight = model.weight.detach().numpy()
    closed = g.last_layer_gram(states, [probabilities(h @ weight.T) for h in states], tokens)
    np.testing.assert_allclose(closed, g.gram(model, scalars, method="oracle"), rtol=1e-9, atol=1e-12)


@given(seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_single_token_formula_is_the_general_one(seed, tolerance):
    rng = np.random.default_rng(seed)
    p, h = probabilities(3 * rng.normal(size=VOCABULARY)), rng.normal(size=(1, WIDTH))
    general = g.last_layer_gram([h, h], [p[None], p[None]], [[0], [1]])
    np.testing.assert_allclose(g.single_token_gram(p, 0, 1, float(h[0] @ h[0])), general, rtol=1e-9, atol=1e-12)


@given(logits=st.lists(st.floats(-20, 20), min_size=2, max_size=8))
@settings(max_examples=200, deadline=None)
def test_one_token_is_never_entangled(logits):
    """Hypotheses: only the last layer learns, SGD, this pair, d_w = d_l."""
    p = probabilities(logits)
    matrix = g.single_token_gram(p, 0, 1)
    slack = matrix[0, 0] - matrix[0, 1], matrix[1, 1] - matrix[0, 1]
    np.testing.assert_allclose(slack, (1 - p[0] + p[1], 1 - p[1] + p[0]), atol=1e-12)
    assert min(slack) >= 0


def test_one_token_can_be_entangled_once_slopes_differ():
    """The hypothesis d_w = d_l dropped: a rejected slope ten times the chosen one pulls chosen down where <w,l> > 0."""
    p = np.array([0.05, 0.05, 0.9])
    matrix = g.single_token_gram(p, 0, 1)
    assert matrix[0, 1] > 0
    assert g.case(g.first_order_changes(matrix, 0.1, 1.0)) == "both-down"


def test_probabilities_are_finite_at_extreme_logits():
    p = probabilities([1e4, -1e4, 0.0])
    np.testing.assert_array_equal(p, [1, 0, 0])
    assert np.isfinite(g.single_token_gram(p, 0, 1)).all()


def test_bad_input_gets_one_clear_error():
    with pytest.raises(g.InputError, match="do not sum to 1"):
        token_residual([0.5, 0.6], 0)
    with pytest.raises(g.InputError, match=r"outside 0\.\.1"):
        token_residual([0.5, 0.5], 2)
    with pytest.raises(g.InputError, match="a pair must differ"):
        g.single_token_gram([0.5, 0.5], 1, 1)
    with pytest.raises(g.InputError, match="expected three equal, positive numbers"):
        g.last_layer_gram([np.ones((2, 3))], [np.full((2, 2), 0.5)], [[0]])
