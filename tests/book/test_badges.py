"""A badge stands beside each kind of number and leads to its check: a small book with one of each, built once."""

import json
import re

import pytest
from bs4 import BeautifulSoup
from sphinx.testing.util import SphinxTestApp
from sphinx.util.console import strip_colors

TESTS = '''\
import pytest

@pytest.mark.parametrize("x", [1, 2])
def test_passed(x):
    """It holds."""
    assert x < "a < b"

def test_never_run(): ...

class TestGroup:
    def test_failed(self):
        assert False
'''
PASSED, NEVER, FAILED = (
    f"tests/room/test_real.py::{name}" for name in ("test_passed", "test_never_run", "TestGroup::test_failed")
)
SOURCE, LIST = "checks/room.html#test-real-", "book/checks.html#check-"
FIGURE = '<figure class="gt-figure" id="fig-drawn"><img alt="x"><details><summary>s</summary></details></figure>'


def checked(test, label):
    return f"```{{check}} {test}\n:for: {label}\n```\n\n"


PAGES = {
    "index": "```{toctree}\none\nbook/checks\n```\n",
    "book/checks": "```{checks}\n```\n",
    "one": f"""$$ a = b $$ (eq-a)

$$ c := d $$ (eq-defined)

```{{prf:theorem}} Name
:label: thm-a

It holds.
```

```{{prf:algorithm}} Name
:label: alg-a

Do it.
```

```{{prf:definition}} Name
:label: def-a

It is called so.
```

```{{figure}} a.png
:name: fig-a

A caption.
```

```{{raw}} html
{FIGURE}
```

```{{table}} A title
:name: tab-a

| a | b |
|---|---|
| 1 | 2 |
```

{checked(PASSED, "eq-a, tab-a")}{checked("definition", "eq-defined")}{checked(FAILED, "thm-a")}{checked(NEVER, "alg-a")}
{checked(PASSED, "fig-a")}{checked(NEVER, "fig-a")}{checked(PASSED + "[1]", "fig-drawn")}
""",
}


@pytest.fixture(scope="module")
def built(load_script, tmp_path_factory):
    scripts = [load_script(f"book/_ext/{name}.py") for name in ("ledger", "check_pages", "badges")]
    root = tmp_path_factory.mktemp("project")
    (root / "tests" / "room").mkdir(parents=True)
    (root / "tests" / "room" / "test_real.py").write_text(TESTS)
    (root / "results").mkdir()
    code = load_script("book/closure.py").code_hash
    text = TESTS.split("\n\n")[1]
    rows = {
        PASSED: {"outcome": "passed", "cases": 2, "seconds": 0.4, "date": "2026-11-27", "code": code(text)},
        FAILED: {"outcome": "failed", "cases": 1, "seconds": 0.1, "date": "2026-11-27", "code": "another"},
    }
    (root / "results" / "checks.json").write_text(json.dumps({"tests": rows}))
    source = root / "pages"
    (source / "book").mkdir(parents=True)
    (source / "conf.py").touch()
    (source / "a.png").touch()
    for name, words in PAGES.items():
        (source / f"{name}.md").write_text(f"# {name}\n\n{words}")
    settings = {
        "extensions": ["myst_parser", "sphinx_proof", "sphinx.ext.mathjax", *(script.__name__ for script in scripts)],
        "myst_enable_extensions": ["dollarmath"],
        "html_theme": "basic",
        "numfig": True,
        "ledger_root": str(root),
    }
    app = SphinxTestApp(srcdir=source, confoverrides=settings, builddir=root / "_build")
    app.build()
    assert strip_colors(app.warning.getvalue()) == ""
    yield app.outdir
    app.cleanup()


def page(built, name):
    return BeautifulSoup((built / f"{name}.html").read_text("utf-8"), "html.parser")


@pytest.mark.parametrize(
    ("place", "word", "told", "target"),
    [
        ("#equation-eq-a .eqno", "checked", "eq-a: passed (2 cases) on 2026-11-27 in 0.4 s", SOURCE + "test-passed"),
        ("#equation-eq-defined .eqno", "definition", "eq-defined: a definition", LIST + "eq-defined"),
        ("#thm-a .admonition-title", "failed", "0.1 s; the test has changed since", SOURCE + "TestGroup-test-failed"),
        ("#alg-a .admonition-title", "check", "alg-a: no result recorded", SOURCE + "test-never-run"),
        ("#def-a .admonition-title", "definition", "def-a: a definition", LIST + "def-a"),
        ("#fig-a figcaption", "check", "fig-a: 2 tests", LIST + "fig-a"),
        ("#fig-drawn .gt-figure-line", "checked", "fig-drawn: passed", SOURCE + "test-passed"),
        ("#tab-a caption", "checked", "tab-a: passed", SOURCE + "test-passed"),
    ],
)
def test_the_badge_of_each_kind_stands_beside_its_number_and_leads_to_the_check(built, place, word, told, target):
    (badge,) = page(built, "one").select(f"{place} a.gt-badge")
    assert (badge.text, badge["href"]) == (word, target)
    assert badge["aria-label"].startswith(word)
    assert told in badge["aria-label"]
    name, anchor = target.split("#")
    assert page(built, name.removesuffix(".html")).find(id=anchor)


def test_no_number_has_two_badges_and_none_is_without(built):
    assert len(page(built, "one").select("a.gt-badge")) == 8


def test_the_line_that_names_a_check_leads_to_it(built):
    links = [link["href"] for link in page(built, "one").select("p.gt-check a")]
    assert links.count("checks/room.html#test-real-test-passed") == 3
    assert len(links) == 6


def test_the_page_of_a_folders_tests_shows_source_result_and_labels(built):
    shown = page(built, "checks/room")
    part = shown.find(id="test-real-test-passed")
    assert part.h2.text == "test passed"
    assert part.select_one(".gt-result").text == "passed (2 cases) on 2026-11-27 in 0.4 s"
    code = part.select_one(".highlight").text
    assert code.startswith("@pytest.mark.parametrize")
    assert code.rstrip().endswith('assert x < "a < b"')
    assert [link["href"] for link in part.select("p a")] == [
        "../one.html#equation-eq-a",
        "../one.html#fig-a",
        "../one.html#fig-drawn",
        "../one.html#tab-a",
    ]
    assert shown.find(id="test-real-TestGroup-test-failed").select_one(".highlight").text.startswith("def test_failed")


def test_the_list_has_every_label_under_its_page_and_counts_them(built):
    shown = page(built, "book/checks")
    assert shown.select_one("p").text == (
        "8 labels: 6 name a test, 2 are definitions. "
        "3 tests: 1 passed, 1 failed, 1 without a recorded result."
    )  # fmt: skip
    rows = {row.a.text: row for row in shown.select("dl.gt-checks dt")}
    assert rows.keys() == {"eq-a", "eq-defined", "thm-a", "alg-a", "def-a", "fig-a", "fig-drawn", "tab-a"}
    assert re.sub(r"\s+", " ", rows["thm-a"].text) == "thm-a theorem"
    anchors = page(built, "one")
    assert all(anchors.find(id=row.a["href"].split("#")[1]) for row in rows.values())
