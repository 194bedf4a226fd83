"""Runs node's own test runner on the widget's maths, against golden numbers from Python."""

from itertools import product

import numpy as np

from gentangle.alignment import conditions
from gentangle.display.geometry import GradientGeometry


def golden_pair(gram, d_chosen=1.0, d_rejected=1.0, eta=1.0) -> dict:
    changes = conditions.first_order_changes(gram, d_chosen, d_rejected, eta)
    return {
        "gram": np.asarray(gram).tolist(),
        "d_chosen": d_chosen,
        "d_rejected": d_rejected,
        "eta": eta,
        "changes": changes.tolist(),
        "holds": [bool(holds) for holds in conditions.conditions_hold(gram, d_chosen, d_rejected)],
        "case": str(conditions.case(changes)),
        "cosine": float(conditions.cosine(gram)),
    }


def golden_pairs() -> list[dict]:
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(240):
        gradients = rng.normal(size=(2, 3)) * 10 ** rng.uniform(-3, 3)
        # Slopes of either sign: with d_w, d_l > 0 the reversed case cannot occur.
        slopes = rng.uniform(-2, 2, size=2)
        pairs.append(golden_pair(gradients @ gradients.T, *slopes.tolist(), float(rng.uniform(1e-3, 1))))
    ties = (
        [[1, 1], [1, 1]],
        [[1, 1], [1, 4]],
        [[4, 1], [1, 1]],
        [[1, 0], [0, 1]],
        [[1, -2], [-2, 4]],
        [[1, 2], [2, 4]],
    )
    return pairs + [golden_pair(gram) for gram in ties]


def golden_widgets() -> list[dict]:
    states = [
        dict(zip(GradientGeometry.state_names, values, strict=True))
        for values in product([0.1, 1.0, 2.95], [0.5, 1.0, 2.0], [0.0, 20.0, 60.0, 90.0, 180.0], [0.5, 1.0, 2.0], [0.3])
    ]
    widgets = [GradientGeometry(**state) for state in states]
    return [{"state": w.state(), "gram": w.gram(), "reading": w.reading()} for w in widgets]


def test_maths_of_the_module_is_pythons(run_node):
    done = run_node("geometry", {"pairs": golden_pairs(), "widgets": golden_widgets()})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pass 5" in done.stdout  # node counts a file without tests as passed


def test_a_wrong_number_fails_in_node(run_node):
    pairs = golden_pairs()
    pairs[0]["changes"][0] *= 1 + 1e-9
    done = run_node("geometry", {"pairs": pairs, "widgets": golden_widgets()})
    assert done.returncode != 0
    assert "change 0 of" in done.stdout
