"""The committed cost of a step with each remedy is of the benchmark as it stands."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_ratios_follow_from_the_committed_seconds(load_script):
    bench = load_script("benchmarks/bench_remedies.py")
    result = json.loads((ROOT / "results" / "remedy_steps.json").read_text())
    assert len(result["ratios"]) == 2
    for size, ratios in result["ratios"].items():
        assert list(ratios) == sorted(bench.WAYS)
        assert ratios == pytest.approx(bench.ratios(result["seconds"][size]))
        assert all(len(seconds) >= bench.ROUNDS for seconds in result["seconds"][size].values())
