"""The budget of a chapter: what a reader can take in one sitting, and what belongs in the package instead."""

import ast
import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CELLS, LINES, WIDTH, FUNCTION = 25, 20, 84, 10
#: What every chapter has, in its own words or by its markup.
PARTS = (
    r"\*\*Question\.\*\*",
    r"\*\*You will be able\s+to\*\*",
    r"\*\*Time:\*\*\s+\d+\s+minutes?\s+to\s+read,\s+\d+\s+(minutes?|seconds?)\s+to\s+run",
    r"\*\*In one line\.\*\*",
    r"## Limits",
    r"```\{exercise\}",
    r"## Summary",
    r"\*\*Next\.\*\*",
)


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == kind]


def sources(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in cells(path, "code")]


def faults(codes: list[str]) -> list[str]:
    """What breaks the budget in a chapter's code cells, a line each."""
    found = [f"{len(codes)} code cells, at most {CELLS}"] if len(codes) > CELLS else []
    importing = []
    for number, code in enumerate(codes, 1):
        lines = [line for line in code.splitlines() if line.strip()]
        found += [f"cell {number}: {len(lines)} lines, at most {LINES}"] if len(lines) > LINES else []
        found += [f"cell {number}: a line of {len(line)}, at most {WIDTH}" for line in lines if len(line) > WIDTH]
        if any(line.lstrip().startswith(("!", "%")) for line in lines):
            found.append(f"cell {number}: a shell command or magic")
            continue
        tree = ast.parse(code)
        if any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree)):
            importing.append(number)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.end_lineno - node.lineno >= FUNCTION:
                found.append(f"cell {number}: {node.name} has more than {FUNCTION} lines: it belongs in the package")
    return found + ([f"imports in cells {importing}, want one"] if len(importing) > 1 else [])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_chapter_keeps_its_budget(path):
    assert faults(sources(path)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_chapter_has_every_part(path):
    text = "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    assert [part for part in PARTS if not re.search(part, text)] == []
    assert text.count("```{exercise}") == text.count("```{solution-start}") + text.count("```{solution}")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stored_and_quiet(path):
    for number, cell in enumerate(cells(path, "code"), 1):
        assert cell["execution_count"] == number
        for output in cell["outputs"]:
            assert output["output_type"] != "error", number
            assert output.get("name") != "stderr", (number, output)


def test_book_has_sixteen_chapters_or_fewer_and_no_name_defined_in_two():
    assert 0 < len(NOTEBOOKS) <= 16
    places = defaultdict(set)
    for path in NOTEBOOKS:
        for code in sources(path):
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    places[node.name].add(path.stem)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


@pytest.mark.parametrize(
    ("codes", "fault"),
    [
        (["x = 1"] * 26, "26 code cells, at most 25"),
        (["x = 1\n" * 21], "cell 1: 21 lines, at most 20"),
        (["x = 1", f"y = {'1' * 81}"], "cell 2: a line of 85, at most 84"),
        (["!pip install x"], "cell 1: a shell command or magic"),
        (["def f():\n" + "    x = 1\n" * 10], "cell 1: f has more than 10 lines: it belongs in the package"),
        (["import os", "x = 1", "import re"], "imports in cells [1, 3], want one"),
        (["import os", "def f():\n" + "    x = 1\n" * 9, "y = 1"], None),
    ],
)
def test_a_chapter_over_its_budget_is_found(codes, fault):
    assert faults(codes) == ([fault] if fault else [])
