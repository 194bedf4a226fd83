"""Sphinx extension: a claim names its test, the test bears the claim's mark, and no mark names an unknown claim.

In a test's file: ``@pytest.mark.claims("id", ...)`` above the test. A claim that was not run has a test too: of the
code that would make its measurement. Whatever is amiss is a warning, which fails the build.
"""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

from gentangle.display.claims import Claim, load_claims
from gentangle.errors import InputError

logger = logging.getLogger(__name__)


def marks_of(folder: Path) -> dict[str, list[str]]:
    """Ids that each test is marked with, by ``folder/file.py::name``; nothing is imported."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            ids = [id for decorator in getattr(node, "decorator_list", []) for id in _ids(decorator)]
            if ids:
                found[f"{path.relative_to(folder.parent).as_posix()}::{node.name}"] = ids
    return found


def _ids(decorator: ast.expr) -> list[str]:
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.claims":
        return [ast.literal_eval(argument) for argument in decorator.args]
    return []


def mark_problems(claims: Iterable[Claim], marks: Mapping[str, list[str]]) -> list[str]:
    """A sentence for each claim without a test or without its mark there, and each mark that names no claim."""
    known = {claim.id: claim for claim in claims}
    found = [f"claim {id!r} names no test: give the one that decides it" for id, c in known.items() if not c.test]
    for id, claim in known.items():
        if claim.test and id not in marks.get(claim.test.split("[")[0], []):
            found.append(f'claim {id!r}: {claim.test} does not say so: mark it with @pytest.mark.claims("{id}")')
    for test, ids in marks.items():
        found += [
            f"{test} is marked with the claim {id!r}, which the ledger does not have" for id in ids if id not in known
        ]
    return found


def warn(app: Sphinx, env: BuildEnvironment) -> None:
    root = Path(app.config.ledger_root)
    try:
        claims = load_claims(root / "book" / "claims.yml")
    except InputError:
        return  # the directive that shows the ledger has said so
    for sentence in mark_problems(claims, marks_of(root / "tests")):
        logger.warning(sentence, location="claims", type="ledger")


def setup(app: Sphinx) -> dict[str, bool | str]:
    app.connect("env-check-consistency", warn)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
