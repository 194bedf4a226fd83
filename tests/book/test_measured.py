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
    assert load_script("book/_ext/measured.py").reached(name, ratio, target) is expected


def test_a_remedys_row_is_the_mean_over_its_seeds(load_script):
    def record(after, intended):
        return {
            "held_out": {"before": [[0.0, 1.0], [0.5, 0.0]], "after": after},
            "log": [{"entanglement/intended": intended}, {"loss": 1.0}],
        }

    row = load_script("book/_ext/measured.py").remedy_row
    records = [record([[-1.0, 0.0], [-2.0, -2.0]], 1.0), record([[-3.0, -2.0], [-2.0, -2.0]], 0.5)]
    assert row(records) == ("2", "-2.0", "-2.2", "50%", "50%, 50%", "75%")
