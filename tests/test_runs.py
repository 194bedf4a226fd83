"""The directory of a run: killed at any time, it goes on; of another recipe, it is refused."""

import json

import pytest

from gentangle.errors import InputError
from gentangle.runs import RECORD_LIMIT, RunDirectory, rounded, write_record

CONFIG = {"seed": 0, "forms": ("one", "two")}


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run", CONFIG)


def test_the_same_config_goes_on(run):
    run.add({"step": 1})
    assert RunDirectory(run.path, CONFIG).rows() == [{"step": 1}]


def test_another_config_is_refused_and_changes_nothing(run):
    run.add({"step": 1})
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(InputError, match=r"run holds a run of another recipe: give --overwrite .*, or rename"):
        RunDirectory(run.path, CONFIG | {"seed": 1})
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_overwrite_begins_anew(run):
    run.add({"step": 1})
    (run.path / "model").mkdir()
    anew = RunDirectory(run.path, CONFIG | {"seed": 1}, overwrite=True)
    assert anew.rows() == []
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "lock"]
    assert json.loads((run.path / "config.json").read_text())["seed"] == 1


def test_provenance_is_that_of_the_start(run):
    run.write_provenance({"date": "first"})
    run.write_provenance({"date": "second"})
    assert run.provenance == {"date": "first"}


@pytest.mark.parametrize("cut", range(1, 13))
def test_a_last_line_that_was_cut_is_mended(run, cut):
    """Whatever a kill left of the last line, the rows before it stay and the next row is whole."""
    for step in (1, 2, 3):
        run.add({"step": step})
    whole = run.metrics.read_bytes()
    run.metrics.write_bytes(whole[:-cut])
    known = [{"step": 1}, {"step": 2}]
    # Without its newline alone, the last row is whole.
    assert run.rows() == (known if cut > 1 else [*known, {"step": 3}])
    run.put(row for row in run.rows() if row["step"] <= 2)
    run.add({"step": 3})
    assert run.rows() == [*known, {"step": 3}]
    assert run.metrics.read_bytes() == whole


def test_keep_drops_what_came_after_the_checkpoint(run):
    for step in range(5):
        run.add({"step": step})
    run.put(row for row in run.rows() if row["step"] <= 2)
    assert [row["step"] for row in run.rows()] == [0, 1, 2]


def test_rows_of_a_run_without_metrics(run):
    assert run.rows() == []
    run.put(run.rows())
    assert run.rows() == []


def test_a_row_that_is_no_number_is_refused(run):
    run.add({"step": 1})
    with pytest.raises(ValueError, match="JSON"):
        run.add({"step": 2, "loss": float("nan")})
    assert run.rows() == [{"step": 1}]


def test_record_is_rounded_and_on_one_line(tmp_path):
    path = write_record(tmp_path / "r.json", {"b": [1.2345678, 3], "a": float("inf")})
    assert path.read_text() == '{"a":null,"b":[1.2346,3]}\n'


def test_record_that_is_too_large_is_refused(tmp_path):
    with pytest.raises(InputError, match=f"at most {RECORD_LIMIT}"):
        write_record(tmp_path / "r.json", {"rows": ["x" * RECORD_LIMIT]})
    assert not list(tmp_path.iterdir())


def test_record_of_the_largest_size_is_kept(tmp_path):
    frame = len('{"rows":""}\n')
    path = write_record(tmp_path / "r.json", {"rows": "x" * (RECORD_LIMIT - frame)})
    assert path.stat().st_size == RECORD_LIMIT
    with pytest.raises(InputError):
        write_record(tmp_path / "s.json", {"rows": "x" * (RECORD_LIMIT - frame + 1)})


def test_the_limit_is_in_bytes_not_characters(tmp_path):
    """What is written is at most the limit, whatever the letters."""
    try:
        path = write_record(tmp_path / "r.json", {"rows": "é" * (RECORD_LIMIT // 4)})
    except InputError:
        return
    assert path.stat().st_size <= RECORD_LIMIT


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (123456.7, 123460.0),
        (-1.23456e-9, -1.2346e-9),
        (7, 7),
        (True, True),
        ("1.23456789", "1.23456789"),
        ({"a": (0.1 + 0.2,)}, {"a": [0.3]}),
        (float("nan"), None),
    ],
)
def test_rounded(value, expected):
    assert rounded(value) == expected


def test_a_second_process_is_told_that_the_run_is_being_made(tmp_path):
    run = RunDirectory(tmp_path / "run", {"seed": 0})
    with run.alone(), pytest.raises(InputError, match="being made by another process"), run.alone():
        pass
    with run.alone():  # free again
        pass


def test_a_run_that_is_being_made_is_not_overwritten(run, tmp_path):
    run.add({"step": 1})
    (run.path / "model").mkdir()
    (run.path / "linked").symlink_to(tmp_path, target_is_directory=True)
    with run.alone():
        before = {path.name: path.is_file() and path.read_bytes() for path in run.path.iterdir()}
        with pytest.raises(InputError, match="being made by another process"):
            RunDirectory(run.path, CONFIG | {"seed": 1}, overwrite=True)
        assert {path.name: path.is_file() and path.read_bytes() for path in run.path.iterdir()} == before
    anew = RunDirectory(run.path, CONFIG | {"seed": 1}, overwrite=True)  # free again
    assert anew.config["seed"] == 1
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "lock"]


def test_overwriting_keeps_the_file_that_others_lock(run):
    """Were it replaced, a process that waits on the old file and one that opens the new would both go on."""
    with run.alone():
        kept = (run.path / "lock").stat().st_ino
    RunDirectory(run.path, CONFIG, overwrite=True)
    assert (run.path / "lock").stat().st_ino == kept
