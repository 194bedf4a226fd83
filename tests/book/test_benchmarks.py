"""The table of a benchmark's ratios beside their targets."""

import pytest


@pytest.mark.parametrize(
    ("name", "ratio", "target", "expected"),
    [
        ("diagnosed_step_64", 1.1, 1.15, True),
        ("diagnosed_step_64", 1.2, 1.15, False),
        ("diagnosed_step_64", 1.15, 1.15, True),
        ("paper_way_speedup", 5.1, 5.0, True),
        ("paper_way_speedup", 4.9, 5.0, False),
    ],
)
def test_a_cost_is_reached_from_below_and_a_speedup_from_above(load_script, name, ratio, target, expected):
    assert load_script("book/_ext/benchmarks.py").reached(name, ratio, target) is expected
