"""What a reader waits for: bytes of the first page, time until it can be used, size of the site."""

import gzip
from pathlib import Path

import pytest
from browsing import BOOK, missing, settle

pytestmark = pytest.mark.browser

FIRST = "book/intro.html"
# Milliseconds since the page was asked for, at the first frame after its widget is in place.
MOUNTED = """new MutationObserver((_, observer) => {
  if (!document.querySelector(".gt-mount[data-mounted=yes]")) return;
  observer.disconnect();
  requestAnimationFrame(() => { window.mountedAfter = performance.now(); });
}).observe(document, { subtree: true, childList: true, attributes: true });"""


@pytest.fixture(scope="module", autouse=True)
def _built():
    if not BOOK.is_dir():
        missing(f"{BOOK} is not built: make book")


def test_site_is_under_40_megabytes():
    size = sum(path.stat().st_size for path in BOOK.rglob("*") if path.is_file())
    print(f"the site has {size / 1e6:.1f} MB")
    assert size < 40e6


def test_first_page_transfers_less_than_a_megabyte(browser, book_address):
    """Of text as a server of static pages sends it, compressed."""
    page = browser.new_page()
    seen = {}
    page.on("response", lambda reply: seen.setdefault(reply.url.removeprefix(book_address).split("?")[0], reply))
    page.goto(book_address + FIRST)
    settle(page)
    sizes = {name: transferred(BOOK / name) for name in seen if (BOOK / name).is_file()}
    page.close()
    assert FIRST in sizes
    for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:5]:
        print(f"{size / 1e3:8.0f} kB {name}")
    print(f"the first page has {sum(sizes.values()) / 1e6:.2f} MB")
    assert sum(sizes.values()) < 1e6


def transferred(path: Path) -> int:
    """Bytes of a file, compressed where servers compress it."""
    data = path.read_bytes()
    return len(gzip.compress(data, 6)) if path.suffix in (".html", ".css", ".js", ".svg", ".json") else len(data)


def test_first_page_waits_for_no_script_of_formulas_icons_or_search(browser, book_address):
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(book_address + FIRST)
    settle(page)
    page.close()
    assert [url for url in asked if any(name in url for name in ("mathjax", "fontawesome.js", "searchindex"))] == []
    assert len(asked) <= 40


def test_first_page_is_usable_at_once(browser, book_address):
    """Seconds from asking for the page until its widget is drawn, with an empty cache.

    On a quiet machine it is under one. Other work adds to it: the limit is wide, and the best of a few visits counts.
    """
    times = []
    while len(times) < 6 and min(times, default=9) >= 1:
        context = browser.new_context()
        page = context.new_page()
        page.add_init_script(MOUNTED)
        page.goto(book_address + FIRST)
        times.append(page.wait_for_function("() => window.mountedAfter").json_value() / 1000)
        assert page.locator(".gt-mount input[name=angle]").is_enabled()
        context.close()
    print("seconds until the first page is usable:", [round(value, 2) for value in times])
    assert min(times) < 5
