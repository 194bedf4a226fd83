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
from gentangle.matching.verdicts import chosen_accuracies, load_matching_records
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
    first, *later = kept["text"]
    assert first["share"] > 2.5 * first["groups_share"]
    assert all(row["share"] < 1.5 * row["groups_share"] for row in later)
    assert all(row["share"] > 0.7 for row in kept["coloured digits, 10 and 90 %"])
    for row in kept["text"]:
        length = row["steep"] + row["between"]
        assert 0.15 < (row["steep"] - row["between"] / 2) / length < 0.45
        assert 0.001 / 4 * row["between"] / row["loss"] < 1e-4


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
    assert abs(shares[1] + 1 / 3) < 0.01
    assert shares[0] > 0


def by_seed(records, algorithm, rule="training"):
    return np.mean([*chosen_accuracies(records, algorithm, rule).values()], axis=0)


def test_the_gips_of_the_records_are_as_drawn(text):
    """Random groups begin above, all three fall, and the bands overlap at the end."""
    drawn = {}
    for name in ("erm", "random-groups", "fish"):
        rows = [row for row in text[f"{name}-slow"]["rows"] if len(row["left_out"]) == 1]
        drawn[name] = np.array(
            [
                [np.mean([r["gip"] for r in rows if (r["step"], r["seed"]) == (step, seed)]) for seed in RECIPE.seeds]
                for step in (50, 100, 150, 200)
            ]
        )
    means = {name: looks.mean(axis=1) for name, looks in drawn.items()}
    assert means["random-groups"][0] > max(means["erm"][0], means["fish"][0]) > 0.03
    assert all(values[-1] < values[0] / 2 for values in means.values())
    lows, highs = ([f(looks[-1]) for looks in drawn.values()] for f in (np.min, np.max))
    assert max(lows) < min(highs)


def test_fish_does_as_its_control_and_all_are_close_by_the_training_rule(text):
    names = ("erm", "minibatches", "random-groups", "fish", "smooth-fish", "idgm", "group-dro")
    means = {name: by_seed(text, name) for name in names}
    gap = means["fish"] - means["random-groups"]
    assert (np.sum(gap > 0), np.sum(gap < 0)) == (3, 2)
    assert np.ptp([value.mean() for value in means.values()]) < 0.014
    for rule in ("leave-one-out", "oracle"):
        ends = {name: by_seed(text, name, rule).mean() for name in names}
        assert min(ends, key=ends.get) == "minibatches"


def test_without_batchnorm_tweets_are_no_exception(text):
    recipe = load_matching_recipe(ROOT / "recipes" / "text_controls.yaml")
    plain = load_matching_records(ROOT / "results", recipe)
    gaps = []
    for records in (text, plain):
        tweets = {name: np.mean(chosen_accuracies(records, name, "training")["tweets"]) for name in ("fish", "erm")}
        control = np.mean(chosen_accuracies(records, "random-groups", "training")["tweets"])
        gaps.append([value - control for value in tweets.values()])
    assert min(gaps[0]) > 0.015
    assert np.abs(gaps[1]).max() < 0.01
    assert abs(np.mean(by_seed(plain, "fish") - by_seed(plain, "random-groups"))) < 0.004


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
        (line,) = (line for line in source.splitlines() if line.strip().startswith(f'"{name}": ("'))
        assert line.endswith(f'"{fish.split()[0]}", "{erm}"),')
    for name in ("vlcs", "pacs", "office-home", "terra-incognita", "domain-net"):
        fish, erm = re.findall(r"[0-9.]+", ledger[name].expected)
        words = name.title().replace("-", "").replace("Vlcs", "VLCS").replace("Pacs", "PACS")
        assert re.search(rf'"{words}": \({fish}, {erm}\)', source, re.IGNORECASE), name
