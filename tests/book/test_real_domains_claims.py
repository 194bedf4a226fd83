"""What the chapter on real domains states and shows follows from the definitions and from the records."""

import json
import re
from dataclasses import asdict
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from gentangle import rated_texts, smollm2
from gentangle.matching import text_domains
from gentangle.matching.domains import domain_gram, domains_of, gradient_at, learning
from gentangle.matching.gip import gip
from gentangle.matching.idgm import idgm_gradient
from gentangle.matching.recipes import load_matching_recipe
from gentangle.matching.verdicts import chosen_accuracies, load_matching_records, single_domain_gips
from gentangle.matching.wilds_data import SETS
from gentangle.matching.wilds_run import load_wilds_recipe
from gentangle.profiles import profile
from gentangle.runs import rounded

ROOT = Path(__file__).parents[2]
IDENTITY = profile().tolerance.identity


def gradients(seed, count, dimension=7):
    return np.random.default_rng(seed).normal(size=(count, dimension)) + 0.3


def between(g):
    return ((g - g.mean(axis=0)) ** 2).sum(axis=1).mean()


@given(seed=st.integers(0, 10_000), count=st.integers(2, 6))
def test_within_shuffled_between(seed, count):
    """By all pairs of minibatches: two of each domain, whose mean is its gradient."""
    g = gradients(seed, count)
    noise = np.random.default_rng(seed + 1).normal(size=g.shape)
    drawn = np.stack([g - noise, g + noise])  # domain i's minibatch is either, with probability a half
    inner = np.einsum("aid,bjd->abij", drawn, drawn).mean(axis=(0, 1))  # independent: all four combinations
    mean, v = g.mean(axis=0), between(g)
    apart = ~np.eye(count, dtype=bool)
    assert np.isclose(np.diag(inner).mean(), mean @ mean + v)
    assert np.isclose(inner.mean(), mean @ mean)
    assert np.isclose(inner[apart].mean(), mean @ mean - v / (count - 1))
    assert np.isclose(gip(g @ g.T), mean @ mean - v / (count - 1))


# ---- objective and loop ----

CROSS_ENTROPY = torch.nn.functional.cross_entropy


@pytest.fixture
def problem():
    """A small network and three domains with their own ways from x to y, float64."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double()
    parts = {}
    for name in "abc":
        x = torch.randn(8, 3, dtype=torch.float64)
        parts[name] = x, (x @ torch.randn(3, dtype=torch.float64) > 0).long()
    return model, domains_of(model, CROSS_ENTROPY, parts)


def flat(value, model, **more):
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, learning(model), **more)])


def of_all(model, domains):
    """Gradients that can be differentiated, shape (S, parameters)."""
    return torch.stack([flat(loss(model), model, create_graph=True) for loss in domains.values()])


def test_idgm_is_a_reward_for_steepness_and_a_penalty_on_variance(problem):
    model, domains = problem
    gamma = 0.3
    g = of_all(model, domains)
    mean = g.mean(dim=0)
    v = ((g - mean) ** 2).sum(dim=1).mean()
    loss = sum(one(model) for one in domains.values()) / len(domains)
    torch.testing.assert_close(mean, flat(loss, model, retain_graph=True))
    expected = flat(loss - gamma * mean @ mean + gamma / (len(domains) - 1) * v, model)
    found, _ = idgm_gradient(model, domains, gamma=gamma)
    torch.testing.assert_close(torch.cat([part.flatten() for part in found]), expected, rtol=0, atol=1e-12)


def loop(model, domains, visits, alpha):
    """Where plain SGD of rate alpha along the visits ends; the model is left as it was."""
    before = parameters_to_vector(model.parameters()).detach().clone()
    for name in visits:
        _, gradient = gradient_at(model, domains, name)
        with torch.no_grad():
            for parameter, g in zip(learning(model), gradient, strict=True):
                parameter -= alpha * g
    end = parameters_to_vector(model.parameters()).detach().clone()
    vector_to_parameters(before, model.parameters())
    return end


def test_the_two_loops_differ_by_the_gradient_of_v(problem):
    """All 6 orders against all 27 sequences of independent visits: the error falls with the third power."""
    model, domains = problem
    count = len(domains)
    g = of_all(model, domains)
    slope = flat(((g - g.mean(dim=0)) ** 2).sum(dim=1).mean(), model)
    errors = []
    for alpha in (0.04, 0.02, 0.01):
        fish = torch.stack([loop(model, domains, visits, alpha) for visits in permutations(domains)]).mean(dim=0)
        every = [loop(model, domains, visits, alpha) for visits in product(domains, repeat=count)]
        gap = fish - torch.stack(every).mean(dim=0)
        errors.append((gap + alpha**2 * count / 4 * slope).norm().item())
    assert errors[0] < 0.2 * (0.04**2 * count / 4 * slope.norm()).item()
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (np.abs(orders - 3) < 0.2).all()


def test_the_share_is_that_of_the_scatter():
    """Two minibatches of different domains: the mean squared distance is twice the denominator."""
    g, noise = gradients(0, 3), np.random.default_rng(1).normal(size=(3, 7))
    drawn = np.stack([g - noise, g + noise])
    gaps = [
        ((drawn[a, i] - drawn[b, j]) ** 2).sum()
        for i, j in permutations(range(3), 2)
        for a, b in product(range(2), repeat=2)
    ]
    own, around = 3 / 2 * between(g), (noise**2).sum(axis=1).mean()
    assert np.isclose(np.mean(gaps), 2 * (own + around))
    kept = json.loads((ROOT / "results" / "between_domains.json").read_text())["sets"]
    for row in (row for rows in kept.values() for row in rows):
        own = row["between"] * row["domains"] / (row["domains"] - 1)
        assert np.isclose(row["share"], own / (own + row["noise"]), rtol=1e-3)


# ---- text ----

RECIPE = load_matching_recipe(ROOT / "recipes" / "text.yaml")


@pytest.fixture(scope="module")
def text():
    return load_matching_records(ROOT / "results", RECIPE)


@pytest.mark.training
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_on_real_text_the_gip_falls_to_its_floor():
    """Eight texts a domain, a linear head with weight decay, gradient descent to the rest."""
    random, parts = np.random.default_rng(1), {}
    for domain in rated_texts.DOMAINS:
        opinions = [t for t in rated_texts.load(domain) if abs(t.rating) > 1]
        picked = [opinions[i] for i in random.permutation(len(opinions))[:8]]
        x = text_domains.embed([t.text for t in picked], smollm2.fetched()).double()
        parts[domain] = x, torch.tensor([int(t.rating > 0) for t in picked])
    every = torch.cat([x for x, _ in parts.values()])
    head = torch.nn.Linear(576, 2).double()
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)

    def loss_on(x, y):
        x = (x - every.mean(dim=0)) / every.std(dim=0)
        return lambda m: CROSS_ENTROPY(m(x), y) + 0.05 * sum((p**2).sum() for p in m.parameters())

    domains, shares = {name: loss_on(*part) for name, part in parts.items()}, []
    optimizer = torch.optim.SGD(head.parameters(), lr=0.02)
    for step in range(1501):
        if step in (0, 1500):
            matrix = domain_gram(head, domains)
            shares.append(gip(matrix) / np.diag(matrix).mean())
        optimizer.zero_grad()
        (sum(loss(head) for loss in domains.values()) / len(domains)).backward()
        optimizer.step()
    assert abs(shares[1] + 1 / 3) < 0.01 < shares[0] + 1 / 3


def by_seed(records, algorithm, rule="training"):
    return np.mean([*chosen_accuracies(records, algorithm, rule).values()], axis=0)


def test_the_gips_of_the_records_are_as_drawn(text):
    for record in text.values():
        drawn = single_domain_gips(record)
        assert drawn.shape == (RECIPE.training.steps // RECIPE.training.look_every, len(RECIPE.seeds))
        rows = [row for row in record["rows"] if len(row["left_out"]) == 1 and row["step"] == RECIPE.training.steps]
        assert np.isclose(drawn[-1].mean(), np.mean([row["domain_gip"] for row in rows]))


# ---- stand-ins ----


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("wilds_*.yaml")), ids=lambda path: path.stem)
def test_the_stand_ins_are_those_of_the_committed_recipes(path):
    recipe = load_wilds_recipe(path, small=True)
    record = json.loads((ROOT / "results" / "wilds" / f"{recipe.name}-seed0.json").read_text())
    for key, value in rounded(asdict(recipe)).items():
        if key not in ("small", "expects"):
            assert record["config"][key] == value, key
    assert {row["phase"] for row in record["rows"]} == {"erm", "fish"}
    assert SETS[recipe.dataset].metrics[0] in record["evaluation"]["test"]


def test_the_published_figures_are_those_of_the_ledger(ledger):
    """The chapter's table of WILDS, read from its source, beside the rows of the claims."""
    cells = json.loads((ROOT / "notebooks" / "15_real_domains.ipynb").read_text())["cells"]
    source = "".join(line for cell in cells for line in cell["source"])
    for name in SETS:
        fish, erm = ledger[f"wilds-{name}"].expected.removeprefix("Fish ").removesuffix(" on test").split(", ERM ")
        assert f'"{name}": ("' in source
        assert f'"{fish.split()[0]}", "{erm}"),' in source
    for name in ("vlcs", "pacs", "office-home", "terra-incognita", "domain-net"):
        fish, erm = re.findall(r"[0-9.]+", ledger[name].expected)
        assert f"({fish}, {erm})" in source
