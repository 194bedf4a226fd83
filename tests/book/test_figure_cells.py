"""Behind a figure stand the cells that bind or change what it uses, and no other."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def figure_cells(load_script):
    return load_script("book/figure_cells.py")


def behind(figure_cells, *sources):
    cells = [{"cell_type": "code", "source": [source]} for source in (*sources, 'save_figure("a", draw, alt="x")')]
    notebook = json.dumps({"cells": [{"cell_type": "markdown", "source": ["x = 1"]}, *cells]})
    return figure_cells.figures_of(notebook)["a"]


@pytest.mark.parametrize(
    ("sources", "numbers"),
    [
        (["import os, gentangle as draw", "unused = 1"], (1, 3)),
        (["data = 1", "data = 2", "def draw(f):\n    f.plot(data)"], (2, 3, 4)),
        (["rows = []", "for row in 1, 2:\n    rows.append(row)", "draw = rows"], (1, 2, 3, 4)),
        (["rows = {}", "rows['x'] = 1", "draw = rows"], (1, 2, 3, 4)),
        (["x = 1", "draw = [x for x in range(3)]"], (2, 3)),
        (["x = 1", "draw = lambda x: x"], (2, 3)),
        (["x = 1", "for x in range(3):\n    print(x)", "draw = 3"], (3, 4)),
        (["x = 1", "if x:\n    y = 2", "draw = y"], (1, 2, 3, 4)),
        (["y = 1", "if True:\n    y = 2", "draw = y"], (1, 2, 3, 4)),
        (["draw = 1", "with draw() as d:\n    d.x = 1"], (1, 3)),
        (["a, draw = 1, 2", "a = 3"], (1, 3)),
        (["draw = 1", "draw.x = 2"], (1, 2, 3)),
    ],
)
def test_the_cells_behind_a_figure(figure_cells, sources, numbers):
    assert behind(figure_cells, *sources).numbers == numbers


def test_of_an_import_cell_only_what_is_used_is_kept_and_of_a_cell_only_what_matters(figure_cells):
    found = behind(figure_cells, "import os\nfrom a import b, draw\n", "print('results')\nb = 'records'")
    assert found.code.splitlines() == ["from a import draw", "save_figure('a', draw, alt='x')"]
    assert found.constants == {"a", "x"}
    assert found.own == 3


def test_every_committed_figure_of_a_chapter_is_drawn_once(figure_cells):
    drawn = [name for path in NOTEBOOKS for name in figure_cells.figures_of(path.read_text("utf-8"))]
    assert len(drawn) == len(set(drawn)) > 30
