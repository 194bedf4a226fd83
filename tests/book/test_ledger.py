"""A label without a check, a check without its label or its test, and a formula that is none: each is a warning."""

import re
import sys
from types import SimpleNamespace

import pytest
import yaml
from bs4 import BeautifulSoup
from docutils import nodes
from docutils.utils import new_document
from sphinx.testing.util import SphinxTestApp
from sphinx.util.console import strip_colors

from gentangle import objective
from gentangle.alignment import coupling
from gentangle.display.figure import ShownFigure
from gentangle.display.formula import Formula
from gentangle.errors import InputError

TEST = "tests/test_real.py::test_it"
TEST_FILE = """\
raise SystemExit("imported")

def helper(): ...

def test_it(x): ...

async def test_async(): ...

class TestGroup:
    def helper(self): ...
    def test_member(self): ...

class Other:
    def test_in_no_group(self): ...
"""
CLAIM = {
    "id": "both-fall",
    "statement": "Chosen falls when $a < b$.",
    "paper": "2410.13828",
    "place": "Section 3",
    "expected": "a fall",
    "test": TEST,
    "command": "make test",
    "measured": "-0.23 nats",
    "status": "reproduced in part",
    "profile": "cpu",
    "date": "2026-11-24",
    "hardware": "cpu, a processor",
}


@pytest.fixture(scope="module")
def ledger(load_script):
    return load_script("book/_ext/ledger.py")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The root of a small project with one file of tests."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "tests").mkdir()
    (folder / "tests" / "test_real.py").write_text(TEST_FILE)
    (folder / "tests" / "test_notes.txt").write_text("test_it")
    return folder


# ---- plain functions ----


@pytest.mark.parametrize("test", ["test_it", "test_it[a-1]", "test_it[a::b]", "test_async", "TestGroup::test_member"])
def test_a_test_of_the_file_is_one(ledger, root, test):
    assert ledger.why_no_test(f"tests/test_real.py::{test}", root) is None


@pytest.mark.parametrize(
    ("test", "why"),
    [
        ("test_it", "names no test: write tests/file.py::test_name"),
        ("tests/test_real.py", "names no test: write"),
        ("tests/test_notes.txt::test_it", "names no test: write"),
        ("definitions", "names no test: write"),
        ("tests/test_gone.py::test_it", "there is no file tests/test_gone.py"),
        ("tests/test_real.py::test_gone", "tests/test_real.py has no test test_gone"),
        ("tests/test_real.py::test_i", "has no test test_i"),
        ("tests/test_real.py::helper", "has no test helper"),
        ("tests/test_real.py::test_member", "has no test test_member"),
        ("tests/test_real.py::TestGroup", "has no test TestGroup"),
        ("tests/test_real.py::TestGroup::test_gone", "has no test TestGroup::test_gone"),
        ("tests/test_real.py::Other::test_in_no_group", "has no test Other::test_in_no_group"),
    ],
)
def test_why_a_name_is_no_test(ledger, root, test, why):
    sentence = ledger.why_no_test(test, root)
    assert sentence.startswith(repr(test))
    assert why in sentence


def test_collected_is_what_pytest_would_collect_without_an_import(ledger, root):
    found = ledger.collected_from(root / "tests" / "test_real.py")
    assert found == {"test_it", "test_async", "TestGroup::test_member"}


def label(ledger, name="eq-a", kind="equation", line=3):
    return ledger.Labelled(name, kind, "page", line)


def check(ledger, name="eq-a", test=TEST, line=5):
    return ledger.Check(name, test, "page", line)


def test_what_is_checked_is_no_problem(ledger, root):
    labelled = [label(ledger), label(ledger, "thm-a", "theorem"), label(ledger, "eq-b")]
    checks = [check(ledger), check(ledger, "thm-a"), check(ledger, "thm-a", TEST + "[1]")]
    checks.append(check(ledger, "eq-b", "definition"))
    assert ledger.problems(labelled, checks, root) == []


@pytest.mark.parametrize("kind", ["equation", "theorem", "lemma", "figure", "table"])
def test_a_label_without_a_check_is_a_problem_at_the_label(ledger, root, kind):
    sentence = f"{kind} 'x-a' names no test: add {{check}} with :for: x-a"
    assert ledger.problems([label(ledger, "x-a", kind)], [], root) == [(sentence, "page", 3)]


@pytest.mark.parametrize("kind", ["assumption", "axiom", "definition", "notation"])
def test_what_is_only_stated_needs_no_check(ledger, root, kind):
    assert ledger.problems([label(ledger, "x-a", kind)], [], root) == []


def test_a_check_of_no_label_is_a_problem_at_the_check(ledger, root):
    ((sentence, *place),) = ledger.problems([], [check(ledger)], root)
    assert sentence == "the check of 'eq-a' has no such label"
    assert place == ["page", 5]


def test_a_check_by_no_test_is_a_problem_at_the_check(ledger, root):
    ((sentence, *place),) = ledger.problems([label(ledger)], [check(ledger, test=f"{TEST}_gone")], root)
    assert sentence.startswith("the check of 'eq-a': ")
    assert sentence.endswith("tests/test_real.py has no test test_it_gone")
    assert place == ["page", 5]


def test_every_problem_is_told(ledger, root):
    labelled = [label(ledger, "eq-a"), label(ledger, "eq-b")]
    checks = [check(ledger, "eq-c", "nothing"), check(ledger, "eq-d")]
    assert len(ledger.problems(iter(labelled), iter(checks), root)) == 5


def math(**attributes):
    return nodes.math_block("a", "a", **attributes)


def proof(kind, name):
    """A node as sphinx-proof makes it."""
    return nodes.admonition("", realtype=kind, label=name)


def figure(name, format):
    origin = {"profile": "cpu", "seed": 0, "gentangle": "0", "date": "", "processor": "", "versions": {}}
    html = ShownFigure(name, "what it shows", {"light": b"", "dark": b""}, origin)._repr_html_()
    return nodes.raw("", html, format=format)


@pytest.mark.parametrize(
    ("node", "found"),
    [
        (math(label="eq-a"), [("eq-a", "equation")]),
        (math(), []),
        (math(label=None), []),
        (math(label="made-up", classes=["amsmath"]), []),
        (math(label="page:0"), []),
        (math(label="other:0"), [("other:0", "equation")]),
        (proof("theorem", "thm-a"), [("thm-a", "theorem")]),
        (proof("theorem", "theorem-0"), []),
        (proof("theorem", "lemma-0"), [("lemma-0", "theorem")]),
        (nodes.figure("", names=["fig-a"]), [("fig-a", "figure")]),
        (nodes.figure(""), []),
        (nodes.table("", names=["tab-a"]), [("tab-a", "table")]),
        (nodes.table(""), []),
        (figure("cases", "html"), [("fig-cases", "figure")]),
        (figure("cases", "latex"), []),
        (nodes.raw("", '<figure class="other" id="fig-cases">', format="html"), []),
        (nodes.paragraph("", "text", names=["eq-a"]), []),
    ],
)
def test_labels_are_those_that_the_author_gave(ledger, node, found):
    document = new_document("page.md")
    node.line = 7
    document += nodes.section("", node)
    expected = [ledger.Labelled(name, kind, "page", 7) for name, kind in found]
    assert ledger.labelled_in(document, "page") == expected


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("gentangle.alignment.coupling.CHANGE_CHOSEN", coupling.CHANGE_CHOSEN),
        ("gentangle.alignment.coupling.PAIR_GRAM.T.shape", (2, 2)),
        ("objective:dpo.loss", objective("dpo").loss),
    ],
)
def test_an_object_is_found_by_its_path(ledger, path, found):
    assert ledger.named_object(path) == found


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("gentangle.alignment.coupling.CHANGE_CHOZEN", AttributeError, "CHANGE_CHOZEN"),
        ("gentangle.alignmint.coupling", AttributeError, "alignmint"),
        ("nothing.at.all", ImportError, "no module in 'nothing.at.all'"),
        ("objective:simpl.loss", InputError, "Did you mean 'simpo'"),
        ("objective:dpo.lost", AttributeError, "lost"),
    ],
)
def test_a_path_that_leads_nowhere(ledger, path, error, words):
    with pytest.raises(error, match=words):
        ledger.named_object(path)


@pytest.mark.parametrize("missing", ["quite_other", "broken_by", "broken_by_an"])
def test_an_import_that_fails_inside_a_module_is_told_by_its_own_name(ledger, tmp_path, monkeypatch, missing):
    """Also where its name is how the path's begins."""
    (tmp_path / "broken_by_an_import.py").write_text(f"import {missing}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{missing}'"):
        ledger.named_object("broken_by_an_import.NAME")
    assert "broken_by_an_import" not in sys.modules


def test_the_domain_forgets_a_page_and_takes_over_what_another_process_read(ledger):
    domain = ledger.LedgerDomain(SimpleNamespace(domaindata={}))
    domain.note_check(check(ledger))
    domain.note_check(check(ledger, "eq-b"))
    assert domain.data["checks"] == {"page": [check(ledger), check(ledger, "eq-b")]}
    other = {"labelled": {"new": [1], "not mine": [2]}, "checks": {"new": [3]}}
    domain.merge_domaindata({"new"}, other)
    assert (domain.data["labelled"], domain.data["checks"]["new"]) == ({"new": [1]}, [3])
    domain.clear_doc("page")
    assert set(domain.data["checks"]) == {"new"}
    assert ledger.LedgerDomain.initial_data == {"labelled": {}, "checks": {}}


# ---- a small book ----


def directive(kind, argument="", body="", **options):
    lines = [f"```{{{kind}}} {argument}", *(f":{key}: {value}" for key, value in options.items()), *body.split("\n")]
    return "\n".join([*lines, "```\n"])


def checked_by(test, name):
    return directive("check", test, **{"for": name})


CHANGE = "gentangle.alignment.coupling.CHANGE_CHOSEN"
# A page for each situation, under a title: all are built at once, and each has its own warnings.
PAGES = {
    "index": directive("toctree", body="\n*", glob=""),
    "checked": f"$$ a = b $$ (eq-checked)\n\n{checked_by(TEST, 'eq-checked')}\nSee {{eq}}`eq-checked`.\n",
    "several": f"$$ a $$ (eq-one)\n\n$$ b $$ (eq-two)\n\n{checked_by(TEST, 'eq-one, eq-two')}",
    "defined": f"$$ a := b $$ (eq-defined)\n\n{checked_by('definition', 'eq-defined')}",
    "elsewhere": f"{checked_by(TEST, 'eq-far')}",
    "far": "$$ a = b $$ (eq-far)\n",
    "unlabelled": "$$ a = b $$\n\n\\begin{align}\na &= b\n\\end{align}\n",
    "unchecked": "Words.\n\n$$ a = b $$ (eq-unchecked)\n",
    "printed-unchecked": Formula(coupling.CHANGE_CHOSEN, label="eq-printed")._repr_markdown_() + "\n",
    "no-test": f"$$ a = b $$ (eq-no-test)\n\n{checked_by('tests/test_real.py::test_gone', 'eq-no-test')}",
    "no-label": f"Words.\n\n{checked_by(TEST, 'eq-nowhere')}",
    "check-of-nothing": directive("check", TEST),
    "theorem": directive("prf:theorem", "Name", "It holds.", label="thm-a") + checked_by(TEST, "thm-a"),
    "orphan": directive("prf:theorem", "Name", "It holds.", label="thm-orphan"),
    "stated": directive("prf:definition", "Name", "It is called so.", label="def-a"),
    "figure": directive("figure", "a.png", "A caption.", name="fig-a"),
    "formula": directive("formula", CHANGE, label="eq-formula", lhs=r"\Delta_w", check=TEST)
    + "See {eq}`eq-formula`.\n",
    "formula-plain": directive("formula", "objective:dpo.loss"),
    "formula-unchecked": directive("formula", CHANGE, label="eq-formula-unchecked"),
    "formula-unknown": "Words.\n\n" + directive("formula", CHANGE + "S") + "\nMore words.\n",
    "formula-no-module": directive("formula", "nothing.at.all"),
    "formula-no-objective": directive("formula", "objective:simpl.loss"),
    "formula-label": directive("formula", CHANGE, label="Eq 1"),
    "formula-check": directive("formula", CHANGE, check=TEST),
    "claims": f"{directive('claims')}\nSee {{ref}}`claim-both-fall`.\n",
    "claims-not-run": directive("claims", "book/not_run.yml"),
    "claims-no-test": directive("claims", "book/no_test.yml"),
    "claims-misspelt": directive("claims", "book/misspelt.yml"),
}
UNTROUBLED = {
    *("index", "checked", "several", "defined", "elsewhere", "far", "unlabelled", "theorem", "stated", "formula"),
    *("formula-plain", "claims", "claims-not-run"),
}


class Book:
    """A built book: its pages, and the warnings of each."""

    def __init__(self, ledger, source, ledger_root):
        settings = {
            "extensions": ["myst_parser", "sphinx_proof", "sphinx.ext.mathjax", ledger.__name__],
            "myst_enable_extensions": ["dollarmath", "amsmath"],
            "exclude_patterns": ["_build"],
            "html_theme": "basic",
            "numfig": True,
            "ledger_root": str(ledger_root),
        }
        self.app = SphinxTestApp(srcdir=source, confoverrides=settings, builddir=source / "_build")

    def build(self):
        before = len(self.app.warning.getvalue())
        self.app.build()
        self.warnings = strip_colors(self.app.warning.getvalue()[before:]).splitlines()
        return self

    def warnings_of(self, page):
        return [line for line in self.warnings if re.search(rf"/{page}\.md\b", line)]

    def page(self, name):
        return BeautifulSoup((self.app.outdir / f"{name}.html").read_text("utf-8"), "html.parser")


def write_pages(folder, pages):
    (folder / "conf.py").touch()
    (folder / "a.png").touch()
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(f"# {name}\n\n{text}", "utf-8")


@pytest.fixture(scope="module")
def book(ledger, root, tmp_path_factory):
    (root / "book").mkdir()
    for name, row in {
        "claims": CLAIM,
        "not_run": {key: CLAIM[key] for key in ("id", "statement", "paper", "place", "expected")} | {"id": "later"},
        "no_test": CLAIM | {"id": "untested", "test": "tests/test_real.py::test_gone"},
        "misspelt": CLAIM | {"statment": "x"},
    }.items():
        (root / "book" / f"{name}.yml").write_text(yaml.safe_dump([row]))
    source = tmp_path_factory.mktemp("source")
    write_pages(source, PAGES)
    built = Book(ledger, source, root)
    yield built.build()
    built.app.cleanup()


@pytest.mark.parametrize("page", sorted(UNTROUBLED))
def test_a_page_in_order_has_no_warning(book, page):
    assert book.warnings_of(page) == []


@pytest.mark.parametrize(
    ("page", "line", "words"),
    [
        ("unchecked", 5, "WARNING: equation 'eq-unchecked' names no test: add {check} with :for: eq-unchecked"),
        ("printed-unchecked", 3, "WARNING: equation 'eq-printed' names no test"),
        ("no-test", 5, "WARNING: the check of 'eq-no-test': .*tests/test_real.py has no test test_gone"),
        ("no-label", 5, "WARNING: the check of 'eq-nowhere' has no such label"),
        ("check-of-nothing", 3, "a check needs its label: add the option :for: LABEL"),
        ("orphan", 3, "WARNING: theorem 'thm-orphan' names no test"),
        ("figure", 3, "WARNING: figure 'fig-a' names no test"),
        ("formula-unchecked", 3, "WARNING: equation 'eq-formula-unchecked' names no test"),
        ("formula-unknown", 5, f"formula '{CHANGE}S': .*has no attribute 'CHANGE_CHOSENS'"),
        ("formula-no-module", 3, "formula 'nothing.at.all': no module in 'nothing.at.all'"),
        ("formula-no-objective", 3, "formula 'objective:simpl.loss': .*Did you mean 'simpo'\\?"),
        ("formula-label", 3, f"formula '{CHANGE}': 'Eq 1' is no label"),
        ("formula-check", 3, f"formula '{CHANGE}' has a check and no label: add :label:"),
        ("claims-no-test", 3, "WARNING: claim 'untested': .*tests/test_real.py has no test test_gone"),
        ("claims-misspelt", 3, "misspelt.yml, claim 1: unknown key 'statment'. Did you mean 'statement'\\?"),
    ],
)
def test_a_page_with_a_mistake_has_one_warning_at_its_line(book, page, line, words):
    (warning,) = book.warnings_of(page)
    assert f"/{page}.md:{line}: " in warning
    assert re.search(words, warning), warning


def test_no_warning_is_of_anything_else(book):
    """None without a place, and no page without one of the tests above."""
    assert all(re.search(r"/[\w-]+\.md:\d+: (WARNING|ERROR|CRITICAL): ", line) for line in book.warnings if line)
    troubled = {page for page in PAGES if book.warnings_of(page)}
    assert troubled == PAGES.keys() - UNTROUBLED


def notes(book, page):
    return [note.text for note in book.page(page).select("p.gt-check")]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("checked", f"checked by {TEST}"),
        ("defined", "a definition"),
        ("formula", f"printed from {CHANGE}; checked by {TEST}"),
        ("formula-plain", "printed from objective:dpo.loss"),
    ],
)
def test_the_page_names_the_test(book, page, text):
    assert notes(book, page) == [text]


def test_a_formula_prints_the_objects_latex_under_its_label(book):
    page = book.page("formula")
    assert Formula(coupling.CHANGE_CHOSEN, lhs=r"\Delta_w").latex in page.select_one("div.math").text
    (number,) = page.find(id="equation-eq-formula").select(".eqno")
    link = page.select_one("p a[href='#equation-eq-formula']")
    assert number.text.startswith(link.text)
    assert re.fullmatch(r"\([\d.]+\)", link.text)


def test_a_formula_of_an_objective_is_printed_without_a_number(book):
    page = book.page("formula-plain")
    assert Formula(objective("dpo").loss).latex in page.select_one("div.math").text
    assert page.select_one(".eqno") is None


def test_the_rest_of_a_page_with_an_unknown_formula_is_there(book):
    text = book.page("formula-unknown").text
    assert "More words." in text
    assert "Traceback" not in text


def test_the_ledger_shows_each_part_of_a_claim(book):
    table = book.page("claims").select_one("table.gt-claims")
    assert [head.text for head in table.find_all("th")] == ["Claim", "Expected", "Measured here", "Status", "How"]
    cells = [cell.get_text(" ", strip=True) for cell in table.select("tbody td")]
    assert cells[0].startswith("Chosen falls when")
    assert cells[0].endswith("Section 3, arXiv 2410.13828")
    assert table.select_one("td .math").text.strip(r"\()") == "a < b"
    assert cells[1:4] == ["a fall", "-0.23 nats", "reproduced in part"]
    assert cells[4] == f"{TEST} make test profile cpu, 2026-11-24, cpu, a processor"
    assert table.select_one("p.gt-status-reproduced-in-part")


def test_a_claim_that_is_not_run_shows_a_dash_and_no_test(book):
    cells = [cell.get_text(" ", strip=True) for cell in book.page("claims-not-run").select("tbody td")]
    assert cells[1:] == ["a fall", "\u2013", "not run", ""]


def test_a_reference_leads_to_the_claims_row(book):
    page = book.page("claims")
    link = page.find("a", string="both-fall")
    assert link["href"] == "#claim-both-fall"
    assert page.find(id="claim-both-fall").name == "tr"


def test_the_style_of_the_ledger_is_a_file_of_the_site(book):
    hrefs = [link["href"].split("?")[0] for link in book.page("claims").select("link[rel=stylesheet]")]
    assert "_static/ledger.css" in hrefs
    assert (book.app.outdir / "_static" / "ledger.css").is_file()


def test_a_page_read_again_is_forgotten_first_and_so_is_a_file_of_tests(ledger, tmp_path):
    """Second and third build of one process, as an edited book is built."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "source").mkdir()
    tests = tmp_path / "tests" / "test_real.py"
    tests.write_text(TEST_FILE)
    write_pages(tmp_path / "source", {name: PAGES[name] for name in ("index", "checked")})
    book = Book(ledger, tmp_path / "source", tmp_path)
    try:
        assert book.build().warnings == []
        write_pages(tmp_path / "source", {"checked": "$$ a = b $$ (eq-other)\n"})
        (warning,) = book.build().warnings
        assert "equation 'eq-other' names no test" in warning
        tests.write_text("")
        write_pages(tmp_path / "source", {"checked": PAGES["checked"]})
        (warning,) = book.build().warnings
        assert "has no test test_it" in warning
    finally:
        book.app.cleanup()
