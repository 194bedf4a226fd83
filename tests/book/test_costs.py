"""What the page of costs draws and says, from the committed measurements."""

import json
from collections import defaultdict
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "results"


def read(name):
    return json.loads((RESULTS / name).read_text("utf-8"))


def test_the_count_falls_with_width_and_not_with_pairs():
    """What is counted: the same for any number of pairs, rising with tokens to a plateau, falling with width."""
    growth = read("gram_growth.json")["growth"]
    pairs, tokens, width = ([row["counted"] for row in growth[name]] for name in ("pairs", "tokens", "width"))
    assert len(pairs) > 2
    assert len(set(pairs)) == 1
    assert tokens[:4] == sorted(set(tokens[:4]))
    assert max(tokens[3:]) - min(tokens[3:]) < 0.02 < tokens[3] - tokens[0]
    assert width == sorted(width, reverse=True)
    assert width[-1] < width[0]


def test_what_is_measured_lies_above_the_count():
    """A diagnosed pass is the plain one and what is counted, and Python's own work on top."""
    rows = [row for rows in read("gram_growth.json")["growth"].values() for row in rows]
    assert all(row["ratio"] > 1 + 0.5 * row["counted"] for row in rows)


def test_idgm_from_norms_costs_steps_of_fish_that_the_number_of_domains_leaves_alone():
    """And visited pair by pair it grows with the number of domains, at every width."""
    norms, pairs = defaultdict(list), defaultdict(list)
    for row in sorted(read("fish_step.json")["curve"], key=lambda row: row["domains"]):
        norms[row["width"]].append(row["idgm"] / row["fish"])
        pairs[row["width"]].append(row["idgm_pairs"] / row["fish"])
    assert len(norms) == 3
    for width in norms:
        spread = max(norms[width]) / min(norms[width])
        assert spread < 1.5
        assert pairs[width] == sorted(pairs[width])
        assert pairs[width][-1] / pairs[width][0] > 1.5 * spread
