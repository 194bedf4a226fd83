"""Five hundred spoilt inputs for the command line; ``make fuzz`` takes twenty thousand. And the fuzzer sees faults."""

import json
from functools import partial

import pytest

from gentangle import InputError, cli


@pytest.fixture(scope="module")
def fuzz(load_script):
    return load_script("tests/abuse/fuzz.py")


def test_no_spoilt_input_brings_a_traceback_or_half_an_output(fuzz, capsys):
    assert fuzz.main(["--cases", "500", "--seed", "1"]) == 0, capsys.readouterr().out
    told = capsys.readouterr().out
    assert told.count(" cases in ") == len(fuzz.KINDS) - 1
    assert "FAULTY" not in told


class Broken(Exception):
    pass


def raising(error, given):
    raise error


def half_written(given):
    (given.folder / "out" / "o.json").write_text('{"half": ')


def litter(given):
    (given.folder / "out" / ".o.json.tmp").write_text("")
    raise InputError("This input is not one that can be read: give another.")


def told_twice(given):
    import sys

    print("a notice of a library's", file=sys.stderr)
    raise InputError("This input is not one that can be read: give another.")


FAULTS = {
    "a traceback": (partial(raising, Broken("x")), "Broken from the command line"),
    "an exit": (partial(raising, SystemExit(2)), "SystemExit from the command line"),
    "half a file": (half_written, "Unterminated|Expecting value"),
    "a file beside": (litter, "left behind or changed"),
    "two lines": (told_twice, "2 lines on stderr"),
    "a short message": (partial(raising, InputError("no")), "a message of"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_the_fuzzer_sees(what, fuzz, tmp_path, monkeypatch):
    run, message = FAULTS[what]

    def make(random, folder):
        def command(given):
            given.folder = folder
            run(given)

        monkeypatch.setattr(cli, "_explain", command)
        return fuzz.Case(["explain", "x"], {folder / "out" / "o.json": json.loads})

    monkeypatch.setitem(fuzz.KINDS, "CSV", (make, 1))
    with pytest.raises((fuzz.Fault, ValueError), match=message):
        fuzz.run_case("CSV", 0, 0, tmp_path)


def test_a_seed_gives_the_same_case_again(fuzz, tmp_path):
    with fuzz.prepared():
        made = []
        for name in ("first-folder", "other-folder"):
            folder = tmp_path / name
            for part in ("in", "out"):
                (folder / part).mkdir(parents=True)
            for kind, number in (("recipe: preference", 3), ("trainer_state.json", 4), ("diagnose", 5)):
                fuzz.KINDS[kind][0](fuzz.Random(f"7 {kind} {number}"), folder)
            files = [path for path in folder.rglob("*") if path.is_file()]
            made.append({path.name: path.read_bytes().replace(name.encode(), b"") for path in files})
    assert made[0] == made[1]
    assert len(made[0]) >= 3
