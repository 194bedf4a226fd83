"""The ledger says of the claims on gradient matching what their rules say, and a broken formula changes a verdict."""

import json
from pathlib import Path

import pytest

from gentangle import InputError
from gentangle.display.claims import load_claims
from gentangle.matching import theory_verdicts

ROOT = Path(__file__).parents[2]


@pytest.mark.claims("idgm-raises-gip", "idgm-cost", "smooth-fish-dial")
def test_the_ledger_holds_what_the_rules_say():
    ledger = {claim.id: claim for claim in load_claims(ROOT / "book" / "claims.yml")}
    for name, verdict in theory_verdicts.matching_theory_verdicts(ROOT / "results").items():
        assert (ledger[name].status, ledger[name].measured) == verdict


def test_idgm_with_the_sign_turned_does_not_raise_the_gip(monkeypatch):
    right = theory_verdicts.idgm_gradient
    monkeypatch.setattr(theory_verdicts, "idgm_gradient", lambda *a, gamma: right(*a, gamma=-gamma))
    assert theory_verdicts.idgm_raises_gip(draws=3)[0] == "differs"


def test_another_weight_than_gamma_eff_does_not_follow_the_dial(monkeypatch):
    monkeypatch.setattr(theory_verdicts, "gamma_eff", lambda alpha, count: alpha * count / 4)
    assert theory_verdicts.smooth_fish_dial(draws=1)[0] == "differs"


def test_the_cost_is_of_the_cheaper_way_at_the_worst_size(tmp_path):
    rows = [
        {"domains": n, "width": 8, "fish": 1.0, "idgm": 9.0, "idgm_pairs": ratio} for n, ratio in ((2, 2.0), (4, 5.0))
    ]
    record = tmp_path / "fish_step.json"
    record.write_text(json.dumps({"curve": rows}))
    status, measured = theory_verdicts.idgm_cost(record)
    assert status == "reproduced in part"
    assert "takes 2.0 to 5.0 times one of Fish, 2 to 4 domains" in measured
    rows[0]["idgm"] = 1.9
    record.write_text(json.dumps({"curve": rows}))
    assert theory_verdicts.idgm_cost(record)[0] == "differs"


def test_a_missing_benchmark_is_named(tmp_path):
    with pytest.raises(InputError, match=r"fish_step\.json is missing: `benchmarks/bench_fish\.py --write` makes it"):
        theory_verdicts.idgm_cost(tmp_path / "fish_step.json")
