"""Sphinx extension: `{differences}` says of each claim that came out otherwise, or in part, what was found and why."""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from gentangle.display.claims import PAPERS, Claim, load_claims, unexplained
from gentangle.errors import InputError

logger = logging.getLogger(__name__)


class DifferencesDirective(SphinxDirective):
    """A section for each paper and status, in it a term for each claim: expected, measured, why, chapter."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = Path(self.config.ledger_root) / (self.arguments[0] if self.arguments else "book/claims.yml")
        self.env.note_dependency(str(path))
        try:
            claims = load_claims(path)
        except InputError as error:
            raise self.error(str(error)) from error
        for claim in unexplained(claims):
            sentence = f"claim {claim!r} came out otherwise or in part: add its chapter and why."
            logger.warning(sentence, location=self.get_location(), type="ledger")
        return [
            self._section(f"{name.capitalize()}: {title}", of_status)
            for paper, name in PAPERS.items()
            for status, title in (("differs", "what differs"), ("reproduced in part", "what is reproduced in part"))
            if (of_status := [claim for claim in claims if claim.paper == paper and claim.status == status])
        ]

    def _section(self, title: str, claims: list[Claim]) -> nodes.section:
        section = nodes.section("", nodes.title("", title), ids=[nodes.make_id(title)], names=[])
        section += nodes.definition_list("", *map(self._item, claims))
        return section

    def _item(self, claim: Claim) -> nodes.definition_list_item:
        row = f" ({{ref}}`{claim.id} <claim-{claim.id}>`)"
        told = nodes.definition(
            "",
            self._paragraph(f"Expected: {claim.expected}."),
            self._paragraph(f"Measured: {claim.measured}."),
            self._paragraph(f"**Why.** {claim.why}", f" {{doc}}`/notebooks/{claim.chapter}`." if claim.chapter else ""),
        )
        return nodes.definition_list_item("", nodes.term("", "", *self._inline(claim.statement + row)), told)

    def _paragraph(self, *texts: str) -> nodes.paragraph:
        return nodes.paragraph("", "", *self._inline("".join(texts)))

    def _inline(self, text: str) -> list[nodes.Node]:
        inline, messages = self.parse_inline(" ".join(text.split()))
        return [*inline, *messages]


def setup(app: Sphinx) -> dict[str, bool | str]:
    app.add_directive("differences", DifferencesDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
