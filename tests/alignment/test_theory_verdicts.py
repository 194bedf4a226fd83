"""The ledger says of the theory's claims what its rules say, and a broken formula changes a verdict."""

from pathlib import Path

import numpy as np
import pytest

from gentangle.alignment import theory_verdicts
from gentangle.display.claims import load_claims

LEDGER = Path(__file__).parents[2] / "book" / "claims.yml"
RULES = theory_verdicts.theory_verdicts


@pytest.fixture(scope="module")
def found():
    return RULES()


@pytest.mark.claims(
    "underspecified",
    "unintended-consequences",
    "general-condition",
    "one-form",
    "suffix-theorem",
    "slopes-decide",
    "normalised-gradients",
    "token-masks",
)
def test_the_ledger_holds_what_the_rules_say(found):
    ledger = {claim.id: claim for claim in load_claims(LEDGER)}
    for name, verdict in found.items():
        assert (ledger[name].status, ledger[name].measured) == verdict


def test_a_slip_in_the_coupling_is_seen(monkeypatch):
    """With the sign of the inner product turned the fourth case appears, and objectives' cases are not as forecast."""
    right = theory_verdicts.first_order_changes

    def slipped(gram, *slopes):
        return right(np.asarray(gram) * [[1, -1], [-1, 1]], *slopes)[..., ::-1] * [-1, -1]

    monkeypatch.setattr(theory_verdicts, "first_order_changes", slipped)
    assert theory_verdicts.slopes_decide()[0] == "differs"


def test_a_slip_in_the_closed_form_is_seen(monkeypatch):
    right = theory_verdicts.single_token_gram
    monkeypatch.setattr(theory_verdicts, "single_token_gram", lambda *a: right(*a) + np.eye(2)[::-1])
    assert theory_verdicts.one_token(draws=200)[0] == "differs"


def test_normalised_gradients_are_safe_for_equal_slopes_alone():
    status, measured = theory_verdicts.normalised_gradients(draws=500)
    assert status == "reproduced in part"
    assert "chosen falls in 0 of 500" in measured


def test_a_long_suffix_grows_the_inner_product_and_seldom_pulls_both_down(found):
    status, measured = found["suffix-theorem"]
    assert status == "reproduced in part"
    assert "inner product grew in 100%" in measured
    assert theory_verdicts.suffix_theorem(draws=500, length=1)[0] == "differs"  # a suffix of one has not grown


def test_token_masks_need_the_right_penalty(found):
    status, measured = found["token-masks"]
    assert status == "reproduced in part"
    assert measured.startswith("chosen rises at 1 of 6 penalties")
