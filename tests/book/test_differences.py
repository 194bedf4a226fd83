"""Where the papers and the book part: every such claim says why, on a page of its own."""

import dataclasses
import os
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from gentangle.display.claims import load_claims, unexplained

ROOT = Path(__file__).parents[2]
BOOK = Path(os.environ.get("GENTANGLE_BOOK", ROOT / "book" / "_build" / "html"))
CLAIMS = load_claims(ROOT / "book" / "claims.yml")
APART = [claim for claim in CLAIMS if claim.status in ("differs", "reproduced in part")]


def test_every_claim_that_came_out_otherwise_says_why_and_where():
    assert unexplained(CLAIMS) == []
    assert [claim.id for claim in APART if not (ROOT / "notebooks" / f"{claim.chapter}.ipynb").is_file()] == []
    assert [claim.id for claim in APART if not claim.why.endswith(".")] == []


def test_nothing_is_explained_that_came_out_or_was_not_run():
    """A row whose status changes must not keep the reason of the old one."""
    assert [claim.id for claim in CLAIMS if claim.why and claim not in APART] == []


@pytest.mark.parametrize("name", ["why", "chapter"])
def test_a_missing_reason_is_found(name):
    claim = dataclasses.replace(APART[0], **{name: ""})
    assert unexplained([claim]) == [claim.id]
    assert unexplained([dataclasses.replace(claim, status="reproduced")]) == []


def test_page_has_each_of_them_once_with_its_reason():
    if not BOOK.is_dir():
        pytest.skip(f"{BOOK} is not built: make book")
    page = BeautifulSoup((BOOK / "book" / "differences.html").read_text("utf-8"), "html.parser")
    links = [a["href"] for a in page.select("dt a")]
    assert sorted(links) == sorted(f"claims.html#claim-{claim.id}" for claim in APART)
    told = page.find_all("dd")
    assert len(told) == len(APART)
    for part in told:
        assert "Why." in part.text
        assert part.find("a")["href"].startswith("../notebooks/")
