"""Memory that is counted without being taken: the committed table, and the count beside real tensors at toy size."""

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
from transformers import LlamaConfig

SHAPE = LlamaConfig(
    vocab_size=4200,
    hidden_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=96,
    max_position_embeddings=64,
)


@pytest.fixture
def script(load_script, monkeypatch):
    monkeypatch.syspath_prepend("benchmarks")  # it reads expect_scale.py, which lies beside it
    return load_script("benchmarks/count_memory.py")


def test_the_table_follows_from_the_counts(script):
    committed, measured = (json.loads(path.read_text()) for path in (script.RESULT, script.MEASURED))
    again = script.record(committed["recipes"], measured["recipes"])
    assert committed["ratios"] == json.loads(json.dumps(again["ratios"]))
    assert set(committed["recipes"]) == {path.stem for path in script.RECIPES.glob("*.yaml")}


def test_the_formula_says_what_is_counted_and_the_count_what_was_measured(script):
    committed, measured = (json.loads(path.read_text())["recipes"] for path in (script.RESULT, script.MEASURED))
    for name, one in committed.items():
        assert 0.9 < one["plain"] / one["formula"] < 1.1, name
        assert one["plain"] <= one["read"] <= one["forecast"] < one["formula_forecast"], name
    for name, one in measured.items():  # when the last forecast's factors were held, and in float32
        counted = committed[name]["plain"] + committed[name]["kept_wide"]
        assert one["gigabytes"] == pytest.approx(counted, rel=0.02), name


@pytest.mark.training
@pytest.mark.parametrize("reading", ["plain", "read", "forecast"])
@pytest.mark.parametrize("recipe", ["tldr-mistral-7b", "hh-pythia-1.4b"])
def test_tensors_with_contents_take_what_is_counted_without(recipe, reading, script, monkeypatch):
    """Adapters, bfloat16 and checkpointed layers; and all weights, float32 under autocast, with a reference.

    Without contents torch takes some operations apart, and a piece stands for a moment: .7 percent at this size.
    """
    given = replace(script.load_recipe(script.RECIPES / f"{recipe}.yaml"), processes=1)
    counted = script.count(given, SHAPE, reading)
    monkeypatch.setattr(script, "FakeTensorMode", nullcontext)
    assert script.count(given, SHAPE, reading) == pytest.approx(counted, rel=0.01)
