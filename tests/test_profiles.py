"""The profiles: which is in force, and how they stand to one another."""

from dataclasses import fields

import pytest

from gentangle.errors import InputError
from gentangle.profiles import ENVIRONMENT_VARIABLE, PROFILES, profile


@pytest.mark.parametrize("name", ["smoke", "cpu", "gpu"])
def test_the_environment_chooses(monkeypatch, name):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, name)
    assert profile().name == name


@pytest.mark.parametrize("value", [None, ""])
def test_the_default_is_cpu(monkeypatch, value):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, value)
    assert profile().name == "cpu"


def test_an_argument_comes_before_the_environment(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "smoke")
    assert profile("gpu").device == "cuda"


@pytest.mark.parametrize(("given", "hint"), [("cpuu", "Did you mean 'cpu'"), ("GPU", "Known: cpu, gpu, smoke")])
def test_unknown(monkeypatch, given, hint):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, given)
    with pytest.raises(InputError, match=f"{given!r}.*{hint}"):
        profile()


def test_smoke_is_no_larger_than_cpu_and_cpu_than_gpu():
    small, middle, large = (PROFILES[name].tweets for name in ("smoke", "cpu", "gpu"))
    for field in fields(small):
        sizes = [getattr(sizes, field.name) for sizes in (small, middle, large)]
        assert sizes == sorted(sizes), field.name
    assert small != middle


@pytest.mark.parametrize("name", PROFILES)
def test_what_the_first_cell_prints_names_the_device_and_the_memory(name):
    text = str(PROFILES[name])
    assert f"profile {name}: device {PROFILES[name].device}" in text
    assert f"{PROFILES[name].memory_gb:g} GB" in text


def test_profiles_cannot_be_changed():
    with pytest.raises(TypeError):
        PROFILES["cpu"] = PROFILES["gpu"]
