"""Below each figure stands where it comes from, closed, and the page of records says what has changed since."""

import json
import os
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from sphinx.testing.util import SphinxTestApp
from sphinx.util.console import strip_colors

ROOT = Path(__file__).parents[2]
TRAIN = "gentangle train --recipe recipes/runs.yaml --results /tmp/x/results"
CELLS = [
    "from gentangle import a, b",
    "rows = a('results', 'recipes/runs.yaml')",
    'save_figure("read", lambda f: f.plot(rows))',
    'save_figure("computed", lambda f: f.plot(b))',
]


def drawn(name):
    return (
        f'<figure class="gt-figure" id="fig-{name}"><img alt="x"><details><summary>Where this picture comes '
        "from</summary>old</details></figure>"
    )


PAGES = {
    "index": "```{toctree}\none\nbook/records\n```\n",
    "book/records": "```{records}\n```\n",
    "one": f"```{{raw}} html\n{drawn('read')}\n```\n\n```{{raw}} html\n{drawn('computed')}\n```\n\n"
    f"```{{raw}} html\n{drawn('unknown')}\n```\n\n```{{drawn}} measured\n:label: fig-measured\n\nA *caption*.\n```\n\n"
    "```{drawn} measured\n```\n\nWords.\n\n```{drawn} missing\n```\n\n{numref}`fig-measured`\n",
}


def provenance(command, seed=0):
    told = {"command": command, "seed": seed, "profile": "cpu", "gentangle": "0.1.0", "package_sha256": "ab" * 32}
    told |= {"data_sha256": None, "versions": {"numpy": "2.4.6"}, "device": "cpu", "cores": 2, "date": "2026-11-24"}
    return {"provenance": told | {"processor": "AMD <EPYC>"}}


def write(root, name, content):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture(scope="module")
def built(load_script, tmp_path_factory):
    scripts = [load_script(f"book/_ext/{name}.py") for name in ("ledger", "origins")]
    root = tmp_path_factory.mktemp("project")
    cells = [{"cell_type": "code", "source": [cell]} for cell in CELLS]
    for name, content in {
        "notebooks/01_x.ipynb": {"cells": cells},
        "recipes/runs.yaml": "kind: preference\n",
        "requirements/cpu.txt": "numpy==2.4.6\n",
        "gentangle/alignment/experiment.py": "import numpy\n",
        "benchmarks/bench.py": "x = 1\n",
        "results/runs/one.json": provenance(TRAIN),
        "results/runs/two.json": provenance(TRAIN, None) | {"rows": [{"seed": 2}, {"seed": 1}]},
        "results/bench.json": provenance("bench.py --write", None),
        "book/figures/read.json": provenance(TRAIN) | {"alt": "x"},
        "book/figures/computed.json": provenance("ipykernel_launcher.py -f x", None) | {"alt": "x"},
        "book/figures/measured.json": provenance("bench.py --write", None) | {"alt": "what it <shows>"},
        **{f"book/figures/measured.{theme}.png": theme for theme in ("light", "dark")},
        **{f"{page}.md": f"# {page}\n\n{text}" for page, text in PAGES.items()},
        "conf.py": "",
    }.items():
        write(root, name, content)
    settings = {
        "extensions": ["myst_parser", *(script.__name__ for script in scripts)],
        "html_theme": "basic",
        "numfig": True,
        "exclude_patterns": ["_build"],
        "ledger_root": str(root),
    }
    app = SphinxTestApp(srcdir=root, confoverrides=settings, builddir=root / "_build")
    app.build()
    warnings = strip_colors(app.warning.getvalue())
    yield app.outdir, warnings
    app.cleanup()


def page(built, name):
    return BeautifulSoup((built[0] / f"{name}.html").read_text("utf-8"), "html.parser")


def told(figure):
    (details,) = figure.select("details.gt-provenance")
    assert not details.has_attr("open")
    return dict(zip((t.text for t in details.select("dt")), (d.text for d in details.select("dd")), strict=True))


def test_a_figure_that_reads_records_names_cells_and_records(built):
    (figure,) = page(built, "one").select("#fig-read")
    facts = told(figure)
    assert facts["Drawn by"] == "cell 3 of notebooks/01_x.ipynb, with what it uses of 1, 2"
    assert facts["Reads"] == "results/runs, seeds 0, 1, 2"
    assert facts["Machine"] == "AMD <EPYC>, 2 cores, device cpu"
    assert facts["Package"] == f"gentangle 0.1.0, SHA-256 {'ab' * 6}"
    assert (facts["Seed, profile"], facts["Date"], facts["Versions"]) == ("0, cpu", "2026-11-24", "numpy 2.4.6")
    assert facts["Since then"].endswith("no reason given")
    assert figure.select_one("details a")["href"] == "book/records.html#record-runs"
    assert page(built, "book/records").find(id="record-runs")
    assert "old" not in figure.text


def test_a_figure_that_is_computed_says_so(built):
    facts = told(page(built, "one").select_one("#fig-computed"))
    assert facts["Drawn by"] == "cell 4 of notebooks/01_x.ipynb, with what it uses of 1"
    assert facts["Reads"].startswith("no record")
    assert "What follows" not in facts


def test_a_figure_that_the_book_does_not_hold_keeps_what_it_says(built):
    assert page(built, "one").select_one("#fig-unknown details").text.endswith("old")


def test_a_scripts_figure_has_both_pictures_alt_text_caption_and_number(built):
    first, second = page(built, "one").select("figure.gt-drawn")
    assert first["id"] == "fig-measured"
    assert [(image["class"][0], image["alt"]) for image in first.select("img")] == [
        ("gt-light", "what it <shows>"),
        ("gt-dark", "what it <shows>"),
    ]
    assert all((built[0] / image["src"]).is_file() for image in first.select("img"))
    assert first.select_one("figcaption p").text.startswith("Fig. 1 A caption.")
    assert told(first)["Drawn by"] == "benchmarks/bench.py"
    assert told(first)["Reads"] == "results/bench.json, seeds none"
    assert second.select_one(".caption-number") is None
    assert told(second) == told(first)
    assert page(built, "one").find("a", href="#fig-measured", string="Fig. 1")


def test_a_figure_that_is_not_there_is_an_error_at_its_line(built):
    (warning,) = built[1].strip().splitlines()[:1]
    assert "one.md:26: ERROR: there is no figure 'missing'" in warning


def test_the_page_of_records_tells_each_set(built):
    lines = [line.text for line in page(built, "book/records").select("#record-runs + dd p")]
    assert lines[0] == "Made by gentangle train --recipe recipes/runs.yaml --results DIR"
    assert lines[1].startswith("2 records, seeds 0, 1, 2, profile cpu, made 2026-11-24 on AMD <EPYC> with the package")
    assert lines[2].startswith("Since then: no entry for the package")


# ---- the book's own, as built ----

BOOK = Path(os.environ.get("GENTANGLE_BOOK", ROOT / "book" / "_build" / "html"))


def test_every_figure_of_the_built_book_says_where_it_comes_from():
    """And every one with a label has its badge."""
    if not BOOK.is_dir():
        pytest.skip(f"{BOOK} is not built: make book")
    shown = set()
    for path in (*BOOK.glob("book/*.html"), *BOOK.glob("notebooks/*.html")):
        for figure in BeautifulSoup(path.read_text("utf-8"), "html.parser").select("figure.gt-figure"):
            (image,) = figure.select("img.gt-light")
            assert image["alt"]
            if figure.get("id") != "fig-flow-live":  # a widget's first picture, which no file holds
                assert {"Drawn by", "Reads", "Machine", "Date", "Package", "Since then"} <= told(figure).keys()
            if figure.get("id", "").startswith("fig-"):
                shown.add(figure["id"].removeprefix("fig-"))
                assert len(figure.select("a.gt-badge")) == 1, figure["id"]
    assert {path.stem for path in (ROOT / "book" / "figures").glob("*.json")} <= shown
