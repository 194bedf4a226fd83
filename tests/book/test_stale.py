"""A record or figure is stale when its code, packages or data changed; without a reason this fails and names it."""

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stale(load_script):
    return load_script("book/stale.py")


@pytest.fixture(scope="module")
def book(stale):
    return stale.Book(ROOT)


# ---- the book's own ----


def test_what_is_stale_has_a_reason(book):
    """Named with what changed. `python book/stale.py --renew` enters new ones; its help tells the rest."""
    told = [f"{found.name}: {'; '.join(found.changes)}" for found in book.stale() if found.reason is None]
    assert told == []


def test_every_record_and_figure_is_entered_and_nothing_else(book):
    assert book.ledger["made"].keys() == {*book.sets(), *book.figures}
    assert book.ledger["acknowledged"].keys() <= book.ledger["made"].keys()


def test_what_verifies_a_record_is_there(book, load_script):
    why_no_test = load_script("book/_ext/ledger.py").why_no_test
    for name, given in book.ledger["acknowledged"].items():
        if (by := given["verified_by"]) and not by.endswith(".ipynb"):
            assert why_no_test(by, ROOT) is None, name
        elif by:
            assert (ROOT / by).is_file(), name


def test_every_committed_figure_is_on_a_page(book, stale):
    pages = "".join(path.read_text("utf-8") for path in (ROOT / "book").glob("*.md"))
    for name in book.figures:
        path, _ = stale.cells_of(Path(name).name, book.tree)
        assert path or f"{{drawn}} {Path(name).name}\n" in pages, name


# ---- a small project ----

PICTURE, RUNS = "book/figures/shown", "results/runs"
NOTEBOOK = {"cells": [{"cell_type": "code", "source": ["from gentangle.draw import d\nsave_figure('shown', d)"]}]}
CHAPTER = json.dumps(NOTEBOOK).replace("'shown'", '\\"shown\\"')
TEXTS = {
    "gentangle/__init__.py": "",
    "gentangle/alignment/experiment.py": "import numpy\nfrom gentangle.alignment.loss import f\n",
    "gentangle/alignment/loss.py": "def f():\n    return 1\n",
    "gentangle/draw.py": "def d():\n    return 1\n",
    "gentangle/other.py": "",
    "recipes/runs.yaml": "kind: preference\n",
    "requirements/cpu.txt": "numpy==2.4.6\nscipy==1.0\n",
    "notebooks/01_x.ipynb": CHAPTER,
    f"{PICTURE}.light.png": "light",
    f"{PICTURE}.dark.png": "dark",
}


def provenance(command, package, data=None):
    versions = {"numpy": "2.4.6", "scipy": "0.9"}
    return {"provenance": {"command": command, "package_sha256": package, "data_sha256": data, "versions": versions}}


def write(root, name, text):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def git(root, *words):
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True)


@pytest.fixture
def project(stale, load_script, tmp_path):
    """A repository whose record and figure were made with its first commit, and entered."""
    for name, text in TEXTS.items():
        write(tmp_path, name, text)
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    history = load_script("book/history.py").History(tmp_path)
    package = next(iter(history.commits))
    train = "gentangle train --recipe recipes/runs.yaml --results results"
    write(tmp_path, "results/runs/one.json", json.dumps(provenance(train, package)))
    write(tmp_path, f"{PICTURE}.json", json.dumps(provenance("ipykernel_launcher.py -f x", package)))
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "records")
    renewed(stale, tmp_path)
    return tmp_path


def renewed(stale, root):
    book = stale.Book(root)
    book.renew()
    book.write()


def told(stale, root):
    return {found.name: (list(found.changes), found.reason) for found in stale.Book(root).stale()}


def test_nothing_is_stale_at_first_nor_by_wording_nor_by_other_modules(stale, project):
    assert told(stale, project) == {}
    write(project, "gentangle/alignment/loss.py", '"""Words."""\n\ndef f():\n    return 1  # more\n')
    write(project, "gentangle/other.py", "x = 1")
    assert told(stale, project) == {}


@pytest.mark.parametrize(
    ("name", "text", "which", "change"),
    [
        ("gentangle/alignment/loss.py", "def f():\n    return 2\n", RUNS, "gentangle/alignment/loss.py changed"),
        ("gentangle/alignment/experiment.py", "", RUNS, "gentangle/alignment/experiment.py changed"),
        ("requirements/cpu.txt", "numpy==2.5.0\n", RUNS, "numpy 2.4.6 then, 2.5.0 in the lock"),
        ("gentangle/draw.py", "def d():\n    return 2\n", PICTURE, "gentangle/draw.py changed"),
        ("notebooks/01_x.ipynb", CHAPTER.replace(", d)", ", d, size=1)"), PICTURE, "the chapter's cells changed"),
    ],
)
def test_what_a_thing_stands_on_makes_it_stale_and_a_reason_holds_until_the_next_change(
    stale, project, name, text, which, change
):
    write(project, name, text)
    found = told(stale, project)
    assert found.keys() == {which}
    assert change in found[which][0]
    assert found[which][1] is None
    renewed(stale, project)
    assert told(stale, project)[which][1] == "not yet verified"
    write(project, "gentangle/alignment/experiment.py", "import gentangle.other\n")
    write(project, "gentangle/draw.py", "x = 3\n")
    assert told(stale, project)[which][1] is None


def test_a_reason_that_a_test_goes_on_verifying_is_renewed(stale, project):
    for value in (2, 3):
        write(project, "gentangle/alignment/loss.py", f"def f():\n    return {value}\n")
        book = stale.Book(project)
        if value == 2:
            (found,) = book.stale()
            book.acknowledge(found, "made again", "tests/x.py::test_y")
            book.write()
        else:
            assert told(stale, project)[RUNS][1] is None
        renewed(stale, project)
        assert told(stale, project)[RUNS][1] == "made again"


def test_other_data_make_a_record_stale(stale, project):
    path = project / "results" / "runs" / "one.json"
    record = json.loads(path.read_text())
    record["provenance"]["data_sha256"] = "0" * 64
    path.write_text(json.dumps(record))
    assert told(stale, project) == {RUNS: (["the rated texts are others"], None)}


def test_a_record_without_an_entry_is_named(stale, project):
    write(project, "results/alone.json", (project / "results" / "runs" / "one.json").read_text())
    ((name, (changes, reason)),) = told(stale, project).items()
    assert (name, reason) == ("results/alone.json", None)
    assert "--renew" in changes[0]


def test_a_figure_drawn_again_is_fresh_if_it_is_the_same(stale, project, tmp_path_factory):
    write(project, "gentangle/draw.py", "def d():\n    return 2\n")
    drawn = tmp_path_factory.mktemp("drawn")
    for theme in ("light", "dark"):
        write(drawn, f"shown.{theme}.png", theme)
    book = stale.Book(project)
    assert book.redrawn(drawn) == ([PICTURE], [])
    assert book.stale() == []
    write(drawn, "shown.dark.png", "other")
    assert stale.Book(project).redrawn(drawn) == ([], [PICTURE])
    assert book.drawn_by(["notebooks/01_x.ipynb"]) == [PICTURE]


def test_the_command_names_what_is_stale_and_fails_without_a_reason(stale, project, monkeypatch, capsys):
    monkeypatch.setattr(stale, "ROOT", project)
    monkeypatch.setattr(stale.Book.__init__, "__defaults__", (project,))
    assert stale.main([]) == 0
    assert "2 of 2 record sets and figures" in capsys.readouterr().out
    write(project, "gentangle/alignment/loss.py", "def f():\n    return 2\n")
    assert stale.main([]) == 1
    out, err = capsys.readouterr()
    assert "results/runs: gentangle/alignment/loss.py changed\n    NO REASON GIVEN" in out
    assert err.startswith("stale, and no reason given: results/runs.")
    assert stale.main(["--acknowledge", RUNS, "--reason", "it is why"]) == 0
    assert "it is why" in capsys.readouterr().out
    for wrong in (["--acknowledge", RUNS], ["--acknowledge", PICTURE, "--reason", "x"]):
        with pytest.raises(SystemExit):
            stale.main(wrong)
