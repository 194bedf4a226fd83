"""The claims ledger: each claim of the two papers, what was expected, what was measured, and the test that decides."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from gentangle.atomic import write_atomic
from gentangle.errors import InputError, one_of
from gentangle.settings import build, load_yaml

STATUSES = ("reproduced", "reproduced in part", "differs", "not run")
PAPERS = {"2410.13828": "gradient entanglement", "2104.09937": "gradient matching"}
LEDGER = Path("book/claims.yml")

_HEAD = """\
# The claims of the two papers, one a row. Written by hand: id, statement, paper, place, expected, command, test, and,
# where it came out otherwise or in part, chapter and why.
# Written by runs (gentangle.display.claims.record_measurement): measured, status, profile, date, hardware.
# status: reproduced | reproduced in part | differs | not run
"""


@dataclass(frozen=True)
class Claim:
    """A claim of one of the papers.

    Attributes:
        id: short name, unique in the ledger.
        statement: the claim in our words.
        paper: arXiv number.
        place: where in the paper.
        expected: what the claim says one will measure.
        test: the test that decides, ``tests/file.py::name``; may be missing while the status is ``not run``.
        command: what makes the measurement.
        measured: what was measured here, or nothing yet.
        status: one of ``STATUSES``.
        profile, date, hardware: of the measurement.
        chapter: notebook that takes the claim up, without its folder and ending.
        why: why it came out otherwise, or in part; written by hand, of the measurement as it stands.
    """

    id: str
    statement: str
    paper: str
    place: str
    expected: str
    test: str = ""
    command: str = ""
    measured: str = ""
    status: str = "not run"
    profile: str = ""
    date: str = ""
    hardware: str = ""
    chapter: str = ""
    why: str = ""


def load_claims(path: str | Path = LEDGER) -> list[Claim]:
    """Every claim of the ledger.

    Raises:
        InputError: no such file, a misspelt key, a status or paper that does not exist, an id twice, a
            decided claim without its test.
    """
    if not Path(path).exists():
        raise InputError(f"Cannot read the ledger {path} (No such file or directory): run from the project's root.")
    given = load_yaml(path)
    if not isinstance(given, list):
        raise InputError(f"{path} holds {type(given).__name__}, expected a list of claims.")
    claims = [build(Claim, row, f"{path}, claim {number}") for number, row in enumerate(given, 1)]
    seen: set[str] = set()
    for claim in claims:
        one_of(claim.status, STATUSES, f"{path}: {claim.id} has status {claim.status!r}.")
        one_of(claim.paper, PAPERS, f"{path}: {claim.id} names paper {claim.paper!r}.")
        if not claim.test and claim.status != "not run":
            raise InputError(f"{path}: {claim.id} is {claim.status!r} and names no test: give the one that decides it.")
        if claim.id in seen:
            raise InputError(f"{path}: the id {claim.id!r} stands twice: give each claim its own.")
        seen.add(claim.id)
    return claims


def unexplained(claims: Sequence[Claim]) -> list[str]:
    """Ids of the claims that came out otherwise, or in part, and do not say why, or in which chapter."""
    apart = [claim for claim in claims if claim.status in ("differs", "reproduced in part")]
    return [claim.id for claim in apart if not (claim.why and claim.chapter)]


def made_on(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Where the runs were made that decide a claim, as :func:`record_measurement` takes it.

    Args:
        records: runs with their ``provenance``, by form, objective or change; one at least.

    Returns:
        The first run's provenance, with the profiles and machines of all, and the last one's date.
    """
    told = [run["provenance"] for runs in records.values() for run in runs]
    machines = "; ".join(dict.fromkeys(f"{made['device']}, {made['processor']}" for made in told))
    device, processor = machines.rsplit(", ", 1)  # the ledger joins them again
    profiles = ", ".join(dict.fromkeys(made["profile"] for made in told))
    last = max(made["date"] for made in told)
    return told[0] | {"profile": profiles, "device": device, "processor": processor, "date": last}


def record_measurement(
    claim_id: str, *, measured: str, status: str, provenance: Mapping[str, Any], path: str | Path = LEDGER
) -> None:
    """Write what a run measured into the ledger.

    Args:
        claim_id: of the claim that the run decides.
        measured: the figure, with its unit.
        status: one of ``STATUSES``.
        provenance: as :func:`gentangle.provenance.provenance` gives it.
        path: the ledger; it is replaced whole.

    Raises:
        InputError: no such claim or status, or a claim without its test.
    """
    claims = {claim.id: claim for claim in load_claims(path)}
    one_of(claim_id, claims, f"The ledger has no claim {claim_id!r}.")
    one_of(status, STATUSES, f"Unknown status {status!r}.")
    if not claims[claim_id].test and status != "not run":
        raise InputError(f"{path}: {claim_id} names no test: give the one that decides {status!r}.")
    claims[claim_id] = Claim(
        **{
            **asdict(claims[claim_id]),
            "measured": measured,
            "status": status,
            "profile": str(provenance["profile"]),
            "date": str(provenance["date"]),
            "hardware": f"{provenance['device']}, {provenance['processor']}",
        }
    )
    # Left out is what is empty and has a default: without any other key load_claims would refuse the ledger.
    rows = [
        {f.name: value for f in fields(Claim) if (value := getattr(claim, f.name)) or f.default is MISSING}
        for claim in claims.values()
    ]
    write_atomic(path, _HEAD + yaml.safe_dump(rows, sort_keys=False, allow_unicode=True, width=110))
