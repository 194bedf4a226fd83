"""The built book served from a local port, and an installed Chromium to open it with."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# pytest's importlib mode puts no test folder on the path; the tests of this folder share browsing.py.
sys.path.insert(0, str(Path(__file__).parent))

from browsing import (
    BOOK,
    CHROMIUM_FLAGS,
    FACTS,
    OVERFLOW,
    THEMES,
    WIDTHS,
    Visit,
    change_theme,
    find_chromium,
    missing,
    serve,
    settle,
    watch,
)


@pytest.fixture(scope="session")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    chromium = find_chromium()
    if chromium is None:
        missing("no Chromium: apt-get install chromium, or name one in GENTANGLE_CHROMIUM")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def book_address() -> Iterator[str]:
    if not BOOK.is_dir():
        missing(f"{BOOK} is not built: make book")
    yield from serve(BOOK)


@pytest.fixture(scope="session")
def visit(browser):
    """Function of (base address, page, first theme) that opens the page once and remembers what it saw.

    Formulas take most of the time: for the other theme the page stays open, and the system's theme changes.
    """
    seen: dict[tuple[str, str, str], Visit] = {}

    def open_page(base: str, name: str, theme: str = "light") -> Visit:
        if (base, name, theme) not in seen:
            page = browser.new_page(color_scheme=theme, viewport={"width": 1200, "height": 900})
            record = watch(page, base)
            page.goto(base + name)
            settle(page)
            for key, value in page.evaluate(FACTS).items():
                setattr(record, key, value)
            for shown in sorted(THEMES, key=theme.__ne__):
                record.themes[shown] = change_theme(page, shown)
                for width in WIDTHS:
                    page.set_viewport_size({"width": width, "height": 900})
                    record.overflow[shown, width] = page.evaluate(OVERFLOW)
            page.close()
            seen[base, name, theme] = record
        return seen[base, name, theme]

    return open_page
