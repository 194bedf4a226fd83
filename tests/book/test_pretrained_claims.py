"""What chapter 11 says of the pretrained model's runs, from the committed records."""

from pathlib import Path

import numpy as np
import pytest

from gentangle.alignment.conditions import BOTH_DOWN, INTENDED
from gentangle.alignment.forecasts import agreement
from gentangle.alignment.recipes import load_recipe
from gentangle.alignment.records import load_record, load_records, look_cosines, rows_of
from gentangle.alignment.stages import KINDS
from gentangle.alignment.verdicts import chosen_changes, first_cosine, held_out, median_cosine, stage
from gentangle.profiles import profile

ROOT = Path(__file__).parents[2]
RECIPE = load_recipe(ROOT / "recipes" / "reviews.yaml")
HUMAN = ("full", "lora-2", "lora-16", "lora-64")


@pytest.fixture(scope="module")
def forms():
    return load_records(ROOT / "results", load_recipe(ROOT / "recipes" / "tweets_smollm2.yaml"))


@pytest.fixture(scope="module")
def small():
    return load_records(ROOT / "results", load_recipe(ROOT / "recipes" / "tweets.yaml"))


@pytest.fixture(scope="module")
def schedule():
    """By form, every record by the paper's schedule: seed 0's, which the recipe has, and the two of seed 1."""
    recipe = load_recipe(ROOT / "recipes" / "gpu" / "tweets_smollm2_paper.yaml")
    found = load_records(ROOT / "results", recipe)
    for form in ("one-token", "long-suffix"):
        found[form] = [*found[form], load_record(ROOT / "results", recipe.name, form, 1)]
    return found


def missed(records, when, side="miss_chosen"):
    """Median share of a suffix token's probability that is missed, over held-out pairs and seeds."""
    return np.median([value for record in records for value in stage(record, when, "held_out")[side]])


def all_cosines(records, when):
    return np.concatenate([look_cosines(stage(record, when, "held_out")) for record in records])


def cosine(blocks):
    w, inner, l = np.sum(blocks, axis=0)
    return inner / np.sqrt(w * l)


def by_part(record, when):
    return {part: cosine(blocks) for part, blocks in stage(record, when, "held_out")["parts"].items()}


def test_layers_share_the_sign_of_the_whole(forms, records):
    """After one token and a shared template layers agree with each other; between sentences none is far from zero."""
    for when in ("supervised", "preference"):
        for record in forms["one-token"]:
            assert max(value for part, value in by_part(record, when).items() if part.startswith("layer")) < 0
    for when in ("base", "supervised", "preference"):
        for record in forms["long-suffix"]:
            layers = [value for part, value in by_part(record, when).items() if part.startswith("layer")]
            assert min(layers) > 0.5
        for record in records["full"]:
            layers = [value for part, value in by_part(record, when).items() if part.startswith("layer")]
            assert max(np.abs(layers)) < 0.4


def test_layers_and_kinds_are_the_same_gram_matrix(records):
    for seeds in records.values():
        for record in seeds:
            parts = stage(record, "preference", "held_out")["parts"]
            kinds = sum(np.array(parts[kind]) for kind in KINDS if kind in parts)
            layers = sum(np.array(rows) for part, rows in parts.items() if part not in KINDS)
            np.testing.assert_allclose(kinds, layers, rtol=1e-3, atol=1e-3 * np.abs(kinds).max())


def test_between_sentences_nearly_every_pair_s_own_step_is_as_intended(records):
    for name in HUMAN:
        for record in records[name]:
            cases = np.concatenate([look["case"] for look in rows_of(record["rows"], "track")])
            assert np.mean(cases == INTENDED) > 0.95


def test_held_out_chosen_falls_on_people_s_sentences_and_rises_on_the_policy_s_own(records):
    for name, seeds in records.items():
        for record in seeds:
            assert (held_out(record).chosen < 0) == (name in HUMAN)


def test_in_training_the_seeds_part_on_people_s_sentences_and_agree_on_the_policy_s_own(records):
    rose = {}
    for name, seeds in records.items():
        for seed, record in enumerate(seeds):
            first, *_, last = rows_of(record["rows"], "track", "train")
            rose[name, seed] = np.mean(last["chosen"]) > np.mean(first["chosen"])
    assert {name for name in HUMAN if rose[name, 0]} == {"full", "lora-2", "lora-16"}
    assert not any(rose[name, 1] for name in HUMAN)
    assert all(rose[name, seed] for name in ("full-sampled", "lora-16-sampled") for seed in (0, 1))


def test_first_cosines_tell_whose_sentences_they_are_in_one_seed_of_two(records):
    """Seed 0: zero against a few hundredths. Seed 1: the same few hundredths."""
    for own, people in (("full-sampled", "full"), ("lora-16-sampled", "lora-16")):
        (own_0, own_1), (people_0, people_1) = ([first_cosine(r) for r in records[name]] for name in (own, people))
        assert abs(own_0) < 0.01 < 0.03 < people_0
        assert 0.02 < own_1 < 0.04
        assert abs(own_1 - people_1) < 0.005


def test_each_seed_of_the_reviews_was_made_where_the_chapter_says(records):
    for seeds in records.values():
        assert [record["provenance"]["device"] for record in seeds] == ["cpu", "NVIDIA H200"]


def test_larger_ranks_go_further_at_one_rate(records):
    for seeds in zip(*(records[f"lora-{rank}"] for rank in (2, 16, 64)), strict=True):
        small, middle, large = (held_out(record).chosen for record in seeds)
        assert 0 > small > middle > large
        assert large < 45 * small


def test_cosines_are_ordered_as_in_the_small_model(forms):
    for seeds in zip(*forms.values(), strict=True):
        one, short, long, natural = (held_out(record).first_cosine for record in seeds)
        assert one < short < 0 < long < natural


def test_contrast_tokens_are_negative_but_for_one_pair_of_the_natural_continuation(forms):
    for form, seeds in forms.items():
        for record in seeds:
            contrast = np.array(stage(record, "supervised", "held_out")["contrast_cosine"])
            if form == "natural-continuation":
                assert max(contrast) > 0.5
                assert abs(min(contrast)) < 0.1
            else:
                assert max(contrast) < 0


def test_short_suffix_moves_chosen_by_little_and_not_one_way(forms):
    moved = [held_out(record).chosen for record in forms["short-suffix"]]
    assert sorted(np.sign(moved)) == [-1, 1, 1, 1, 1]
    assert min(moved) > -0.05
    assert max(moved) < 0.25  # a quarter of a nat, as the chapter says


def test_one_tokens_mean_falls_while_five_pairs_of_six_rise(forms):
    for record in forms["one-token"]:
        end = held_out(record)
        assert end.chosen < 0
        assert end.share_falling < 0.2


def test_other_pairs_push_more_than_the_pair_s_own_rejected_response(records):
    for name in HUMAN:
        looks = [look for record in records[name] for look in rows_of(record["rows"], "forecast")]
        own_w, own_l, other_w, other_l = np.concatenate([x["preconditioned_attribution"] for x in looks]).mean(0)
        assert other_l < 2 * own_l < 0 < own_w
        assert other_w < 0


def test_other_pairs_push_the_policy_s_own_sentences_down_as_much_as_people_s(records):
    def others(name):
        looks = [look for record in records[name] for look in rows_of(record["rows"], "forecast")]
        own, _, other_w, other_l = np.concatenate([x["preconditioned_attribution"] for x in looks]).mean(0)
        return (other_w + other_l) / own

    for name in ("full", "lora-16"):
        assert others(f"{name}-sampled") < others(name) < -0.5


# ---- by the paper's own schedule ----


def test_every_first_look_forecasts_the_intended_case_but_the_natural_continuation_s(schedule):
    for form, seeds in schedule.items():
        for group in ("held_out", "train"):
            look = rows_of(seeds[0]["rows"], "track", group)[0]
            below = 2 if form == "natural-continuation" else 0
            assert sorted(look["case"]) == sorted([BOTH_DOWN] * below + [INTENDED] * (8 - below))
            ratio = np.median(np.sqrt(np.divide(look["chosen_norm_sq"], look["rejected_norm_sq"])))
            assert (ratio < 0.011) == (form != "natural-continuation")


def test_by_the_paper_s_schedule_only_the_natural_continuation_stays_positive(schedule):
    """In training and held out, at every look, both seeds; rejected falls far, and chosen stays."""
    for form, seeds in schedule.items():
        for record in seeds:
            for group in ("held_out", "train"):
                looks = rows_of(record["rows"], "track", group)
                cosines = np.array([median_cosine(look) for look in looks])
                if form == "natural-continuation":
                    assert cosines.min() > 0.6
                else:
                    assert cosines.max() < -0.1
                    assert cosines[0] == cosines.min()
                changes = [np.mean(looks[-1][side]) - np.mean(looks[0][side]) for side in ("chosen", "rejected")]
                assert changes[1] < -14
                assert abs(changes[0]) < 0.5


def test_the_long_suffix_s_cosine_falls_with_what_is_missed_of_it(forms, schedule):
    """Base, 12 steps, 128 steps of one model: misses and size vanish, shared tokens stay parallel, contrast turns."""
    stages = [
        (forms["long-suffix"], "base"),
        (forms["long-suffix"], "supervised"),
        (schedule["long-suffix"], "supervised"),
    ]
    misses = [missed(*which) for which in stages]
    assert misses[0] > 0.7 > 0.45 > misses[1] > 0.39
    assert misses[2] < 2e-4
    cosines = [np.median(all_cosines(*which)) for which in stages]
    assert cosines[0] > 0.9 > 0.8 > cosines[1] > 0.7
    assert cosines[2] < -0.98
    looks = [[stage(record, when, "held_out") for record in seeds] for seeds, when in stages]
    sizes = [np.median([x for look in of for x in look["head_norm_sq"]]) for of in looks]
    assert sizes[0] > 15_000 > 7_500 > sizes[1] > 7_000
    assert sizes[2] < 0.03
    assert all(np.median([c for look in of for pair in look["shared_cosine"] for c in pair]) > 0.95 for of in looks)
    contrast = [np.median([c for look in of for c in look["contrast_cosine"]]) for of in looks]
    assert contrast[0] > 0.6 > 0 > contrast[1] > -0.3
    assert contrast[2] < -0.9


def test_the_small_model_unlearns_the_template_in_dpo_and_the_schedule_s_does_not(small, schedule):
    for side, grown in (("miss_chosen", 1.9), ("miss_rejected", 2.3)):
        before, after = (missed(small["long-suffix"], when, side) for when in ("supervised", "preference"))
        assert 0.15 < before < 0.16
        assert after > grown * before
        before, after = (missed(schedule["long-suffix"], when, side) for when in ("supervised", "preference"))
        assert 4 * before < after < 1e-3
    assert np.median(all_cosines(small["long-suffix"], "preference")) > 0.8
    assert np.median(all_cosines(schedule["long-suffix"], "preference")) < 0


def test_a_text_that_cannot_be_learnt_stays_missed_alike_and_its_chosen_hardly_falls(schedule):
    (record,) = schedule["natural-continuation"]
    chosen, rejected = (missed([record], "supervised", side) for side in ("miss_chosen", "miss_rejected"))
    assert 0.72 < chosen < rejected < chosen + 0.002
    assert -0.5 < held_out(record).chosen < -0.4
    assert max(stage(record, "supervised", "held_out")["contrast_cosine"]) < -0.9


def test_one_pair_or_two_make_the_fall_of_chosen_and_end_the_other_way_round(schedule):
    lost = {"one-token": {6}, "short-suffix": set(), "long-suffix": {6, 24}}
    for form, pairs in lost.items():
        for record in schedule[form]:
            moved = chosen_changes(record)
            assert set(np.flatnonzero(moved < -1)) == pairs
            assert abs(np.delete(moved, list(pairs)).mean()) < 0.03
            assert np.delete(moved, list(pairs)).min() > -1
            last = rows_of(record["rows"], "track", "held_out")[-1]
            assert all(last["rejected"][pair] > last["chosen"][pair] for pair in pairs)


def test_the_second_seed_agrees_in_every_sign_but_one_of_nothing(schedule):
    """Held-out changes, first and last cosines; training chosen of one token moves by hundredths, either way."""
    for form in ("one-token", "long-suffix"):
        ends = [held_out(record) for record in schedule[form]]
        for part in ("chosen", "rejected", "first_cosine", "cosine"):
            assert {np.sign(getattr(end, part)) for end in ends} == {-1}
        trained = [np.mean(chosen_changes(record, "train")) for record in schedule[form]]
        assert (np.sign(trained[0]) == np.sign(trained[1])) == (form == "long-suffix")
        assert form == "long-suffix" or max(np.abs(trained)) < 0.005
    first, second = (median_cosine(rows_of(r["rows"], "track", "train")[0]) for r in schedule["long-suffix"])
    assert (round(first, 1), round(second, 1)) == (-0.8, -0.4)


def test_the_optimizers_own_step_is_forecast(forms, records):
    rows = [
        row for seeds in [*forms.values(), *records.values()] for r in seeds for row in rows_of(r["rows"], "forecast")
    ]
    found = agreement(rows, "step", profile().tolerance.noise_floor)
    assert found.cases > 100
    assert found.signs >= 0.95
