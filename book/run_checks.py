"""Run the tests that the book names and keep what they said: ``run_checks.py [--at-once N] [TEST...]``.

The book shows it beside each number. Results of tests that are not run now stay, those of tests that no page names any
more do not. The exit status is that of pytest. What was just run need not run again: after
``GENTANGLE_REPORTS=FOLDER make test`` the command ``run_checks.py --reports FOLDER`` reads what was said there.
"""

import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from check_source import RESULTS, CheckResult, named_tests, results, source_of
from closure import code_hash

from gentangle.atomic import write_json
from gentangle.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
_WORST = ("failed", "skipped", "passed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, keep, and return pytest's exit status."""
    parser = argparse.ArgumentParser(description="Run the tests that the book names and keep what they said.")
    parser.add_argument("tests", nargs="*", help="default: all that the book names")
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="test files at once (default: 2)")
    parser.add_argument("--reports", type=Path, metavar="FOLDER", help="run nothing, read pytest's JUnit reports")
    given = parser.parse_args(arguments)
    named = named_tests(ROOT)
    if given.reports:
        reports = sorted(given.reports.glob("*.xml"))
        if not reports:
            parser.error(f"{given.reports} holds no report (*.xml).")
        return keep({test: row for path in reports for test, row in _dated(path, named).items()}, named)
    wanted = given.tests or named
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        at_once = ["-n", str(given.at_once), "--dist", "loadfile"] if given.at_once > 1 else []
        command = [sys.executable, "-m", "pytest", "-q", *at_once, f"--junitxml={report}", *wanted]
        status = subprocess.run(command, cwd=ROOT).returncode
        ran = _dated(report, named) if report.exists() else {}
    keep(ran, named)
    return status


def keep(ran: Mapping[str, CheckResult], named: Sequence[str]) -> int:
    """Write what tests said, beside what others said before that are still named; 1 where one of them failed."""
    kept = {test: row for test, row in {**results(ROOT), **ran}.items() if test in named}
    rows = {test: asdict(row) for test, row in sorted(kept.items())}
    write_json(ROOT / RESULTS, {"provenance": provenance(seed=None, data=None), "tests": rows})
    print(f"{len(ran)} tests were run, {len(rows)} of the {len(named)} that the book names have a result")
    return int(any(row.outcome == "failed" for row in ran.values()))


def _dated(report: Path, named: Sequence[str]) -> dict[str, CheckResult]:
    day = datetime.fromtimestamp(report.stat().st_mtime, UTC).strftime("%Y-%m-%d")
    return read_report(report, day, ROOT, named)


def read_report(report: Path, date: str, root: Path, named: Sequence[str]) -> dict[str, CheckResult]:
    """Results of the tests ``named`` out of pytest's JUnit report, the cases of one test together."""
    cases: dict[str, list[tuple[str, float]]] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        test = _test(case.get("classname", ""), case.get("name", "").split("[")[0], root)
        if test not in named:
            continue
        outcome = "failed" if case.find("failure") is not None or case.find("error") is not None else "passed"
        outcome = "skipped" if case.find("skipped") is not None else outcome
        cases.setdefault(test, []).append((outcome, float(case.get("time", 0))))
    return {test: _together(test, of, date, root) for test, of in cases.items()}


def _test(classname: str, name: str, root: Path) -> str | None:
    """``tests.alignment.test_flow`` or ``tests.alignment.test_flow.TestX`` and a name, as pytest is given them."""
    parts = classname.split(".")
    files = (k for k in range(len(parts), 0, -1) if root.joinpath(*parts[:k]).with_suffix(".py").is_file())
    length = next(files, None)
    if length is None:
        return None
    return "::".join([f"{'/'.join(parts[:length])}.py", *parts[length:], name])


def _together(test: str, cases: Sequence[tuple[str, float]], date: str, root: Path) -> CheckResult:
    outcome = min((outcome for outcome, _ in cases), key=_WORST.index)
    seconds = round(sum(seconds for _, seconds in cases), 1)
    return CheckResult(outcome, len(cases), seconds, date, code_hash(source_of(test, root).text))


if __name__ == "__main__":
    sys.exit(main())
