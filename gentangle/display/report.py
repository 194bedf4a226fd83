"""Pages that stand alone: no script, no network, light and dark; every text from outside is escaped."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from gentangle.errors import printable

if TYPE_CHECKING:
    from gentangle.alignment.heatmap import TokenHeatmap

STEPS = 9  # shades of each sign
LONGEST = 60  # letters of a token that are shown
_HUES = {"p": "0 114 178", "n": "213 94 0"}
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 1.5rem auto; padding: 0 1rem; max-width: 90rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .5rem 0; }
.pairs :is(td, th) { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid rgb(128 128 128 / .3); }
.map td { width: 1rem; min-width: 1rem; height: 1rem; padding: 0; border: 1px solid rgb(128 128 128 / .15); }
.map thead td { border: 0; }
.map th { font: 11px ui-monospace, monospace; padding: 0 .25rem; white-space: pre; text-align: right; }
.map thead th { writing-mode: vertical-rl; text-align: left; padding: .25rem 0; }
.w { color: light-dark(#0072b2, #56b4e9); } .l { color: light-dark(#b04500, #f0873c); }
""" + "".join(
    f".{s}{k} {{ background: rgb({hue} / {k / STEPS:.2f}); }}\n" for s, hue in _HUES.items() for k in range(10)
)

#: Columns of the page of pairs: key of an entry, heading.
COLUMNS = {
    "line": "line",
    "case": "case",
    "cosine": "cosine",
    "chosen_norm_sq": "|w|²",
    "rejected_norm_sq": "|l|²",
    "inner_product": "⟨w,l⟩",
    "predicted_chosen": "Δ chosen",
    "predicted_rejected": "Δ rejected",
}


def _head(title: str) -> str:
    title = printable(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style><body><h1>{escape(title)}</h1>\n"
    )


def page_start(title: str) -> str:
    """A page of pairs up to the first :func:`pair_row`."""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in COLUMNS.values())
    return (
        f'{_head(title)}<div class="scroll" tabindex="0"><table class="pairs"><caption>Δ is the first-order change in '
        f"nats per unit step of SGD on the pair alone.</caption><thead><tr>{heads}</tr></thead><tbody>\n"
    )


def page_end(summary: str) -> str:
    """What follows the last :func:`pair_row`: the file's summary."""
    return f"</tbody></table></div>\n<pre>{escape(summary)}</pre>\n</body></html>\n"


def pair_row(entry: Mapping[str, Any]) -> str:
    """A row of the table of pairs."""
    cells = (f"{v:.3g}" if isinstance(v, float) else escape(str(v)) for v in (entry[name] for name in COLUMNS))
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"


def heatmap_page(found: "TokenHeatmap") -> str:
    """The page of a pair's tokens: cosines, then inner products; a cell's title tells its tokens and number."""
    (w, between), (_, l) = found.pair
    whole = between / np.sqrt(w * l) if w * l > 0 else 0.0
    body = [
        "<p>Rows and columns are tokens, <b class='w'>chosen</b> first, then <b class='l'>rejected</b>. Blue pulls the "
        "same way, orange against. The block of chosen rows and rejected columns sums to ⟨w,l⟩.</p>"
        f"<p>|w|² = {w:.4g}, |l|² = {l:.4g}, ⟨w,l⟩ = {between:.4g}, cosine {whole:+.2f}.</p>\n",
        *_matrix("Cosine of the two tokens' gradients", found, found.cosine, 1.0),
        *_matrix(
            "Inner product of the two tokens' gradients (shades by its square root)",
            found,
            found.gram,
            np.abs(found.gram).max(),
        ),
    ]
    return _head("Token Gram matrix") + "".join(body) + "</body></html>\n"


def _short(name: str) -> str:
    """A name that stands in every cell of its row and column."""
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}\u2026"


def _matrix(caption: str, found: "TokenHeatmap", values: np.ndarray, largest: float) -> Iterator[str]:
    sides = [("w", token) for token in found.chosen] + [("l", token) for token in found.rejected]
    names = [escape(_short(repr(token)[1:-1])) for _, token in sides]
    power = 1.0 if largest == 1.0 else 0.5
    shades = np.round(STEPS * (np.abs(values) / (largest or 1.0)) ** power).clip(0, STEPS).astype(int)
    yield f'<div class="scroll" tabindex="0"><table class="map"><caption>{escape(caption)}</caption>'
    yield "<thead><tr><td></td>"
    yield "".join(f'<th scope="col" class="{side}">{name}</th>' for (side, _), name in zip(sides, names, strict=True))
    yield "</tr></thead><tbody>\n"
    for i, (side, _) in enumerate(sides):
        yield f'<tr><th scope="row" class="{side}">{names[i]}</th>'
        for j, value in enumerate(values[i]):
            sign = "p" if value >= 0 else "n"
            yield f'<td class="{sign}{shades[i, j]}" title="{names[i]} · {names[j]}: {value:+.3g}"></td>'
        yield "</tr>\n"
    yield "</tbody></table></div>\n"
