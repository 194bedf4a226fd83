"""Sphinx extension: `{benchmark} results/FILE.json` shows the ratios that a benchmark wrote beside their targets."""

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

#: Names whose ratio is better when it is higher.
HIGHER = ("speedup",)


def reached(name: str, ratio: float, target: float) -> bool:
    """Whether a ratio reaches its target; speed-ups from above, costs from below."""
    return ratio >= target if name.endswith(HIGHER) else ratio <= target


class BenchmarkDirective(SphinxDirective):
    """A table of name, ratio, target and whether it was reached, and a line with the machine."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = Path(self.config.ledger_root) / self.arguments[0]
        self.env.note_dependency(str(path))
        try:
            given = json.loads(path.read_text("utf-8"))
            rows = [(name, ratio, given["targets"][name]) for name, ratio in given["ratios"].items()]
            made = given["provenance"]
        except (OSError, ValueError, KeyError) as error:
            raise self.error(f"{path} holds no benchmark ({error}): make bench writes it.") from error
        head = ("Measured", "Ratio", "Target", "Reached")
        body = [(n, f"{r:.3f}", f"{t:g}", "yes" if reached(n, r, t) else "no") for n, r, t in rows]
        versions = ", ".join(f"{name} {made['versions'][name]}" for name in ("torch", "transformers"))
        line = f"{made['processor']}, {made['cores']} cores, {versions}, {made['date']}."
        return [_table([head], body), nodes.paragraph("", line, classes=["gt-check"])]


def _table(head: list[tuple[str, ...]], body: list[tuple[str, ...]]) -> nodes.table:
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

    widths = [nodes.colspec(colwidth=width) for width in (40, 20, 20, 20)]
    group = nodes.tgroup("", *widths, cols=len(widths))
    group += nodes.thead("", *rows(head, nodes.inline))
    group += nodes.tbody("", *rows(body, nodes.literal))
    return nodes.table("", group)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("benchmark", BenchmarkDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
