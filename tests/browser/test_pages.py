"""Every page of the built book in a real browser, light and dark."""

import pytest
from browsing import BOOK, WIDTHS, book_pages, quiet_page, settle, watch

pytestmark = pytest.mark.browser

THEMES = ("light", "dark")


@pytest.fixture(params=THEMES)
def theme(request):
    return request.param


@pytest.fixture(params=book_pages())
def shown(request, theme, book_address, visit):
    return visit(book_address, request.param, theme)


def test_asks_no_other_host(shown):
    assert shown.outside == []


def test_console_is_quiet(shown):
    assert shown.complaints == []


def test_follows_the_theme_of_the_system(shown, theme):
    assert shown.theme == theme


def test_every_formula_is_typeset(shown):
    assert shown.formula_errors == []
    assert shown.typeset >= shown.formulas


def test_every_image_has_alt_text(shown):
    assert shown.images_without_alt == []


def test_every_widget_mounts(shown):
    assert set(shown.mounts) <= {"yes"}


@pytest.mark.parametrize("width", WIDTHS)
def test_does_not_scroll_sideways(shown, width):
    assert shown.overflow[width] == ""


@pytest.mark.parametrize("name", book_pages())
def test_works_from_the_file_system(name, book_address, visit):
    shown = visit(BOOK.as_uri() + "/", name, "light")
    assert (shown.outside, shown.complaints, shown.formula_errors) == ([], [], [])
    assert set(shown.mounts) <= {"yes"}
    assert shown.typeset >= shown.formulas


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_entrance_leads_to_the_first_page(browser, book_address, scheme):
    base = book_address if scheme == "http" else BOOK.as_uri() + "/"
    page = browser.new_page()
    seen = watch(page, base)
    page.goto(base + "index.html")
    page.wait_for_url(lambda url: not url.endswith("index.html"))
    settle(page)
    assert page.locator("h1:visible").count() == 1  # the theme keeps a second one for print
    assert (seen.outside, seen.complaints) == ([], [])
    page.close()


def test_some_page_has_formulas_and_some_page_a_widget(book_address, visit):
    shown = [visit(book_address, name, "light") for name in book_pages()]
    assert any(page.typeset for page in shown)
    assert any(page.mounts for page in shown)


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_search_finds_a_word_without_a_network(browser, book_address, scheme):
    base = book_address if scheme == "http" else BOOK.as_uri() + "/"
    with quiet_page(browser, base, "search.html?q=entanglement") as page:
        page.wait_for_selector("#search-results li a")
        assert any("01_coupling.html" in a.get_attribute("href") for a in page.locator("#search-results li a").all())
