"""DomainBed's three rules to choose a model without, or with, the test domain."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gentangle.errors import InputError, one_of

Row = Mapping[str, Any]


def select(rows: Mapping[str, Sequence[Row]], test_domain: str, rule: str) -> tuple[str, float]:
    """Hyperparameters that a rule chooses for a test domain, and the test accuracy of what it chooses.

    ``training`` takes the hyperparameters and the step with the best mean accuracy on the held-out fifths of the
    training domains; ``leave-one-out`` the hyperparameters that do best, on average, on each training domain when that
    is left out as well; ``oracle`` those that do best on the test domain's own fifth. The last two look at a run's end.

    Args:
        rows: one seed's looks, by name of the hyperparameters, as ``run_algorithm`` makes them, of the runs that left
            out the test domain, and for ``leave-one-out`` of those that left out one more.
        test_domain: its name.
        rule: of :data:`RULES`.

    Raises:
        InputError: an unknown rule, or a run that is missing.

    Source: Gulrajani and Lopez-Paz, arXiv 2007.01434, section on model selection.
    """
    one_of(rule, RULES, f"Unknown rule {rule!r}.")
    scored = [(*RULES[rule](looks, test_domain), name) for name, looks in rows.items()]
    _, row, name = max(scored, key=lambda found: found[0])
    return name, float(row["test"][test_domain])


def runs_without(rows: Sequence[Row], left_out: set[str]) -> list[Row]:
    """The looks of the run that left out these domains, in order.

    Raises:
        InputError: there is none.
    """
    found = sorted((row for row in rows if set(row["left_out"]) == left_out), key=lambda row: row["step"])
    if not found:
        raise InputError(f"No run left out {sorted(left_out)}: the rule needs it.")
    return found


def _training(rows: Sequence[Row], test: str) -> tuple[float, Row]:
    def held_out(row: Row) -> float:
        return float(np.mean([v for name, v in row["validation"].items() if name != test]))

    best = max(runs_without(rows, {test}), key=held_out)
    return held_out(best), best


def _oracle(rows: Sequence[Row], test: str) -> tuple[float, Row]:
    last = runs_without(rows, {test})[-1]
    return last["validation"][test], last


def _leave_one_out(rows: Sequence[Row], test: str) -> tuple[float, Row]:
    last = runs_without(rows, {test})[-1]
    others = [name for name in last["validation"] if name != test]
    return float(np.mean([runs_without(rows, {test, name})[-1]["test"][name] for name in others])), last


RULES: Mapping[str, Callable[[Sequence[Row], str], tuple[float, Row]]] = {
    "training": _training,
    "leave-one-out": _leave_one_out,
    "oracle": _oracle,
}
