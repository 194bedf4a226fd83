"""First-order changes, the two conditions, the cases, and that the fourth never happens."""

import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import gentangle as g
from gentangle.alignment import coupling
from gentangle.alignment.conditions import (
    BOTH_DOWN,
    BOTH_UP,
    CASES,
    INTENDED,
    REVERSED,
    UNMOVED,
    attribution,
    band_distance,
)
from gentangle.alignment.symbols import (
    CHOSEN_NORM_SQ,
    D_CHOSEN,
    D_REJECTED,
    ETA,
    GRADIENT_CHOSEN,
    GRADIENT_REJECTED,
    INNER_PRODUCT,
    LOGP_CHOSEN,
    LOGP_REJECTED,
    MARGIN,
    REJECTED_NORM_SQ,
)

vector = st.lists(st.floats(-5, 5), min_size=4, max_size=4).map(np.array)
slope = st.floats(0.01, 10)


def gram_of(w, l):
    rows = np.stack([w, l])
    return rows @ rows.T


@given(w=vector, l=vector, d_w=st.floats(-5, 5), d_l=st.floats(-5, 5), eta=st.floats(1e-3, 1))
@settings(max_examples=200, deadline=None)
def test_first_order_changes_are_exact_for_linear_log_probabilities(w, l, d_w, d_l, eta):
    """theta moves by eta (d_w w - d_l l); a linear log pi then changes by its gradient times that."""
    step = eta * (d_w * w - d_l * l)
    found = g.first_order_changes(gram_of(w, l), d_w, d_l, eta)
    np.testing.assert_allclose(found, [w @ step, l @ step], rtol=1e-9, atol=1e-9)


SYMBOLS = (CHOSEN_NORM_SQ, REJECTED_NORM_SQ, INNER_PRODUCT, D_CHOSEN, D_REJECTED)
PRINTED = [sp.lambdify(SYMBOLS, condition) for condition in (coupling.CHOSEN_CONDITION, coupling.REJECTED_CONDITION)]


@given(w=vector, l=vector, d_w=slope, d_l=slope)
@settings(max_examples=200, deadline=None)
def test_conditions_are_those_of_the_paper(w, l, d_w, d_l):
    inner, w_sq, l_sq = w @ l, w @ w, l @ l
    slack = 1e-9 * (1 + w_sq + l_sq)  # rounding decides ties, the formula does not
    assume(abs(d_w * w_sq - d_l * inner) > slack)
    assume(abs(d_l * l_sq - d_w * inner) > slack)
    chosen_ok, rejected_ok = g.conditions_hold(gram_of(w, l), d_w, d_l)
    assert chosen_ok == (inner <= d_w / d_l * w_sq)
    assert rejected_ok == (inner <= d_l / d_w * l_sq)
    assert [condition(w_sq, l_sq, inner, d_w, d_l) for condition in PRINTED] == [chosen_ok, rejected_ok]


@pytest.mark.claims("synchronised")
@given(w=vector, l=vector, d_w=slope, d_l=slope)
@settings(max_examples=300, deadline=None)
def test_the_fourth_case_never_happens(w, l, d_w, d_l):
    changes = g.first_order_changes(gram_of(w, l), d_w, d_l)
    assume(np.abs(changes).max() > 1e-9)
    near_zero = np.abs(changes) < 1e-9 * (1 + np.abs(changes).max())
    assert g.case(np.where(near_zero, 0, changes)) != REVERSED


def test_the_fourth_case_needs_slopes_of_one_sign():
    """The hypothesis dropped: IPO past its target has negative slopes and moves both the wrong way."""
    assert g.case(g.first_order_changes(np.eye(2), -1.0, -1.0)) == REVERSED


@pytest.mark.parametrize("name", g.OBJECTIVES)
def test_the_printed_gradient_is_autograds(name):
    """Slopes from the symbolic definition, gradients of two log-probabilities of a softmax, against the loss's own."""
    theta = torch.tensor([0.3, -0.4, 0.9, 0.1], dtype=torch.float64, requires_grad=True)
    log_probs = theta.square().log_softmax(-1)[:2]
    found = torch.autograd.grad(g.objective(name)(*log_probs), theta, retain_graph=True)[0]
    w, l = (torch.autograd.grad(value, theta, retain_graph=True)[0].numpy() for value in log_probs)
    slopes = [float(slope) for slope in g.objective(name).slopes(*log_probs.detach())]
    symbols = (GRADIENT_CHOSEN, GRADIENT_REJECTED, D_CHOSEN, D_REJECTED)
    np.testing.assert_allclose(sp.lambdify(symbols, coupling.LOSS_GRADIENT)(w, l, *slopes), found, atol=1e-12)


def test_the_loss_decreases_by_eta_times_the_updates_squared_norm():
    assert sp.simplify(coupling.LOSS_DECREASE - ETA * coupling.UPDATE_NORM_SQ) == 0
    w, l = sp.symbols("w l", real=True)
    one_dimension = {CHOSEN_NORM_SQ: w**2, REJECTED_NORM_SQ: l**2, INNER_PRODUCT: w * l}
    assert sp.factor(coupling.UPDATE_NORM_SQ.subs(one_dimension)) == sp.factor((D_CHOSEN * w - D_REJECTED * l) ** 2)


@pytest.mark.parametrize("name", g.OBJECTIVES)
def test_every_objective_is_the_printed_margin_loss(name):
    """Its parts put into the general form give its loss; what is left is the term that the form lacks, if any."""
    o = g.objective(name)
    m, h_w, h_l, likelihood = (
        coupling.MARGIN_LOSS.find(sp.Function(part)).pop().func for part in ("m", "h_w", "h_l", "Lambda")
    )
    loss = coupling.MARGIN_LOSS.replace(h_w, lambda a: o.h_chosen.subs(LOGP_CHOSEN, a))
    loss = loss.replace(h_l, lambda a: o.h_rejected.subs(LOGP_REJECTED, a))
    loss = loss.replace(likelihood, lambda a: o.likelihood.subs(LOGP_CHOSEN, a))
    assert sp.simplify(loss.replace(m, lambda u: o.m.subs(MARGIN, u)) - o.loss - o.likelihood_rejected) == 0


@pytest.mark.parametrize("name", g.OBJECTIVES)
def test_slopes_follow_the_chain_rule(name):
    """The printed d_w and d_l, with each part's own derivative put in, are those of the whole loss."""
    o = g.objective(name)
    parts = {
        coupling.M_PRIME: sp.diff(o.m, MARGIN).subs(MARGIN, o.h_chosen - o.h_rejected),
        coupling.H_W_PRIME: sp.diff(o.h_chosen, LOGP_CHOSEN),
        coupling.H_L_PRIME: sp.diff(o.h_rejected, LOGP_REJECTED),
        coupling.LIKELIHOOD_PRIME: sp.diff(o.likelihood, LOGP_CHOSEN),
    }
    d_chosen, d_rejected = (slope.subs(parts) for slope in coupling.SLOPES)
    assert sp.simplify(d_chosen - o.d_chosen) == 0
    assert sp.simplify(d_rejected - sp.diff(o.likelihood_rejected, LOGP_REJECTED) - o.d_rejected) == 0


def test_the_scaled_gram_gives_the_printed_changes():
    assert sp.simplify(coupling.FROM_SCALED - coupling.FIRST_ORDER) == sp.zeros(2, 1)
    numbers = {CHOSEN_NORM_SQ: 1.0, REJECTED_NORM_SQ: 4.0, INNER_PRODUCT: 1.5, D_CHOSEN: 0.7, D_REJECTED: 0.4}
    by_hand = g.scaled_gram([[1.0, 1.5], [1.5, 4.0]], [-0.7, 0.4])
    np.testing.assert_allclose(np.array(coupling.SCALED_GRAM.subs(numbers), dtype=float), by_hand)


@given(w=vector, l=vector, c_w=st.floats(-5, -0.01), c_l=st.floats(0.01, 5))
@settings(max_examples=200, deadline=None)
def test_two_sums_of_the_scaled_gram_decide_the_case(w, l, c_w, c_l):
    scaled = g.scaled_gram(gram_of(w, l), [c_w, c_l])
    sums = scaled.sum(axis=0)
    assume(np.abs(sums).min() > 1e-9 * (1 + np.abs(scaled).max()))
    assert g.conditions_hold(gram_of(w, l), -c_w, c_l) == (sums[0] >= 0, sums[1] >= 0)


@given(w=vector, l=vector, scale=st.lists(st.floats(0.01, 100), min_size=4, max_size=4), d_w=slope, d_l=slope)
@settings(max_examples=200, deadline=None)
def test_a_fixed_positive_diagonal_keeps_the_three_cases(w, l, scale, d_w, d_l):
    """The step D v of a fixed preconditioner: the changes are those of the Gram matrix in its inner product."""
    diagonal = np.array(scale)
    rows = np.stack([w, l])
    changes = g.first_order_changes((rows * diagonal) @ rows.T, d_w, d_l)
    step = diagonal * (d_w * w - d_l * l)
    np.testing.assert_allclose(changes, rows @ step, rtol=1e-9, atol=1e-9 * (1 + np.abs(step).max()))
    assume(np.abs(changes).min() > 1e-9 * (1 + np.abs(step).max()))
    assert g.case(changes) != REVERSED


def test_a_diagonal_with_a_negative_entry_does_not():
    """The hypothesis D > 0 dropped: in the direction of the negative entry the step is one of ascent on the loss."""
    rows = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert g.case(g.first_order_changes((rows * np.array([-1.0, -1.0])) @ rows.T)) == REVERSED


def test_momentum_and_a_second_pair_can_turn_both_the_wrong_way():
    """One dimension: an earlier step of the pair, or another pair's step now, outweighs the pair's own."""
    w, l = np.array([1.0]), np.array([-1.0])
    own = w - l
    assert g.case([w @ own, l @ own]) == INTENDED
    for other in (-3 * own, np.array([-5.0])):
        step = own + other
        assert g.case([w @ step, l @ step]) == REVERSED


def test_negative_slopes_never_move_both_as_intended():
    """Past its target IPO has d_w = d_l < 0; the proof of the fourth case's absence turns round."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5000, 2, 3))
    slopes = -rng.lognormal(size=(2, 5000))
    changes = g.first_order_changes(rows @ np.swapaxes(rows, 1, 2), *slopes)
    assert INTENDED not in g.case(changes)
    past = g.objective("ipo").slopes(-1.0, -20.0)
    assert max(past) < 0
    assert g.case(g.first_order_changes(np.eye(2), *past)) == REVERSED


def test_no_finite_ratio_is_immune_and_no_pull_is():
    """For any slopes with d_l > 0 a long enough rejected gradient lowers chosen; with d_l = 0 nothing does."""
    for ratio in (1.0, 11.0, 1e4):
        long = 2 * ratio
        assert g.first_order_changes([[1.0, 0.9 * long], [0.9 * long, long**2]], ratio, 1.0)[0] < 0
        assert g.first_order_changes([[1.0, 0.9 * long], [0.9 * long, long**2]], ratio, 0.0)[0] > 0


def test_worked_example_of_the_paper():
    changes = g.first_order_changes([[1, 2], [2, 4]])
    np.testing.assert_array_equal(changes, [-1, -2])
    assert g.case(changes) == BOTH_DOWN
    assert changes[0] - changes[1] == 1  # the margin grows all the same


def test_each_of_the_three_cases_occurs():
    examples = {INTENDED: [[1, 0], [0, 1]], BOTH_UP: [[4, 2], [2, 1.5]], BOTH_DOWN: [[1, 2], [2, 5]]}
    assert set(examples) == set(CASES)
    for name, matrix in examples.items():
        assert g.case(g.first_order_changes(matrix)) == name


@given(w=vector, l=vector, c_w=st.floats(-5, -0.01), c_l=st.floats(0.01, 5))
@settings(max_examples=100, deadline=None)
def test_the_scaled_gram_needs_no_formula_for_the_loss(w, l, c_w, c_l):
    matrix = gram_of(w, l)
    from_scaled = g.changes_from_scaled(g.scaled_gram(matrix, [c_w, c_l]), [c_w, c_l], 0.5)
    np.testing.assert_allclose(from_scaled, g.first_order_changes(matrix, -c_w, c_l, 0.5), rtol=1e-9, atol=1e-9)


def test_readings_take_a_batch_of_pairs():
    rows = np.random.default_rng(0).normal(size=(6, 9))  # three chosen, then three rejected
    blocks = g.pair_blocks(rows @ rows.T)
    assert blocks.shape == (3, 2, 2)
    np.testing.assert_allclose(blocks[1], gram_of(rows[1], rows[4]))
    cosines = [w @ l / np.linalg.norm(w) / np.linalg.norm(l) for w, l in zip(rows[:3], rows[3:], strict=True)]
    np.testing.assert_allclose(g.cosine(blocks), cosines)
    ratios = g.normalised_inner_products(blocks)
    np.testing.assert_allclose(ratios[2], [rows[2] @ rows[5] / (r @ r) for r in (rows[2], rows[5])])
    assert g.first_order_changes(blocks, np.ones(3), 2.0).shape == (3, 2)


READINGS = {
    "changes": lambda matrix, d: g.first_order_changes(matrix, d[..., 0], d[..., 1], d.sum(-1)),
    "conditions": lambda matrix, d: np.stack(g.conditions_hold(matrix, d[..., 0], d[..., 1]), -1),
    "case": lambda matrix, d: g.case(g.first_order_changes(matrix, d[..., 0], d[..., 1])),
    "scaled": g.scaled_gram,
    "changes from scaled": lambda matrix, d: g.changes_from_scaled(matrix, d * [-1, 1], d.sum(-1)),
    "cosine": lambda matrix, d: g.cosine(matrix),
    "normalised": lambda matrix, d: g.normalised_inner_products(matrix),
    "band": lambda matrix, d: band_distance(matrix, d[..., 0], d[..., 1]),
}


@pytest.mark.parametrize("name", READINGS)
def test_leading_dimensions_are_pairs(name):
    rng = np.random.default_rng(0)
    rows, slopes = rng.normal(size=(2, 3, 2, 4)) + 0.5, rng.lognormal(size=(2, 3, 2))
    matrices = rows @ np.swapaxes(rows, -1, -2)
    whole = READINGS[name](matrices, slopes)
    for at in np.ndindex(2, 3):
        np.testing.assert_array_equal(whole[at], READINGS[name](matrices[at], slopes[at]))


def test_slopes_and_rate_are_1_where_none_is_given():
    matrix = np.array([[1.0, 0.4], [0.4, 0.3]])
    np.testing.assert_array_equal(g.first_order_changes(matrix), g.first_order_changes(matrix, 1, 1, 1))
    assert g.conditions_hold(matrix) == g.conditions_hold(matrix, 1, 1) == (True, False)
    assert g.conditions_hold(matrix[::-1, ::-1]) == (False, True)
    for reading in (g.changes_from_scaled, lambda *given: attribution(*given)):
        np.testing.assert_array_equal(reading(matrix, [-2, 1]), reading(matrix, [-2, 1], 1))


def test_a_change_of_exactly_0_meets_its_condition():
    still = np.array([[1.0, 1.0], [1.0, 1.0]])
    assert g.conditions_hold(still) == (True, True)
    assert [condition(1, 1, 1, 1, 1) for condition in PRINTED] == [True, True]
    assert g.case([[0, -1], [1, 0], [0, 1], [-1, 0], [0, 0]]).tolist() == [
        INTENDED,
        INTENDED,
        BOTH_UP,
        BOTH_DOWN,
        UNMOVED,
    ]


def test_a_gradient_of_0_has_no_cosine_and_no_warning():
    matrix = [[0.0, 0.0], [0.0, 1.0]]
    assert np.isnan(g.cosine(matrix))
    assert np.isnan(g.normalised_inner_products(matrix)).tolist() == [True, False]
    assert band_distance(matrix) == 0


def test_without_a_common_direction_every_positive_ratio_will_do():
    """At a cosine of 0 or less the band has no end."""
    for inner in (0.0, -0.5):
        assert band_distance([[1.0, inner], [inner, 1e6]], 1e-3, 1e3) == 0


@given(w=vector, l=vector, d_w=slope, d_l=slope)
@settings(max_examples=200, deadline=None)
def test_the_disentanglement_band_is_the_two_conditions_in_one(w, l, d_w, d_l):
    matrix = gram_of(w, l)
    assume(matrix[0, 0] > 1e-3)
    assume(matrix[1, 1] > 1e-3)
    changes = g.first_order_changes(matrix, d_w, d_l)
    assume(np.abs(changes).min() > 1e-6 * np.abs(changes).max())
    assert (band_distance(matrix, d_w, d_l) == 0) == (g.case(changes) == INTENDED)


def test_the_distance_to_the_band_is_the_change_of_slopes_that_it_takes():
    """|w| = 1, |l| = 2, cosine .9, d_w = d_l: the centre is log 2 away, the half-width is -log .9."""
    matrix = np.array([[1.0, 1.8], [1.8, 4.0]])
    distance = float(band_distance(matrix))
    assert distance == pytest.approx(np.log(2) + np.log(0.9))
    at_the_edge = g.first_order_changes(matrix, np.exp(distance), 1.0)
    assert at_the_edge[0] == pytest.approx(0, abs=1e-12)
    assert band_distance(matrix, 2.0, 1.0) == 0


def test_attribution_splits_the_batchs_forecast_by_whose_gradients_move_chosen():
    rng = np.random.default_rng(0)
    rows, slopes = rng.normal(size=(6, 9)), np.array([-1.0, -0.5, -2.0, 1.0, 0.5, 2.0])
    scaled = (rows @ rows.T) * np.outer(slopes, slopes)
    parts = attribution(scaled, slopes, eta=0.3)
    update = -0.3 * slopes[:, None] * rows  # each row's own step of the parameters
    for j in range(3):
        others = [i for i in range(3) if i != j]
        expected = [
            rows[j] @ update[j],
            rows[j] @ update[j + 3],
            rows[j] @ update[others].sum(0),
            rows[j] @ update[[i + 3 for i in others]].sum(0),
        ]
        np.testing.assert_allclose(parts[j], expected, rtol=1e-12)
    np.testing.assert_allclose(parts.sum(1), g.sgd_forecast(rows @ rows.T, slopes, 0.3)[:3])


def test_for_one_pair_the_others_push_nothing():
    matrix = gram_of(np.array([1.0, 2.0]), np.array([0.5, -1.0]))
    parts = attribution(g.scaled_gram(matrix, [-0.2, 0.7]), [-0.2, 0.7])
    np.testing.assert_allclose(parts[0, 2:], 0)
    assert parts[0, :2].sum() == pytest.approx(g.first_order_changes(matrix, 0.2, 0.7)[0])


BAD = {
    "a band without a positive d_w": (lambda: band_distance(np.eye(2), 0.0), "positive slopes"),
    "a band without a positive d_l": (lambda: band_distance(np.eye(2), 1.0, 0.0), "positive slopes"),
    "slopes of another batch": (lambda: attribution(np.eye(4), [1.0, 1.0]), r"expected \(4,\)"),
    "three rows": (lambda: g.first_order_changes(np.eye(3)), r"shape \(\.\.\., 2, 2\)"),
    "NaN": (lambda: g.cosine([[np.nan, 0], [0, 1]]), "NaN or infinite"),
    "not symmetric": (lambda: g.cosine([[1, 0.5], [0, 1]]), "not symmetric"),
    "a batch of them": (lambda: g.cosine(np.ones((2, 2, 2)) * [[1, 0.5], [0, 1]]), "not symmetric"),
    "odd batch": (lambda: g.pair_blocks(np.eye(3)), r"it takes \(2P, 2P\)"),
    "a slope of zero": (lambda: g.changes_from_scaled(np.eye(2), [0.0, 1.0]), "has lost that row"),
    "one slope": (lambda: g.changes_from_scaled(np.eye(2), [1.0]), r"expected \(\.\.\., 2\)"),
    "one change": (lambda: g.case([1.0]), r"expected \(\.\.\., 2\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_clear_error(name):
    call, message = BAD[name]
    with pytest.raises(g.InputError, match=message):
        call()
