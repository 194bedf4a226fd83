"""Sphinx extension: `{checks}` lists every label with its check and its last result; a page a folder shows the sources.

The pages lie in `checks/` of the site and are made of the tests as they stand, so a badge leads to what was really run.
"""

import html
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

sys.path.append(str(Path(__file__).resolve().parents[1]))  # what the book's commands share lies beside this folder

from check_source import RESULTS, CheckResult, CheckSource, results, source_of, told
from ledger import DEFINITION, STATED, Check, Labelled, why_no_test

KINDS = ("equation", "figure", "table")


def checks_by_label(env: BuildEnvironment) -> dict[str, list[str]]:
    """The tests of each label, or the word `definition`, in the order of the pages."""
    found: dict[str, list[str]] = {}
    kept = env.get_domain("ledger").data
    items: list[Check] = [check for checks in kept["checks"].values() for check in checks]
    for check in items:
        if check.test not in found.setdefault(check.label, []):
            found[check.label].append(check.test)
    labelled: list[Labelled] = [item for items in kept["labelled"].values() for item in items]
    return {item.label: [DEFINITION] for item in labelled if item.kind in STATED} | found


def page_of(test: str) -> str:
    """Name of the page that shows a test: of the folder of its file."""
    folder = test.split("::")[0].split("/")[1:-1]
    return f"checks/{folder[0] if folder else 'tests'}"


def anchor_of(test: str) -> str:
    """Id of a test on its page."""
    file, *names = test.split("[")[0].split("::")
    return "-".join([Path(file).stem, *names]).replace("_", "-")


class Told:
    """The named tests' sources and last results, read once a build."""

    def __init__(self, root: Path) -> None:
        self.root, self.results = root, results(root)

    def source(self, test: str) -> CheckSource | None:
        """None where there is no such test, which the ledger says."""
        return None if why_no_test(test, self.root) else source_of(test, self.root)

    def result(self, test: str) -> CheckResult | None:
        return self.results.get(test.split("[")[0])

    def words(self, test: str) -> str:
        source = self.source(test)
        return told(self.result(test), source) if source else "no such test"


def told_of(app: Sphinx) -> Told:
    """Kept with the application, since all pages ask."""
    if not hasattr(app, "gentangle_told"):
        app.gentangle_told = Told(Path(app.config.ledger_root))  # type: ignore[attr-defined]
    return app.gentangle_told  # type: ignore[attr-defined,no-any-return]


# ---- the list of labels ----


class checks_list(nodes.General, nodes.Element):  # docutils names nodes so
    """Stands where the list goes until all pages are read."""


class ChecksDirective(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(Path(self.config.ledger_root) / RESULTS))
        return [checks_list("")]


def fill_list(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for node in list(doctree.findall(checks_list)):
        node.replace_self(_lists(app, docname))


def _lists(app: Sphinx, docname: str) -> list[nodes.Node]:
    """For each page of the book a definition list: label, kind, tests and what they said."""
    found: list[nodes.Node] = []
    by_label, domain = checks_by_label(app.env), app.env.get_domain("ledger")
    for page in (name for name in _in_order(app.env) if domain.data["labelled"].get(name)):
        title = app.env.titles[page].astext()
        rows = [_row(app, docname, item, by_label.get(item.label, [])) for item in domain.data["labelled"][page]]
        found += [nodes.rubric("", title), nodes.definition_list("", *rows, classes=["gt-checks"])]
    return [nodes.paragraph("", _summary(app, by_label)), *found]


def _in_order(env: BuildEnvironment) -> Iterator[str]:
    """Names of the pages as the table of contents has them."""
    waiting = [env.config.root_doc]
    while waiting:
        name = waiting.pop(0)
        yield name
        waiting = [*env.toctree_includes.get(name, []), *waiting]


def _summary(app: Sphinx, by_label: dict[str, list[str]]) -> str:
    tests = {test.split("[")[0] for named in by_label.values() for test in named if test != DEFINITION}
    outcomes = [result.outcome for test in tests if (result := told_of(app).result(test))]
    counts = ", ".join(f"{outcomes.count(k)} {k}" for k in ("passed", "failed", "skipped") if k in outcomes)
    stated = sum(named == [DEFINITION] for named in by_label.values())
    without = len(tests) - len(outcomes)
    return (
        f"{len(by_label)} labels: {len(by_label) - stated} name a test, {stated} are definitions. "
        f"{len(tests)} tests: {counts or 'none run'}{f', {without} without a recorded result' if without else ''}."
    )


def _row(app: Sphinx, docname: str, item: Labelled, named: list[str]) -> nodes.definition_list_item:
    target = f"{app.builder.get_relative_uri(docname, item.docname)}#{html_id(item)}"
    link = nodes.reference("", "", nodes.literal("", item.label), internal=True, refuri=target)
    term = nodes.term("", "", link, nodes.Text(f" {item.kind}"), ids=[f"check-{item.label}"])
    lines = [_line(app, docname, test) for test in named] or [nodes.paragraph("", "no check")]
    return nodes.definition_list_item("", term, nodes.definition("", *lines))


def _line(app: Sphinx, docname: str, test: str) -> nodes.paragraph:
    if test == DEFINITION:
        return nodes.paragraph("", "a definition: it says what a word or sign means")
    return nodes.paragraph("", "", test_link(app, docname, test), nodes.Text(f": {told_of(app).words(test)}"))


def test_link(app: Sphinx, docname: str, test: str) -> nodes.Node:
    """A test's name that leads to its source."""
    name = nodes.literal("", test)
    if told_of(app).source(test) is None:
        return name
    uri = f"{app.builder.get_relative_uri(docname, page_of(test))}#{anchor_of(test)}"
    return nodes.reference("", "", name, internal=True, refuri=uri)


def html_id(item: Labelled) -> str:
    """Id of a labelled thing on its page."""
    return f"equation-{item.label}" if item.kind == "equation" else item.label


def link_lines(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """The lines that name a check lead to it."""
    if app.builder.format != "html":
        return
    for line in doctree.findall(nodes.paragraph):
        if "gt-check" in line["classes"]:
            for name in list(line.findall(nodes.literal)):
                if name.astext().startswith("tests/") and not isinstance(name.parent, nodes.reference):
                    name.replace_self(test_link(app, docname, name.astext()))


# ---- the sources ----


def source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each folder of tests that the book names tests of."""
    if app.builder.format != "html":
        return
    labels: dict[str, list[Labelled]] = {}
    kept, by_label = app.env.get_domain("ledger").data, checks_by_label(app.env)
    for item in (item for items in kept["labelled"].values() for item in items):
        for test in by_label.get(item.label, []):
            labels.setdefault(test.split("[")[0], []).append(item)
    pages: dict[str, list[CheckSource]] = {}
    for test in sorted(labels):
        if source := told_of(app).source(test):
            pages.setdefault(page_of(test), []).append(source)
    for page, sources in pages.items():
        title = f"Checks in tests/{page.removeprefix('checks/')}"
        body = "\n".join(_shown(app, page, source, labels[source.test]) for source in sources)
        body = f"<section><h1>{title}</h1>\n<p>The tests that the book names, as they stand.</p>\n{body}</section>"
        yield page, {"title": title, "body": body}, "page.html"


def _shown(app: Sphinx, page: str, source: CheckSource, items: list[Labelled]) -> str:
    """A test: its name, what it checks, what it said, its source."""
    file, *names = source.test.split("::")
    result = told_of(app).result(source.test)
    code = app.builder.highlighter.highlight_block(source.text, "python")  # type: ignore[attr-defined]
    links = ", ".join(
        f'<a href="{app.builder.get_relative_uri(page, item.docname)}#{html_id(item)}">{item.label}</a>'
        for item in items
    )
    outcome = result.outcome if result else "unrecorded"
    return (
        f'<section id="{anchor_of(source.test)}"><h2>{html.escape(" ".join(names).replace("_", " "))}</h2>\n'
        f'<p class="gt-result gt-result-{outcome}">{told(result, source)}</p>\n'
        f"<p><code>{html.escape(file)}</code>, line {source.line}; checks {links}</p>\n"
        f'<div class="highlight-python notranslate">{code}</div></section>'
    )


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(checks_list)
    app.add_directive("checks", ChecksDirective)
    app.connect("doctree-resolved", fill_list)
    app.connect("doctree-resolved", link_lines)
    app.connect("html-collect-pages", source_pages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
