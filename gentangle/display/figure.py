"""One ``save_figure``: the picture in light and dark, its alt text, and where it came from."""

import base64
import html
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gentangle.atomic import write_atomic, write_json
from gentangle.cache import cache_dir
from gentangle.display.labels import checked_label
from gentangle.errors import InputError
from gentangle.provenance import provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("book.mplstyle")

#: The same two colours for chosen and rejected in every figure and widget.
CHOSEN, REJECTED = "C0", "C1"

_DARK = {
    "axes.edgecolor": "#b8bec6",
    "axes.labelcolor": "#dde1e6",
    "grid.color": "#454b54",
    "text.color": "#dde1e6",
    "xtick.color": "#b8bec6",
    "ytick.color": "#b8bec6",
    # The light theme's colours, lightened until they stand out from a dark page.
    "axes.prop_cycle": "cycler('color', ['#56B4E9', '#F0873C', '#2DC79D', '#E39BC5', '#F2C14E', '#8ED1F5'])",
}

# A page without the book's stylesheet (JupyterLab) shows the picture of its own theme.
_CSS = (
    "<style>.gt-figure img{max-width:100%;background:transparent}.gt-figure .gt-dark{display:none}"
    "html[data-theme=dark] .gt-figure .gt-dark,[data-jp-theme-light=false] .gt-figure .gt-dark{display:block}"
    "html[data-theme=dark] .gt-figure .gt-light,[data-jp-theme-light=false] .gt-figure .gt-light{display:none}"
    "</style>"
)


class ShownFigure:
    """What a notebook cell shows for a saved figure: both pictures, one visible at a time, with alt text."""

    def __init__(self, name: str, alt: str, pictures: dict[str, bytes], origin: dict[str, Any]) -> None:
        self.name, self.alt, self.pictures, self.origin = name, alt, pictures, origin

    def __repr__(self) -> str:
        return f"<figure {self.name}: {self.alt}>"

    def _repr_html_(self) -> str:
        images = "".join(
            f'<img class="gt-{theme} dark-light" alt="{html.escape(self.alt)}" '
            f'src="data:image/png;base64,{base64.b64encode(data).decode()}">'
            for theme, data in self.pictures.items()
        )
        facts = ", ".join(f"{key} {self.origin[key]}" for key in ("profile", "seed", "gentangle", "date", "processor"))
        return (
            f'{_CSS}<figure class="gt-figure" id="fig-{self.name}">{images}<details><summary>Where this picture '
            f"comes from</summary><!--provenance--><p>{html.escape(facts)}; versions "
            f"{html.escape(', '.join(f'{k} {v}' for k, v in self.origin['versions'].items()))}"
            "</p><!--/provenance--></details></figure>"
        )


def save_figure(
    name: str,
    draw: "Callable[[Figure], Any]",
    *,
    alt: str,
    seed: int | None = None,
    size: tuple[float, float] | None = None,
    origin: dict[str, Any] | None = None,
) -> ShownFigure:
    """Draw a figure in the light and in the dark theme and write both with its provenance.

    Files ``NAME.light.png``, ``NAME.dark.png`` and ``NAME.json`` go to the folder that
    ``GENTANGLE_FIGURES`` names, else to the cache.

    Args:
        name: small letters, digits and hyphens.
        draw: draws on an empty figure; called once a theme, so it draws from data and does not compute.
        alt: what the picture shows, in a sentence, for those who do not see it.
        seed: of the numbers drawn, for the provenance.
        size: inches, the style's own where it is left out.
        origin: provenance of a stored record that is drawn, in place of this process's own.

    Raises:
        InputError: no alt text, or a name of other characters.
    """
    import matplotlib.pyplot as plt

    checked_label(name)
    if len(alt.split()) < 4:
        raise InputError(f"Figure {name!r} has no alt text that says what it shows: give a sentence in alt=.")
    pictures = {}
    for theme, extra in (("light", {}), ("dark", _DARK)):
        with plt.style.context([STYLE, extra]):
            figure = plt.figure(layout="constrained", figsize=size)
            try:
                draw(figure)
                buffer = io.BytesIO()
                figure.savefig(buffer, format="png", transparent=True, metadata={"Software": None})
            finally:
                plt.close(figure)
        pictures[theme] = buffer.getvalue()
    made = origin or provenance(seed=seed, data=None)
    folder = Path(os.environ.get("GENTANGLE_FIGURES") or cache_dir() / "figures")
    for theme, picture in pictures.items():
        write_atomic(folder / f"{name}.{theme}.png", picture)
    write_json(folder / f"{name}.json", {"alt": alt, "provenance": made})
    return ShownFigure(name, alt, pictures, made)
