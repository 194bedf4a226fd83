"""What each remedy does to both log-probabilities: guarantees, the pairs where they end, and the rivals' own code."""

import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchjd.aggregation import GradVacWeighting, PCGradWeighting, UPGradWeighting
from torchjd.linalg import QuadprogProjector

import gentangle as g
from gentangle.alignment import remedies
from gentangle.alignment.conditions import BOTH_DOWN, INTENDED, UNMOVED, band_distance
from gentangle.alignment.remedies import (
    C_CHOSEN,
    C_REJECTED,
    CHOSEN_NORM,
    COSINE,
    DIAL,
    REJECTED_NORM,
    calibrated,
    dialled,
    normalised,
    pcgrad,
)
from gentangle.alignment.symbols import D_CHOSEN, D_REJECTED

vector = st.lists(st.floats(-5, 5), min_size=4, max_size=4).map(np.array)
slope = st.floats(0.05, 10)
MODEST = settings(max_examples=150, deadline=None)


def gram_of(w, l):
    assume(min(w @ w, l @ l) > 1e-2)
    rows = np.stack([w, l])
    return rows @ rows.T


def polar(norm_w, norm_l, rho):
    return np.array([[norm_w**2, rho * norm_w * norm_l], [rho * norm_w * norm_l, norm_l**2]])


def changes_by_vectors(w, l, coefficients):
    """Of two linear log-probabilities, for the step itself: independent of the Gram matrix."""
    step = coefficients[0] * w - coefficients[1] * l
    return np.array([w @ step, l @ step])


def is_intended(changes, scale):
    """Up to rounding of ``scale``, chosen does not fall and rejected does not rise."""
    return changes[0] >= -1e-9 * scale and changes[1] <= 1e-9 * scale


CHANGES = sp.lambdify(
    (CHOSEN_NORM, REJECTED_NORM, COSINE, C_CHOSEN, C_REJECTED),
    (remedies.CHANGE_CHOSEN, remedies.CHANGE_REJECTED, remedies.MARGIN_CHANGE),
)


@given(w=vector, l=vector, d_w=slope, d_l=slope)
@MODEST
def test_the_printed_changes_are_those_of_the_step(w, l, d_w, d_l):
    matrix = gram_of(w, l)
    found = CHANGES(np.linalg.norm(w), np.linalg.norm(l), float(g.cosine(matrix)), d_w, d_l)
    expected = changes_by_vectors(w, l, (d_w, d_l))
    np.testing.assert_allclose(found, [*expected, expected[0] - expected[1]], rtol=1e-9, atol=1e-9 * np.trace(matrix))


@given(w=vector, l=vector, d_w=slope, d_l=slope)
@MODEST
def test_each_formula_is_its_definition_in_vectors(w, l, d_w, d_l):
    matrix, norm_w, norm_l = gram_of(w, l), np.linalg.norm(w), np.linalg.norm(l)
    np.testing.assert_allclose(normalised(matrix, d_w, d_l), [d_w / norm_w, d_l / norm_l], rtol=1e-9)
    alpha = np.exp((np.log(norm_l / norm_w) - np.log(d_w / d_l)) / 2)
    np.testing.assert_allclose(calibrated(matrix, d_w, d_l), [alpha * d_w, d_l / alpha], rtol=1e-9)
    first, second = -d_w * w, d_l * l  # the losses' gradients; each is rid of what goes against the other
    conflict = min(first @ second, 0)
    step = -(first - conflict / (second @ second) * second) - (second - conflict / (first @ first) * first)
    c_w, c_l = pcgrad(matrix, d_w, d_l)
    np.testing.assert_allclose(c_w * w - c_l * l, step, rtol=1e-7, atol=1e-9)


@given(w=vector, l=vector, d=slope)
@MODEST
def test_normalised_gradients_with_equal_slopes_never_leave_the_first_case(w, l, d):
    coefficients = normalised(gram_of(w, l), d, d)
    changes = changes_by_vectors(w, l, coefficients)
    rho = w @ l / np.linalg.norm(w) / np.linalg.norm(l)
    np.testing.assert_allclose(
        changes, d * (1 - rho) * np.array([np.linalg.norm(w), -np.linalg.norm(l)]), atol=1e-9 * d * (w @ w + l @ l + 1)
    )
    assert is_intended(changes, d * (w @ w + l @ l))


def test_normalised_gradients_move_nothing_at_cosine_1():
    matrix = polar(1.0, 2.0, 1.0)
    assert g.case(g.first_order_changes(matrix, *normalised(matrix))) == UNMOVED


@given(w=vector, l=vector, d_w=slope, d_l=slope)
@MODEST
def test_with_unequal_slopes_they_need_a_cosine_below_the_slopes_ratio(w, l, d_w, d_l):
    matrix = gram_of(w, l)
    bound, rho = min(d_w / d_l, d_l / d_w), float(g.cosine(matrix))
    assume(abs(rho - bound) > 1e-6)
    changes = changes_by_vectors(w, l, normalised(matrix, d_w, d_l))
    assert (g.case(changes) == INTENDED) == (rho <= bound)


def test_with_unequal_slopes_both_can_fall_under_normalised_gradients():
    matrix = polar(1.0, 1.0, 0.9)
    changes = g.first_order_changes(matrix, *normalised(matrix, 1, 3))
    np.testing.assert_allclose(changes, [-1.7, -2.1])


@given(w=vector, l=vector, d_w=slope, d_l=slope)
@MODEST
def test_calibration_is_normalisation_with_the_slopes_made_equal(w, l, d_w, d_l):
    """The centre of the band, the unit gradients times sqrt(d_w d_l |w| |l|), and so always the first case."""
    matrix, norm_w, norm_l = gram_of(w, l), np.linalg.norm(w), np.linalg.norm(l)
    found = calibrated(matrix, d_w, d_l)
    assert found[0] / found[1] == pytest.approx(norm_l / norm_w)
    assert band_distance(matrix, *found) == pytest.approx(0, abs=1e-9)
    unit_gradients = np.array([1 / norm_w, 1 / norm_l])
    np.testing.assert_allclose(found, np.sqrt(d_w * d_l * norm_w * norm_l) * unit_gradients, rtol=1e-9)
    assert is_intended(changes_by_vectors(w, l, found), found @ [w @ w, l @ l])


@given(w=vector, l=vector, d_w=slope, d_l=slope)
@MODEST
def test_pcgrad_gives_each_side_its_own_change_times_sine_squared(w, l, d_w, d_l):
    matrix = gram_of(w, l)
    rho = float(g.cosine(matrix))
    assume(rho > 0)
    changes = changes_by_vectors(w, l, pcgrad(matrix, d_w, d_l))
    expected = (1 - rho**2) * np.array([d_w * (w @ w), -d_l * (l @ l)])
    np.testing.assert_allclose(changes, expected, atol=1e-8 * (d_w + d_l) * np.trace(matrix))


def losses_gram(matrix, d_w, d_l):
    signs = np.array([-d_w, d_l])
    return matrix * np.outer(signs, signs)


@given(w=vector, l=vector, d_w=slope, d_l=slope)
@MODEST
def test_upgrad_of_a_pair_is_pcgrad(w, l, d_w, d_l):
    matrix = gram_of(w, l)
    assume(abs(g.cosine(matrix)) < 0.999)  # parallel gradients: the weights are no longer unique
    losses, total = torch.from_numpy(losses_gram(matrix, d_w, d_l)), torch.ones(2, dtype=torch.float64)
    floor = 1e-12  # TorchJD adds so much of the trace to the diagonal; its default is 1e-4
    exact = QuadprogProjector(norm_eps=floor, reg_eps=floor)
    share = floor * float(losses.diagonal().sum() / losses.diagonal().min())
    weights = UPGradWeighting(total, exact)(losses).numpy()  # of the losses' sum; TorchJD's default is their mean
    np.testing.assert_allclose(weights * [d_w, d_l], pcgrad(matrix, d_w, d_l), rtol=1e-7 + 10 * share)


@pytest.mark.parametrize("rho", [-0.5, 0.2, 0.9])
def test_torchjds_weightings_say_the_same(rho):
    matrix, slopes = polar(1.0, 2.0, rho), np.array([1.5, 0.5])
    losses = torch.from_numpy(losses_gram(matrix, *slopes))
    expected = pcgrad(matrix, *slopes)
    np.testing.assert_allclose(PCGradWeighting()(losses).numpy() * slopes, expected)
    vaccine, target = GradVacWeighting(beta=1.0), 0.5  # beta = 1: the target is the cosine of the call before
    vaccine(torch.tensor([[1, target], [target, 1]], dtype=torch.float64))
    dial = max(0, rho + target * np.sqrt((1 - rho**2) / (1 - target**2)))
    np.testing.assert_allclose(vaccine(losses).numpy() * slopes, dialled(matrix, *slopes, dial), rtol=1e-6)


@given(w=vector, l=vector, d_w=slope, d_l=slope, position=st.floats(0, 1))
@MODEST
def test_the_dial_between_the_cosine_and_its_inverse_never_leaves_the_first_case(w, l, d_w, d_l, position):
    matrix = gram_of(w, l)
    rho = float(g.cosine(matrix))
    assume(rho > 0.05)
    dial = rho + position * (1 / rho - rho)
    coefficients = dialled(matrix, d_w, d_l, dial)
    assert is_intended(changes_by_vectors(w, l, coefficients), coefficients @ np.diag(matrix))


def test_outside_the_dials_interval_some_slopes_leave_the_first_case():
    matrix, rho = polar(1.0, 1.0, 0.8), 0.8
    for dial in (rho - 0.05, 1 / rho + 0.05):
        cases = {str(g.case(g.first_order_changes(matrix, *dialled(matrix, d, 1, dial)))) for d in (1e-3, 1, 1e3)}
        assert cases - {INTENDED}


def test_the_dial_at_1_steps_along_the_unit_gradients():
    norm_w, norm_l, d_w, d_l = sp.symbols("a b d e", positive=True)
    numbers = {DIAL: 1, CHOSEN_NORM: norm_w, REJECTED_NORM: norm_l, D_CHOSEN: d_w, D_REJECTED: d_l}
    found = remedies.DIALLED.subs(numbers)
    unit = sp.Matrix([1 / norm_w, 1 / norm_l])
    assert sp.simplify(found - (d_w * norm_w + d_l * norm_l) * unit) == sp.zeros(2, 1)


@given(w=vector, l=vector, c_w=slope, c_l=slope)
@MODEST
def test_no_step_of_equal_length_widens_the_margin_more_than_the_plain_one(w, l, c_w, c_l):
    gram_of(w, l)
    step, plain = c_w * w - c_l * l, w - l
    assume(min(np.linalg.norm(step), np.linalg.norm(plain)) > 1e-3)
    gain = (w - l) @ step / np.linalg.norm(step)
    best = (w - l) @ plain / np.linalg.norm(plain)
    assert gain <= best * (1 + 1e-9)
    assert best == pytest.approx(np.linalg.norm(w - l))


@pytest.mark.parametrize(("norm_l", "rho"), [(2.0, 0.9), (1.5, 0.3), (0.5, 0.9)])
def test_the_price_of_normalisation(norm_l, rho):
    """Its margin gain for a step of length 1, (1 + |l|) sqrt((1 - rho)/2) for |w| = 1, against the plain one's."""
    matrix = polar(1.0, norm_l, rho)
    signs = np.array([[1, -1], [-1, 1]])

    def gain(coefficients):
        changes = g.first_order_changes(matrix, *coefficients)
        return (changes[0] - changes[1]) / np.sqrt(coefficients @ (matrix * signs) @ coefficients)

    assert gain(normalised(matrix)) == pytest.approx((1 + norm_l) * np.sqrt((1 - rho) / 2))
    assert gain(dialled(matrix)) == pytest.approx(np.sqrt(1 + norm_l**2 - 2 * rho * norm_l))
    assert gain(normalised(matrix)) < gain(pcgrad(matrix)) < gain(dialled(matrix))


def test_the_margin_itself_can_fall_with_unequal_slopes():
    falling = g.first_order_changes([[4, 2], [2, 1]], 1, 3)
    assert falling[0] - falling[1] == -1


@given(w=vector, l=vector, d=slope)
@MODEST
def test_with_equal_slopes_the_margin_never_falls(w, l, d):
    changes = g.first_order_changes(gram_of(w, l), d, d)
    assert changes[0] - changes[1] == pytest.approx(d * (w - l) @ (w - l), abs=1e-9 * d * (w @ w + l @ l))


@given(h=st.lists(vector, min_size=1, max_size=4).map(np.array), seed=st.integers(0, 1000))
@MODEST
def test_ches_is_0_where_the_states_do_not_depend_on_the_contrast(h, seed):
    """The two sums of states are one vector; the exact figure, contrast tokens 0 and 1 in front, is not 0."""
    assume(np.linalg.norm(h[0]) > 0.1)
    rng = np.random.default_rng(seed)
    p = np.tile(rng.dirichlet(np.ones(5)), (len(h), 1))
    tokens = [np.r_[contrast, np.full(len(h) - 1, 2)] for contrast in (0, 1)]
    exact = g.last_layer_gram([h, h], [p, p], tokens)
    chosen, rejected = h.sum(0), h.sum(0)
    assert chosen @ rejected - chosen @ chosen == 0
    # One q at every position, so q(w) - q(l) is p_w - p_l.
    later = sum(h[0] @ state for state in h[1:])
    gap = (h[0] @ h[0]) * (1 - p[0, 0] + p[0, 1]) - later * (p[0, 0] - p[0, 1])
    assert exact[0, 0] - exact[0, 1] == pytest.approx(gap, abs=1e-9 * (1 + np.abs(exact).max()))
    if len(h) == 1:
        assert exact[0, 1] - exact[0, 0] < 0


@pytest.mark.parametrize("name", remedies.REMEDIES)
def test_leading_dimensions_are_pairs(name):
    rng, remedy = np.random.default_rng(0), remedies.REMEDIES[name]
    rows, slopes = rng.normal(size=(2, 3, 2, 4)) + 0.5, rng.lognormal(size=(2, 2, 3))
    matrices = rows @ np.swapaxes(rows, -1, -2)
    found = remedy(matrices, *slopes)
    for at in np.ndindex(2, 3):
        np.testing.assert_array_equal(found[at], remedy(matrices[at], *slopes[:, *at]))
    np.testing.assert_array_equal(remedy(matrices), remedy(matrices, 1.0, 1.0))


def test_the_cosine_that_decides_the_projection_never_leaves_its_range_by_rounding():
    """Gradients along one line: some quotient rounds to more than 1."""
    rng = np.random.default_rng(0)
    along = rng.lognormal(size=(200, 2)) * np.resize([[1, 1], [1, -1]], (200, 2))
    rows = along[..., None] * rng.normal(size=(200, 1, 5))
    matrices = rows @ np.swapaxes(rows, 1, 2)
    norms = np.sqrt(matrices[:, [0, 1], [0, 1]])
    unbounded = matrices[:, 0, 1] / (norms[:, 0] * norms[:, 1])
    assert unbounded.max() > 1
    assert unbounded.min() < -1
    np.testing.assert_array_equal(remedies._polar(matrices)[2], np.clip(unbounded, -1, 1))


def test_the_plain_step_can_leave_both_down():
    matrix = polar(1, 2, 0.9)
    assert g.case(g.first_order_changes(matrix, *dialled(matrix))) == BOTH_DOWN


BAD = {
    "no slope of chosen": (lambda: normalised(np.eye(2), 0.0), "positive d_w and d_l"),
    "a negative slope of rejected": (lambda: normalised(np.eye(2), 1.0, -1.0), "positive d_w and d_l"),
    "no slope of rejected": (lambda: normalised(np.eye(2), 1.0, 0.0), "positive d_w and d_l"),
    "no gradient of chosen": (lambda: pcgrad([[0, 0], [0, 1]]), "gradient of the pair is 0"),
    "no gradient of rejected": (lambda: pcgrad([[1, 0], [0, 0]]), "gradient of the pair is 0"),
    "three rows": (lambda: calibrated(np.eye(3)), r"shape \(\.\.\., 2, 2\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_clear_error(name):
    call, message = BAD[name]
    with pytest.raises(g.InputError, match=message):
        call()
