"""Every page of the built book in a real browser, light and then dark."""

import pytest
from browsing import BOOK, THEMES, WIDTHS, book_pages, pages_of_each_kind, quiet_page, settle, watch

pytestmark = pytest.mark.browser


@pytest.fixture(params=book_pages())
def shown(request, book_address, visit):
    return visit(book_address, request.param)


def test_asks_no_other_host(shown):
    assert shown.outside == []


def test_console_is_quiet(shown):
    assert shown.complaints == []


def test_follows_the_theme_of_the_system(shown):
    assert shown.themes == {theme: theme for theme in THEMES}


def test_every_formula_is_typeset(shown):
    assert shown.formula_errors == []
    assert shown.typeset >= shown.formulas


def test_every_image_has_alt_text(shown):
    assert shown.images_without_alt == []


def test_every_widget_mounts(shown):
    assert set(shown.mounts) <= {"yes"}


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_does_not_scroll_sideways(shown, theme, width):
    assert shown.overflow[theme, width] == ""


def assert_works(shown):
    assert (shown.outside, shown.complaints, shown.formula_errors) == ([], [], [])
    assert set(shown.mounts) <= {"yes"}
    assert shown.typeset >= shown.formulas


@pytest.mark.parametrize("name", pages_of_each_kind())
def test_works_from_the_file_system(name, book_address, visit):
    """test_links.py has the links of every page; what may be refused there is a script or a style sheet."""
    assert_works(visit(BOOK.as_uri() + "/", name))


@pytest.mark.parametrize("name", pages_of_each_kind())
def test_is_dark_from_the_start(name, book_address, visit):
    shown = visit(book_address, name, "dark")
    assert_works(shown)
    assert shown.themes == {theme: theme for theme in THEMES}


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
    shown = [visit(book_address, name) for name in book_pages()]
    assert any(page.typeset for page in shown)
    assert any(page.mounts for page in shown)


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_search_finds_a_word_without_a_network(browser, book_address, scheme):
    base = book_address if scheme == "http" else BOOK.as_uri() + "/"
    with quiet_page(browser, base, "search.html?q=entanglement") as page:
        page.wait_for_selector("#search-results li a")
        assert any("01_coupling.html" in a.get_attribute("href") for a in page.locator("#search-results li a").all())
