"""Steps of the papers' recipes on a GPU: the committed table, and the same code on two layers, on the CPU."""

import json
import statistics
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig

RECIPE = "tldr-mistral-7b"
SHAPE = LlamaConfig(
    vocab_size=4200,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    intermediate_size=64,
    max_position_embeddings=32,
)


@pytest.fixture
def bench(load_script, monkeypatch):
    monkeypatch.syspath_prepend("benchmarks")  # it reads expect_scale.py, which lies beside it
    return load_script("benchmarks/bench_papers_step.py")


def test_the_table_follows_from_the_steps(bench):
    committed = json.loads(bench.RESULT.read_text())
    assert committed["ratios"] == json.loads(json.dumps(bench.record(committed["recipes"])["ratios"]))
    assert len(committed["ratios"]) >= 3
    for name, found in committed["recipes"].items():
        steps, stage = found["seconds_of_steps"], bench.load_recipe(bench.RECIPES / f"{name}.yaml").preference
        plain = statistics.median(s for i, s in enumerate(steps[1:], 1) if i % bench.READ_EVERY)
        assert found["seconds"] == pytest.approx(plain)
        assert found["hours"] == pytest.approx(plain * stage.steps / 3600)
        assert found["read_ratio"] == pytest.approx(steps[bench.READ_EVERY] / plain)


@pytest.mark.training
def test_a_small_model_takes_the_same_way(bench, monkeypatch):
    recipe = bench.load_recipe(bench.RECIPES / f"{RECIPE}.yaml")
    monkeypatch.setitem(bench.CONFIGS, recipe.model, SHAPE)
    found = bench.measure(replace(recipe, processes=1), "cpu")
    assert len(found["seconds_of_steps"]) == bench.STEPS
    assert found["flops"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(bench, capsys):
    before = bench.RESULT.read_bytes()
    bench.main([])
    assert "no GPU" in capsys.readouterr().out
    assert bench.RESULT.read_bytes() == before
