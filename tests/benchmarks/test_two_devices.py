"""The same run on two devices: what the page shows of the processor is what its record says."""

import json

import numpy as np
import pytest


@pytest.fixture
def script(load_script):
    return load_script("benchmarks/two_devices.py")


def test_the_processor_s_side_is_the_record_s(script):
    committed = json.loads(script.RESULT.read_text())
    assert len(committed["runs"]) == 4
    assert committed["ratios"] == script.table(committed["runs"])
    for name, found in committed["runs"].items():
        here, _ = found["moved"]
        assert here == pytest.approx(script.moved(script.read(script.HERE / f"{name}.json")["log_probs"]))
    assert [made["device"] for made in committed["made"]] == ["cpu", "NVIDIA H200"]


def test_devices_differ_by_rounding_alone(script):
    """By less than the run's start may differ between two machines."""
    from gentangle.profiles import profile

    for found in json.loads(script.RESULT.read_text())["runs"].values():
        here, there = np.array(found["moved"])
        assert np.abs(here - there).max() < profile().tolerance.rerun
        assert found["largest"] < profile().tolerance.rerun


def test_a_record_compared_with_itself_and_with_another(script, tmp_path):
    one = script.HERE / "one-token-seed0.json"
    found = script.compare(one, one)
    assert (found["largest"], found["same_case"]) == (0.0, 1.0)
    with pytest.raises(SystemExit, match="records of other settings"):
        script.compare(one, script.HERE / "one-token-seed1.json")
