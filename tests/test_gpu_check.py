"""The checks for a machine with a GPU, run on the CPU, and by numpy and torch alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_check.py"
#: What such a machine may lack (sympy comes with torch).
WITHOUT = ("transformers", "trl", "accelerate", "peft", "datasets", "yaml", "tqdm", "scipy", "matplotlib")


def test_every_check_holds_without_any_other_library():
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in WITHOUT)
    code = f"import runpy, sys; {blocked}; sys.argv[1:] = ['--device', 'cpu']; "
    code += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 7
    assert "7 checks on cpu" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(load_script, capsys):
    assert load_script("benchmarks/gpu_check.py").main([]) == 2
    said = capsys.readouterr().err
    assert "torch sees no GPU here" in said
    assert said.count("\n") == 1


def test_a_row_outside_its_bound_fails(load_script, monkeypatch, capsys):
    script = load_script("benchmarks/gpu_check.py")
    monkeypatch.setattr(script, "check", lambda device: ([("a", 2.0, 1.0), ("b", float("nan"), 1.0)], 0.0))
    assert script.main(["--device", "cpu"]) == 1
    assert capsys.readouterr().out.count("FAIL") == 2


def test_the_committed_check_of_a_gpu_holds(load_script):
    script = load_script("benchmarks/gpu_check.py")
    committed = json.loads((script.RESULTS / "gpu_check-NVIDIA-H200.json").read_text())
    assert committed["provenance"]["device"] == "NVIDIA H200"
    assert all(row["found"] <= row["bound"] for row in committed["rows"])
    shown = script.record([(row["check"], row["found"], row["bound"]) for row in committed["rows"]])
    assert committed["ratios"] == shown["ratios"]
