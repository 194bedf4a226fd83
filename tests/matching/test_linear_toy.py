"""The linear toy's closed forms against autograd, against long plain descent, and against the package's algorithms."""

from functools import partial
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_domains import (
    Point,
    derivatives,
    displacement,
    mean_displacement,
    quadratics,
    random_quadratics,
    seeds,
    vector,
)
from torch.nn.utils import parameters_to_vector

from gentangle.errors import InputError
from gentangle.matching.algorithms import Fish
from gentangle.matching.domains import domains_of
from gentangle.matching.expansion import pair_gradient
from gentangle.matching.fish import gamma_eff
from gentangle.matching.idgm import idgm_gradient
from gentangle.matching.linear_toy import LinearToy, linear_toy_verdict, logistic, squared

HELPS = LinearToy(0.55, (1, 0.2))
some = st.floats(0.05, 0.95)
toys = st.builds(
    LinearToy, some, st.lists(st.floats(-0.95, 0.95), min_size=2, max_size=4), st.sampled_from(["label", "invariant"])
)


def linear(weights=(0.0, 0.0)):
    model = torch.nn.Linear(2, 1, bias=False, dtype=torch.float64)
    model.weight.data[:] = torch.as_tensor(weights)
    return model


def domains(toy, model, loss=squared):
    return domains_of(model, loss, toy.minibatches())


def slope(toy, weights, gamma, loss=squared):
    """Gradient of IDGM's objective, by double backward."""
    model = linear(weights)
    return parameters_to_vector(idgm_gradient(model, domains(toy, model, loss), gamma=gamma)[0]).numpy()


def erm_rest(m, mean):
    """As the chapter prints it."""
    return np.array([m * (1 - mean**2), mean * (1 - m**2)]) / (1 - (m * mean) ** 2)


@given(toys)
@settings(max_examples=20, deadline=None)
def test_eigenvalues_and_pulls_are_those_of_autograd(toy):
    gradients, hessians = derivatives(model := linear(), domains(toy, model))
    for sign in (1, -1):
        direction = torch.tensor([1.0, sign]).double()
        eigenvalues, pulls = toy.eigenvalues(sign)
        np.testing.assert_allclose(hessians @ direction, np.outer(eigenvalues, direction), atol=1e-12)
        np.testing.assert_allclose(-gradients @ direction, pulls, atol=1e-12)
    for numbers in toy.spurious:
        assert toy.probabilities(numbers).sum() == pytest.approx(1)
        assert toy.probabilities(numbers).min() >= 0


@given(toys, st.floats(-1, 0.95))
@settings(max_examples=30, deadline=None)
def test_the_resting_point_is_the_minimum_below_the_limit_and_there_is_none_above(toy, share):
    limit = min(toy.gamma_limit(), 10.0)
    np.testing.assert_allclose(slope(toy, toy.rest(share * limit), share * limit), 0, atol=1e-9)
    columns = [slope(toy, e, share * limit) - slope(toy, (0.0, 0.0), share * limit) for e in np.eye(2)]
    assert np.linalg.eigvalsh(columns).min() > 0
    if toy.gamma_limit() < np.inf:
        columns = [slope(toy, e, 1.01 * limit) - slope(toy, (0.0, 0.0), 1.01 * limit) for e in np.eye(2)]
        assert np.linalg.eigvalsh(columns).min() < 0
        with pytest.raises(InputError, match="no minimum"):
            toy.rest(1.01 * limit)


def test_at_the_limit_itself_there_is_no_minimum():
    with pytest.raises(InputError, match="no minimum"):
        HELPS.rest(HELPS.gamma_limit())


def test_where_no_pair_curves_there_is_no_limit():
    """Every second eigenvalue is 0 where both features tell the label for sure, with opposite signs."""
    assert LinearToy(1, (-1, 1)).gamma_limit() == np.inf


def test_the_limit_does_not_depend_on_the_spurious_features_sign():
    for m, spurious in ((0.55, (1, 0.2)), (0.9, (0.8, -0.1, 0.3))):
        mirrored = LinearToy(m, [-s for s in spurious])
        assert mirrored.gamma_limit() == pytest.approx(LinearToy(m, spurious).gamma_limit(), rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.15, 0.3])
def test_long_plain_descent_ends_there(gamma):
    weights = np.zeros(2)
    for _ in range(400):
        weights = weights - 0.5 * slope(HELPS, weights, gamma)
    np.testing.assert_allclose(weights, HELPS.rest(gamma), atol=1e-9)


@given(some, st.lists(some, min_size=2, max_size=4))
def test_erms_weights_are_the_printed_ones(m, spurious):
    toy, mean = LinearToy(m, spurious), np.mean(spurious)
    np.testing.assert_allclose(toy.rest(0), erm_rest(m, mean), rtol=1e-10)
    weights = toy.rest(0)
    assert (weights[0] > weights[1]) == (m > mean) or m == pytest.approx(mean)


@pytest.mark.parametrize("loss", [squared, logistic])
def test_a_common_minimum_holds_all_three(loss):
    """The spurious feature copies the invariant one: no domain gains by it."""
    toy = LinearToy(0.55, (1, 0.2, -0.4), "invariant")
    at = np.array([0.55 if loss is squared else 2 * np.arctanh(0.55), 0.0])
    for gamma in (0.0, 0.1, 0.25, 5.0):
        np.testing.assert_allclose(slope(toy, at, gamma, loss), 0, atol=1e-12)
    for order in permutations(range(3)):
        model = linear(at)
        given = domains(toy, model, loss)
        moved = displacement(model, {name: given[name] for name in order}, 0.7)
        np.testing.assert_allclose(moved, 0, atol=1e-12)


@given(seed=seeds, alpha=st.floats(0.01, 1.0))
@settings(max_examples=15, deadline=None)
def test_two_quadratics_make_fish_idgm_without_a_remainder(seed, alpha):
    hessians, minima = random_quadratics(seed, 2)
    model = Point(random_quadratics(seed + 1, 1)[1][0])
    given = quadratics(hessians, minima)
    step = parameters_to_vector(idgm_gradient(model, given, gamma=gamma_eff(alpha, 2))[0])
    mean = mean_displacement(model, given, alpha)
    torch.testing.assert_close(mean, 2 * alpha * step, rtol=1e-9, atol=1e-10)


def test_three_quadratics_do_not():
    hessians, minima = random_quadratics(0, 3)
    model, given = Point(minima[0] + 1), quadratics(hessians, minima)
    step = parameters_to_vector(idgm_gradient(model, given, gamma=gamma_eff(0.3, 3))[0])
    assert (mean_displacement(model, given, 0.3) - 0.9 * step).norm() > 1e-3 * step.norm()


@given(m=some, spurious=st.lists(some, min_size=2, max_size=4), share=st.floats(0, 0.9))
@settings(max_examples=40)
def test_matching_moves_both_sums_by_the_printed_rate(m, spurious, share):
    """dw_+-/dgamma = 2 m V (1 - m^2) / D_+-^2 at every gamma below the limit, by finite differences."""
    toy = LinearToy(m, spurious)
    gamma, mean, spread = share * toy.gamma_limit(), np.mean(spurious), np.var(spurious) / (len(spurious) - 1)
    h = 1e-5 * toy.gamma_limit()
    change = (toy.rest(gamma + h) - toy.rest(gamma - h)) / (2 * h)
    for sign in (1, -1):
        u = 1 + sign * m * mean
        printed = 2 * m * spread * (1 - m**2) / (u - 2 * gamma * (u**2 - m**2 * spread)) ** 2
        assert change[0] + sign * change[1] == pytest.approx(printed, rel=1e-4, abs=1e-7)


@given(m=some, spurious=st.lists(some, min_size=2, max_size=4))
def test_the_weights_cross_at_the_printed_gamma_if_the_window_is_met(m, spurious):
    toy, mean, spread = LinearToy(m, spurious), np.mean(spurious), np.var(spurious) / (len(spurious) - 1)
    delta, p = mean - m, m * mean
    crossing = delta / (2 * (delta * (1 - p) + m * spread)) if delta > 0 else np.inf
    inside = delta * (2 * p * (1 + p) - m**2 * spread) < (1 + p) * m * spread
    assert (toy.gamma_flip() < np.inf) == (delta > 0 and inside) or abs(delta) < 1e-9
    if toy.gamma_flip() < np.inf and delta > 1e-6:
        assert toy.gamma_flip() == pytest.approx(crossing, rel=1e-8)
        before, after = (toy.rest(f * toy.gamma_flip()) for f in (0.99, 1.0 + 1e-9))
        assert before[0] < before[1]
        assert after[0] == pytest.approx(after[1], abs=1e-6)


@given(m=some, spurious=st.lists(some, min_size=2, max_size=4))
@settings(max_examples=10, deadline=None)
def test_the_logistic_loss_rests_erm_at_the_two_log_odds(m, spurious):
    odds = 2 * np.arctanh([m, np.mean(spurious)])
    np.testing.assert_allclose(slope(LinearToy(m, spurious), odds, 0.0, logistic), 0, atol=1e-10)


def test_fish_runs_to_the_forecast():
    """The mean over orders, iterated: the fixed point is exact, at a rate that is not small."""
    weights, alpha = np.zeros(2), 4 * 0.25
    for _ in range(200):
        model = linear(weights)
        weights = weights - 0.5 * mean_displacement(model, domains(HELPS, model), alpha).numpy()
    np.testing.assert_allclose(weights, HELPS.rest(0.25), atol=1e-9)


def test_features_of_one_use_cross_at_gamma_0():
    toy = LinearToy(0.5, (0.25, 0.75))
    assert toy.gamma_flip() == 0
    assert np.ptp(toy.rest(0)) == 0


def test_of_the_figures_data_set_the_weights_cross_below_the_limit():
    assert HELPS.gamma_flip() == pytest.approx(0.2058, abs=1e-3)
    assert HELPS.gamma_flip() < HELPS.gamma_limit() == pytest.approx(0.3865, abs=1e-3)
    for gamma, right in ((0.0, 0.0), (0.2, 0.0), (0.22, 0.775), (0.3, 0.775)):
        assert HELPS.accuracy(HELPS.rest(gamma), -1.0) == pytest.approx(right)


@pytest.mark.claims("linear-toy")
def test_the_verdict_is_as_the_rule_says():
    """57 and 93 %: there is such a data set, in a narrow window, and the weights of the two ends say so."""
    status, measured = linear_toy_verdict()
    assert (status, measured) == (
        "reproduced in part",
        "ERM at 57 % and IDGM below its limit at 93 % in 19 of 1,000 data sets: with a second domain of 0.721 to 0.739",
    )
    for other, flips in ((0.719, False), (0.721, True), (0.739, True), (0.741, False)):
        assert (LinearToy(0.86, (1, other)).gamma_flip() < np.inf) == flips


def test_accuracy_counts_a_tie_half():
    toy = LinearToy(0.6, (0.9, 0.1))
    assert toy.accuracy(np.array([1.0, 0.5]), -0.4) == pytest.approx(0.8)
    assert toy.accuracy(np.array([0.5, 1.0]), -0.4) == pytest.approx(0.3)
    assert toy.accuracy(np.array([1.0, 1.0]), -0.4) == pytest.approx((0.8 + 0.3) / 2)
    assert toy.accuracy(np.zeros(2), 0.9) == pytest.approx(0.5)


def test_the_logistic_shift_to_first_order():
    """gamma H^-1 grad GIP, of the lemma on where matching moves the minimum."""
    odds = 2 * np.arctanh([0.55, 0.6])
    model = linear(odds)
    given = domains(HELPS, model, logistic)
    hessian = derivatives(model, given)[1].mean(0)
    shift = torch.linalg.solve(hessian, pair_gradient(model, given)).numpy()
    rests = []
    for gamma in (0.0, 1e-3):
        at = odds.copy()
        for _ in range(200):
            at = at - torch.linalg.solve(hessian, torch.tensor(slope(HELPS, at, gamma, logistic))).numpy()
        rests.append(at)
    np.testing.assert_allclose((rests[1] - rests[0]) / 1e-3, shift, rtol=1e-2)
    assert shift[0] > 0 > shift[1]


def test_the_package_runs_on_it():
    model = linear()
    fish = Fish(model, squared, partial(torch.optim.SGD, lr=0.5), eps=0.1)
    seen = fish.update(HELPS.minibatches())
    assert seen["loss"] > 0
    assert vector(model).norm() > 0


@pytest.mark.parametrize("invariant", [0, 1])
def test_correlations_may_be_as_large_as_they_can(invariant):
    toy = LinearToy(invariant, (-1, 1))
    np.testing.assert_array_equal([toy.probabilities(s).sum() for s in toy.spurious], 1)


@pytest.mark.parametrize(
    "bad", [(1.2, (0, 1)), (-0.1, (0, 1)), (0.5, (0.1,)), (0.5, (0.1, 1.1)), (0.5, (-1.1, 0)), (0.5, (0, 1), "me")]
)
def test_what_is_no_toy_is_refused(bad):
    with pytest.raises(InputError, match="expected"):
        LinearToy(*bad)
