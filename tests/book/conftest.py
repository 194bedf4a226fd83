"""What the tests of committed records share."""

from pathlib import Path

import pytest

from gentangle.alignment.records import load_records
from gentangle.display.claims import load_claims

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def records(request):
    """The committed records of the module's ``RECIPE``."""
    return load_records(ROOT / "results", request.module.RECIPE)


@pytest.fixture(scope="session")
def ledger():
    """The committed claims, by id."""
    return {claim.id: claim for claim in load_claims(ROOT / "book" / "claims.yml")}
