"""Run the tests that the book names and keep what they said: ``run_checks.py [--at-once N] [TEST...]``.

The book shows it beside each number. Results of tests that are not run now stay, those of tests that no page names any
more do not. The exit status is that of pytest.
"""

import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
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
    given = parser.parse_args(arguments)
    named = named_tests(ROOT)
    wanted = given.tests or named
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        at_once = ["-n", str(given.at_once), "--dist", "loadfile"] if given.at_once > 1 else []
        command = [sys.executable, "-m", "pytest", "-q", *at_once, f"--junitxml={report}", *wanted]
        status = subprocess.run(command, cwd=ROOT).returncode
        ran = read_report(report, datetime.now(UTC).strftime("%Y-%m-%d"), ROOT) if report.exists() else {}
    kept = {test: row for test, row in {**results(ROOT), **ran}.items() if test in named}
    rows = {test: asdict(row) for test, row in sorted(kept.items())}
    write_json(ROOT / RESULTS, {"provenance": provenance(seed=None, data=None), "tests": rows})
    print(f"{len(ran)} tests were run, {len(rows)} of the {len(named)} that the book names have a result")
    return status


def read_report(report: Path, date: str, root: Path) -> dict[str, CheckResult]:
    """Results by test out of pytest's JUnit report, the cases of one test together."""
    cases: dict[str, list[tuple[str, float]]] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        test = _test(case.get("classname", ""), case.get("name", "").split("[")[0], root)
        outcome = "failed" if case.find("failure") is not None or case.find("error") is not None else "passed"
        outcome = "skipped" if case.find("skipped") is not None else outcome
        cases.setdefault(test, []).append((outcome, float(case.get("time", 0))))
    return {test: _together(test, of, date, root) for test, of in cases.items()}


def _test(classname: str, name: str, root: Path) -> str:
    """``tests.alignment.test_flow`` or ``tests.alignment.test_flow.TestX`` and a name, as pytest is given them."""
    parts = classname.split(".")
    files = (k for k in range(len(parts), 0, -1) if root.joinpath(*parts[:k]).with_suffix(".py").is_file())
    length = next(files)
    return "::".join([f"{'/'.join(parts[:length])}.py", *parts[length:], name])


def _together(test: str, cases: Sequence[tuple[str, float]], date: str, root: Path) -> CheckResult:
    outcome = min((outcome for outcome, _ in cases), key=_WORST.index)
    seconds = round(sum(seconds for _, seconds in cases), 1)
    return CheckResult(outcome, len(cases), seconds, date, code_hash(source_of(test, root).text))


if __name__ == "__main__":
    sys.exit(main())
