"""The how-to's examples run as they are printed, and print what the page says."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book" / "howto.md").read_text()


def test_the_answer_for_one_pair_is_the_one_on_the_page(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = runpy.run_path(str(ROOT / "book" / "howto_condition.py"))
    assert found["G"].shape == (2, 2)
    printed = capsys.readouterr().out.strip()
    said = re.search(r"It prints `(.+?)`", PAGE)[1]
    words, numbers = (re.sub(r"-?\d+\.\d+", "N", text) for text in (printed, said)), re.compile(r"-?\d+\.\d+")
    assert len(set(words)) == 1
    pairs = zip(numbers.findall(printed), numbers.findall(said), strict=True)
    assert all(float(a) == pytest.approx(float(b), abs=0.2) for a, b in pairs)


@pytest.mark.filterwarnings("ignore")
def test_the_callback_compares_the_updates_of_a_run(capsys, monkeypatch, tmp_path, corpus):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    found = runpy.run_path(str(ROOT / "book" / "howto_run.py"))
    assert [row["step"] for row in found["rows"]] == [1, 6, 11, 16]
    lines = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines[-8:-3] == ["intended", "both_down", "own_rejected", "other_rejected", "optimizer"]
    assert lines[-3:] == ["pair", "batch", "step"]
    assert found["agreement"](found["rows"], "step", 1e-3).signs >= 0.95


def test_fish_on_your_own_domains_prints_what_the_page_says(capsys):
    page = (ROOT / "book" / "howto_fish.md").read_text()
    found = runpy.run_path(str(ROOT / "book" / "howto_fish.py"))
    number = re.compile(r"-?\+?\d+\.\d+")
    said, printed = page.split("```text\n")[1].split("```")[0], capsys.readouterr().out
    assert [line.split(":")[0] for line in printed.splitlines()] == ["50", "100", "150", "200"]
    pairs = zip(number.findall(printed), number.findall(said), strict=True)
    assert all(float(a) == pytest.approx(float(b), abs=0.03) for a, b in pairs)
    code = (ROOT / "book" / "howto_fish.py").read_text().split("parts = ")[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    assert found["right"] > 0.75
