"""Fish's step: plain steps at its border, its expansion over all orders, why an order is drawn, the GIP for free."""

import gc
from copy import deepcopy
from functools import partial
from itertools import pairwise, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_domains import (
    Point,
    cosine,
    derivatives,
    displacement,
    losses,
    matching_gradient,
    mean_displacement,
    minibatches,
    network,
    problem,
    quadratics,
    random_quadratics,
    seeds,
    vector,
)
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from gentangle import InputError
from gentangle.matching.domains import domain_gram, visiting_order
from gentangle.matching.fish import fish_step, gamma_eff
from gentangle.matching.gip import gip
from gentangle.matching.idgm import idgm_gradient
from gentangle.matching.loop_gip import LoopGIP, is_plain_sgd
from gentangle.matching.smooth_fish import smooth_fish_gradient

KINDS = (torch.Tensor, torch.nn.Parameter)
sgd = partial(torch.optim.SGD, lr=0.1)


@pytest.mark.parametrize("make", [sgd, partial(torch.optim.Adam, lr=0.01)])
def test_one_domain_with_eps_1_is_the_optimizers_plain_step(make):
    model, domains = problem(0)
    other, one = deepcopy(model), {"a": domains["a"]}
    fish_step(model, one, make(model.parameters()), eps=1.0, generator=torch.Generator(), track=True)
    optimizer = make(other.parameters())
    domains["a"](other).backward()
    optimizer.step()
    assert torch.equal(vector(model), vector(other))


@pytest.mark.parametrize("make", [sgd, partial(torch.optim.Adam, lr=0.01)])
def test_with_eps_1_it_is_the_optimizers_steps_in_turn(make):
    model, domains = problem(0)
    other = deepcopy(model)
    seen = fish_step(model, domains, make(model.parameters()), eps=1.0, generator=None)
    optimizer = make(other.parameters())
    for name, loss in domains.items():
        optimizer.zero_grad()
        value = loss(other)
        value.backward()
        optimizer.step()
        assert seen[f"loss/{name}"] == value.item()
    assert torch.equal(vector(model), vector(other))


@given(seed=seeds, eps=st.floats(0.001, 1.5))
@settings(max_examples=10, deadline=None)
def test_the_step_is_eps_of_the_way_to_the_loops_end(seed, eps):
    model, domains = problem(seed)
    start, way = vector(model), displacement(model, domains, 0.1)
    fish_step(model, domains, sgd(model.parameters()), eps=eps, generator=None)
    torch.testing.assert_close(vector(model), start - eps * way, rtol=1e-12, atol=1e-13)


def test_orders_are_fresh_uniform_and_of_the_generator_alone():
    domains = dict.fromkeys("abc")
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    drawn = ["".join(visiting_order(domains, generator)) for _ in range(1200)]
    assert all(abs(drawn.count("".join(o)) - 200) < 60 for o in permutations("abc"))
    torch.manual_seed(2)
    again = torch.Generator().manual_seed(0)
    assert drawn == ["".join(visiting_order(domains, again)) for _ in range(1200)]
    assert visiting_order(domains, None) == list("abc")


def expansion(model, domains, alpha):
    """alpha sum g - (alpha^2 / 2) sum_{i<j} grad(g_i . g_j)."""
    gradients, hessians = derivatives(model, domains)
    return alpha * gradients.sum(0) - alpha**2 / 2 * matching_gradient(gradients, hessians)


@given(seed=seeds, count=st.integers(2, 4))
@settings(max_examples=6, deadline=None)
def test_over_all_orders_the_expansion_has_a_third_order_error(seed, count):
    model, domains = problem(seed, count)
    alphas = (0.02, 0.01, 0.005)
    errors = [float((mean_displacement(model, domains, a) - expansion(model, domains, a)).norm()) for a in alphas]
    for larger, smaller in pairwise(errors):
        assert larger / smaller == pytest.approx(8, rel=0.2)


@given(seed=seeds, count=st.integers(2, 4))
@settings(max_examples=6, deadline=None)
def test_over_all_orders_it_is_idgm_with_gamma_eff(seed, count):
    """In this convention: L_erm the mean, the sum over i < j."""
    model, domains = problem(seed, count)
    errors = []
    for alpha in (0.02, 0.01):
        idgm = idgm_gradient(model, domains, gamma=gamma_eff(alpha, count))[0]
        errors.append(
            float((mean_displacement(model, domains, alpha) - alpha * count * parameters_to_vector(idgm)).norm())
        )
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.2)


def second_order(model, domains, alpha, moved):
    """What a loop adds to alpha sum g, over alpha^2."""
    return (alpha * derivatives(model, domains)[0].sum(0) - moved) / alpha**2


def test_the_second_order_tends_to_the_gips_gradient_and_in_a_fixed_order_does_not():
    fixed = []
    for seed in range(4):
        model, domains = problem(seed)
        target = matching_gradient(*derivatives(model, domains))
        misses = []
        for alpha in (0.4, 0.1, 0.025):
            found = second_order(model, domains, alpha, mean_displacement(model, domains, alpha))
            misses.append(1 - cosine(found, target))
        assert misses == sorted(misses, reverse=True)
        assert 0 <= misses[-1] < 1e-4
        for alpha in (0.1, 0.01, 0.001):
            fixed.append(cosine(second_order(model, domains, alpha, displacement(model, domains, alpha)), target))
    assert max(fixed) < 0.99
    assert min(fixed) > 0


@given(seed=seeds)
@settings(max_examples=5, deadline=None)
def test_in_a_fixed_order_each_domain_bends_the_step_by_those_before_it_alone(seed):
    """The order dropped from the expectation: sum_{i<j} H_j g_i, where half of it should be H_i g_j."""
    model, domains = problem(seed)
    gradients, hessians = derivatives(model, domains)
    expected = sum(hessians[j] @ gradients[i] for i in range(3) for j in range(i + 1, 3))
    found = second_order(model, domains, 1e-4, displacement(model, domains, 1e-4))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3 * float(expected.norm()))


def test_from_where_erm_rests_fish_moves_to_a_higher_gip():
    hessians, minima = random_quadratics(5)
    at = torch.linalg.solve(hessians.sum(0), (hessians @ minima[..., None]).sum(0)).squeeze(-1)
    model, domains = Point(at), quadratics(hessians, minima)
    before = gip(domain_gram(model, domains))
    moved = mean_displacement(model, domains, 0.05)
    vector_to_parameters(at - moved, model.parameters())
    assert gip(domain_gram(model, domains)) > before
    vector_to_parameters(at + moved, model.parameters())
    assert gip(domain_gram(model, domains)) < before


@given(seed=seeds, count=st.integers(2, 4), make=st.sampled_from([torch.optim.SGD, torch.optim.Adam]))
@settings(max_examples=12, deadline=None)
def test_the_loops_gip_is_that_of_the_gradients_that_it_took(seed, count, make):
    """Whichever optimizer: by displacement or by the sum that is kept."""
    model, domains = problem(seed, count)
    other, optimizer = deepcopy(model), make(model.parameters(), lr=0.05)
    seen = fish_step(model, domains, optimizer, eps=0.3, generator=None, track=True)
    optimizer, rows = make(other.parameters(), lr=0.05), []
    for loss in domains.values():
        optimizer.zero_grad()
        loss(other).backward()
        rows.append(parameters_to_vector([p.grad for p in other.parameters()]))
        optimizer.step()
    gram = torch.stack(rows) @ torch.stack(rows).T
    norms = gram.diagonal().sqrt()
    weight = float(norms.sum() ** 2 - gram.trace())
    assert seen["gip"] == pytest.approx(gip(gram), rel=1e-8, abs=1e-12)
    assert seen["cosine"] == pytest.approx(float(gram.sum() - gram.trace()) / weight, rel=1e-8, abs=1e-10)


def loop_error(model, domains, alpha):
    start = vector(model)
    exact = gip(domain_gram(model, domains))
    optimizer = torch.optim.SGD(model.parameters(), lr=alpha)
    seen = fish_step(model, domains, optimizer, eps=1.0, generator=None, track=True)
    vector_to_parameters(start, model.parameters())
    return seen["gip"] - exact


@given(seed=seeds)
@settings(max_examples=6, deadline=None)
def test_against_the_gip_at_theta_the_loops_is_off_in_proportion_to_alpha(seed):
    model, domains = problem(seed)
    slopes = [loop_error(model, domains, alpha) / alpha for alpha in (4e-3, 2e-3, 1e-3)]
    assert abs(slopes[1] - slopes[2]) == pytest.approx(abs(slopes[0] - slopes[1]) / 2, rel=0.2)
    assert abs(slopes[2]) > 0


@given(seed=seeds, count=st.integers(2, 5), alpha=st.floats(1e-3, 0.3))
@settings(max_examples=30, deadline=None)
def test_its_error_keeps_to_the_bound(seed, count, alpha):
    hessians, minima = random_quadratics(seed, count)
    model, domains = Point(torch.zeros(4)), quadratics(hessians, minima)
    smooth = float(torch.linalg.eigvalsh(hessians).max())
    theta, longest = vector(model), 0.0
    for i in range(count):
        longest = max(longest, *(float((a @ (theta - c)).norm()) for a, c in zip(hessians, minima, strict=True)))
        theta = theta - alpha * hessians[i] @ (theta - minima[i])
    bound = alpha * smooth * longest**2 * (count - 1)
    assert abs(loop_error(model, domains, alpha)) <= bound * (1 + 1e-9)


def test_only_sgd_without_extras_is_plain():
    weights = [torch.nn.Parameter(torch.ones(2))]
    assert is_plain_sgd(sgd(weights))
    others = [{"momentum": 0.9}, {"weight_decay": 0.1}, {"maximize": True}, {"lr": 0.0}]
    assert not any(is_plain_sgd(torch.optim.SGD(weights, **({"lr": 0.1} | extra))) for extra in others)
    assert not is_plain_sgd(torch.optim.Adam(weights))
    assert not LoopGIP(sgd(weights), True).sums


@pytest.mark.parametrize(
    ("make", "track", "copies"),
    [
        (torch.optim.SGD, False, 1),
        (torch.optim.SGD, True, 1),
        (torch.optim.Adam, False, 3),
        (torch.optim.Adam, True, 4),
    ],
)
def test_it_holds_one_copy_of_the_parameters_and_tracking_needs_another_only_without_plain_sgd(make, track, copies):
    """Adam's own two moments are counted."""
    model, x, alive = torch.nn.Linear(47, 47), torch.randn(3, 47), []

    def loss(m):
        gc.collect()
        alive.append(len({t.data_ptr() for t in gc.get_objects() if type(t) in KINDS and t.shape == (47, 47)}))
        return m(x).square().mean()

    optimizer = make(model.parameters(), lr=0.01)
    fish_step(model, dict.fromkeys("abc", loss), optimizer, eps=0.5, generator=None, track=track)
    assert alive[-1] == 1 + copies


@pytest.mark.parametrize("buffers", ["interpolate", "inner"])
def test_running_statistics_follow_the_parameters_or_the_loop(buffers):
    model, batches, eps = network(norm=True), minibatches(), 0.3
    whole, start = deepcopy(model), [b.clone() for b in model.buffers()]
    fish_step(whole, losses(batches), sgd(whole.parameters()), eps=1.0, generator=None)
    fish_step(model, losses(batches), sgd(model.parameters()), eps=eps, generator=None, buffers=buffers)
    share = eps if buffers == "interpolate" else 1.0
    for found, old, end in zip(model.buffers(), start, whole.buffers(), strict=True):
        if found.is_floating_point():
            assert not torch.equal(old, end)
            torch.testing.assert_close(found, old + share * (end - old), rtol=1e-12, atol=1e-14)
        else:
            assert found.item() == 3


def test_frozen_parameters_stay_and_need_no_gradient():
    model, domains = problem(0)
    model[0].requires_grad_(False)
    kept = model[0].weight.clone()
    seen = fish_step(model, domains, sgd(model.parameters()), eps=0.5, generator=None, track=True)
    assert torch.equal(model[0].weight, kept)
    assert seen["gip"] == pytest.approx(gip(domain_gram(model, domains)), rel=0.5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"eps": 0.0}, "eps = 0.0"),
        ({"eps": float("inf")}, "eps = inf"),
        ({"eps": float("nan")}, "eps = nan"),
        ({"buffers": "iner"}, "Did you mean 'inner'"),
    ],
)
def test_settings_out_of_range_get_one_clear_error(wrong, said):
    model, domains = problem(0)
    with pytest.raises(InputError, match=said):
        fish_step(model, domains, sgd(model.parameters()), **({"eps": 0.5, "generator": None} | wrong))


@given(seed=seeds, alpha=st.floats(0.01, 0.5), gamma=st.floats(-1, 2), eps=st.floats(0.05, 1))
@settings(max_examples=10, deadline=None)
def test_smooth_fish_is_erm_at_0_fish_at_1_and_on_their_line_between(seed, alpha, gamma, eps):
    model, domains = problem(seed)
    start = vector(model)

    def direction(dial):
        found, seen = smooth_fish_gradient(model, domains, alpha=alpha, gamma=dial, generator=None)
        assert torch.equal(vector(model), start)
        assert seen["gip"] == pytest.approx(gip(domain_gram(model, domains)), rel=1e-9, abs=1e-12)
        return parameters_to_vector(found)

    erm, fish = direction(0.0), direction(1.0)
    torch.testing.assert_close(erm, derivatives(model, domains)[0].mean(0), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(direction(gamma), erm + gamma * (fish - erm), rtol=1e-10, atol=1e-13)
    fish_step(model, domains, torch.optim.SGD(model.parameters(), lr=alpha), eps=eps, generator=None)
    torch.testing.assert_close(start - eps * alpha * 3 * fish, vector(model), rtol=1e-10, atol=1e-13)


def test_smooth_fish_keeps_the_buffers_of_erms_pass():
    model, other, batches = network(norm=True), network(norm=True), minibatches()
    smooth_fish_gradient(model, losses(batches), alpha=0.1, gamma=1.0, generator=None)
    for x, _ in batches.values():
        other(x)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers(), strict=True))


@pytest.mark.parametrize("alpha", [0.0, float("inf"), float("nan")])
def test_smooth_fish_needs_a_positive_rate(alpha):
    with pytest.raises(InputError, match=f"alpha = {alpha}"):
        smooth_fish_gradient(*problem(0), alpha=alpha, gamma=1.0, generator=None)
