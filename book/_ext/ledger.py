"""Sphinx extension: every labelled equation, theorem, figure and table names the test that checks it.

`{check}` names the test, `{formula}` prints a sympy object of the package, `{claims}` shows the ledger of claims.
A label without a check, a check without its label, and a test that does not exist are warnings, which fail the build.
"""

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.directives.patches import MathDirective
from sphinx.domains import Domain
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from gentangle.display.claims import Claim, load_claims
from gentangle.display.formula import Formula
from gentangle.errors import InputError

logger = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
DEFINITION = "definition"
#: Environments that state what words mean: there is nothing to check.
STATED = {"assumption", "axiom", "definition", "notation"}
#: A figure that gentangle.display.figure drew in a notebook arrives as HTML.
DRAWN_FIGURE = re.compile(r'<figure class="gt-figure" id="(fig-[\w-]+)"')


@dataclass(frozen=True)
class Labelled:
    """Something with a label that a reader may refer to."""

    label: str
    kind: str
    docname: str
    line: int | None


@dataclass(frozen=True)
class Check:
    """One label and what checks it: a test, or the word `definition`."""

    label: str
    test: str
    docname: str
    line: int | None


# ---- what is wrong: plain functions, tested without Sphinx ----


def why_no_test(test: str, root: Path) -> str | None:
    """Why `tests/file.py::name` (or `::Class::method`) is no test, as a sentence; None where it is one."""
    file, *names = test.split("[")[0].split("::")
    path = root / file
    if not names or not file.endswith(".py"):
        return f"{test!r} names no test: write tests/file.py::test_name"
    if not path.is_file():
        return f"{test!r}: there is no file {file}"
    if "::".join(names) not in collected_from(path):
        return f"{test!r}: {file} has no test {'::'.join(names)}"
    return None


@cache
def collected_from(path: Path) -> frozenset[str]:
    """Names of the tests that pytest collects from a file: `test_x` and `TestX::test_y`. The file is not imported."""
    body = ast.parse(path.read_text("utf-8")).body
    found = set(_test_functions(body))
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            found |= {f"{node.name}::{method}" for method in _test_functions(node.body)}
    return frozenset(found)


def _test_functions(body: list[ast.stmt]) -> Iterable[str]:
    functions = (node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return (node.name for node in functions if node.name.startswith("test"))


def problems(labelled: Iterable[Labelled], checks: Iterable[Check], root: Path) -> list[tuple[str, str, int | None]]:
    """Everything that keeps the book from being checked: (sentence, document, line)."""
    labelled, checks = list(labelled), list(checks)
    known, checked = {item.label for item in labelled}, {check.label for check in checks}
    found = []
    for check in checks:
        if check.label not in known:
            found.append((f"the check of {check.label!r} has no such label", check.docname, check.line))
        if check.test != DEFINITION and (problem := why_no_test(check.test, root)):
            found.append((f"the check of {check.label!r}: {problem}", check.docname, check.line))
    for item in labelled:
        if item.kind not in STATED and item.label not in checked:
            sentence = f"{item.kind} {item.label!r} names no test: add {{check}} with :for: {item.label}"
            found.append((sentence, item.docname, item.line))
    return found


def labelled_in(document: nodes.document, docname: str) -> list[Labelled]:
    """Equations, theorem-like environments, figures and tables of a document that their author labelled."""
    found = []
    for node in document.findall(nodes.Element):
        for label, kind in labels_of(node, docname):
            found.append(Labelled(label, kind, docname, node.line))
    return found


def labels_of(node: nodes.Element, docname: str) -> list[tuple[str, str]]:
    if isinstance(node, nodes.math_block):
        # Environments of amsmath and math_number_all number equations under labels of their own making.
        made_up = "amsmath" in node["classes"] or re.fullmatch(rf"{re.escape(docname)}:\d+", node.get("label") or "")
        return [(node["label"], "equation")] if node.get("label") and not made_up else []
    if "realtype" in node.attributes:  # sphinx-proof; without a label it makes one of kind and number
        kind, label = node["realtype"], node["label"]
        return [] if re.fullmatch(rf"{kind}-\d+", label) else [(label, kind)]
    if isinstance(node, nodes.figure | nodes.table):
        return [(name, type(node).__name__) for name in node["names"]]
    if isinstance(node, nodes.raw) and "html" in node.get("format", ""):
        return [(label, "figure") for label in DRAWN_FIGURE.findall(node.astext())]
    return []


# ---- Sphinx ----


class LedgerDomain(Domain):
    """Remembers what each document labels and checks; Sphinx forgets a document that is read again."""

    name = "ledger"
    label = "checks"
    initial_data: dict[str, Any] = {"labelled": {}, "checks": {}}  # noqa: RUF012  # by document; Sphinx copies it
    data_version = 1

    def clear_doc(self, docname: str) -> None:
        for kept in (self.data["labelled"], self.data["checks"]):
            kept.pop(docname, None)

    def merge_domaindata(self, docnames: Iterable[str], otherdata: dict[str, Any]) -> None:
        for key in ("labelled", "checks"):
            self.data[key] |= {name: items for name, items in otherdata[key].items() if name in docnames}

    def process_doc(self, env: Any, docname: str, document: nodes.document) -> None:
        self.data["labelled"][docname] = labelled_in(document, docname)

    def note_check(self, check: Check) -> None:
        self.data["checks"].setdefault(check.docname, []).append(check)

    def check_consistency(self) -> None:
        collected_from.cache_clear()
        labelled = [item for items in self.data["labelled"].values() for item in items]
        checks = [check for items in self.data["checks"].values() for check in items]
        for sentence, docname, line in problems(labelled, checks, Path(self.env.config.ledger_root)):
            logger.warning(sentence, location=(docname, line), type="ledger")


class CheckDirective(SphinxDirective):
    """`{check} tests/file.py::test_name` with `:for: label` (or several, with commas) names the test of a label."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {"for": directives.unchanged_required}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        labels = [label for label in re.split(r"[,\s]+", self.options.get("for", "")) if label]
        if not labels:
            raise self.error("a check needs its label: add the option :for: LABEL.")
        return [note_check(self, labels, self.arguments[0].strip())]


def note_check(
    directive: SphinxDirective, labels: list[str], test: str, before: Iterable[nodes.Node] = ()
) -> nodes.Node:
    """Enter the check of each label and return the line that names it."""
    for label in labels:
        domain = directive.env.get_domain("ledger")
        domain.note_check(Check(label, test, directive.env.docname, directive.lineno))
    words = [nodes.Text("a definition")] if test == DEFINITION else [nodes.Text("checked by "), nodes.literal("", test)]
    return nodes.paragraph("", "", *before, *words, classes=["gt-check"])


class FormulaDirective(MathDirective):
    """`{formula} package.module.NAME` prints a sympy object; `objective:dpo.loss` one of an objective's.

    Options: `:label:` for `{eq}`, `:lhs:` LaTeX before an equals sign, `:check:` the test, as in `{check}`.
    """

    has_content = False
    required_arguments = 1
    optional_arguments = 0
    option_spec = {name: directives.unchanged for name in ("label", "lhs", "check")}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        path, label = self.arguments[0].strip(), self.options.get("label")
        try:
            latex = Formula(named_object(path), lhs=self.options.get("lhs", ""), label=label or "").latex
        except (InputError, ImportError, AttributeError) as error:
            raise self.error(f"formula {path!r}: {error}") from error
        block = nodes.math_block(latex, latex, docname=self.env.docname, number=None, label=label, nowrap=False)
        self.set_source_info(block)
        result: list[nodes.Node] = [block]
        self.add_target(result)
        origin = [nodes.Text("printed from "), nodes.literal("", path)]
        if test := self.options.get("check"):
            if not label:
                raise self.error(f"formula {path!r} has a check and no label: add :label:.")
            return [*result, note_check(self, [label], test, before=[*origin, nodes.Text("; ")])]
        return [*result, nodes.paragraph("", "", *origin, classes=["gt-check"])]


def named_object(path: str) -> Any:
    """The object at `package.module.NAME.attribute`, or at `objective:NAME.attribute`."""
    if path.startswith("objective:"):
        from gentangle import objective

        name, *attributes = path.removeprefix("objective:").split(".")
        found: Any = objective(name)
    else:
        parts = path.split(".")
        module, attributes = None, []
        while parts and module is None:
            try:
                module = import_module(".".join(parts))
            except ModuleNotFoundError as error:
                # Only a missing part of the path itself: an import that fails inside a module is the module's fault.
                if not f"{path}.".startswith(f"{error.name}."):
                    raise
                attributes.insert(0, parts.pop())
        if module is None:
            raise ImportError(f"no module in {path!r}")
        found = module
    for attribute in attributes:
        found = getattr(found, attribute)
    return found


class ClaimsDirective(SphinxDirective):
    """`{claims}` shows the ledger, `book/claims.yml` or the file given, from the repository's root."""

    optional_arguments = 1
    columns = (("Claim", 34), ("Expected", 18), ("Measured here", 18), ("Status", 10), ("How", 20))

    def run(self) -> list[nodes.Node]:
        root = Path(self.config.ledger_root)
        path = root / (self.arguments[0] if self.arguments else "book/claims.yml")
        self.env.note_dependency(str(path))
        try:
            claims = load_claims(path)
        except InputError as error:
            raise self.error(str(error)) from error
        for claim in claims:
            if claim.test and (problem := why_no_test(claim.test, root)):
                logger.warning(f"claim {claim.id!r}: {problem}", location=self.get_location(), type="ledger")
        head = nodes.thead("", nodes.row("", *(nodes.entry("", nodes.paragraph("", name)) for name, _ in self.columns)))
        body = nodes.tbody("", *(self._row(claim) for claim in claims))
        widths = [nodes.colspec(colwidth=width) for _, width in self.columns]
        group = nodes.tgroup("", *widths, head, body, cols=len(widths))
        return [nodes.table("", group, classes=["gt-claims"])]

    def _row(self, claim: Claim) -> nodes.row:
        anchor = f"claim-{claim.id}"
        # {ref}`claim-ID` leads to the row and reads as the id.
        standard = self.env.get_domain("std")
        standard.data["labels"][anchor] = (self.env.docname, anchor, claim.id)
        standard.data["anonlabels"][anchor] = (self.env.docname, anchor)
        cells = (
            [self._text(claim.statement), self._text(f"{claim.place}, arXiv {claim.paper}", "gt-source")],
            [self._text(claim.expected)],
            [self._text(claim.measured or "\u2013")],
            [self._text(claim.status, "gt-status", f"gt-status-{claim.status.replace(' ', '-')}")],
            [self._code(claim.test), self._code(claim.command), self._text(_made(claim), "gt-source")],
        )
        row = nodes.row("", *(nodes.entry("", *(part for part in cell if part is not None)) for cell in cells))
        row["ids"].append(anchor)
        return row

    def _text(self, text: str | None, *classes: str) -> nodes.paragraph | None:
        if not text:
            return None
        inline, messages = self.parse_inline(" ".join(text.split()))
        return nodes.paragraph("", "", *inline, *messages, classes=list(classes))

    def _code(self, text: str | None) -> nodes.paragraph | None:
        return nodes.paragraph("", "", nodes.literal("", text)) if text else None


def _made(claim: Claim) -> str:
    return ", ".join(
        part for part in (claim.profile and f"profile {claim.profile}", claim.date, claim.hardware) if part
    )


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("ledger_root", str(Path(__file__).resolve().parents[2]), "env")
    app.add_domain(LedgerDomain)
    app.add_directive("check", CheckDirective)
    app.add_directive("formula", FormulaDirective)
    app.add_directive("claims", ClaimsDirective)
    app.connect("builder-inited", lambda app: app.config.html_static_path.append(str(STATIC)))
    app.add_css_file("ledger.css")
    app.add_js_file("claims.js", loading_method="defer")
    return {"version": "1", "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
