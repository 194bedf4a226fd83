"""What the chapter on toys says of the coloured sprites is what the records say."""

from pathlib import Path

import numpy as np
import pytest

from gentangle.matching.experiment import environments_of
from gentangle.matching.recipes import load_matching_recipe
from gentangle.matching.verdicts import cdsprites_verdicts, final_accuracies, load_matching_records, looks

ROOT = Path(__file__).parents[2]
NAMES = ("erm", "idgm", "minibatches", "random-groups", "fish", "reptile")
TRUE, RANDOM = ("erm", "idgm", "fish"), ("minibatches", "random-groups")
RAN_AWAY = {("idgm-N5", 0), ("idgm-N5", 1), ("idgm-N15", 2)}


def loaded(name):
    return load_matching_records(ROOT / "results", load_matching_recipe(ROOT / "recipes" / f"{name}.yaml"))


@pytest.fixture(scope="module")
def sprites():
    return loaded("cdsprites")


@pytest.fixture(scope="module")
def dials():
    return loaded("cdsprites_dials")


@pytest.fixture(scope="module")
def controls():
    return loaded("cdsprites_controls")


def colours(x):
    return [tuple(colour) for colour in x.amax((2, 3)).tolist()]


def rule_of(environments):
    return {
        colour: label
        for x, y in environments.train.values()
        for colour, label in zip(colours(x), y.tolist(), strict=True)
    }


def reader(environments):
    """Accuracy on the test of whoever has learned each training colour's label."""
    x, y = environments.test["test"]
    rule = rule_of(environments)
    return np.mean([rule[colour] == label for colour, label in zip(colours(x), y.tolist(), strict=True)])


def environments(count, seed):
    return environments_of({"set": "cdsprites", "examples": 100, "domains": count}, seed)


def ends(record, what):
    """One number a seed."""
    return np.array([what(rows[-1]) for rows in looks(record).values()])


def validation(row):
    return np.mean([*row["validation"].values()])


def path(record):
    """Validation and test accuracy at each look, by seed: shape (2, looks, seeds)."""
    return np.array([[(validation(r), r["test"]["test"]) for r in rows] for rows in looks(record).values()]).T


def at_level(record, level):
    """Test accuracy where a run first reaches a validation accuracy; NaN where it does not."""
    return np.array(
        [
            np.interp(level, np.maximum.accumulate(held_out), test, right=np.nan)
            for held_out, test in np.moveaxis(path(record), 2, 0)
        ]
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_colour_tells_the_label_in_training_and_nothing_in_the_test(seed):
    made = environments(5, seed)
    rule = rule_of(made)
    assert len(rule) == 10
    for x, y in made.train.values():
        assert len(set(colours(x))) == 2
        assert [rule[colour] for colour in colours(x)] == y.tolist()
    assert abs(reader(made) - 0.5) < 0.1
    x, y = made.test["test"]
    for label in (0, 1):
        assert len(set(colours(x[y == label]))) == 10


@pytest.mark.parametrize("count", [2, 5])
def test_with_few_domains_every_run_is_the_colour_reader(sprites, count):
    """To one sprite of 200, but for the runs that ran away."""
    for seed in (0, 1, 2):
        expected = reader(environments(count, seed))
        for name in NAMES:
            if (f"{name}-N{count}", seed) not in RAN_AWAY:
                assert abs(final_accuracies(sprites[f"{name}-N{count}"])[seed] - expected) < 0.0051


def test_idgm_ran_away_in_three_runs(sprites):
    found = {
        (name, seed) for name, record in sprites.items() for seed, r in looks(record).items() if r[-1]["loss"] > 10
    }
    assert found == RAN_AWAY
    assert all(final_accuracies(sprites[name])[seed] == 0.5 for name, seed in RAN_AWAY)


def test_accuracies_lie_where_the_figure_shows_them(sprites):
    right = {name: np.array(final_accuracies(record)) for name, record in sprites.items()}
    for count in (2, 5, 15):
        for name in NAMES:
            assert np.abs(right[f"{name}-N{count}"] - 0.5).max() <= 0.11
    mean = {name: right[f"{name}-N50"].mean() for name in NAMES}
    assert min(mean[name] for name in ("erm", "idgm", "minibatches")) > 0.8
    assert 0.6 < min(mean["fish"], mean["random-groups"]) < max(mean["fish"], mean["random-groups"]) < 0.7
    assert abs(mean["reptile"] - 0.5) < 0.03


def test_at_n_50_the_test_climbs_with_validation_and_at_15_it_does_not(sprites):
    for name in NAMES:
        assert path(sprites[f"{name}-N15"])[1].max() <= 0.62
    nearly = ends(sprites["minibatches-N15"], lambda row: row["loss"])
    assert nearly.max() < 0.04  # these have nearly fitted their data, and are colour readers all the same
    for name in set(NAMES) - {"reptile"}:
        held_out, test = path(sprites[f"{name}-N50"])
        assert np.corrcoef(held_out.ravel(), test.ravel())[0, 1] > 0.75
    assert path(sprites["reptile-N50"]).max() < 0.61


@pytest.mark.parametrize("level", [0.7, 0.8])
def test_true_domains_share_the_higher_course_and_fish_is_not_ahead_of_erm(sprites, level):
    found = {name: at_level(sprites[f"{name}-N50"], level) for name in NAMES if name != "reptile"}
    mean = {name: np.nanmean(values) for name, values in found.items()}
    assert min(mean[name] for name in TRUE) > max(mean[name] for name in RANDOM) + 0.03
    assert mean["fish"] < mean["erm"]
    both = np.isfinite(found["fish"]) & np.isfinite(found["random-groups"])
    ahead = (found["fish"] - found["random-groups"])[both]
    assert len(ahead) == (2 if level == 0.7 else 1)
    assert 0 < ahead.min() <= ahead.max() < 0.1


def test_eps_alone_separates_random_groups_from_minibatches(sprites):
    one, other = (sprites[f"{name}-N50"] for name in RANDOM)
    differ = {key for key in one["config"] if one["config"][key] != other["config"][key]}
    assert differ == {"settings"}
    assert (one["config"]["settings"], other["config"]["settings"]) == ({"eps": 1.0}, {"eps": 0.5})
    loss = [ends(record, lambda row: row["loss"]) for record in (one, other)]
    assert (loss[1] > 2 * loss[0]).all()
    assert (np.array(final_accuracies(one)) > np.array(final_accuracies(other)) + 0.1).all()
    assert abs(np.nanmean(at_level(one, 0.7)) - np.nanmean(at_level(other, 0.7))) < 0.03


def test_updates_take_as_many_gradients(sprites, dials):
    for name, record in (sprites | dials).items():
        training, domains = record["config"]["training"], record["config"]["data"]["domains"]
        if domains >= 15:
            assert training["steps"] * (training["domains_per_step"] or domains) == 9000, name


def test_the_exact_gip_has_no_common_trend(sprites):
    cosine = {}
    for name in ("fish", "erm"):
        runs = looks(sprites[f"{name}-N15"]).values()
        for what in ("domain_gip", "domain_cosine"):
            change = np.array([rows[-1][what] - rows[0][what] for rows in runs])
            assert change.min() < 0 < change.max()
        cosine[name] = np.array([[row["domain_cosine"] for row in rows] for rows in runs])
    assert np.abs(cosine["fish"]).max() < 0.15
    assert cosine["erm"].std() > 1.5 * cosine["fish"].std()


def test_fish_s_minibatches_pull_apart_and_reptiles_agree(sprites):
    def mean_cosines(name):
        return np.array([np.mean([row["cosine"] for row in rows]) for rows in looks(sprites[name]).values()])

    for count in (15, 50):
        fish = mean_cosines(f"fish-N{count}")
        assert (fish < mean_cosines(f"random-groups-N{count}")).all()
        assert (fish < 0).all()
        assert (mean_cosines(f"reptile-N{count}") > 0.35).all()


def test_the_dials(sprites, dials):
    test = {name: np.array(final_accuracies(record)) for name, record in dials.items()}
    loss = {name: ends(record, lambda row: row["loss"]) for name, record in dials.items()}
    held_out = {name: ends(record, validation).mean() for name, record in dials.items()}
    fish = sprites["fish-N15"]
    assert (
        loss["eps-1"].mean() < ends(fish, lambda row: row["loss"]).mean() < loss["eps-0.15"].mean()
    )  # eps orders progress
    assert held_out["eps-0.15"] < ends(fish, validation).mean() < held_out["eps-1"]
    assert max(values.max() for values in test.values()) < 0.7  # none is near 90 %
    assert max(test, key=lambda name: test[name].mean()) == "sgd-0.1"
    assert sum(held_out["sgd-0.1"] < value for value in held_out.values()) > len(dials) / 2
    assert np.abs(loss["sgd-0.3"] - np.log(2)).max() < 0.01
    assert (np.abs(loss["rate-0.003"] - np.log(2)) < 1e-3).sum() == 1
    assert np.sort(loss["rate-0.003"])[1] < ends(fish, lambda row: row["loss"]).mean() < loss["rate-0.0003"].mean()
    for name in ("fixed-order", "inner-5"):
        assert abs(test[name].mean() - np.mean(final_accuracies(fish))) < np.ptp(final_accuracies(fish))
    grew = [rows[-1]["loss"] > rows[-2]["loss"] for rows in looks(dials["forget"]).values()]
    assert sum(grew) == 2
    assert loss["forget"].min() > 0.5
    assert held_out["forget"] > 0.84


def test_with_eps_1_fish_reads_the_shape_at_n_50_and_is_not_ahead_of_minibatches(sprites, controls):
    fish, plain = (
        np.array(final_accuracies(record)) for record in (controls["fish-eps-1-N50"], sprites["minibatches-N50"])
    )
    assert (fish > 0.7).all()
    assert (fish < plain[: len(fish)]).all()
    assert sum(a > 0.7 for a in final_accuracies(sprites["fish-N50"])) == 1


def test_erm_by_sgd_at_the_matched_rate_does_not_learn(controls):
    for n in (15, 50):
        assert max(np.abs(np.array(final_accuracies(controls[f"sgd-erm-N{n}"])) - 0.5)) < 0.05


def test_a_loop_by_sgd_is_ahead_on_true_domains_in_one_seed_and_level_in_the_other(controls):
    for n in (15, 50):
        pair = (np.array(final_accuracies(controls[f"{name}-N{n}"])) for name in ("sgd-fish", "sgd-random"))
        low, high = sorted(np.subtract(*pair))
        assert abs(low) < 0.04 < 0.07 < high


def test_a_seed_by_sgd_does_not_say_where_a_run_ends(dials, controls):
    first, again = (final_accuracies(record) for record in (dials["sgd-0.1"], controls["sgd-fish-N15"]))
    apart = np.abs(np.subtract(first[: len(again)], again))
    assert apart[0] > 0.2
    assert apart[1] < 0.02


def test_the_rules_can_fail_and_can_hold(sprites):
    """Records that had come out as the paper says would decide so, and each rule by itself."""
    assert {status for status, _ in cdsprites_verdicts(sprites).values()} == {"differs"}

    def put(record, test, rising):
        rows = [row | {"test": {"test": test}, "domain_gip": rising * row["step"]} for row in record["rows"]]
        return dict(record) | {"rows": rows}

    good = {
        name: put(record, 0.97 if name.startswith("fish") else 0.5, 1 if name.startswith("fish") else -1)
        for name, record in sprites.items()
    }
    assert {status for status, _ in cdsprites_verdicts(good).values()} == {"reproduced in part"}
