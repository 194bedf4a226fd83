"""Sphinx extension: measured tables.

`{benchmark} results/FILE.json` shows the ratios that a benchmark wrote, beside their targets where it has some.
`{remedies} results/FOLDER` shows what changed settings did to a run, as book/howto_remedies.py recorded it.
The content of both is the table's caption; `:name:` is its label.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

#: Names whose ratio is better when it is higher.
HIGHER = ("speedup", "idgm_over_fish")


def reached(name: str, ratio: float, target: float) -> bool:
    """Whether a ratio reaches its target; what is better higher from above, costs from below."""
    return ratio >= target if name.endswith(HIGHER) else ratio <= target


class BenchmarkDirective(SphinxDirective):
    """A table of name, ratio, target and whether it was reached, and a line with the machine."""

    required_arguments = 1
    has_content = True
    option_spec = {"name": directives.unchanged_required}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        path = Path(self.config.ledger_root) / self.arguments[0]
        self.env.note_dependency(str(path))
        try:
            given = json.loads(path.read_text("utf-8"))
            made, ratios = given["provenance"], given["ratios"]
            if isinstance(ratios, list):
                head: tuple[str, ...] = tuple(given.get("head", ("Measured", "Ratio")))
                body = [(name, *(v if isinstance(v, str) else f"{v:.2f}" for v in values)) for name, *values in ratios]
            else:
                head = ("Measured", "Ratio", "Target", "Reached")
                targets = given["targets"]
                body = [
                    (n, f"{r:.3f}", f"{targets[n]:g}", "yes" if reached(n, r, targets[n]) else "no")
                    for n, r in ratios.items()
                ]
        except (OSError, ValueError, KeyError) as error:
            raise self.error(f"{path} holds no benchmark ({error}): make bench writes it.") from error
        names = nodes.inline if isinstance(ratios, list) else nodes.literal  # words, or names of the result's keys
        return [_captioned(self, _table([head], body, names)), _origin(made)]


class RemediesDirective(SphinxDirective):
    """A row for each changed setting, means over the seeds, and what each policy answers."""

    required_arguments = 1
    has_content = True
    option_spec = {"name": directives.unchanged_required}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        folder = Path(self.config.ledger_root) / self.arguments[0]
        records = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
        if not records:
            raise self.error(f"{folder} holds no record: python book/howto_remedies.py writes them.")
        for path in folder.glob("*.json"):
            self.env.note_dependency(str(path))
        by_change: dict[str, list[Any]] = {}
        for record in records:
            by_change.setdefault(record["change"], []).append(record)
        order = sorted(by_change, key=lambda name: (name != "base", name))
        head = (
            "Run",
            "Seeds",
            "Chosen",
            "Rejected",
            "Margin grew",
            "Chosen likelier: before, after",
            "Own step intended",
        )
        body = [(name, *remedy_row(by_change[name])) for name in order]
        one, other = records[0]["answers"]
        answers = [
            (f"{name}, seed {r['provenance']['seed']}", r["answers"][one], r["answers"][other])
            for name in order
            for r in by_change[name]
        ]
        return [
            _captioned(self, _table([head], body, nodes.inline)),
            _table([("Run", f"“{one}”", f"“{other}”")], answers, nodes.inline),
            _origin(records[0]["provenance"]),
        ]


def remedy_row(records: list[Any]) -> tuple[str, ...]:
    """Means over the runs of one setting, of the changes of held-out pairs in nats and of shares of pairs."""
    found = []
    for record in records:
        before, after = (np.array(record["held_out"][when]) for when in ("before", "after"))
        changes = after - before
        intended = [row["entanglement/intended"] for row in record["log"] if "entanglement/intended" in row]
        shares = [changes[0] > changes[1], before[0] > before[1], after[0] > after[1], intended]
        found.append([*changes.mean(1), *(np.mean(share) for share in shares)])
    chosen, rejected, grew, likelier, likelier_after, intended = np.mean(found, axis=0)
    pair = f"{likelier:.0%}, {likelier_after:.0%}"
    return str(len(records)), f"{chosen:+.1f}", f"{rejected:+.1f}", f"{grew:.0%}", pair, f"{intended:.0%}"


def _captioned(directive: SphinxDirective, table: nodes.table) -> nodes.table:
    """The table under the directive's caption and label; a table with both has a number."""
    if directive.content:
        words, messages = directive.parse_inline(" ".join(directive.content))
        table.insert(0, nodes.title("", "", *words, *messages))
    directive.add_name(table)
    directive.set_source_info(table)
    return table


def _origin(made: Any) -> nodes.paragraph:
    versions = ", ".join(f"{name} {made['versions'][name]}" for name in ("torch", "transformers"))
    device = "" if made["device"] == "cpu" else f"{made['device']}, "
    line = f"{device}{made['processor']}, {made['cores']} cores, {versions}, {made['date']}."
    return nodes.paragraph("", line, classes=["gt-check"])


def _table(head: list[tuple[str, ...]], body: list[tuple[str, ...]], first: Any = nodes.literal) -> nodes.table:
    def rows(cells: list[tuple[str, ...]], first: Any) -> list[nodes.row]:
        return [
            nodes.row(
                "",
                *(
                    nodes.entry("", nodes.paragraph("", "", first("", c) if k == 0 else nodes.Text(c)))
                    for k, c in enumerate(row)
                ),
            )
            for row in cells
        ]

    widths = [nodes.colspec(colwidth=40 if k == 0 else 20) for k in range(len(head[0]))]
    group = nodes.tgroup("", *widths, cols=len(widths))
    group += nodes.thead("", *rows(head, nodes.inline))
    group += nodes.tbody("", *rows(body, first))
    return nodes.table("", group)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("benchmark", BenchmarkDirective)
    app.add_directive("remedies", RemediesDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
