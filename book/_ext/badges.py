"""Sphinx extension: beside each labelled number a badge that says whether it is checked, and leads to the check.

One test: to its source, with its last result. Several: to the label's row of the list of checks. A definition has a
badge too. Equations, theorems and their like, figures and tables each have their own place for it.
"""

import html
from typing import Any

from check_pages import anchor_of, checks_by_label, page_of, told_of
from docutils import nodes
from ledger import DEFINITION, DRAWN_FIGURE, labels_of
from sphinx.application import Sphinx

LIST = "book/checks"
WORDS = {"passed": "checked", "failed": "failed", "skipped": "skipped", "": "check"}


def badge(app: Sphinx, docname: str, label: str, tests: list[str]) -> str:
    """The badge of a label as HTML; empty where nothing checks it, which the ledger says."""
    if not tests:
        return ""
    if tests == [DEFINITION]:
        return _link(_row(app, docname, label), "definition", "definition", f"{label}: a definition")
    outcomes = [result.outcome if (result := told_of(app).result(test)) else "" for test in tests]
    outcome = next(kind for kind in ("failed", "", "skipped", "passed") if kind in outcomes)
    if len(tests) == 1:
        uri = f"{app.builder.get_relative_uri(docname, page_of(tests[0]))}#{anchor_of(tests[0])}"
        about = told_of(app).words(tests[0])
    else:
        uri, about = _row(app, docname, label), f"{len(tests)} tests"
    return _link(uri, outcome or "unrecorded", WORDS[outcome], f"{label}: {about}")


def _row(app: Sphinx, docname: str, label: str) -> str:
    page = app.builder.get_relative_uri(docname, LIST) if LIST in app.env.all_docs else ""
    return f"{page}#check-{label}"


def _link(uri: str, kind: str, word: str, about: str) -> str:
    told = html.escape(f"{word}, {about}")
    return (
        f'<a class="gt-badge gt-badge-{kind}" href="{html.escape(uri)}" title="{told}" aria-label="{told}">{word}</a>'
    )


def place_badges(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the badge of each label where its kind of thing has its number."""
    if app.builder.format != "html":
        return
    by_label = checks_by_label(app.env)
    for node in list(doctree.findall(nodes.Element)):
        for label, _ in labels_of(node, docname):
            _place(node, badge(app, docname, label, by_label.get(label, [])), label)


def _place(node: nodes.Element, shown: str, label: str) -> None:
    if isinstance(node, nodes.math_block):
        node["gt_badge"] = shown
    elif isinstance(node, nodes.raw):
        drawn = next(found for found in DRAWN_FIGURE.finditer(node.astext()) if found[1] == label)
        at = node.astext().index("<details>", drawn.end())
        told = f'<p class="gt-figure-line"><code class="gt-figure-name">{label}</code> {shown}</p>'
        whole = nodes.raw(node.rawsource, node.astext()[:at] + told + node.astext()[at:], **node.attributes)
        node.replace_self(whole)
    else:
        title = next(iter(node.findall(lambda child: isinstance(child, nodes.title | nodes.caption))), None)
        place = node if title is None else title
        place += nodes.raw("", f" {shown}", format="html")


def number_with_badge(app: Sphinx) -> None:
    """Wrap what writes a displayed formula: the badge goes into the element of its number."""
    renderers = app.registry.html_block_math_renderers
    for name, (visit, depart) in list(renderers.items()):
        renderers[name] = (_badged(visit), depart)


def _badged(visit: Any) -> Any:
    def visit_with_badge(translator: Any, node: nodes.math_block) -> None:
        first = len(translator.body)
        try:
            visit(translator, node)  # leaves by SkipNode
        finally:
            if shown := node.get("gt_badge"):
                written = translator.body[first:]
                if "</span>" in written:
                    translator.body.insert(first + written.index("</span>"), shown)

    return visit_with_badge


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", number_with_badge)
    app.connect("doctree-resolved", place_badges)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
