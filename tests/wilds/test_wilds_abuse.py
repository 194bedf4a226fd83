"""Spoilt folders of WILDS, and weights that are a pickle: refused in a line, and nothing in them is run."""

from pathlib import Path

import pytest
import torch

from gentangle import InputError
from gentangle.matching.wilds_models import make_network


def test_no_spoilt_folder_brings_a_traceback_or_half_an_output(load_script, capsys):
    fuzz = load_script("tests/abuse/fuzz.py")
    assert fuzz.main(["--cases", "40", "--seed", "1", "--kind", "WILDS folder"]) == 0, capsys.readouterr().out
    assert "==== 40 cases: " in capsys.readouterr().out


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_in_a_file_of_weights_is_not_run(tmp_path):
    torch.save({"conv1.weight": Touch(tmp_path / "PWNED")}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="No weights of resnet18 at .*weights.pt"):
        make_network("resnet18", 2, weights=str(tmp_path / "weights.pt"), seed=0, config={})
    assert not (tmp_path / "PWNED").exists()
