"""A pair as two domains: what Fish's loop, its outer step and the virtual split do to <w,l>, to second order."""

from functools import partial
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from gentangle.alignment.bridge import READINGS, at_margin, beside, bridge_verdicts, part_loss, parts, path
from gentangle.alignment.conditions import (
    BOTH_DOWN,
    BOTH_UP,
    INTENDED,
    REVERSED,
    case,
    first_order_changes,
    scaled_gram,
)
from gentangle.alignment.last_layer import LastLayerPair, suffix_pair
from gentangle.alignment.objectives import objective
from gentangle.errors import InputError
from gentangle.matching import expansion
from gentangle.matching.algorithms import ERM, Fish
from gentangle.matching.domains import domain_gram, domains_of

seeds = st.integers(0, 10_000)
few = settings(max_examples=6, deadline=None)
D = (0.7, 0.4)
BETA = 0.8


def random_model(seed):
    """A pair of random states and tokens, and a last layer to learn; two layers where the seed is odd. float64."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 5, 2)
    states = tuple(rng.normal(size=(n, 3)) for n in lengths)
    tokens = tuple(rng.integers(5, size=n) for n in lengths)
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(3, 4, dtype=torch.float64), torch.nn.Tanh()] if seed % 2 else []
    wide = 4 if seed % 2 else 3
    tokens[0][0] = 4  # so that the largest token is always seen
    return LastLayerPair(states, tokens), torch.nn.Sequential(*layers, torch.nn.Linear(wide, 5, dtype=torch.float64))


def log_probs(model, pair):
    """log pi_w and log pi_l by torch's cross entropy."""
    return torch.stack(
        [
            -torch.nn.functional.cross_entropy(model(torch.as_tensor(h)), torch.as_tensor(y), reduction="sum")
            for h, y in zip(pair.states, pair.tokens, strict=True)
        ]
    )


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


def gradients(model, pair):
    """w and l, flat, with their graphs."""
    learn = list(model.parameters())
    return [flat(torch.autograd.grad(s, learn, create_graph=True)) for s in log_probs(model, pair)]


def gradient_of(scalar, model):
    return flat(torch.autograd.grad(scalar, list(model.parameters()), materialize_grads=True)).detach()


def orders(domains):
    return list(permutations(domains))


def order_of(errors, rates):
    """Slope of the logarithms."""
    return np.polyfit(np.log(rates), np.log(errors), 1)[0]


RATES = np.array([0.01, 0.005, 0.0025, 0.00125])


@given(seed=seeds)
@few
def test_the_two_parts_have_the_scaled_gram_matrix(seed):
    pair, model = random_model(seed)
    domains = domains_of(model, part_loss, parts(pair, *D))
    values = torch.stack([loss(model) for loss in domains.values()])
    assert torch.allclose(values, log_probs(model, pair) * torch.tensor([-D[0], D[1]]))
    w, l = (g.detach() for g in gradients(model, pair))
    gram = np.array([[w @ w, w @ l], [w @ l, l @ l]])
    found = domain_gram(model, domains)
    assert np.allclose(found, scaled_gram(gram, (-D[0], D[1])), rtol=1e-9)
    assert np.isclose(found[0, 1], -D[0] * D[1] * float(w @ l), rtol=1e-9)


@given(seed=seeds, eps=st.sampled_from([0.1, 0.5, 1.0]))
@few
def test_the_loop_adds_descent_of_the_inner_product(seed, eps):
    pair, model = random_model(seed)
    w, l = gradients(model, pair)
    target = -D[0] * D[1] / 2 * gradient_of(w @ l, model)
    start, batches = parameters_to_vector(model.parameters()).detach().clone(), parts(pair, *D)
    first = (-D[0] * w + D[1] * l).detach()
    errors = []
    for rate in RATES:
        ends = []
        for order in orders(batches):
            vector_to_parameters(start.clone(), model.parameters())
            fish = Fish(model, part_loss, partial(torch.optim.SGD, lr=rate), eps=eps, permute=False)
            fish.update({name: batches[name] for name in order})
            ends.append(parameters_to_vector(model.parameters()).detach().clone())
        plain = start - eps * rate * first
        errors.append(float((torch.stack(ends).mean(0) - plain - eps * rate**2 * target).norm()))
    assert order_of(errors, RATES) > 2.9 or max(errors) < 1e-12


@given(seed=seeds)
@few
def test_slopes_computed_afresh_add_a_part_along_w_and_l_alone(seed):
    pair, model = random_model(seed)
    reference = log_probs(model, pair).detach() + torch.tensor([0.3, -0.4])

    def part(m, side):
        margin = (log_probs(m, pair) - reference) @ torch.tensor([1.0, -1.0], dtype=torch.float64)
        slope = BETA * torch.sigmoid(-BETA * margin).detach()
        return slope * (-1) ** (side + 1) * log_probs(m, pair)[side]

    domains = {side: partial(part, side=side) for side in (0, 1)}
    w, l = gradients(model, pair)
    d = (-part(model, 0) / log_probs(model, pair)[0]).item()
    ww, wl, ll = ((a @ b).item() for a, b in ((w, w), (w, l), (l, l)))
    afresh = d**2 * (BETA - d) / 2 * ((ww - wl) * l - (ll - wl) * w).detach()
    target = -(d**2) / 2 * gradient_of(w @ l, model) + afresh
    errors = [
        rate**2 * float((expansion.second_order(model, domains, rate, orders(domains)) - target).norm())
        for rate in RATES
    ]
    assert order_of(errors, RATES) > 2.9 or max(errors) < 1e-12


def virtual(model, pair, rate, kappa):
    """Displacement of the virtual split step by plain SGD with the slopes D."""
    start = parameters_to_vector(model.parameters()).detach().clone()
    signs = (-D[0], D[1])
    at_start = [c * g.detach() for c, g in zip(signs, gradients(model, pair), strict=True)]
    total = torch.zeros_like(start)
    for own, other in ((0, 1), (1, 0)):
        vector_to_parameters(start - kappa * rate / 2 * at_start[other], model.parameters())
        total = total + signs[own] * gradients(model, pair)[own].detach()
    vector_to_parameters(start.clone(), model.parameters())
    return -rate * total


@given(seed=seeds, kappa=st.sampled_from([1.0, 3.0, 10.0]))
@few
def test_the_virtual_split_is_fish_with_eps_one_over_kappa(seed, kappa):
    pair, model = random_model(seed)
    domains = domains_of(model, part_loss, parts(pair, *D))
    w, l = (g.detach() for g in gradients(model, pair))
    errors, rates = [], RATES / kappa
    for rate in rates:
        part = expansion.second_order(model, domains, kappa * rate, orders(domains))
        fish = -rate * (-D[0] * w + D[1] * l) + (kappa * rate) ** 2 / kappa * part
        errors.append(float((virtual(model, pair, rate, kappa) - fish).norm()))
    assert order_of(errors, rates) > 2.9 or max(errors) < 1e-12


@given(seed=seeds, eps=st.sampled_from([0.25, 1.0]))
@settings(max_examples=2, deadline=None)
def test_the_losses_that_the_two_steps_follow(seed, eps):
    """A step of time eps alpha along the flow of the modified loss, against the plain step and the mean loop."""
    pair, model = random_model(seed)
    domains = domains_of(model, part_loss, parts(pair, *D))
    start = parameters_to_vector(model.parameters()).detach().clone()

    def slope(_, at, rate, split):
        vector_to_parameters(torch.as_tensor(at).clone(), model.parameters())
        w, l = gradients(model, pair)
        total = -D[0] * w + D[1] * l
        loss = D[1] * log_probs(model, pair)[1] - D[0] * log_probs(model, pair)[0] + eps * rate / 4 * total @ total
        return gradient_of(loss + split * rate / 2 * D[0] * D[1] * w @ l, model).neg().numpy()

    for split in (0, 1):
        errors = []
        for rate in RATES:
            flow = solve_ivp(slope, (0, eps * rate), start.numpy(), args=(rate, split), rtol=1e-11, atol=1e-13)
            vector_to_parameters(start.clone(), model.parameters())
            w, l = (g.detach() for g in gradients(model, pair))
            step = -eps * rate * (-D[0] * w + D[1] * l)
            step = step + split * eps * rate**2 * expansion.second_order(model, domains, rate, orders(domains))
            errors.append(float((start + step - torch.as_tensor(flow.y[:, -1])).norm()))
        assert order_of(errors, RATES) > 2.9 or max(errors) < 1e-11


@given(seed=seeds, count=st.integers(2, 6))
@settings(max_examples=50, deadline=None)
def test_which_domains_rise(seed, count):
    rng = np.random.default_rng(seed)
    g, c = rng.normal(size=(count, 4)), rng.uniform(0.1, 3, count)
    gram = g @ g.T
    changes = -gram @ c
    assert c @ changes <= 1e-12
    assert changes.min() <= 0
    small = 1e-6
    losses = [lambda x, a=a: a @ x + x @ x / 2 for a in g]
    step = -small * c @ g
    second = small * np.sum((c @ g) ** 2) / 2  # of the losses' curvature, 1
    assert np.allclose([f(step) / small for f in losses], changes + second, atol=1e-9)
    if count == 2:
        turned = gram * np.array([[1, -1], [-1, 1]])  # w = -g_1, l = g_2
        names = {(False, False): INTENDED, (False, True): BOTH_UP, (True, False): BOTH_DOWN}
        found = str(case(first_order_changes(turned, *c)))
        assert found != REVERSED
        assert found == names[changes[0] > 0, changes[1] > 0]
        assert (changes[0] <= 0) == (-gram[0, 1] <= c[0] / c[1] * gram[0, 0])
        assert (changes[1] <= 0) == (-gram[0, 1] <= c[1] / c[0] * gram[1, 1])


def last_layer_run(rate, eps, steps=25):
    """Margin, change of chosen, <w,l> and cosine along the figure's run in closed form, the mean over both orders."""
    pair, weight = suffix_pair(20, (0.2, 0.5), 0.9)
    reference = pair.log_probs(weight)
    slopes = partial(objective("dpo").slopes, beta=1.0, ref_chosen=reference[0], ref_rejected=reference[1])
    rows = []
    for _ in range(steps):
        moved, gram = pair.log_probs(weight) - reference, pair.gram(weight)
        rows.append([moved[0] - moved[1], moved[0], gram[0, 1], gram[0, 1] / np.sqrt(gram[0, 0] * gram[1, 1])])
        signed, ends = np.array([-1, 1]) * slopes(*pair.log_probs(weight)), []
        for order in ((0, 1), (1, 0)) if eps else ():
            at = weight
            for i in order:
                at = at - rate / eps * signed[i] * pair.gradients(at)[i]
            ends.append(weight + eps * (at - weight))
        plain = weight - rate * np.tensordot(signed, pair.gradients(weight), 1)
        weight = np.mean(ends, axis=0) if eps else plain
    return np.array(rows)


def test_along_a_run_the_inner_product_is_lower_at_the_same_margin():
    runs = {eps: last_layer_run(0.5, eps) for eps in (0, 1.0, 0.1)}
    at = {eps: [np.interp(2.0, run[:, 0], run[:, k]) for k in (1, 2, 3)] for eps, run in runs.items()}
    plain, split, wide = at[0], at[1.0], at[0.1]
    assert wide[0] > split[0] > plain[0]  # chosen
    assert wide[1] < split[1] < plain[1]  # <w,l>
    assert 0.9 < wide[1] / plain[1] < 0.96
    assert 0 < plain[2] - wide[2] < 0.02  # the cosine hardly moves


def test_fish_of_the_package_takes_the_same_steps_on_the_parts():
    pair, weight = suffix_pair(3, (0.2, 0.5), 0.9)
    model = torch.nn.Linear(weight.shape[1], 6, bias=False, dtype=torch.float64)
    for make, eps in ((lambda m: ERM(m, part_loss, partial(torch.optim.SGD, lr=0.2)), 0), (None, 0.5)):
        model.weight.data = torch.tensor(weight)
        if make:
            make(model).update(parts(pair, *D))
            w, l = pair.gradients(weight)
            expected = weight - 0.1 * (-D[0] * w + D[1] * l)  # ERM has the mean of the two parts
        else:
            Fish(model, part_loss, partial(torch.optim.SGD, lr=0.2), eps=eps, permute=False).update(parts(pair, *D))
            first = weight + 0.2 * D[0] * pair.gradients(weight)[0]
            expected = weight + eps * (first - 0.2 * D[1] * pair.gradients(first)[1] - weight)
        assert np.allclose(model.weight.detach().numpy(), expected, rtol=1e-12)


def record(chosen, rejected, inner, norms=(1.0, 4.0)):
    """A run of two pairs with a look a value, both groups alike."""
    rows = [
        {
            "kind": "track", "group": group, "step": step, "chosen": [c, c], "rejected": [r, r],
            "inner_product": [i, i + 2], "chosen_norm_sq": [norms[0]] * 2, "rejected_norm_sq": [norms[1]] * 2,
        }
        for step, (c, r, i) in enumerate(zip(chosen, rejected, inner, strict=True))
        for group in ("train", "held_out")
    ]  # fmt: skip
    return {"rows": rows}


def test_a_path_is_read_at_a_margin():
    run = path(record([-1, -1, -2], [-2, -4, -7], [0, 1, 2]), "train")
    assert run.shape == (3, len(READINGS))
    assert run[:, 0].tolist() == [0, 2, 4]
    assert run[-1, 1:3].tolist() == [-1, -5]
    found = at_margin(run, 3.0)
    assert found["margin"] == 3
    assert found["chosen"] == -0.5
    assert found["inner_product"] == 2.5
    assert found["cosine"] == pytest.approx(1.25)
    with pytest.raises(InputError, match="margins up to 4"):
        at_margin(run, 5.0)


def test_the_rule_compares_at_the_same_margin_and_can_fail():
    plain, split = record([0, -1, -2], [0, -2, -4], [0, 4, 8]), record([0, 0, 0], [0, -1, -3], [0, 1, 3])
    a, b = beside(plain, split, "held_out")
    assert a["margin"] == b["margin"] == 2
    assert (a["inner_product"], b["inner_product"]) == (9, 3)
    status, measured = bridge_verdicts({"plain-sgd": [plain], "split-sgd": [split]})["split-step-lowers-inner-product"]
    assert status == "reproduced in part"
    assert "<w,l> 9 -> 3" in measured
    ((status, _),) = bridge_verdicts({"plain-sgd": [split], "split-sgd": [plain]}).values()
    assert status == "differs"
