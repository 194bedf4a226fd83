"""axe-core on each kind of page, light and dark: no fault that it calls serious or critical."""

from importlib.resources import files

import pytest
from browsing import BOOK, THEMES, change_theme, missing, settle

pytestmark = pytest.mark.browser

#: One of each kind, by what is on it.
KINDS = {
    "first page, with a widget": "book/intro.html",
    "prose with formulas": "book/prerequisites.html",
    "tables": "book/notation.html",
    "words": "book/glossary.html",
    "chapter with theorems and figures": "notebooks/05_dynamics.html",
    "chapter with the suffix widget": "notebooks/04_suffix.html",
    "chapter with the replay": "notebooks/07_tweets.html",
    "prose with the landscape": "book/neighbours.html",
    "claims, with menus": "book/claims.html",
    "differences": "book/differences.html",
    "code and commands": "book/howto.html",
    "API reference": "book/api.html",
    "bibliography": "book/bibliography.html",
    "list of checks": "book/checks.html",
    "sources of tests": "checks/gradients.html",
    "records": "book/records.html",
    "search": "search.html",
}
# axe-core takes milliseconds an element. Left out: a formula's strokes and their twin in MathML, thousands of elements
# that MathJax answers for, and, of a row of entries of the API, all but the first three.
RUN = """async () => {
  const many = "mjx-container > svg > *, mjx-assistive-mml > *, dl.py ~ dl.py ~ dl.py ~ dl.py";
  document.querySelectorAll(many).forEach((node) => node.remove());
  return await axe.run(document, { resultTypes: ["violations"] });
}"""


def serious_faults(page) -> list[str]:
    """A line for each fault that axe-core calls serious or critical: rule, how many, the first."""
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text("utf-8"))
    return [
        f"{fault['id']} ({len(fault['nodes'])}): {fault['nodes'][0]['html'][:150]}"
        for fault in page.evaluate(RUN)["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_page_has_no_serious_fault(browser, book_address, kind):
    page = browser.new_page(color_scheme="light", viewport={"width": 1200, "height": 900})
    page.goto(book_address + KINDS[kind])
    settle(page)
    found = {change_theme(page, theme): serious_faults(page) for theme in THEMES}
    page.close()
    assert found == {theme: [] for theme in THEMES}


def test_a_fault_is_found(browser, tmp_path):
    (tmp_path / "page.html").write_text(
        '<html lang="en"><title>t</title><main><img src="data:,"><p style="color:#aaa;background:#fff">pale</p></main>',
        "utf-8",
    )
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    assert [fault.split()[0] for fault in serious_faults(page)] == ["color-contrast", "image-alt"]
    page.close()


def test_kinds_are_pages_of_the_book():
    if not BOOK.is_dir():
        missing(f"{BOOK} is not built: make book")
    assert [name for name in KINDS.values() if not (BOOK / name).is_file()] == []
