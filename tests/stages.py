"""The checks in timed stages: ``stages.py STAGE...`` runs them in turn and stops at the first that fails.

Every run of pytest prints its own closing line; at the end stand the ten slowest tests, the minutes of each stage
beside its budget, and a closing line over all of them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
NBVAL = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", "tests/nbval_sanitize.cfg"]
# The slowest first, so that both processes end together.
SLOWEST = ["07_tweets", "11_pretrained", "08_objectives_run", "16_one_matrix", "10_mitigations_run", "14_digits"]
NOTEBOOKS = sorted(
    (str(path.relative_to(ROOT)) for path in (ROOT / "notebooks").glob("*.ipynb")),
    key=lambda name: SLOWEST.index(Path(name).stem) if Path(name).stem in SLOWEST else len(SLOWEST),
) or ["notebooks"]
# Two files at once, in the order that they are given in (tests/conftest.py has the slow ones first).
AT_ONCE = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
# Files of which one takes longer than the others together: two tests at once, of any file.
TESTS_AT_ONCE = ["-n", "2", "--dist", "worksteal"]
ELSEWHERE = ["--ignore=tests/book", "--ignore=tests/browser", "--ignore=tests/wilds"]

PACKAGING = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "tests").rglob("test_*.py")
    if "mark.packaging" in path.read_text("utf-8")
)

# A sample of flips and the fuzzer take minutes: `make test` has them, the edit loop does not.
SLOWER = ["--ignore=tests/mutation", "--ignore=tests/abuse"]


@dataclass(frozen=True)
class Stage:
    """Commands that are run in turn, the minutes they may take on 2 cores, and what to do when one fails.

    ``packages`` is a folder of packages that these commands alone see; ``keeps_memory``: as `make run` (Makefile).
    """

    minutes: float
    commands: list[list[str]]
    advice: str
    packages: str = ""
    keeps_memory: bool = False


# What `make test` runs has 40 minutes in all; on 2 cores that do nothing else it took 32.
STAGES = {
    "lint": Stage(
        1,
        [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"], ["codespell"]],
        "mend the lines named above (`ruff check --fix`, `ruff format` and `codespell -w` mend most).",
    ),
    "fast": Stage(
        1.5,
        [["pytest", "-q", "tests", *ELSEWHERE, *SLOWER, "-m", "not training and not browser and not packaging"]],
        "mend the code or the test.",
    ),
    "lowest": Stage(
        15,
        [["pytest", "-q", "tests", *ELSEWHERE, *SLOWER, "-m", "not training and not browser and not packaging"]],
        "raise the bound in pyproject.toml that is too low, then run `make lock`.",
    ),
    "unit": Stage(
        8,
        [["pytest", "-q", *AT_ONCE, "tests", *ELSEWHERE, "-m", "not browser and not packaging"]],
        "mend the code or the test.",
    ),
    "notebooks": Stage(
        13,
        [["pytest", "-q", *AT_ONCE, *NBVAL, *NOTEBOOKS]],
        "a chapter's output is not the stored one: mend the code, or, if the new one is right, run `make run`.",
        keeps_memory=True,
    ),
    "wilds": Stage(
        5,
        [["make", "--no-print-directory", ".venv/wilds/.installed"], ["pytest", "-q", *TESTS_AT_ONCE, "tests/wilds"]],
        "mend the code or the test; the packages of requirements/wilds.txt need a network once.",
        packages=".venv/wilds",
    ),
    "book": Stage(
        10,
        [["make", "--no-print-directory", "book"], ["pytest", "-q", *AT_ONCE, "tests/book", "tests/browser"]],
        "mend the page; browser tests need an installed Chromium (Debian: apt-get install chromium).",
    ),
    "packaging": Stage(
        3,
        [["pytest", "-q", *AT_ONCE, *PACKAGING, "-m", "packaging"]],
        "mend pyproject.toml, or environment.yml by `make lock`; these tests need a network.",
    ),
}


def main(names: list[str]) -> int:
    """Run the stages; the exit status is that of the first command that fails."""
    unknown = [name for name in names if name not in STAGES]
    if unknown or not names:
        print(f"stages.py: {unknown or 'no stage'} given, expected some of {', '.join(STAGES)}.", file=sys.stderr)
        return 2
    took: dict[str, float] = {}
    counts: Counter[str] = Counter()
    slow: list[tuple[float, str]] = []
    status = 0
    for name in names:
        started = time.monotonic()
        status = run(name, counts, slow)
        took[name] = time.monotonic() - started
        if status:
            break
    if slow:
        print("\nThe slowest tests, each with the fixtures that it was the first to need:")
    for seconds, test in sorted(slow, reverse=True)[:10]:
        print(f"{seconds:6.1f} s  {test}")
    print()
    for name, seconds in took.items():
        late = ", OVER ITS BUDGET" if seconds > 60 * STAGES[name].minutes else ""
        print(f"{name:<10} {seconds / 60:5.1f} min of {STAGES[name].minutes:g}{late}")
    summary = ", ".join(f"{number} {kind}" for kind, number in counts.items() if number)
    print(f"==== {summary or 'no tests ran'} in {sum(took.values()):.2f}s ====", flush=True)
    if status:
        stopped = list(took)[-1]
        print(f"The stage {stopped!r} failed (above): {STAGES[stopped].advice}", file=sys.stderr)
    return status


def run(name: str, counts: Counter[str], slow: list[tuple[float, str]]) -> int:
    """Run the commands of a stage until one fails, add what pytest counted and timed, and return the exit status."""
    print(f"\n---- {name} (budget {STAGES[name].minutes:g} min)", flush=True)
    # The stored outputs are the cpu profile's; figures drawn while testing replace none of the book's.
    environment = {key: value for key, value in os.environ.items() if key != "GENTANGLE_FIGURES"}
    environment["GENTANGLE_PROFILE"] = "cpu"
    if STAGES[name].packages:
        environment["PYTHONPATH"] = str(ROOT / STAGES[name].packages)
    if STAGES[name].keeps_memory:
        environment |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**33), "MALLOC_ARENA_MAX": "1"}
    for tool, *arguments in STAGES[name].commands:
        # Of two processes each has one core, and threads that wait for one another must not spin. No OMP_THREAD_LIMIT:
        # oneDNN's convolutions leave undone what the threads that they did not get were to do.
        alone = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        own = environment | (alone if "-n" in arguments else {})
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            if tool == "pytest":
                arguments.append(f"--junitxml={report}")
            program = tool if tool == "make" else str(BIN / tool)
            status = subprocess.run([program, *arguments], cwd=ROOT, env=own).returncode
            if report.exists():
                if kept := os.environ.get("GENTANGLE_REPORTS"):
                    Path(kept).mkdir(parents=True, exist_ok=True)
                    shutil.copy(report, Path(kept) / f"{name}.xml")
                counts.update(counted(report))
                slow.extend(timed(report))
        if status:
            return status
    return 0


def counted(report: Path) -> dict[str, int]:
    """Tests of a JUnit report by outcome."""
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    totals: Counter[str] = Counter()
    for suite in suites:
        totals.update({key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")})
    failed = totals["failures"] + totals["errors"]
    return {"failed": failed, "passed": totals["tests"] - failed - totals["skipped"], "skipped": totals["skipped"]}


def timed(report: Path) -> list[tuple[float, str]]:
    """Seconds and name of each test of a JUnit report."""
    tests = ElementTree.parse(report).getroot().iter("testcase")
    return [(float(test.get("time", 0)), f"{test.get('classname')}::{test.get('name')}") for test in tests]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
