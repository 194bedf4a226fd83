"""Sphinx extension: where each figure and each record comes from, and what has changed since.

Under every figure a chapter drew stands a closed `<details>`: the cells that draw it, the records that it reads, seed,
profile, machine, date, package. `{drawn} NAME` shows one of `book/figures` on a page of prose, with the same below it.
`{records}` lists every set of records.
"""

import html
import json
import re
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

sys.path.append(str(Path(__file__).resolve().parents[1]))  # what the book's commands share lies beside this folder

from figure_cells import FigureCells
from ledger import DRAWN_FIGURE
from stale import LEDGER, Book, Stale, cells_of

DETAILS = re.compile(r"<details>.*?</details>", re.S)
LIST = "book/records"


class Origins:
    """What the records and figures of a book say of themselves, read once a build."""

    def __init__(self, root: Path) -> None:
        self.book = Book(root)

    @cached_property
    def stale(self) -> dict[str, Stale]:
        return {found.name: found for found in self.book.stale()}

    def paths(self, name: str) -> list[str]:
        """The records of a set."""
        return [path for path in self.book.records if path == name or path.startswith(f"{name}/")]

    def seeds(self, name: str) -> str:
        """Of a set: what its records were made with, else what their rows name."""
        found = set()
        for path in self.paths(name):
            record = json.loads((self.book.root / path).read_text("utf-8"))
            given = record["provenance"]["seed"]
            of_rows = {row["seed"] for row in record.get("rows", []) if isinstance(row, dict) and "seed" in row}
            found |= of_rows if given is None else {given}
        return ", ".join(map(str, sorted(found))) or "none"

    def read_by(self, cells: FigureCells) -> list[str]:
        """Sets of records that the cells behind a figure name, where they read records at all."""
        if "results" not in cells.constants:
            return []
        words = {Path(word).stem for word in cells.constants}
        return [name for name in self.book.sets() if Path(name).stem in words]

    def since(self, name: str) -> tuple[list[str], str, str]:
        """What has changed since a thing was made, the first few; why it may stay; what verifies that."""
        if (found := self.stale.get(name)) is None:
            return [], "nothing that it stands on has changed", ""
        more = f"and {n} more; " if (n := len(found.changes) - 6) > 0 else ""
        why = f"{more}why it stays: {found.reason or 'no reason given'}"
        return list(found.changes[:6]), why, found.verified_by or ""


def origins_of(app: Sphinx) -> Origins:
    """Kept with the application, since all pages ask."""
    if not hasattr(app, "gentangle_origins"):
        app.gentangle_origins = Origins(Path(app.config.ledger_root))  # type: ignore[attr-defined]
    return app.gentangle_origins  # type: ignore[attr-defined,no-any-return]


def facts(origins: Origins, figure: str, records_page: str) -> list[tuple[str, str]]:
    """What is known of a figure: names and HTML."""
    name = f"book/figures/{figure}"
    made = origins.book.figures[name]
    path, cells = cells_of(figure, origins.book.tree)
    if cells is None:
        command = made["command"].split()[0].split("/")[-1]
        rows = [("Drawn by", f"<code>benchmarks/{html.escape(command)}</code>")]
        sets = [s for s in origins.book.sets() if origins.book.records.get(s, {}).get("command") == made["command"]]
    else:
        others = ", ".join(str(number) for number in cells.numbers[:-1])
        rows = [("Drawn by", f"cell {cells.own} of <code>{path}</code>, with what it uses of {others}")]
        sets = origins.read_by(cells)
    links = (f'<a href="{records_page}#{anchor_of(s)}"><code>{s}</code></a>, seeds {origins.seeds(s)}' for s in sets)
    rows.append(("Reads", "<br>".join(links) or "no record: it is computed where it is drawn"))
    if sets and not made["command"].startswith("ipykernel"):
        rows.append(("What follows", "is of the record; of several, of the first"))
    changes, why, by = origins.since(name)
    told = "".join(f"{_code(change)}; " for change in changes) + html.escape(why) + (f", {_code(by)}" if by else "")
    return [*rows, *_made(made), ("Since then", told)]


def _code(text: str) -> str:
    return f"<code>{html.escape(text)}</code>"


def _made(made: dict[str, Any]) -> list[tuple[str, str]]:
    seed = "none" if made["seed"] is None else made["seed"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    rows = [
        ("Seed, profile", html.escape(f"{seed}, {made['profile']}")),
        ("Machine", html.escape(f"{made['processor']}, {made['cores']} cores, device {made['device']}")),
        ("Date", html.escape(made["date"])),
        ("Package", f"gentangle {html.escape(made['gentangle'])}, SHA-256 {_code(made['package_sha256'][:12])}"),
        ("Versions", _code(versions)),
    ]
    return [*rows, ("Data", f"SHA-256 {_code(made['data_sha256'][:12])}")] if made["data_sha256"] else rows


def details(origins: Origins, figure: str, records_page: str) -> str:
    """The closed element below a figure."""
    rows = "".join(f"<dt>{k}</dt><dd>{v}</dd>" for k, v in facts(origins, figure, records_page))
    return f'<details class="gt-provenance"><summary>Provenance</summary><dl>{rows}</dl></details>'


def anchor_of(name: str) -> str:
    """Id of a set of records on their page."""
    return f"record-{Path(name).stem}".replace("_", "-")


def under_drawn_figures(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """What a chapter's output says of its figure, said in full."""
    if app.builder.format != "html":
        return
    page = app.builder.get_relative_uri(docname, LIST) if LIST in app.env.all_docs else ""
    for node in list(doctree.findall(nodes.raw)):
        names = [label.removeprefix("fig-") for label in DRAWN_FIGURE.findall(node.astext())]
        if names and f"book/figures/{names[0]}" in origins_of(app).book.figures:
            told = details(origins_of(app), names[0], page)
            text = DETAILS.sub(lambda _, told=told: told, node.astext(), count=1)
            node.replace_self(nodes.raw("", text, **node.attributes))
    for place in list(doctree.findall(details_of_figure)):
        told = details(origins_of(app), place["figure"], page)
        place.replace_self(nodes.raw("", told, format="html"))


class details_of_figure(nodes.General, nodes.Element):  # docutils names nodes so
    """Stands below a figure until the page of records is known."""


class DrawnDirective(SphinxDirective):
    """`{drawn} NAME` with a caption as its content shows a figure of `book/figures`; `:label:` gives it a number."""

    required_arguments = 1
    has_content = True
    option_spec = {"label": directives.unchanged_required}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        name, root = self.arguments[0], Path(self.config.ledger_root)
        path = root / "book" / "figures" / f"{name}.json"
        if not path.exists():
            raise self.error(f"there is no figure {name!r} in {path.parent}.")
        self.env.note_dependency(str(path))
        alt = json.loads(path.read_text("utf-8"))["alt"]
        figure = nodes.figure("", classes=["gt-figure", "gt-drawn"])
        for theme in ("light", "dark"):
            uri = f"/book/figures/{name}.{theme}.png"
            figure += nodes.image("", uri=uri, alt=alt, classes=[f"gt-{theme}", "dark-light"])
        if self.content:
            words, messages = self.parse_inline(" ".join(self.content))
            figure += nodes.caption("", "", *words, *messages)
        figure += details_of_figure("", figure=name)
        if "label" in self.options:
            self.options["name"] = self.options["label"]
            self.add_name(figure)
        self.set_source_info(figure)
        return [figure]


class RecordsDirective(SphinxDirective):
    """`{records}` lists the sets of records: how they were made, and what has changed since."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(Path(self.config.ledger_root) / LEDGER))
        origins = origins_of(self.env.app)
        items = (self._set(origins, name) for name in origins.book.sets())
        return [nodes.definition_list("", *items, classes=["gt-checks"])]

    def _set(self, origins: Origins, name: str) -> nodes.definition_list_item:
        told = [origins.book.records[path] for path in origins.paths(name)]
        made = [f"{key} ({row['commit']})" for key, row in origins.book.ledger["made"].get(name, {}).items()]
        command = re.sub(r"/tmp/\S+", "DIR", told[0]["command"])
        many = f"{len(told)} records" if len(told) > 1 else "One record"
        about = (
            f"{many}, seeds {origins.seeds(name)}, profile {_spread(told, 'profile')}, made {_spread(told, 'date')} "
            f"on {_spread(told, 'processor')} with the package "
        )
        package = nodes.literal("", ", ".join(made) or _spread(told, "package_sha256"))
        changes, why, by = origins.since(name)
        since = [part for change in changes for part in (nodes.literal("", change), nodes.Text("; "))]
        verified = [nodes.Text(", "), nodes.literal("", by)] if by else []
        lines = [
            nodes.paragraph("", "Made by ", nodes.literal("", command)),
            nodes.paragraph("", about, package, nodes.Text(".")),
            nodes.paragraph("", "Since then: ", *since, nodes.Text(why), *verified, nodes.Text(".")),
        ]
        term = nodes.term("", "", nodes.literal("", name), ids=[anchor_of(name)])
        return nodes.definition_list_item("", term, nodes.definition("", *lines))


def _spread(told: list[dict[str, Any]], key: str) -> str:
    return ", ".join(sorted({str(row[key]) for row in told}))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(details_of_figure)
    app.add_directive("drawn", DrawnDirective)
    app.add_directive("records", RecordsDirective)
    app.connect("doctree-resolved", under_drawn_figures, priority=600)  # after the badges, which stand before it
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
