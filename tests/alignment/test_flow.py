"""Runs of a last-layer pair: the flow against autograd and SGD, and what holds along it, at a step, and not beyond."""

from functools import partial

import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import gentangle as g
from gentangle.alignment import coupling
from gentangle.alignment.conditions import BOTH_DOWN, BOTH_UP, INTENDED, REVERSED
from gentangle.alignment.flow import (
    SECOND_ORDER_CHANGE,
    SLOPE,
    VARIANCE,
    flow,
    rates,
    sgd,
    update,
)
from gentangle.alignment.last_layer import LastLayerPair, suffix_pair
from gentangle.alignment.softmax import probabilities
from gentangle.alignment.symbols import (
    CHOSEN_NORM_SQ,
    D_CHOSEN,
    D_REJECTED,
    ETA,
    INNER_PRODUCT,
    REJECTED_NORM_SQ,
)
from gentangle.gradients import jacobian

seeds = st.integers(0, 10_000)
few = settings(max_examples=10, deadline=None)


def random_pair(seed):
    """A pair of random states and tokens, and its first last layer."""
    rng = np.random.default_rng(seed)
    vocabulary, width, *lengths = rng.integers([2, 1, 1, 1], [7, 5, 6, 6])
    states = tuple(rng.normal(size=(length, width)) for length in lengths)
    tokens = tuple(rng.integers(vocabulary, size=length) for length in lengths)
    return LastLayerPair(states, tokens), rng.normal(size=(vocabulary, width))


def slopes_of(name, pair, weight, **given):
    a, b = pair.log_probs(weight)
    if name == "dpo":
        given |= {"ref_chosen": a, "ref_rejected": b}
    return partial(g.objective(name).slopes, **given)


def equal_slopes(a, b):
    return 1.0, 1.0


def torch_scalars(pair, weight):
    """The pair's model in torch: a linear layer and the function that gives both log-probabilities."""
    model = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False).double()
    model.weight.data = torch.tensor(weight)

    def scalars(m):
        return [
            m(torch.tensor(h)).log_softmax(-1)[torch.arange(len(y)), torch.tensor(y)].sum()
            for h, y in zip(pair.states, pair.tokens, strict=True)
        ]

    return model, scalars


@given(seed=seeds)
@few
def test_the_pair_is_the_oracles(seed):
    pair, weight = random_pair(seed)
    model, scalars = torch_scalars(pair, weight)
    np.testing.assert_allclose(pair.log_probs(weight), [s.item() for s in scalars(model)], rtol=1e-12)
    np.testing.assert_allclose(pair.gram(weight), g.gram(model, scalars, method="oracle"), rtol=1e-9, atol=1e-12)
    rows = jacobian(model, scalars)["weight"].numpy().reshape(2, *weight.shape)
    np.testing.assert_allclose(pair.gradients(weight), rows, atol=1e-12)


@pytest.mark.parametrize("name", ["dpo", "cpo", "simpo"])
def test_the_flow_follows_the_negative_loss_gradient(name):
    """Its velocity by finite differences, the gradient of the compiled loss by autograd."""
    pair, weight = random_pair(3)
    given = {"ref_chosen": -2.0, "ref_rejected": -3.0} if name == "dpo" else {}
    run = flow(pair, partial(g.objective(name).slopes, beta=0.5, **given), weight, 4.0)
    for t in (1e-3, 1.0, 3.0):
        model, scalars = torch_scalars(pair, run.weight(t))
        g.objective(name)(*scalars(model), beta=0.5, **given).backward()
        velocity = (run.weight(t + 1e-4) - run.weight(t - 1e-4)) / 2e-4
        np.testing.assert_allclose(velocity, -model.weight.grad.numpy(), rtol=1e-5, atol=1e-6)


@given(seed=seeds)
@few
def test_the_first_order_changes_are_exact_rates_along_the_flow(seed):
    pair, weight = random_pair(seed)
    slopes = slopes_of("cpo", pair, weight, beta=0.7, lam=0.2)
    run = flow(pair, slopes, weight, 2.0)
    moved = (run.log_probs([1.0001]) - run.log_probs([0.9999]))[0] / 2e-4
    here, symbols = run.weight(1.0), (CHOSEN_NORM_SQ, REJECTED_NORM_SQ, INNER_PRODUCT, D_CHOSEN, D_REJECTED)
    gram = pair.gram(here)
    values = (gram[0, 0], gram[1, 1], gram[0, 1], *slopes(*pair.log_probs(here)))
    for formula, by_hand in zip((coupling.CHANGE_CHOSEN, coupling.CHANGE_REJECTED), moved, strict=True):
        rate = float(formula.subs(ETA, 1).subs(dict(zip(symbols, map(float, values), strict=True))))
        assert rate == pytest.approx(by_hand, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(rates(pair, slopes, here), moved, rtol=1e-5, atol=1e-6)


@given(seed=seeds, name=st.sampled_from(["dpo", "cpo", "simpo"]))
@few
def test_a_flow_never_moves_both_the_wrong_way(seed, name):
    pair, weight = random_pair(seed)
    slopes = slopes_of(name, pair, weight)
    run = flow(pair, slopes, weight, 20.0)
    times = np.linspace(0, 20, 12)
    for t in times:
        d_w, d_l = slopes(*pair.log_probs(run.weight(t)))
        rate, norm = rates(pair, slopes, run.weight(t)), np.linalg.norm(update(pair, slopes, run.weight(t)))
        assert d_w * rate[0] - d_l * rate[1] == pytest.approx(norm**2, rel=1e-9, abs=1e-12)
    path = run.log_probs(times)
    between = path[None, :] - path[:, None]  # from time i to time j, also far apart
    later = np.triu_indices(len(times), 1)
    assert not np.any((between[later][:, 0] < -1e-9) & (between[later][:, 1] > 1e-9))


positive = ("dpo", "r-dpo", "simpo", "rrhf", "slic-hf", "cpo", "dpop")


@given(
    name=st.sampled_from(positive),
    start=st.tuples(st.floats(-20, -1), st.floats(-20, -1)),
    moved=st.tuples(st.floats(0.01, 5), st.floats(0.01, 5)),
)
@settings(max_examples=200, deadline=None)
def test_chosen_down_and_rejected_up_raises_every_loss_with_positive_slopes(name, start, moved):
    """However the step came about: by whatever optimizer, of whatever size."""
    loss, refs = g.objective(name), {"ref_chosen": -5.0, "ref_rejected": -5.0}
    before = loss(*map(np.float64, start), **refs)
    after = loss(np.float64(start[0] - moved[0]), np.float64(start[1] + moved[1]), **refs)
    assert after > before


def test_past_ipos_target_the_wrong_way_lowers_the_loss():
    """The hypothesis of positive slopes dropped: IPO's are negative once the margin exceeds 1/(2 beta)."""
    ipo = g.objective("ipo")
    assert ipo.slopes(-1.0, -9.0, beta=0.1)[0] < 0
    assert ipo(-1.5, -8.5, beta=0.1) < ipo(-1.0, -9.0, beta=0.1)


@given(seed=seeds)
@few
def test_a_finite_step_moves_both_the_wrong_way_only_from_a_forecast_that_both_rise(seed):
    pair, weight = random_pair(seed)
    step, forecast = update(pair, equal_slopes, weight), rates(pair, equal_slopes, weight)
    for eta in np.geomspace(0.1, 30, 12):
        if g.case(pair.log_probs(weight + eta * step) - pair.log_probs(weight)) == REVERSED:
            assert g.case(forecast) == BOTH_UP


def test_finite_steps_that_move_both_the_wrong_way_exist():
    def change(seed):
        pair, weight = random_pair(seed)
        return pair.log_probs(weight + 3 * update(pair, equal_slopes, weight)) - pair.log_probs(weight)

    assert any(g.case(change(seed)) == REVERSED for seed in range(3000))


def test_sgd_tends_to_the_flow_in_proportion_to_eta():
    pair, weight = suffix_pair(5, (0.2, 0.5), 0.9)
    slopes = slopes_of("dpo", pair, weight, beta=0.1)
    exact = flow(pair, slopes, weight, 64.0).weight(64.0)
    errors = [np.linalg.norm(sgd(pair, slopes, weight, eta, int(64 / eta))[-1] - exact) for eta in (4, 2, 1, 0.5)]
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 1, atol=0.1)


def by_margin(run, margin):
    """The last layer of a run where log pi_w - log pi_l reaches a margin."""
    return run.weight(brentq(lambda t: -np.diff(run.log_probs([t])[0])[0] - margin, 0, run.end, xtol=1e-13))


@given(seed=seeds)
@settings(max_examples=5, deadline=None)
def test_with_equal_slopes_only_the_speed_depends_on_beta_margin_and_loss(seed):
    pair, weight = random_pair(seed)
    clock = flow(pair, equal_slopes, weight, 0.2)
    margin = -np.diff(clock.log_probs([0.1])[0])[0]
    a, b = pair.log_probs(weight)
    others = [("dpo", {"beta": 0.1}), ("dpo", {"beta": 0.5}), ("slic-hf", {"lam": 0.0, "delta": 1e3})]
    others += [("r-dpo", {"beta": 0.2, "ref_chosen": a - 1, "ref_rejected": b, "len_chosen": 4})]
    for name, settings_ in others:
        run = flow(pair, slopes_of(name, pair, weight, **settings_), weight, 20.0)
        np.testing.assert_allclose(by_margin(run, margin), clock.weight(0.1), atol=1e-7)


def test_the_clock_runs_at_the_slope():
    """DPO at time t is where the flow with both slopes 1 is at s, the integral of d up to t."""
    pair, weight = random_pair(3)
    run = flow(pair, slopes_of("dpo", pair, weight, beta=0.3), weight, 5.0)
    s = quad(lambda t: run.slopes(*run.log_probs([t])[0])[0], 0, 5, epsabs=1e-10)[0]
    np.testing.assert_allclose(flow(pair, equal_slopes, weight, s).weight(s), run.weight(5.0), atol=1e-7)


def test_a_ratio_of_slopes_that_varies_bends_the_path():
    """Equal slopes dropped: CPO's likelihood term; a constant ratio again gives one path for all beta (SimPO)."""
    pair, weight = suffix_pair(5, (0.2, 0.5), 0.9)
    start = -np.diff(pair.log_probs(weight))[0]

    def at(name, **given):
        return by_margin(flow(pair, partial(g.objective(name).slopes, **given), weight, 60.0), start + 1)

    assert np.abs(at("cpo", beta=1.0, lam=0.0) - at("cpo", beta=1.0, lam=0.5)).max() > 0.01
    assert np.abs(at("cpo", beta=0.2, lam=0.5) - at("cpo", beta=2.0, lam=0.5)).max() > 0.01
    uneven = {"len_chosen": 6, "len_rejected": 3}
    one, two = at("simpo", beta=1.0, gamma=0.0, **uneven), at("simpo", beta=5.0, gamma=2.0, **uneven)
    np.testing.assert_allclose(one, two, atol=1e-7)
    assert np.abs(one - at("cpo", beta=1.0, lam=0.0)).max() > 0.01


@given(seed=seeds, eta=st.floats(0.01, 30))
@settings(max_examples=60, deadline=None)
def test_a_last_layers_change_never_exceeds_its_forecast_and_is_safe_at_first(seed, eta):
    """For any direction, not the pair's own update alone."""
    pair, weight = random_pair(seed)
    direction = np.random.default_rng(seed + 1).normal(size=weight.shape)
    forecast = np.tensordot(pair.gradients(weight), direction, axes=2)
    change = pair.log_probs(weight + eta * direction) - pair.log_probs(weight)
    assert np.all(change <= eta * forecast + 1e-9)
    ranges = np.array([np.sum(np.ptp(h @ direction.T, axis=-1) ** 2) for h in pair.states])
    assert np.all(change >= eta * forecast - eta**2 * ranges / 8 - 1e-9)


@given(seed=seeds)
@few
def test_the_printed_second_order_change_has_a_third_order_error(seed):
    pair, weight = random_pair(seed)
    direction = update(pair, equal_slopes, weight)
    forecast, variances = np.tensordot(pair.gradients(weight), direction, axes=2), pair.variances(weight, direction)
    for i in (0, 1):
        # The third cumulant of a variable of range R is at most R^3 / (6 sqrt 3), a two-valued one's.
        third = np.sum(np.ptp(pair.states[i] @ direction.T, axis=-1) ** 3) / (6 * np.sqrt(3))
        for eta in (1e-2, 1e-3):
            printed = SECOND_ORDER_CHANGE.subs({ETA: eta, SLOPE: forecast[i], VARIANCE: variances[i]})
            exact = pair.log_probs(weight + eta * direction)[i] - pair.log_probs(weight)[i]
            assert abs(float(printed) - exact) <= eta**3 * third / 6 + 1e-12
        _, scalars = torch_scalars(pair, weight)
        line = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
        moved = torch.tensor(weight) + line * torch.tensor(direction)
        value = scalars(lambda h, m=moved: h @ m.T)[i]
        first = torch.autograd.grad(value, line, create_graph=True)[0]
        assert torch.autograd.grad(first, line)[0].item() == pytest.approx(-variances[i], rel=1e-8, abs=1e-10)


def test_a_forecast_rise_turns_into_a_fall_near_the_printed_step():
    """The nearer a pair lies to the border of the condition, the nearer the two steps."""
    root = sp.solve(SECOND_ORDER_CHANGE, ETA)[0]
    off = []
    for length in (5, 10, 15, 16):
        pair, weight = suffix_pair(length, (0.2, 0.5), 0.9)
        step, start = update(pair, equal_slopes, weight), pair.log_probs(weight)[0]
        values = {SLOPE: rates(pair, equal_slopes, weight)[0], VARIANCE: pair.variances(weight, step)[0]}
        printed = float(root.subs(values))
        true = brentq(lambda eta, p=pair, w=weight, v=step, s=start: p.log_probs(w + eta * v)[0] - s, 1e-3, 50)
        off.append(abs(printed / true - 1))
    assert off == sorted(off, reverse=True)
    assert off[-1] < 0.05


def test_in_a_deeper_network_a_forecast_fall_can_turn_into_a_rise():
    """The hypothesis dropped that the last layer alone learns."""
    torch.manual_seed(358)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 5)).double()
    inputs = torch.randn(2, 3, dtype=torch.float64)

    def scalars(m):
        return m(inputs).log_softmax(-1)[[0, 1], [0, 0]]

    start, theta = scalars(network).detach(), parameters_to_vector(network.parameters()).detach()
    w, l = torch.cat(list(jacobian(network, scalars).values()), dim=1)
    forecast = g.first_order_changes(g.gram(network, scalars, method="oracle"))
    vector_to_parameters(theta + (w - l), network.parameters())
    assert forecast[0] < -0.05
    assert (scalars(network).detach() - start)[0] > 0.1


def misses(pair, weight):
    """eps and eps' of the suffix, alike at every position."""
    q = [probabilities(h @ weight.T)[1:] for h in pair.states]
    own = np.arange(len(q[0]))
    return [1 - each[own, pair.tokens[0][1:]][0] for each in q]


@given(
    length=st.integers(1, 30),
    similarity=st.floats(0.3, 0.99),
    miss_l=st.floats(0.1, 0.9),
    share=st.floats(0.1, 0.9),
)
@few
def test_a_suffix_better_predicted_after_chosen_ends_with_both_down(length, similarity, miss_l, share):
    start = (share * similarity * miss_l, miss_l)
    pair, weight = suffix_pair(length, start, similarity)
    rate = 6 / 5
    gap = similarity * start[1] - start[0]
    due = max(0, np.log(10 / (rate * length * start[0] * gap)) / (1 - rate / 4))
    run = flow(pair, equal_slopes, weight, due + 2)
    before = start[0] - 1e-9
    for s in np.linspace(0, due + 2, 20):
        eps, other = misses(pair, run.weight(s))
        assert similarity * other - eps >= gap * np.exp(-rate * s / 4) * (1 - 1e-6)
        assert eps > before
        before = eps
        moving = rates(pair, equal_slopes, run.weight(s))
        assert moving[1] < 0
        assert s <= due or moving[0] < 0


@given(similarity=st.floats(0.3, 0.99), miss=st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)))
@few
def test_the_gap_between_the_misses_moves_as_printed(similarity, miss):
    pair, weight = suffix_pair(3, miss, similarity)
    step, c = 1e-5 * update(pair, equal_slopes, weight), 6 / 5
    (e, f), gaps = miss, [np.dot([-1, similarity], misses(pair, weight + sign * step)) for sign in (1, -1)]
    printed = c * similarity * f * (1 - f) * (f - similarity * e) - c * e * (1 - e) * (similarity * f - e)
    assert (gaps[0] - gaps[1]) / 2e-5 == pytest.approx(printed, rel=1e-5, abs=1e-8)
    rate = rates(pair, equal_slopes, weight)[0]
    assert rate == pytest.approx(1 + 3 * c * e * (e - similarity * f), rel=1e-9)


def test_a_constant_ratio_delays_the_fall_and_a_growing_one_can_prevent_it():
    """Equal slopes dropped: with d_w = 3 d_l the chosen one rises at first; CPO's ratio grows without bound."""
    pair, weight = suffix_pair(20, (0.2, 0.5), 0.9)
    delayed = flow(pair, lambda a, b: (3.0, 1.0), weight, 20.0)
    assert [name for *_, name in delayed.cases()] == [INTENDED, BOTH_DOWN]
    saved = flow(pair, slopes_of("cpo", pair, weight, beta=0.1, lam=0.1), weight, 1000.0)
    assert saved.cases()[-1][2] == INTENDED


@pytest.mark.parametrize(
    ("length", "miss", "cases"),
    [
        (20, (0.2, 0.5), [BOTH_DOWN]),
        (5, (0.2, 0.5), [INTENDED, BOTH_DOWN]),
        (40, (0.5, 0.2), [BOTH_UP, INTENDED]),
    ],
)
def test_the_case_changes_where_a_log_probability_turns(length, miss, cases):
    pair, weight = suffix_pair(length, miss, 0.9)
    run = flow(pair, slopes_of("dpo", pair, weight, beta=0.1), weight, 300.0)
    assert [name for *_, name in run.cases()] == cases
    moved = np.diff(run.log_probs(np.linspace(0, 300, 3001)), axis=0)
    signs = [str(name) for name in g.case(moved)]
    assert list(dict.fromkeys(signs)) == cases
    for turn, seen in zip(run.turns, [i for i in range(1, 3000) if signs[i] != signs[i - 1]], strict=True):
        assert turn == pytest.approx(seen * 0.1, abs=0.2)


def test_bad_input_gets_one_clear_error():
    with pytest.raises(g.InputError, match="expected a positive time"):
        flow(*random_pair(0)[:1], equal_slopes, random_pair(0)[1], 0.0)
