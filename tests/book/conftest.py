"""What the tests of committed records share."""

from pathlib import Path

import pytest

from gentangle.alignment.records import load_records

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def records(request):
    """The committed records of the module's ``RECIPE``."""
    return load_records(ROOT / "results", request.module.RECIPE)
