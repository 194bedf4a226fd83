"""Runs node's own test runner on the replay's reading, against golden numbers from the stored runs by Python."""

import json
import math
from pathlib import Path

import pytest

from gentangle.display.replay import TrainingReplay, replay_data

RESULTS = Path(__file__).parents[2] / "results" / "tweets"


def golden_widgets(data: dict) -> list[dict]:
    golden = []
    for form in data["forms"]:
        for look in range(len(data["steps"]) + 1):
            widget = TrainingReplay(data, form=form, look=look)
            reading = {name: None if math.isnan(value) else value for name, value in widget.reading().items()}
            golden.append({"state": {"form": form, "look": look}, "reading": reading, "when": widget.when()})
    return golden


@pytest.mark.parametrize("wrong", [0.0, 1e-9])
def test_reading_of_the_module_is_pythons_and_a_wrong_number_fails(run_node, wrong):
    forms = sorted(path.name.removesuffix("-seed0.json") for path in RESULTS.glob("*-seed0.json"))
    data = replay_data({form: json.loads((RESULTS / f"{form}-seed0.json").read_text()) for form in forms})
    widgets = golden_widgets(data)
    widgets[0]["reading"]["train_cosine"] += wrong
    done = run_node("replay", {"data": data, "widgets": widgets})
    assert (done.returncode == 0) == (not wrong), done.stdout + done.stderr
    assert ("train_cosine of" if wrong else "pass 4") in done.stdout  # node counts a file without tests as passed
