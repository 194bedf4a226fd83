"""The paths through the book, and its glossary."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
INTRO = (ROOT / "book" / "intro.md").read_text("utf-8")
GLOSSARY = (ROOT / "book" / "glossary.md").read_text("utf-8")


def test_every_chapter_lies_on_a_path_of_the_first_page():
    assert [path.stem for path in CHAPTERS if f"/notebooks/{path.stem}`" not in INTRO] == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_minutes_on_the_first_page_are_the_chapters(path):
    stated = int(re.search(r"\*\*Time:\*\*\s+(\d+)\s+minutes", path.read_text("utf-8").replace("\\n", " ")).group(1))
    told = re.findall(rf"/notebooks/{path.stem}` \((\d+) minutes[):]", INTRO)
    assert all(int(minutes) == stated for minutes in told), (told, stated)


def test_a_students_path_takes_thirty_minutes():
    student = INTRO.split("thirty minutes.**")[1].split("Words that are new")[0]
    assert sum(map(int, re.findall(r"\((\d+) minutes", student))) == 30


def test_first_page_needs_no_script_of_formulas():
    assert "$" not in INTRO


def entries() -> list[tuple[str, str]]:
    block = re.search(r"```\{glossary\}\n(.*?)\n```", GLOSSARY, re.DOTALL).group(1)
    found = [part.split("\n", 1) for part in block.split("\n\n")]
    return [(term, " ".join(line.strip() for line in text.splitlines())) for term, text in found]


def test_glossary_is_sorted_and_says_each_word_once():
    terms = [term for term, _ in entries()]
    assert terms == sorted(terms, key=str.casefold)
    assert max(Counter(terms).values()) == 1


def test_every_word_is_explained_in_whole_sentences():
    assert [term for term, text in entries() if not text.endswith(".")] == []
