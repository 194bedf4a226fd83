"""The replay of stored runs in Python: the reduced data against the records, the reading, and the page's HTML."""

import json
import math
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import traitlets
from bs4 import BeautifulSoup

from gentangle import InputError
from gentangle.alignment.conditions import BOTH_DOWN, CASES, REVERSED
from gentangle.alignment.verdicts import median_cosine
from gentangle.display.replay import GROUPS, STAGES, TrainingReplay, replay_data

RESULTS = Path(__file__).parents[2] / "results" / "tweets"
FORMS = ("one-token", "short-suffix", "long-suffix", "natural-continuation")


@pytest.fixture(scope="module")
def records():
    return {form: json.loads((RESULTS / f"{form}-seed0.json").read_text()) for form in FORMS}


@pytest.fixture(scope="module")
def data(records):
    return replay_data(records)


def rows(record, kind, group):
    return [row for row in record["rows"] if row["kind"] == kind and row.get("group") == group]


def test_data_is_small(data):
    assert len(json.dumps(data)) <= 40_000
    assert len(TrainingReplay(data).static_html()) <= 40_000


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("form", FORMS)
def test_reading_is_the_records(records, data, form, group):
    looks = rows(records[form], "track", group)
    assert data["steps"] == [look["step"] for look in looks]
    for number, look in enumerate([rows(records[form], "stage", group)[0], *looks]):
        reading = TrainingReplay(data, form=form, look=number).reading()
        assert reading[f"{group}_chosen"] == pytest.approx(np.mean(look["chosen"]), abs=1e-4)
        assert reading[f"{group}_rejected"] == pytest.approx(np.mean(look["rejected"]), abs=1e-4)
        assert reading[f"{group}_margin"] == pytest.approx(
            np.mean(look["chosen"]) - np.mean(look["rejected"]), abs=2e-4
        )
        assert reading[f"{group}_cosine"] == pytest.approx(median_cosine(look), abs=1e-4)
        assert [reading[f"{group}_case{k}"] for k in range(3)] == [look["case"].count(case) for case in CASES]
        moved = np.mean(look["rejected"]) - np.mean(looks[0]["rejected"])
        assert reading[f"{group}_change_rejected"] == pytest.approx(moved, abs=2e-4)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("form", FORMS)
def test_heatmap_is_that_of_the_nearest_stage(records, data, form, group):
    stages = rows(records[form], "stage", group)
    assert [stage["stage"] for stage in stages] == [*STAGES]
    # A stage is a look of DPO's own path: after fine-tuning is step 0, after DPO the last step.
    looks = rows(records[form], "track", group)
    for stage, look in zip(stages[1:], (looks[0], looks[-1]), strict=True):
        np.testing.assert_allclose(stage["chosen"], look["chosen"], atol=2e-3)
    for number, nearest in ((0, 0), (1, 1), (5, 1), (6, 1), (7, 2), (11, 2)):  # look 6 is step 50, as near to either
        reading = TrainingReplay(data, form=form, look=number).reading()
        assert reading["heat_stage"] == nearest
        shared = [cosine for pair in stages[nearest]["shared_cosine"] for cosine in pair]
        assert reading[f"{group}_contrast"] == pytest.approx(np.mean(stages[nearest]["contrast_cosine"]), abs=5e-3)
        if shared:
            assert reading[f"{group}_shared"] == pytest.approx(np.mean(shared), abs=5e-3)
        else:
            assert math.isnan(reading[f"{group}_shared"])


def test_static_page_has_state_picture_and_sentence(data):
    widget = TrainingReplay(data, form="long-suffix", look=5)
    place = BeautifulSoup(widget.static_html(), "html.parser").find(class_="gt-mount")
    assert json.loads(place["data-state"]) == {"data": data, "form": "long-suffix", "group": "held_out", "look": 5}
    assert {text.text for text in place.find_all("text")} == {"chosen", "rejected"}
    assert len(place.find_all("polyline")) == 4
    for words in (place.find("svg")["aria-label"], place.find("figcaption").text):
        assert all(part in words for part in ("long-suffix", "step 40", "log \u03c0_w \u2212"))
    assert widget.static_html() == TrainingReplay(deepcopy(data), form="long-suffix", look=5).static_html()


def test_its_name_holds_no_data(data):
    assert repr(TrainingReplay(data)) == "TrainingReplay(form='one-token', group='held_out', look=1)"


def test_before_fine_tuning_is_named(data):
    assert TrainingReplay(data, look=0).when() == "before fine-tuning"
    assert TrainingReplay(data, look=11).when() == "step 100"


def test_a_case_of_another_kind_is_in_none_of_the_three(records):
    changed = deepcopy({"one-token": records["one-token"]})
    look = rows(changed["one-token"], "track", "train")[0]
    look["case"] = [REVERSED, *[BOTH_DOWN] * 7]
    reading = TrainingReplay(replay_data(changed)).reading()
    assert [reading[f"train_case{k}"] for k in range(3)] == [0, 0, 7]


def test_impossible_states_are_refused(data):
    with pytest.raises(InputError, match="form 'other'"):
        TrainingReplay(data, form="other")
    with pytest.raises(InputError, match="look 12"):
        TrainingReplay(data, look=12)
    with pytest.raises(traitlets.TraitError, match="group"):
        TrainingReplay(data, group="test")


def test_records_that_do_not_fit_are_refused(records):
    with pytest.raises(InputError, match="no record"):
        replay_data({})
    other = deepcopy(records["one-token"])
    other["config"]["seed"] = 1
    with pytest.raises(InputError, match=r"seeds \[0, 1\]"):
        replay_data({"a": records["one-token"], "b": other})
    other["rows"] = [row for row in other["rows"] if row.get("stage") != "base"]
    with pytest.raises(InputError, match="no look at \\['base'\\]"):
        replay_data({"b": other})


def test_import_needs_no_torch():
    code = "import sys; import gentangle.display.replay; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "False"
