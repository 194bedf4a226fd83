"""The paths through the book, and its glossary."""

import json
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
INTRO = (ROOT / "book" / "intro.md").read_text("utf-8")
GLOSSARY = (ROOT / "book" / "glossary.md").read_text("utf-8")


def test_every_chapter_lies_on_a_path_of_the_first_page():
    assert [path.stem for path in CHAPTERS if f"/notebooks/{path.stem}`" not in INTRO] == []


def test_minutes_on_the_first_page_are_the_chapters():
    """Where a whole chapter is to be read; of a part of it ("its figures, 8 minutes") the page says less."""
    told = dict(re.findall(r"/notebooks/(\w+)` \((\d+) minutes\)", INTRO))
    assert len(told) >= 8
    stated = {path.stem: re.search(r"\*\*Time:\*\*\s+(\d+)\s+minutes", text_of(path)).group(1) for path in CHAPTERS}
    assert told == {name: stated[name] for name in told}


def text_of(path: Path) -> str:
    return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"])


def test_a_students_path_takes_thirty_minutes():
    student = INTRO.split("thirty minutes.**")[1].split("Words that are new")[0]
    assert sum(map(int, re.findall(r"(\d+) minutes\)", student))) == 30


def test_a_researchers_path_adds_up():
    path = INTRO.split("across domains: seventy minutes")[1].split("Every labelled")[0]
    minutes = list(map(int, re.findall(r"(\d+) minutes\)", path)))
    assert sum(minutes[:3]) == 70
    assert sum(minutes[3:]) == 85


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
