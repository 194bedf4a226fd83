"""The tests that the book names: where each stands, its source, and what it said when it was last run for the book."""

import ast
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from closure import code_hash

from gentangle.display.claims import load_claims

#: Written by run_checks.py alone.
RESULTS = "results/checks.json"
#: Sources that may name a check.
PAGES = ("book/*.md", "notebooks/*.ipynb")
_NAMED = re.compile(r"(?:\{check\}|:check:)\s+(tests/[\w/]+\.py::[\w:]+)")


@dataclass(frozen=True)
class CheckSource:
    """A test function as it stands in its file."""

    test: str
    text: str
    line: int


@dataclass(frozen=True)
class CheckResult:
    """What a test said: of all its cases together the worst outcome, and the seconds of all."""

    outcome: str
    cases: int
    seconds: float
    date: str
    code: str


def named_tests(root: Path) -> list[str]:
    """The tests that the pages and the claims name, without parameters, sorted."""
    texts = (path.read_text("utf-8") for pattern in PAGES for path in root.glob(pattern))
    found = {test for text in texts for test in _NAMED.findall(text)}
    claimed = (claim.test for claim in load_claims(root / "book" / "claims.yml"))
    return sorted(found | {test.split("[")[0] for test in claimed if test})


def source_of(test: str, root: Path) -> CheckSource:
    """The source of ``tests/file.py::name`` or ``::Class::name``, decorators included.

    Raises:
        KeyError: the file has no such test.
    """
    file, *names = test.split("[")[0].split("::")
    text = (root / file).read_text("utf-8")
    nodes = {node.name: node for node in _functions(text, names[0] if len(names) == 2 else None)}
    node = nodes[names[-1]]
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    lines = text.splitlines()[first - 1 : node.end_lineno]
    indent = len(lines[0]) - len(lines[0].lstrip())
    return CheckSource(test, "\n".join(line[indent:] for line in lines), first)


@cache
def _functions(text: str, inside: str | None) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    body = ast.parse(text).body
    if inside:
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == inside)
    return [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def results(root: Path) -> dict[str, CheckResult]:
    """What each named test said last; tests that were never run for the book are not in it."""
    path = root / RESULTS
    told = json.loads(path.read_text("utf-8"))["tests"] if path.exists() else {}
    return {test: CheckResult(**row) for test, row in told.items()}


def told(result: CheckResult | None, source: CheckSource) -> str:
    """The last result in words."""
    if result is None:
        return "no result recorded"
    many = f" ({result.cases} cases)" if result.cases > 1 else ""
    since = "" if result.code == code_hash(source.text) else "; the test has changed since"
    return f"{result.outcome}{many} on {result.date} in {result.seconds:.1f} s{since}"
