"""Runs node's own test runner on the landscape's maths, against the paths that the package's own algorithms take."""

import json

import numpy as np
import pytest

from gentangle.display.landscape import DomainLandscape


def golden_widgets() -> list[dict]:
    rng = np.random.default_rng(0)
    states = [
        {
            "minima": rng.uniform(-3, 3, size=(4, 2)).tolist(),
            "start": rng.uniform(-3, 3, size=2).tolist(),
            "domains": 2 + number % 3,
            "flat": rng.uniform(0.05, 2),
            "alpha": rng.uniform(0.02, 1.2),
            "eps": rng.uniform(0.02, 1),
            "gamma": rng.uniform(0, 1),
            "steps": 10,
            "order": ("there-and-back", "fixed")[number % 2],
        }
        for number in range(36)
    ]
    # And the defaults; an inner rate that is too long for Fish; a step that is too long for ERM.
    extremes: list[dict] = [{}, {"alpha": 1.2, "eps": 0.1}, {"alpha": 1.2, "eps": 1.0, "domains": 4}]
    widgets = [DomainLandscape(**state) for state in states + extremes]
    golden = []
    for widget in widgets:
        paths = widget.paths()
        points = {name: path.tolist() for name, path in paths.items()}
        golden.append({"state": widget.state(), "paths": points, "reading": widget.reading(paths)})
    return golden


@pytest.fixture(scope="module")
def widgets():
    return golden_widgets()


@pytest.mark.parametrize("wrong", [0.0, 1e-6])
def test_maths_of_the_module_is_the_packages_and_a_wrong_number_fails(run_node, widgets, wrong):
    changed = json.loads(json.dumps(widgets))
    changed[0]["paths"]["fish"][5][0] += wrong
    done = run_node("landscape", {"widgets": changed})
    assert (done.returncode == 0) == (not wrong), done.stdout + done.stderr
    assert ("fish step 5 of" if wrong else "pass 5") in done.stdout  # node counts a file without tests as passed
