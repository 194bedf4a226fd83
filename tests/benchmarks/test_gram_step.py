"""The committed figures are of the benchmark as it stands; the first is measured again, with room for noise."""

import json
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
GUARD = 1.35  # the target is 1.15; what lies between is noise of a shared machine


@pytest.fixture(scope="module")
def bench(load_script):
    return load_script("benchmarks/bench_gram_step.py")


def test_every_case_has_a_committed_figure_that_follows_from_its_seconds(bench):
    result = json.loads((ROOT / "results" / "gram_step.json").read_text())
    assert set(result["ratios"]) == {*bench.CASES, "diagnosed_memory_64", "token_gram_40_memory"}
    for name, (way, _, _, against, target) in bench.CASES.items():
        seconds = result["seconds"][name]
        assert len(seconds[way]) >= 7
        assert result["ratios"][name] == pytest.approx(bench.ratio_of(way, against, seconds), abs=1e-3)
        assert result["targets"][name] == target
    memory = result["memory_bytes"]
    assert result["ratios"]["diagnosed_memory_64"] == pytest.approx(memory["pairs"] / memory["plain"], abs=1e-3)
    memory = result["token_memory_bytes"]
    assert memory["kept_gradients"] == 2 * bench.TOKENS * 134_515_008 * 4
    ratio = (memory["used"] - memory["bare"]) / memory["kept_gradients"]
    assert result["ratios"]["token_gram_40_memory"] == pytest.approx(ratio, abs=1e-3)


@pytest.mark.training
def test_a_diagnosed_step_costs_little_more_than_a_plain_one(bench, monkeypatch):
    """On six of the thirty layers, which differ from one another in nothing."""
    monkeypatch.setattr(bench, "REPEATS", 5)
    monkeypatch.setattr(bench.SMOLLM2, "num_hidden_layers", 6)
    threads = torch.get_num_threads()
    seconds = bench.measure("pairs", 64, 4, "plain")
    assert torch.get_num_threads() == threads
    assert min(seconds["pairs"]) < GUARD * min(seconds["plain"])  # the quickest of each: what disturbs only adds
