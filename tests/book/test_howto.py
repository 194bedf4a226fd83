"""The how-to's example runs as it is printed and gives a case."""

import runpy
from pathlib import Path

from gentangle.alignment.conditions import CASES

ROOT = Path(__file__).parents[2]


def test_the_examples_lines_run(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = runpy.run_path(str(ROOT / "book" / "howto_condition.py"))
    assert found["G"].shape == (2, 2)
    assert any(capsys.readouterr().out.strip().endswith(name) for name in CASES)
