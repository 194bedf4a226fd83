import pytest

from gentangle.errors import InputError
from gentangle.matching.selection import RULES, select


def look(left_out, step, validation, test):
    return {"left_out": left_out, "step": step, "validation": validation, "test": test}


#: Two hyperparameters. By the training domains "a" at step 1 is best; by the oracle "b"; leaving one more out, "b".
ROWS = {
    "a": [
        look(["t"], 1, {"t": 0.1, "p": 0.9, "q": 0.9}, {"t": 0.31}),
        look(["t"], 2, {"t": 0.5, "p": 0.8, "q": 0.9}, {"t": 0.32}),
        look(["t", "p"], 2, {}, {"t": 0, "p": 0.4}),
        look(["q", "t"], 2, {}, {"t": 0, "q": 0.5}),
    ],
    "b": [
        look(["t"], 2, {"t": 0.6, "p": 0.8, "q": 0.85}, {"t": 0.42}),
        look(["t"], 1, {"t": 0.9, "p": 0.7, "q": 0.7}, {"t": 0.41}),
        look(["t", "p"], 2, {}, {"t": 1, "p": 0.5}),
        look(["t", "q"], 2, {}, {"t": 1, "q": 0.5}),
    ],
}


@pytest.mark.parametrize(
    ("rule", "expected"), [("training", ("a", 0.31)), ("oracle", ("b", 0.42)), ("leave-one-out", ("b", 0.42))]
)
def test_each_rule_chooses_by_what_it_may_see(rule, expected):
    assert select(ROWS, "t", rule) == expected
    assert set(RULES) == {"training", "oracle", "leave-one-out"}


def test_the_training_rule_never_looks_at_the_test_domain():
    changed = {
        name: [row | {"validation": row["validation"] | {"t": 1 - i}} for i, row in enumerate(rows)]
        for name, rows in ROWS.items()
    }
    assert select(changed, "t", "training") == select(ROWS, "t", "training")


def test_an_unknown_rule_and_a_missing_run_are_refused():
    with pytest.raises(InputError, match="Unknown rule 'orcale'.*oracle"):
        select(ROWS, "t", "orcale")
    with pytest.raises(InputError, match=r"No run left out \['p', 't'\]"):
        select({"a": ROWS["a"][:2]}, "t", "leave-one-out")
