"""Closed forms of last-layer softmax policies against the oracle on a torch model of the same numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gentangle as g
from gentangle.alignment import softmax
from gentangle.alignment.compile import compiled
from gentangle.alignment.softmax import gram_from_logits, logit_step, probabilities, token_changes, token_residual
from gentangle.alignment.symbols import D_CHOSEN, D_REJECTED, ETA

VOCABULARY, WIDTH = 5, 3
LOGITS = st.lists(st.floats(-8, 8), min_size=3, max_size=8).map(np.array)
SLOPES = st.tuples(st.floats(0, 4), st.floats(0, 4))


def value(formula, **given):
    """A printed formula of the package at numbers given by the symbols' names."""
    symbols = tuple(sorted(formula.free_symbols, key=str))
    return float(compiled(symbols, formula, "numpy")(*(given[symbol.name] for symbol in symbols)))


def autograd_step(logits, d_chosen, d_rejected, eta):
    """Logits after one step of torch's SGD on the linearised margin loss; chosen is token 0, rejected token 1."""
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    logp = z.log_softmax(-1)
    (-(d_chosen * logp[0] - d_rejected * logp[1])).backward()
    torch.optim.SGD([z], lr=eta).step()
    return z.detach().numpy()


def log_p(logits):
    return torch.tensor(logits).log_softmax(-1).numpy()


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


@given(seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_single_token_formula_is_autograds(seed):
    """Norms, inner product and slacks as printed, against gradients of a torch last layer with one fixed state."""
    model, rng = last_layer(seed), np.random.default_rng(seed)
    h = torch.tensor(rng.normal(size=WIDTH))
    matrix = g.gram(model, lambda m: m(h).log_softmax(-1)[[0, 1]], method="oracle")
    p = model(h).softmax(-1).detach().numpy()
    given = {"p_w": p[0], "p_l": p[1], "norm_sq_p": p @ p, "h_norm_sq": float(h @ h)}
    printed = (
        (softmax.SINGLE_TOKEN_CHOSEN_NORM_SQ, matrix[0, 0]),
        (softmax.SINGLE_TOKEN_REJECTED_NORM_SQ, matrix[1, 1]),
        (softmax.SINGLE_TOKEN_INNER_PRODUCT, matrix[0, 1]),
        (softmax.CHOSEN_SLACK, matrix[0, 0] - matrix[0, 1]),
        (softmax.REJECTED_SLACK, matrix[1, 1] - matrix[0, 1]),
    )
    for formula, measured in printed:
        np.testing.assert_allclose(value(formula, **given), measured, rtol=1e-9, atol=1e-12)


@pytest.mark.claims("one-token-not-entangled")
@given(logits=st.lists(st.floats(-20, 20), min_size=2, max_size=8))
@settings(max_examples=200, deadline=None)
def test_one_token_is_never_entangled(logits):
    """Hypotheses: only the last layer learns, SGD, this pair, d_w = d_l."""
    p = probabilities(logits)
    matrix = g.single_token_gram(p, 0, 1)
    slack = matrix[0, 0] - matrix[0, 1], matrix[1, 1] - matrix[0, 1]
    np.testing.assert_allclose(slack, (1 - p[0] + p[1], 1 - p[1] + p[0]), atol=1e-12)
    assert min(slack) >= 0


@given(logits=LOGITS, log_ratio=st.floats(-np.log(2), np.log(2)))
@settings(max_examples=200, deadline=None)
def test_one_token_is_not_entangled_for_slopes_within_a_factor_two(logits, log_ratio):
    """<w,l> <= min(|w|^2, |l|^2)/2, so both conditions hold for d_w/d_l in [1/2, 2]."""
    matrix = g.single_token_gram(probabilities(logits), 0, 1)
    assert matrix[0, 1] <= min(matrix[0, 0], matrix[1, 1]) / 2 + 1e-12
    assert g.cosine(matrix) <= 0.5 + 1e-12
    changes = g.first_order_changes(matrix, np.exp(log_ratio), 1.0)
    assert changes[0] >= -1e-12
    assert changes[1] <= 1e-12


def test_the_factor_two_is_the_best_one():
    """A bystander with nearly all the mass: at d_w/d_l = 0.49 chosen falls, at 2.05 rejected rises."""
    matrix = g.single_token_gram(np.array([0.005, 0.005, 0.99]), 0, 1)
    assert g.case(g.first_order_changes(matrix, 0.49, 1.0)) == "both-down"
    assert g.case(g.first_order_changes(matrix, 2.05, 1.0)) == "both-up"


@given(logits=LOGITS)
@settings(max_examples=100, deadline=None)
def test_the_inner_product_is_positive_only_where_a_bystander_dominates(logits):
    """Sign of <w,l>, and: positive means that a bystander is likelier than both together."""
    p = probabilities(logits)
    w, l = token_residual(p, [0, 1])
    if abs(w @ l) > 1e-9:
        assert (w @ l > 0) == (p @ p > p[0] + p[1])
    if w @ l > 1e-9:
        assert p[0] + p[1] < p[2:].max()


@given(share=st.floats(1e-5, 1 - 1e-5), seed=st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_two_tokens_with_all_the_mass_have_cosine_minus_one(share, seed):
    """p_w + p_l = 1, any logit kernel: opposite gradients, <w,l>/|w|^2 = -p_w/p_l, unbounded as p_w tends to 1."""
    p, factor = np.array([share, 1 - share, 0.0, 0.0]), np.random.default_rng(seed).normal(size=(4, 4))
    matrix = gram_from_logits(p, [0, 1], factor @ factor.T)
    np.testing.assert_allclose(g.cosine(matrix), -1, atol=1e-9)
    np.testing.assert_allclose(matrix[0, 1] / matrix[0, 0], -p[0] / p[1], rtol=1e-6)
    assert g.case(g.first_order_changes(matrix)) == "chosen-up-rejected-down"


def test_one_token_can_be_entangled_once_slopes_differ():
    """The hypothesis d_w = d_l dropped: a rejected slope ten times the chosen one pulls chosen down where <w,l> > 0."""
    p = np.array([0.05, 0.05, 0.9])
    matrix = g.single_token_gram(p, 0, 1)
    assert matrix[0, 1] > 0
    assert g.case(g.first_order_changes(matrix, 0.1, 1.0)) == "both-down"


def two_layers(seed, width=4, gain=3.0):
    """A network whose hidden layer learns too, its input, and the two log-probabilities of a pair."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Tanh(), torch.nn.Linear(width, 6)).double()
    with torch.no_grad():
        model[2].weight *= gain
    prompt = torch.randn(4, dtype=torch.float64)
    return model, prompt


@pytest.mark.parametrize("seed", range(5))
def test_the_gram_matrix_of_any_model_comes_from_the_logit_kernel(seed):
    """G = R K R^T with the Gram matrix K of the logits, and |w|^2 - <w,l> = (e_w - p)^T K (e_w - e_l)."""
    model, prompt = two_layers(seed)
    kernel = g.gram(model, lambda m: m(prompt), method="oracle")
    p = model(prompt).softmax(-1).detach().numpy()
    oracle = g.gram(model, lambda m: m(prompt).log_softmax(-1)[[0, 1]], method="oracle")
    np.testing.assert_allclose(gram_from_logits(p, [0, 1], kernel), oracle, rtol=1e-9, atol=1e-12)
    slack = (np.eye(6)[0] - p) @ kernel @ (np.eye(6)[0] - np.eye(6)[1])
    np.testing.assert_allclose(slack, oracle[0, 0] - oracle[0, 1], rtol=1e-9, atol=1e-12)


def test_tabular_logits_and_a_last_layer_are_two_kernels():
    p = probabilities([0.3, -1.0, 2.0])
    for norm_sq in (1.0, 2.5):
        closed = g.single_token_gram(p, 0, 1, norm_sq)
        np.testing.assert_allclose(gram_from_logits(p, [0, 1], norm_sq * np.eye(3)), closed, atol=1e-12)


def test_a_kernel_of_rank_one_entangles_one_token():
    """The hypothesis on the layer dropped: a knob that moves rejected more than chosen, and both more than the mean."""
    p, knob = np.array([0.2, 0.2, 0.6]), np.array([1.0, 2.0, 0.0])
    matrix = gram_from_logits(p, [0, 1], np.outer(knob, knob))
    slack = (knob[0] - knob @ p) * (knob[0] - knob[1])
    np.testing.assert_allclose(matrix[0, 0] - matrix[0, 1], slack)
    assert g.case(g.first_order_changes(matrix)) == "both-down"


def test_a_learnable_hidden_layer_entangles_one_token_and_a_real_step_obeys():
    """The head's share of |w|^2 - <w,l> stays positive; the hidden layer's share makes the sum negative."""
    fallen = 0
    for seed in range(200):
        model, prompt = two_layers(seed)
        shares = g.gram_by_parameter(model, lambda m, x=prompt: m(x).log_softmax(-1)[[0, 1]], method="oracle")
        slack = {name: share[0, 0] - share[0, 1] for name, share in shares.items()}
        assert min(slack["2.weight"], slack["2.bias"]) > 0
        if sum(slack.values()) < 0:
            fallen += 1
            before = model(prompt).log_softmax(-1)
            (-(before[0] - before[1])).backward()
            torch.optim.SGD(model.parameters(), lr=1e-4).step()
            change = (model(prompt).log_softmax(-1)[0] - before[0]).item()
            np.testing.assert_allclose(change, 1e-4 * sum(slack.values()), rtol=0.05)
    assert fallen > 0


def test_a_batch_can_pull_one_token_down():
    """The hypothesis of one pair dropped: another prompt's pair, no token in common, <h,h'> > 0."""
    states = [np.array([[1.0]])] * 2 + [np.array([[3.0]])] * 2
    p = np.array([[0.05, 0.05, 0.8, 0.1]])
    order = [0, 2, 1, 3]  # chosen rows first: tokens 0 and 2 are chosen, 1 and 3 rejected
    states = [states[i] for i in order]
    matrix = g.last_layer_gram(states, [p] * 4, [[0], [2], [1], [3]])
    alone = g.sgd_forecast(matrix[np.ix_([0, 2], [0, 2])], [-1, 1], 1.0)
    batch = g.sgd_forecast(matrix, [-1, -1, 1, 1], 1.0)
    assert alone[0] > 0 > batch[0]


@given(logits=LOGITS, slopes=SLOPES, eta=st.floats(0.01, 3))
@settings(max_examples=100, deadline=None)
def test_logit_step_is_the_step_of_sgd(logits, slopes, eta):
    step = logit_step(probabilities(logits), 0, 1, *slopes, eta)
    np.testing.assert_allclose(step, autograd_step(logits, *slopes, eta) - logits, atol=1e-9)


@given(logits=LOGITS, slopes=SLOPES)
@settings(max_examples=60, deadline=None)
def test_token_changes_are_the_derivative_along_the_step(logits, slopes):
    """Central differences of every log-probability along the step; a bystander's is the printed formula."""
    p, step, small = probabilities(logits), logit_step(probabilities(logits), 0, 1, *slopes), 1e-5
    differences = (log_p(logits + small * step) - log_p(logits - small * step)) / (2 * small)
    np.testing.assert_allclose(token_changes(p, step), differences, rtol=1e-5, atol=1e-6)
    bystander = compiled(
        (softmax.P_J, softmax.P_CHOSEN, softmax.P_REJECTED, softmax.P_NORM_SQ, D_CHOSEN, D_REJECTED, ETA),
        softmax.BYSTANDER_CHANGE,
        "numpy",
    )
    printed = bystander(p[2:], p[0], p[1], p @ p, *slopes, 1.0)
    np.testing.assert_allclose(printed, differences[2:], rtol=1e-5, atol=1e-6)


@given(logits=LOGITS.filter(lambda z: len(z) > 3), slopes=SLOPES, eta=st.floats(0.01, 3))
@settings(max_examples=100, deadline=None)
def test_bystanders_odds_change_exactly_as_printed(logits, slopes, eta):
    """At any step size: (d_l - d_w)(p_j - p_k) eta, so equal slopes leave them alone."""
    change = log_p(autograd_step(logits, *slopes, eta)) - log_p(logits)
    p = probabilities(logits)
    given = {"eta": eta, "d_chosen": slopes[0], "d_rejected": slopes[1], "p_j": p[2], "p_k": p[3]}
    printed = value(softmax.BYSTANDER_RATIO_CHANGE, **given)
    np.testing.assert_allclose(change[2] - change[3], printed, atol=1e-9)


@given(logits=LOGITS, eta=st.floats(0.05, 3), steps=st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_equal_slopes_raise_chosen_and_lower_rejected_at_any_step_size(logits, eta, steps):
    """Tabular, this pair alone, any number of steps; bystanders share one factor, the printed one."""
    z = logits
    for _ in range(steps):
        z = autograd_step(z, 1.0, 1.0, eta)
    change, p = log_p(z) - log_p(logits), probabilities(logits)
    assert change[0] > 0 > change[1]
    factor = value(softmax.BYSTANDER_FACTOR, p_w=p[0], p_l=p[1], s=eta * steps)
    np.testing.assert_allclose(np.exp(change[2:]), factor, rtol=1e-9)


@given(logits=LOGITS)
@settings(max_examples=60, deadline=None)
def test_bystanders_hold_most_when_chosen_meets_rejected(logits):
    """With d_w = d_l they gain as long as p_w < p_l; their share peaks at equal probabilities."""
    logits = logits.copy()
    logits[1] = logits[0] + 2.0
    shares = [
        1 - probabilities(logits + s * (np.eye(len(logits))[0] - np.eye(len(logits))[1]))[:2].sum()
        for s in np.linspace(0, 2, 21)
    ]
    assert np.argmax(shares) == 10


@given(logits=LOGITS, eta=st.floats(0.05, 3))
@settings(max_examples=100, deadline=None)
def test_a_push_on_rejected_alone_squeezes_into_the_argmax(logits, eta):
    """The likeliest other token gains, and gains most; rejected falls; the threshold |p|^2 - p_l divides the rest."""
    p = probabilities(logits)
    change = log_p(autograd_step(logits, 0.0, 1.0, eta)) - log_p(logits)
    others = np.delete(np.arange(len(p)), 1)
    best = others[np.argmax(p[others])]
    assert change[best] > 0 > change[1]
    assert change[best] >= change[others].max() - 1e-12
    first_order = token_changes(p, logit_step(p, 0, 1, d_chosen=0.0))
    for j in others:
        if abs(p[j] - (p @ p - p[1])) > 1e-9:
            assert (first_order[j] > 0) == (p[j] > p @ p - p[1])


def test_a_pair_with_equal_slopes_does_not_squeeze():
    """The hypothesis of a push on rejected alone dropped: beside a chosen push the likeliest token loses."""
    p = np.array([0.2, 0.1, 0.5, 0.2])
    pair, push = token_changes(p, logit_step(p, 0, 1)), token_changes(p, logit_step(p, 0, 1, d_chosen=0.0))
    assert push[2] > 0 > pair[2]
    np.testing.assert_allclose(pair[2], pair[3], atol=1e-12)


def test_a_kernel_that_ties_rejected_to_the_argmax_does_not_squeeze():
    """Tabular logits dropped: where the two share their features, pushing rejected down pushes the argmax too."""
    p, features = np.array([0.2, 0.1, 0.5, 0.2]), np.array([1.0, 0.0, 0.0, 1.0])
    push = logit_step(p, 0, 1, d_chosen=0.0)
    assert token_changes(p, push)[2] > 0 > token_changes(p, np.outer(features, features) @ push)[2]


def test_a_later_token_of_rejected_is_pushed_alone():
    """Two tokens, a table of logits for each prefix: DPO's step on (a, s) against (b, s) squeezes after b."""
    torch.manual_seed(0)
    table = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)  # after the prompt, after a = 0, after b = 1
    last = 2
    logp = table.log_softmax(-1)
    (-(logp[0, 0] + logp[1, last] - logp[0, 1] - logp[2, last])).backward()
    p = table.softmax(-1).detach().numpy()
    step = -table.grad.numpy()
    np.testing.assert_allclose(step[0], logit_step(p[0], 0, 1), atol=1e-12)
    np.testing.assert_allclose(step[1], logit_step(p[1], last, 0, d_rejected=0.0), atol=1e-12)
    np.testing.assert_allclose(step[2], logit_step(p[2], 0, last, d_chosen=0.0), atol=1e-12)


def test_leading_dimensions_are_positions():
    logits = np.random.default_rng(0).normal(size=(2, 3, VOCABULARY))
    p, tokens, step = probabilities(logits), np.array([[0, 1, 2], [4, 3, 0]]), logits[::-1]
    residuals, changes = token_residual(p, tokens), token_changes(p, step)
    for at in np.ndindex(2, 3):
        np.testing.assert_allclose(p[at], np.exp(logits[at]) / np.exp(logits[at]).sum())
        np.testing.assert_array_equal(residuals[at], np.eye(VOCABULARY)[tokens[at]] - p[at])
        np.testing.assert_allclose(changes[at], step[at] - p[at] @ step[at])


def test_slopes_and_rate_are_1_where_none_is_given():
    p = probabilities([0.3, -1.0, 2.0])
    np.testing.assert_array_equal(logit_step(p, 0, 1), logit_step(p, 0, 1, 1.0, 1.0, 1.0))


@pytest.mark.parametrize("logits", [[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 1e4, 1e4]])
def test_extreme_logits_give_finite_and_right_values(logits):
    p = probabilities(logits)
    exact = np.array([1.0 if z == 1e4 else 0.0 for z in logits])
    np.testing.assert_array_equal(p, exact / exact.sum())
    matrix = g.single_token_gram(p, 0, 1)
    residuals = np.eye(3)[:2] - p
    np.testing.assert_allclose(matrix, residuals @ residuals.T, atol=1e-15)
    np.testing.assert_allclose(gram_from_logits(p, [0, 1], np.eye(3)), matrix, atol=1e-15)
    step = logit_step(p, 0, 1)
    np.testing.assert_array_equal(step, [1, -1, 0])
    np.testing.assert_allclose(token_changes(p, step), step - (p[0] - p[1]), atol=1e-15)


def test_bad_input_gets_one_clear_error():
    with pytest.raises(g.InputError, match="do not sum to 1"):
        token_residual([0.5, 0.6], 0)
    with pytest.raises(g.InputError, match="do not sum to 1"):
        token_residual([1.5, -0.5], 0)
    for token in (-1, 2):
        with pytest.raises(g.InputError, match=r"outside 0\.\.1"):
            token_residual([0.5, 0.5], token)
    with pytest.raises(g.InputError, match="a pair must differ"):
        g.single_token_gram([0.5, 0.5], 1, 1)
    with pytest.raises(g.InputError, match="expected three equal, positive numbers"):
        g.last_layer_gram([np.ones((2, 3))], [np.full((2, 2), 0.5)], [[0]])
    with pytest.raises(g.InputError, match="expected three equal, positive numbers"):
        g.last_layer_gram([np.ones((0, 3))], [np.ones((0, 2))], [np.zeros(0, int)])
    with pytest.raises(g.InputError, match="do not sum to 1"):
        gram_from_logits([1.0, 2.0], [0, 1], np.eye(2))
    with pytest.raises(g.InputError, match=r"kernel has shape \(3, 3\), expected \(V, V\) with V = 2"):
        gram_from_logits([0.5, 0.5], [0, 1], np.eye(3))
    with pytest.raises(g.InputError, match=r"outside 0\.\.1"):
        logit_step([0.5, 0.5], 0, 2)
    with pytest.raises(g.InputError, match="do not sum to 1"):
        logit_step([1e4, -1e4], 0, 1)
