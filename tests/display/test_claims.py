"""The claims ledger: what does not fit is told in one sentence, and a run writes its own row only."""

import pytest
import yaml

from gentangle.display.claims import load_claims, made_on, record_measurement
from gentangle.errors import InputError

FIRST = {
    "id": "first",
    "statement": "Chosen falls: to first order, and only then — |w|² < <w,l>.",
    "paper": "2410.13828",
    "place": "Section 3",
    "expected": "+1.50",
    "test": "tests/a.py::test_a",
    "command": "make test",
}
SECOND = FIRST | {
    "id": "second",
    "paper": "2104.09937",
    "measured": "0.1 nats",
    "status": "differs",
    "profile": "cpu",
    "date": "2026-01-02",
    "hardware": "cpu, an older one",
}
PROVENANCE = {"profile": "gpu", "date": "2026-11-24", "device": "cuda", "processor": "A: name", "seed": 3}
BY_RUNS = {"measured", "status", "profile", "date", "hardware"}


@pytest.fixture
def ledger(tmp_path):
    path = tmp_path / "claims.yml"
    path.write_text(yaml.safe_dump([FIRST, SECOND], allow_unicode=True), encoding="utf-8")
    return path


def rows(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def without(row, *names):
    return {key: value for key, value in row.items() if key not in names}


def record(path, claim="first", status="reproduced"):
    record_measurement(claim, measured="-0.23 nats: “fell”", status=status, provenance=PROVENANCE, path=path)


def test_a_claim_has_what_its_row_says_and_is_not_run_before_a_run(ledger):
    first, second = load_claims(ledger)
    assert {name: getattr(first, name) for name in FIRST} == FIRST
    assert {name: getattr(second, name) for name in SECOND} == SECOND
    assert (first.status, first.measured, first.date) == ("not run", "", "")


@pytest.mark.parametrize("status", ["reproduced", "reproduced in part", "differs", "not run"])
@pytest.mark.parametrize("paper", ["2410.13828", "2104.09937"])
def test_every_status_and_paper_is_accepted(tmp_path, status, paper):
    path = tmp_path / "claims.yml"
    path.write_text(yaml.safe_dump([FIRST | {"status": status, "paper": paper}]))
    assert [(claim.status, claim.paper) for claim in load_claims(path)] == [(status, paper)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([FIRST | {"statment": "x"}], r"claim 1: unknown key 'statment'. Did you mean 'statement'\? Known: chapter, "),
        ([FIRST, without(SECOND, "place")], r"claim 2: the key 'place' is missing"),
        ([FIRST | {"paper": 2410.13828}], r"claim 1: paper is 2410.13828, expected str"),
        ([FIRST, "second"], r"claim 2 holds 'second', expected keys and values"),
        (
            [FIRST | {"status": "reproducd"}],
            r"first has status 'reproducd'. Did you mean 'reproduced'\? Known: differs",
        ),
        ([FIRST, SECOND | {"status": ""}], r"second has status ''. Known: differs, not run, reproduced"),
        ([FIRST | {"paper": "2410.13829"}], r"first names paper '2410.13829'. Did you mean '2410.13828'\? Known: 2104"),
        ([FIRST, SECOND, {**FIRST}], r"the id 'first' stands twice: give each claim its own"),
        ([FIRST, without(SECOND, "test")], r"second is 'differs' and names no test: give the one that decides it"),
        ({"claims": [FIRST]}, r"holds dict, expected a list of claims"),
        (None, r"holds NoneType, expected a list of claims"),
    ],
)
def test_a_row_that_does_not_fit(tmp_path, given, message):
    path = tmp_path / "claims.yml"
    path.write_text(yaml.safe_dump(given))
    with pytest.raises(InputError, match=message) as caught:
        load_claims(path)
    assert str(path) in str(caught.value)


def test_a_claim_that_is_not_run_may_have_no_test_yet(tmp_path):
    path = tmp_path / "claims.yml"
    path.write_text(yaml.safe_dump([without(FIRST, "test", "command"), SECOND]))
    record(path, "second")
    assert [(claim.test, claim.command) for claim in load_claims(path)] == [
        ("", ""),
        ("tests/a.py::test_a", "make test"),
    ]


def test_a_measurement_of_a_claim_without_a_test_is_refused_before_the_ledger_is_unreadable(tmp_path):
    path = tmp_path / "claims.yml"
    path.write_text(yaml.safe_dump([without(FIRST, "test"), SECOND]))
    before = path.read_bytes()
    with pytest.raises(InputError, match="first .*names no test"):
        record(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"- id: [", "is not YAML"), (b"\x00", "is not YAML"), (b"- id: caf\xe9\n", "give a YAML file in UTF-8")],
)
def test_a_file_that_is_no_yaml_is_told_on_one_line(tmp_path, content, message):
    path = tmp_path / "claims.yml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_claims(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_looked_for_at_the_projects_root(tmp_path):
    with pytest.raises(InputError, match=r"Cannot read the ledger .*none.yml .*: run from the project's root"):
        load_claims(tmp_path / "none.yml")


def test_the_ledger_of_the_folder_is_read_where_none_is_named(ledger, monkeypatch):
    (ledger.parent / "book").mkdir()
    ledger.rename(ledger.parent / "book" / "claims.yml")
    monkeypatch.chdir(ledger.parent)
    assert [claim.id for claim in load_claims()] == ["first", "second"]


@pytest.mark.parametrize(("claim", "position"), [("first", 0), ("second", 1)])
def test_a_measurement_is_written_into_its_row_only(ledger, claim, position):
    before = rows(ledger)
    record(ledger, claim)
    after = rows(ledger)
    assert [row["id"] for row in after] == ["first", "second"]
    assert without(after[position], *BY_RUNS) == without(before[position], *BY_RUNS)
    assert {name: after[position][name] for name in BY_RUNS} == {
        "measured": "-0.23 nats: “fell”",
        "status": "reproduced",
        "profile": "gpu",
        "date": "2026-11-24",
        "hardware": "cuda, A: name",
    }
    # The other row's "not run" is spelt out where it was left to the default.
    assert after[1 - position] == {"status": "not run"} | before[1 - position]


def test_what_was_written_is_read_back(ledger):
    before = load_claims(ledger)
    record(ledger)
    first, second = load_claims(ledger)
    assert (first.measured, first.status, first.profile) == ("-0.23 nats: “fell”", "reproduced", "gpu")
    assert (first.statement, first.expected) == (FIRST["statement"], "+1.50")
    assert second == before[1]


def test_an_empty_entry_by_hand_outlives_a_measurement(tmp_path):
    """It is a key that a claim must have, and a ledger without it could not be read again."""
    path = tmp_path / "claims.yml"
    path.write_text(yaml.safe_dump([FIRST, SECOND | {"expected": ""}]))
    record(path)
    assert [claim.expected for claim in load_claims(path)] == ["+1.50", ""]


def test_the_same_measurement_gives_the_same_bytes(ledger):
    record(ledger)
    once = ledger.read_bytes()
    record(ledger)
    assert ledger.read_bytes() == once
    assert once.startswith(b"# The claims of the two papers")
    assert "— |w|²".encode() in once  # readable, not escaped


@pytest.mark.parametrize(
    ("claim", "status", "message"),
    [
        ("frst", "reproduced", r"The ledger has no claim 'frst'. Did you mean 'first'\? Known: first, second\."),
        ("first", "reproducd", r"Unknown status 'reproducd'. Did you mean 'reproduced'\? Known: differs, not run"),
        ("first", "", r"Unknown status ''. Known: differs"),
    ],
)
def test_a_refused_measurement_leaves_every_byte(ledger, claim, status, message):
    before = ledger.read_bytes()
    with pytest.raises(InputError, match=message):
        record(ledger, claim, status)
    assert ledger.read_bytes() == before
    assert [path.name for path in ledger.parent.iterdir()] == ["claims.yml"]


def test_a_measurement_that_does_not_say_where_it_is_from_leaves_every_byte(ledger):
    before = ledger.read_bytes()
    with pytest.raises(KeyError, match="date"):
        record_measurement("first", measured="1", status="differs", provenance=without(PROVENANCE, "date"), path=ledger)
    assert ledger.read_bytes() == before


def test_a_claim_names_every_machine_that_decided_it_and_the_last_day():
    def run(device, processor, profile, date):
        return {"provenance": PROVENANCE | {"device": device, "processor": processor, "profile": profile, "date": date}}

    here, there = run("cpu", "AMD", "cpu", "2026-11-26"), run("H200", "Intel", "gpu", "2026-11-25")
    assert made_on({"full": [here]}) == here["provenance"]
    made = made_on({"full": [here, there], "lora": [here, there]})
    assert f"{made['device']}, {made['processor']}" == "cpu, AMD; H200, Intel"
    assert (made["profile"], made["date"]) == ("cpu, gpu", "2026-11-26")
