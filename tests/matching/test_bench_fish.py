"""The benchmark's ways at toy size: each takes a step, and both ways to IDGM the same one."""

import pytest
import torch


@pytest.fixture(scope="module")
def bench(load_script):
    return load_script("benchmarks/bench_fish.py")


def test_every_way_is_timed_and_every_target_has_a_ratio(bench):
    seconds = bench.measure(2, 8, 2)
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys(bench.WAYS, 2)
    assert {*bench.ratios_of(seconds), "fish_memory"} == set(bench.TARGETS)
    assert bench.copies_of({"copy": [1, 11], "plain": [5, 25], "fish": [6, 36]}, "fish") == 1.0


def test_both_ways_to_idgm_take_the_same_step(bench):
    ends = []
    for way in ("idgm", "idgm_pairs"):
        steps = bench.Steps(4, 8)
        bench.WAYS[way](steps)
        ends.append(torch.cat([p.detach().flatten() for p in steps.model.parameters()]))
    torch.testing.assert_close(*ends)
