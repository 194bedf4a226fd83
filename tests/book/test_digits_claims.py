"""What the chapter on digits states and shows follows from the definitions and from the records."""

from fractions import Fraction
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector

from gentangle.matching.digits import ANGLES, DISAGREEMENTS, colored_digits, rotated_digits
from gentangle.matching.domains import domain_gram, domains_of, gradient_at
from gentangle.matching.environments import Draws, domain_accuracy, leave_out
from gentangle.matching.experiment import environments_of, make_algorithm
from gentangle.matching.gip import gip
from gentangle.matching.networks import small_network
from gentangle.matching.recipes import load_matching_recipe
from gentangle.matching.selection import runs_without, select
from gentangle.matching.verdicts import chosen_accuracies, load_matching_records, looks
from gentangle.matching.weighted_losses import vrex_weights
from gentangle.profiles import profile

ROOT = Path(__file__).parents[2]
RECIPES = {
    name: load_matching_recipe(ROOT / "recipes" / f"{name}.yaml") for name in ("rotated_digits", "colored_digits")
}
IDENTITY = profile().tolerance.identity
BITS = list(product((0, 1), repeat=3))
NAMES = [f"{share:.0%}" for share in DISAGREEMENTS]


@pytest.fixture(scope="module")
def rotated():
    return load_matching_records(ROOT / "results", RECIPES["rotated_digits"])


@pytest.fixture(scope="module")
def painted():
    return load_matching_records(ROOT / "results", RECIPES["colored_digits"])


def by_seed(records, algorithm, rule):
    return 100 * np.mean([*chosen_accuracies(records, algorithm, rule).values()], axis=0)


def at_end(records, variant):
    return by_seed({variant: records[variant]}, variant.rsplit("-", 1)[0], "oracle")


def last_looks(records, out):
    return [
        (name, runs_without(rows, {out})[-1]) for name, record in records.items() for rows in looks(record).values()
    ]


def silent(row, whole):
    """Whether one answer to everything has the run's accuracies on the held-out fifths, to the last digit kept."""
    held = leave_out(whole[row["seed"]], row["left_out"], 2, row["seed"]).validation
    ones = {name: float(y.float().mean()) for name, (_, y) in held.items()}
    return any(all(abs(row["validation"][n] - abs(k - ones[n])) < 1e-4 for n in ones) for k in (0, 1))


@pytest.fixture(scope="module")
def whole():
    return {seed: colored_digits(seed=seed) for seed in RECIPES["colored_digits"].seeds}


# ---- the construction ----


def painted_domain(tenths, copies=10):
    """Real digits with their flipped labels, each ten times, of which so many are in the wrong colour."""
    x, y = colored_digits(seed=0)["10%"]
    x, y = x[:60].sum(dim=1).double(), y[:60]
    colours = torch.stack([y if copy >= tenths else 1 - y for copy in range(copies)]).flatten()
    image = x.repeat(copies, 1, 1)
    channels = torch.stack([image * (colours == k).double()[:, None, None] for k in (0, 1)], dim=1)
    return channels, y.repeat(copies)


def network():
    """One that has learnt to look at the colour, so that nothing is alike in all domains."""
    model, (x, y) = small_network((2, 16, 16), 2, width=4, seed=0).double(), painted_domain(2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def slope_of(model, domain):
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    return float(torch.autograd.grad(cross_entropy(scale * model(domain[0]), domain[1]), scale)[0])


def test_everything_is_a_straight_line_in_the_share_of_wrong_colours():
    """Accuracy, loss, gradient and IRM's slope of a network on real digits, in domains made example by example."""
    model = network()
    found = {}
    for tenths in (0, 1, 2, 9, 10):
        domain = painted_domain(tenths)
        loss, gradient = gradient_at(model, domains_of(model, cross_entropy, {tenths: domain, "": domain}), tenths)
        numbers = [float(loss), domain_accuracy(model, domain), slope_of(model, domain)]
        found[tenths] = np.concatenate([numbers, torch.cat([g.flatten() for g in gradient]).numpy()])
    assert np.abs(found[10] - found[0])[:3].min() > 0.1
    for tenths in (1, 2, 9):
        e = tenths / 10
        np.testing.assert_allclose(found[tenths], (1 - e) * found[0] + e * found[10], atol=IDENTITY)
    np.testing.assert_allclose(found[9], 8 * found[2] - 7 * found[1], atol=IDENTITY)


def test_what_the_penalties_see():
    model = network()
    batches = {tenths: painted_domain(tenths) for tenths in (1, 2, 9)}
    losses = {tenths: float(cross_entropy(model(x).detach(), y)) for tenths, (x, y) in batches.items()}
    step = float(cross_entropy(*unlabelled(model, 10))) - float(cross_entropy(*unlabelled(model, 0)))
    for pair in ((1, 2), (1, 9), (2, 9)):
        shares = np.array(pair) / 10
        own = np.array([losses[tenths] for tenths in pair])
        assert own.var() == pytest.approx(shares.var() * step**2, rel=IDENTITY)
        weights = vrex_weights(torch.tensor(own), 5.0).numpy()
        np.testing.assert_allclose(weights, 0.5 + 5 * (own - own.mean()), rtol=IDENTITY)
    assert slope_of(lambda x: 0 * model(x), batches[9]) == 0


def unlabelled(model, tenths):
    x, y = painted_domain(tenths)
    return model(x).detach(), y


def test_the_gram_matrix_where_erm_rests():
    """In a model of two cues, their product and a constant, whose rest is known; and it opposes most without 20 %."""
    model, found = torch.nn.Linear(4, 1, bias=False, dtype=torch.float64), {}
    for pair in ((0.1, 0.2), (0.1, 0.9), (0.2, 0.9)):
        mean = np.mean(pair)
        model.weight.data = torch.tensor([[np.log(3), np.log((1 - mean) / mean), 0, 0]], dtype=torch.float64)
        losses = {e: partial(loss_of_cues, e=e) for e in (*pair, 0.0, 1.0)}
        matrix = domain_gram(model, {e: losses[e] for e in pair})
        right, wrong = (torch.autograd.grad(losses[e](model), model.weight)[0].numpy() for e in (0.0, 1.0))
        length_sq, off = np.sum((wrong - right) ** 2), np.array(pair) - mean
        np.testing.assert_allclose(matrix, np.outer(off, off) * length_sq, atol=IDENTITY)
        assert gip(matrix) == pytest.approx(-((pair[0] - pair[1]) ** 2) * length_sq / 4)
        found[pair] = gip(matrix), np.var([losses[e](model).item() for e in pair])
    gips, variances = np.transpose(list(found.values()))
    assert gips[1] < gips[2] < 30 * gips[0] < 0
    assert variances[1] == pytest.approx(0, abs=IDENTITY)
    assert min(variances[0], variances[2]) > 1e-3


def cues():
    shape, colour, label = torch.tensor(list(product((-1.0, 1.0), repeat=3)), dtype=torch.float64).T
    return torch.stack([shape, colour, shape * colour, torch.ones_like(shape)], dim=1), label


def loss_of_cues(model, e):
    x, label = cues()
    agree = (x[:, :2] == label[:, None]).double()
    p = (1 + 2 * agree[:, 0]) / 8 * (agree[:, 1] * (1 - e) + (1 - agree[:, 1]) * e)
    return p @ torch.nn.functional.softplus(-label * model(x)[:, 0])


@pytest.mark.parametrize(
    ("penalty", "strength", "shape_decides"),
    [("V-REx", 10, False), ("V-REx", 100, True), ("IRM", 10, False), ("IRM", 100, True)],
)
def test_how_large_a_penalty_must_be_until_shape_decides(penalty, strength, shape_decides):
    def objective(weight):
        rows = []
        for e in (0.1, 0.2):
            scale = torch.ones((), dtype=torch.float64, requires_grad=True)
            loss = loss_of_cues(lambda x, c=scale: c * (x[:, :2] @ torch.tensor(weight))[:, None], e)
            rows.append((loss.item(), torch.autograd.grad(loss, scale)[0].item()))
        losses, slopes = np.transpose(rows)
        return losses.mean() + strength * (losses.var() if penalty == "V-REx" else np.mean(slopes**2))

    of_shape, of_colour = minimize(objective, [1.0, 1.0]).x
    assert (of_shape > of_colour) == shape_decides


def test_what_each_cue_is_worth():
    """Among all sixteen rules, with exact fractions, in every regime of the mean share; and the table's ceilings."""
    seen = list(product((0, 1), repeat=2))
    rules = {answers: dict(zip(seen, answers, strict=True)) for answers in product((0, 1), repeat=4)}
    shape, colour, reversed_colour = (0, 0, 1, 1), (0, 1, 0, 1), (1, 0, 1, 0)

    def right(rule, e):
        weights = {(s, c, y): Fraction(3 if s == y else 1, 8) * (1 - e if c == y else e) for s, c, y in BITS}
        return sum(p for (s, c, y), p in weights.items() if rules[rule][s, c] == y)

    def best(e):
        scores = {rule: right(rule, e) for rule in rules}
        (winner,) = [rule for rule, score in scores.items() if score == max(scores.values())]
        return winner

    for e in (Fraction(n, 40) for n in range(41) if n not in (10, 30)):
        assert best(e) == (colour if e < Fraction(1, 4) else shape if e < Fraction(3, 4) else reversed_colour)
        assert (right(shape, e), right(colour, e)) == (Fraction(3, 4), 1 - e)
    shares = [Fraction(n, 10) for n in (1, 2, 9)]
    assert shares == [Fraction(str(share)) for share in DISAGREEMENTS]
    ceilings = [right(best((sum(shares) - out) / 2), out) for out in shares]
    assert ceilings == [Fraction(3, 4), Fraction(3, 4), Fraction(1, 10)]
    assert best(Fraction(3, 20)) == colour
    assert right(colour, Fraction(3, 20)) == Fraction(17, 20) > right(shape, Fraction(3, 20))


def test_the_pictures_are_of_the_domains():
    """A three in each angle; and most of the first six colours are the label's where 10 and 20 % are wrong."""
    assert all((y == 3).any() for _, y in rotated_digits(seed=0).values())
    parts = {name: (x[:6], y[:6]) for name, (x, y) in colored_digits(seed=0).items()}
    wrong = {name: int(((x[:, 1].flatten(1).sum(1) > 0).long() != y).sum()) for name, (x, y) in parts.items()}
    assert max(wrong["10%"], wrong["20%"]) <= 2
    assert wrong["90%"] >= 5


# ---- turned digits ----


def step_length(variant, parts):
    algorithm = make_algorithm(variant, parts, 0)
    draws = Draws(parts.train, variant.training.batch_size, torch.Generator().manual_seed(0))
    path = [parameters_to_vector(algorithm.model.parameters()).detach().clone()]
    for _ in range(20):
        algorithm.update(draws.draw())
        path.append(parameters_to_vector(algorithm.model.parameters()).detach().clone())
    return torch.stack(path).diff(dim=0).norm(dim=1).mean().item()


def test_a_longer_step_is_a_better_run_on_turned_digits(rotated):
    """In order of their steps' lengths the four runs of ERM and Fish rise, in every seed."""
    variants, parts = RECIPES["rotated_digits"].variants(), environments_of({"set": "rotated-digits"}, 0, ["0 degrees"])
    order = ("erm-slow", "fish-slow", "erm-fast", "fish-fast")
    lengths = [step_length(variants[name], parts) for name in order]
    assert np.all(np.diff(lengths) > 0)
    assert 1.9 < lengths[1] / lengths[0] < 2.5
    assert 1.9 < lengths[3] / lengths[2] < 2.5
    assert np.all(np.diff([at_end(rotated, name) for name in order], axis=0) > 0)


def test_fish_is_ahead_in_every_seed_of_turned_digits(rotated):
    gain = by_seed(rotated, "fish", "training") - by_seed(rotated, "erm", "training")
    assert gain.min() > 0
    assert 2.5 < gain.mean() < 3.5


def test_of_the_draws_at_the_lower_rate_group_dro_gains_in_every_seed_and_at_both_ends(rotated):
    plain = at_end(rotated, "erm-slow")
    for name in ("group-dro-slow", "group-dro-fast"):
        assert (at_end(rotated, name) - plain).min() > 0
    assert np.all(at_end(rotated, "group-dro-fast") < at_end(rotated, "erm-fast"))
    assert np.all(at_end(rotated, "group-dro-fast").mean() > at_end(rotated, "group-dro-slow").mean())
    assert np.abs(at_end(rotated, "idgm-weak") - plain).max() < 0.5
    for name in ("smooth-fish-half", "smooth-fish-one"):
        assert ((at_end(rotated, name) - plain) > 0).sum() == 2
    found = {
        name: chosen_accuracies({name: rotated[name]}, name.rsplit("-", 1)[0], "oracle")
        for name in ("erm-slow", "group-dro-fast")
    }
    means = {name: [np.mean(tests[f"{angle} degrees"]) for angle in ANGLES] for name, tests in found.items()}
    gain = np.subtract(means["group-dro-fast"], means["erm-slow"])
    assert gain[[0, -1]].min() > gain[1:-1].max()


# ---- coloured digits ----


def test_no_run_reads_shape_where_it_is_asked_for(painted, whole):
    """Of the runs that never saw 90 %, those that answer lie along the colour's line; the others are at a half."""
    for _, row in last_looks(painted, "90%"):
        accuracies = np.array([(row["validation"] | row["test"])[name] for name in NAMES])
        line = [0.5] * 3 if silent(row, whole) else [1 - share for share in DISAGREEMENTS]
        assert np.abs(accuracies - line).max() < (0.12 if silent(row, whole) else 0.1)
        assert silent(row, whole) or accuracies[2] < 0.2


def test_the_silent_runs_are_those_of_idgm_and_of_irms_large_penalty(painted, whole):
    ends = [(name, row) for out in NAMES for name, row in last_looks(painted, out)]
    quiet = [(name, row) for name, row in ends if silent(row, whole)]
    assert sum(name.startswith("idgm") for name, _ in ends) == 18
    assert sum(name.startswith("idgm") for name, _ in quiet) == 17
    assert {name for name, _ in quiet if not name.startswith("idgm")} == {"irm-strong"}
    assert min(row["loss"] for name, row in quiet if name.startswith("idgm")) > 100
    assert all(0.6 < row["loss"] < np.log(2) for name, row in quiet if name == "irm-strong")


def test_erm_ends_where_opposed_domains_cancel(painted):
    cosines = {
        out: [row["domain_cosine"] for name, row in last_looks(painted, out) if name == "erm-slow"] for out in NAMES
    }
    assert max(cosines["10%"] + cosines["20%"]) < -0.85
    assert min(cosines["90%"]) < 0 < max(cosines["90%"])


def test_two_opposed_steps_shorten_fishs_loop_and_its_slow_draw_is_behind(painted):
    variants = RECIPES["colored_digits"].variants()
    ratios = []
    for out in NAMES:
        parts = environments_of({"set": "colored-digits"}, 0, [out])
        fish, erm = (step_length(variants[name], parts) for name in ("fish-slow", "erm-slow"))
        ratios.append(fish / erm)
    assert max(ratios[:2]) < 0.7
    assert 0.9 < ratios[2] < 1.1
    assert np.all(at_end(painted, "fish-slow") < at_end(painted, "erm-slow"))


def test_no_test_reaches_the_ceiling_of_shape(painted):
    for name, record in painted.items():
        for out in NAMES[:2]:
            assert all(row["test"][out] < 0.75 for _, row in last_looks({name: record}, out))
    for algorithm in ("erm", "fish", "smooth-fish", "irm", "vrex", "group-dro"):
        assert np.mean(chosen_accuracies(painted, algorithm, "training")["90%"]) == pytest.approx(0.1, abs=0.02)


# ---- the rules ----


def correlation(rows):
    pairs = []
    for row in rows:
        ((out, tested),) = row["test"].items()
        pairs.append((np.mean([v for name, v in row["validation"].items() if name != out]), tested))
    return np.corrcoef(np.transpose(pairs))[0, 1]


def test_the_training_domains_rank_the_runs_on_turned_digits_and_not_on_unseen_colours(rotated, painted):
    for angle in ANGLES:
        ends = last_looks(rotated, f"{angle} degrees")
        assert correlation([row for _, row in ends]) > 0.85
        assert correlation([row for name, row in ends if not name.startswith(("idgm", "irm-strong"))]) > 0.35
    ends = last_looks(painted, "90%")
    assert correlation([row for _, row in ends]) < -0.9
    assert -0.4 < correlation([row for name, row in ends if not name.startswith(("idgm", "irm-strong"))]) < 0


def test_the_rules_agree_on_turned_digits_and_the_oracle_prefers_silence_on_coloured_ones(rotated, painted, whole):
    algorithms = ("erm", "fish", "smooth-fish", "idgm", "irm", "vrex", "group-dro")
    for name in algorithms:
        means = [by_seed(rotated, name, rule).mean() for rule in ("training", "leave-one-out", "oracle")]
        assert max(means) - min(means) < 2
    oracle = {name: by_seed(painted, name, "oracle").mean() for name in algorithms}
    assert sorted(oracle, key=oracle.get)[-2:] == ["idgm", "irm"]
    third = {name: np.mean(chosen_accuracies(painted, name, "oracle")["90%"]) for name in algorithms}
    assert sorted(third, key=third.get)[-2:] == ["irm", "idgm"]
    for algorithm, count in (("idgm", 3), ("irm", 2)):
        mine = {name: looks(record) for name, record in painted.items() if name.rsplit("-", 1)[0] == algorithm}
        rows = []
        for seed in whole:
            chosen, _ = select({name: runs[seed] for name, runs in mine.items()}, "90%", "oracle")
            rows.append(runs_without(mine[chosen][seed], {"90%"})[-1])
        assert sum(silent(row, whole) for row in rows) == count
