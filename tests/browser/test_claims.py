"""The claims ledger in a browser: its two menus."""

import pytest
from browsing import quiet_page

from gentangle.display.claims import STATUSES, load_claims

pytestmark = pytest.mark.browser


@pytest.fixture
def page(browser, book_address):
    with quiet_page(browser, book_address, "book/claims.html") as opened:
        yield opened


def shown(page) -> set[str]:
    rows = page.locator("table.gt-claims tbody tr").all()
    return {row.get_attribute("id").removeprefix("claim-") for row in rows if row.is_visible()}


def test_all_rows_are_shown_at_first(page):
    claims = load_claims()
    assert shown(page) == {claim.id for claim in claims}
    assert page.locator(".gt-filters output").inner_text() == f"{len(claims)} of {len(claims)} claims"


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize(
    ("paper", "number"), [("gradient entanglement", "2410.13828"), ("gradient matching", "2104.09937")]
)
def test_menus_keep_the_rows_of_a_paper_and_a_status(page, paper, number, status):
    page.select_option("select[name=paper]", paper)
    page.select_option("select[name=status]", status)
    kept = {claim.id for claim in load_claims() if (claim.paper, claim.status) == (number, status)}
    assert shown(page) == kept
    assert page.locator(".gt-filters output").inner_text() == f"{len(kept)} of {len(load_claims())} claims"


def test_menus_have_names_and_work_by_keyboard(page):
    assert page.get_by_label("paper").count() == page.get_by_label("status").count() == 1
    page.get_by_label("status").focus()
    page.keyboard.press("ArrowDown")
    assert shown(page) == {claim.id for claim in load_claims() if claim.status == load_claims()[0].status}
