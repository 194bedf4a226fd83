"""YAML into dataclasses: every key or value that does not fit is told in one sentence."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from gentangle.errors import InputError
from gentangle.settings import build, read_yaml


@dataclass(frozen=True)
class Inner:
    steps: int
    learning_rate: float = 0.1


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    seeds: Sequence[int] = field(default_factory=tuple)


GOOD = {"name": "a", "inner": {"steps": 3, "learning_rate": 1}, "seeds": [0, 1]}


def test_builds_what_is_nested():
    assert build(Outer, GOOD, "r.yaml") == Outer("a", Inner(3, 1), [0, 1])


def test_defaults_stand_for_what_is_absent():
    assert build(Outer, {"name": "a", "inner": {"steps": 0}}, "r.yaml") == Outer("a", Inner(0, 0.1), ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": [1]}, r"r.yaml: unknown key 'seed'. Did you mean 'seeds'\? Known: inner, name, seeds"),
        ({"inner": {"step": 3}}, r"r.yaml: inner: unknown key 'step'. Did you mean 'steps'\?"),
        ({"inner": {"learning_rate": 0.1}}, r"r.yaml: inner: the key 'steps' is missing"),
        ({"inner": 3}, r"r.yaml: inner holds 3, expected keys and values"),
        ({"inner": {"steps": 2.5}}, r"inner: steps is 2.5, expected int\."),
        ({"inner": {"steps": "3"}}, r"inner: steps is '3', expected int\."),
        ({"inner": {"steps": True}}, r"inner: steps is True, expected int\."),
        ({"inner": {"steps": -1}}, r"inner: steps is -1, expected a finite number that is not negative"),
        ({"name": 3}, r"r.yaml: name is 3, expected str"),
        ({"seeds": 0}, r"r.yaml: seeds is 0, expected a list"),
        ({"inner": {"steps": 1, "learning_rate": float("nan")}}, r"inner: learning_rate is nan, expected a finite"),
        ({"seeds": ["zero"]}, r"r.yaml: seeds, item 1 is 'zero', expected int"),
    ],
)
def test_what_does_not_fit(change, message):
    with pytest.raises(InputError, match=message):
        build(Outer, GOOD | change, "r.yaml")


def test_a_missing_key_is_named():
    with pytest.raises(InputError, match=r"r.yaml: the key 'inner' is missing"):
        build(Outer, {"name": "a"}, "r.yaml")


def test_a_number_that_yaml_reads_as_text(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("name: a\ninner: {steps: 1, learning_rate: 5e-4}\n")
    with pytest.raises(InputError, match=r"learning_rate is '5e-4', expected float \(YAML reads .* write 5.0e-4\)"):
        build(Outer, read_yaml(path), str(path))
    path.write_text("name: a\ninner: {steps: 1, learning_rate: 5.0e-4}\n")
    assert build(Outer, read_yaml(path), str(path)).inner.learning_rate == 5e-4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [", "is not YAML"),
        (b"- a\n- b\n", "holds list, expected keys and values"),
        (b"", "holds NoneType, expected keys and values"),
        (b"name: caf\xe9", "give a YAML file in UTF-8"),
    ],
)
def test_what_is_no_mapping(tmp_path, content, message):
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"Cannot read .*none.yaml"):
        read_yaml(tmp_path / "none.yaml")
