"""What a flip is, that the known survivors exist, and that the tests catch a sample of all the other flips."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = '''
"""A docstring with 1 + 1."""
LIMIT = -0.5


def mean(values: list[int], count: int = 2) -> float:
    if count < 1:
        raise ValueError(f"{count - 1} is less than {0}")
    return sum(values) / count
'''


@pytest.fixture
def flips(load_script):
    return load_script("tests/mutation/flips.py")


def changes(found):
    return [(flip.before, flip.after) for flip in found]


def test_signs_operators_comparisons_and_numbers_are_flipped_and_texts_are_not(flips):
    assert changes(flips.flips_in(SOURCE, "example")) == [
        ("-0.5", "+0.5"),
        ("0.5", "1.0"),
        ("2", "3"),
        ("count < 1", "count <= 1"),
        ("count < 1", "count > 1"),
        ("1", "2"),
        ("sum(values) / count", "sum(values) * count"),
    ]


def test_what_counts_from_the_end_keeps_its_minus(flips):
    source = "x = -1 * a[-1].sum(-1, axis=-1)[:-1] + max(-0.5, -b)"
    assert [flip for flip in changes(flips.flips_in(source, "example")) if flip[1].startswith("+")] == [
        ("-1", "+1"),
        ("-0.5", "+0.5"),
        ("-b", "+b"),
    ]


def test_each_flip_makes_one_change(flips):
    lines = ast.unparse(ast.parse(SOURCE)).splitlines()
    for flip in flips.flips_in(SOURCE, "example"):
        flipped = ast.unparse(flip.tree()).splitlines()
        ((before, after),) = [pair for pair in zip(lines, flipped, strict=True) if pair[0] != pair[1]]
        assert flip.before in before
        assert flip.after.removeprefix("+") in after


def test_a_flips_name_does_not_depend_on_what_stands_around_it(flips):
    moved = SOURCE.replace("LIMIT", "# A comment.\nBEFORE = 3 * 4\nLIMIT").replace(
        "    return", "    # Why.\n    return"
    )
    names = {flip.name for flip in flips.flips_in(SOURCE, "example")}
    assert names < {flip.name for flip in flips.flips_in(moved, "example")}
    assert len(names) == 7


def test_twins_have_names_of_their_own(flips):
    found = flips.flips_in("x = a + b\nx = a + b\n", "example")
    assert len({flip.name for flip in found}) == len(found) == 2


def test_every_target_has_flips_and_tests(load_script):
    mutate = load_script("tests/mutation/mutate.py")
    for module, files in mutate.FILES.items():
        assert mutate.flips_of(module)
        assert all((ROOT / name).exists() for name in files)


def test_the_known_survivors_exist_and_have_reasons(load_script):
    mutate = load_script("tests/mutation/mutate.py")
    names = [flip.name for module in mutate.FILES for flip in mutate.flips_of(module)]
    assert len(set(names)) == len(names)
    assert set(mutate.survivors()) <= set(names)
    assert all(len(reason) > 10 for reason in mutate.survivors().values())


def test_the_tests_catch_a_sample_of_all_other_flips():
    command = [sys.executable, "tests/mutation/mutate.py", "--sample", "20", "--seed", "1", "--jobs", "1"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "20 of 20 flips caught" in run.stdout
