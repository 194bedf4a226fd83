"""`gentangle explain`: the case that a log shows, since when, from either kind of file."""

import csv
import json

import numpy as np
import pytest

from gentangle import InputError, cli
from gentangle.alignment.conditions import BOTH_DOWN, BOTH_UP, INTENDED, REVERSED, UNMOVED
from gentangle.alignment.explain import ADVICE, explain

STEPS = np.arange(1, 101)


def history(chosen, rejected, names=("rewards/chosen", "rewards/rejected")):
    return [
        {"step": int(s), names[0]: float(c), names[1]: float(r)}
        for s, c, r in zip(STEPS, chosen, rejected, strict=True)
    ]


def state(path, rows):
    path.write_text(
        json.dumps({"global_step": 100, "log_history": [{"step": 0, "eval_loss": 1.0}, *rows, {"train_loss": 1}]})
    )
    return path


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [(1, -1, INTENDED), (-1, -2, BOTH_DOWN), (2, 1, BOTH_UP), (-1, 1, REVERSED), (0, 0, UNMOVED)],
)
def test_each_case_is_told(chosen, rejected, expected, tmp_path):
    found = explain(state(tmp_path / "trainer_state.json", history(chosen * STEPS, rejected * STEPS)))
    assert found.case == expected
    assert found.since == 1
    assert ADVICE[expected] in str(found)


def test_the_step_since_which_chosen_falls(tmp_path):
    """Chosen is below the reference from step 80 on; the running mean is at most a window late."""
    chosen = np.where(STEPS <= 40, STEPS, 80 - STEPS)
    found = explain(state(tmp_path / "s.json", history(chosen, -STEPS)))
    assert found.case == BOTH_DOWN
    assert 81 <= found.since <= 91


def test_noise_of_single_batches_does_not_change_the_case(tmp_path):
    noise = np.random.default_rng(0).normal(size=(2, 100))
    found = explain(state(tmp_path / "s.json", history(-0.1 * STEPS + noise[0], -0.3 * STEPS + noise[1])))
    assert found.case == BOTH_DOWN


def test_log_probabilities_are_measured_from_the_start(tmp_path):
    rows = history(-100 - 0.1 * STEPS, -90 - 0.2 * STEPS, ("logps/chosen", "logps/rejected"))
    found = explain(state(tmp_path / "s.json", rows))
    assert found.case == BOTH_DOWN
    assert "log-probabilities" in str(found)


def test_a_trackers_csv_with_its_prefix_and_empty_cells(tmp_path):
    path = tmp_path / "export.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["train/global_step", "train/rewards/chosen", "train/rewards/rejected"])
        writer.writerows([[1, 0.1, -0.1], [2, "", ""], [3, "NaN", -0.2], [4, -0.5, -0.4]])
    found = explain(path)
    assert found.steps.tolist() == [1, 4]
    assert found.case == BOTH_DOWN


def test_a_record_of_the_real_run_is_both_down(tmp_path):
    """TRL's own rows of the long suffix, seed 0, as a trainer's state."""
    from pathlib import Path

    record = json.loads((Path(__file__).parents[2] / "results/tweets/long-suffix-seed0.json").read_text())
    found = explain(state(tmp_path / "s.json", [row for row in record["rows"] if row["kind"] == "log"]))
    assert found.case == BOTH_DOWN


BAD = {
    "nothing there": (None, "Cannot read"),
    "broken JSON": ('{"log_history": [', "is not JSON"),
    "another JSON": ('{"loss": 1}', "no list 'log_history'"),
    "a list of numbers": ("[1, 2]", "no list 'log_history'"),
    "no metrics": ("step,loss\n1,0.5\n", "neither rewards/chosen and rewards/rejected nor logps/chosen"),
    "empty": ("", "neither rewards/chosen"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_log_that_says_nothing_gets_one_line(name, tmp_path, capsys):
    content, message = BAD[name]
    path = tmp_path / "log"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        explain(path)
    assert cli.main(["explain", str(path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_command_draws_both_curves(tmp_path, capsys):
    assert cli.main(["explain", str(state(tmp_path / "s.json", history(-STEPS, -2 * STEPS)))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("both down, since step 1 of 100")
    assert lines[1].startswith("chosen   █")
    assert lines[2].endswith("-191")
