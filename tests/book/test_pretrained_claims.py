"""What chapter 11 says of the pretrained model's runs, from the committed records."""

from pathlib import Path

import numpy as np
import pytest

from gentangle.alignment.conditions import INTENDED
from gentangle.alignment.forecasts import agreement
from gentangle.alignment.recipes import load_recipe
from gentangle.alignment.records import load_records, rows_of
from gentangle.alignment.stages import KINDS
from gentangle.alignment.verdicts import held_out, stage
from gentangle.profiles import profile

ROOT = Path(__file__).parents[2]
RECIPE = load_recipe(ROOT / "recipes" / "reviews.yaml")
HUMAN = ("full", "lora-2", "lora-16", "lora-64")


@pytest.fixture(scope="module")
def forms():
    return load_records(ROOT / "results", load_recipe(ROOT / "recipes" / "tweets_smollm2.yaml"))


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


def test_in_training_chosen_rises_but_in_the_run_that_went_furthest(records):
    for name, seeds in records.items():
        for record in seeds:
            first, *_, last = rows_of(record["rows"], "track", "train")
            assert (np.mean(last["chosen"]) > np.mean(first["chosen"])) == (name != "lora-64")


def test_larger_ranks_go_further_at_one_rate(records):
    for seeds in zip(*(records[f"lora-{rank}"] for rank in (2, 16, 64)), strict=True):
        small, middle, large = (held_out(record).chosen for record in seeds)
        assert small > middle > large


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


def test_the_optimizers_own_step_is_forecast(forms, records):
    rows = [
        row for seeds in [*forms.values(), *records.values()] for r in seeds for row in rows_of(r["rows"], "forecast")
    ]
    found = agreement(rows, "step", profile().tolerance.noise_floor)
    assert found.cases > 100
    assert found.signs >= 0.95
