"""Other libraries' Gram matrices, where they apply, are the engine's."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench(load_script):
    return load_script("benchmarks/bench_libraries.py")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["conv net", "GPT-2", "Llama"])
def test_each_way_says_what_the_committed_table_says(bench, name):
    table = dict(json.loads((ROOT / "results" / "libraries.json").read_text())["ratios"])
    for way, call in bench.WAYS.items():
        said, committed = bench.verdict(call, name), table[f"{way}, {name}"]
        assert (said is None) == isinstance(committed, float), f"{way}: {said}"
    agree = {"gentangle", "gentangle, checked", "vmap(grad)"} | (set() if name == "GPT-2" else {"Opacus per-sample"})
    assert all(isinstance(table[f"{way}, {name}"], float) for way in agree)
