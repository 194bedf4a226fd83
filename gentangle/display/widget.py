"""A widget of the book: alive in a notebook through anywidget, alive in the built page without a kernel.

The built page prefers the ``text/html`` of a widget's output: a mount element that carries the state and holds a
static picture. There ``static_loader.js`` mounts the same ES module that a live kernel uses; where no script runs
(a printout, GitHub's notebook view) the picture stays.
"""

import html
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anywidget

from gentangle.errors import InputError

HERE = Path(__file__).parent
LOADER, STYLE = "static_loader.js", "widgets.css"
#: Of chosen and rejected, as in the figures.
CHOSEN, REJECTED = "#0072B2", "#D55E00"


#: What stands before a widget's own file, which therefore imports nothing.
SHARED = {"geometry": ("dom", "pair"), "suffix": ("dom", "pair"), "landscape": ("dom",), "replay": ("dom",)}


def module_text(module: str) -> str:
    """Text of a widget's ES module: its own file after what it shares with others."""
    return "".join((HERE / f"{name}.js").read_text("utf-8") for name in (*SHARED[module], module))


class BookWidget(anywidget.AnyWidget):
    """Base class: a subclass sets ``module`` and ``_esm``, declares synced traits and draws its ``picture``."""

    #: Stem of the ES module's file; the mount element names it.
    module = ""
    #: Names of the traits that make up the state, in the order in which the picture's sentence uses them.
    state_names: tuple[str, ...] = ()
    _css = HERE / STYLE

    def __init__(self, **traits: Any) -> None:
        """Take the traits given.

        Raises:
            InputError: a number that is not finite, which no trait's bounds keep out.
        """
        for name, value in traits.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{name} is {value}, expected a finite number.")
        super().__init__(**traits)

    def state(self) -> dict[str, Any]:
        """The state that the static page starts from, by trait."""
        return {name: getattr(self, name) for name in self.state_names}

    def picture(self) -> str:
        """Static HTML of the state, for where no script runs: an inline SVG with its text, and a sentence."""
        raise NotImplementedError

    def static_html(self) -> str:
        """The mount element: module's name, state as JSON, picture inside. The same state gives the same bytes."""
        state = html.escape(json.dumps(self.state()), quote=True)
        module = html.escape(self.module, quote=True)
        return f'<div class="gt-mount" data-widget="{module}" data-state="{state}">{self.picture()}</div>'

    def __repr__(self) -> str:
        # No address and no model id: stored notebooks stay the same from run to run.
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.state().items())
        return f"{type(self).__name__}({arguments})"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        return {**data, "text/html": self.static_html()}, metadata


def still(view: tuple[int, int, int, int], drawn: str, sentence: str, note: str = "") -> str:
    """A static picture as HTML: an SVG whose text is the sentence, which stands below it too, before the note.

    Args:
        view: left, top, width and height.
        drawn: the SVG's content.
    """
    words, (*_, width, height) = html.escape(sentence, quote=True), view
    return (
        f'<figure class="gt-still"><svg role="img" aria-label="{words}" width="{width}" height="{height}" '
        f'viewBox="{" ".join(map(str, view))}">{drawn}</svg><figcaption>{words}{note}</figcaption></figure>'
    )


def static_files(modules: Iterable[str]) -> dict[str, str]:
    """Text by file name of what a static page needs to mount ``modules``: their sources, the loader, the style.

    A page opened from ``file://`` may import no module, so each source is a classic script that registers the
    module's text, and the loader imports that text as a blob.
    """
    files = {source_name(module): _registration(module) for module in sorted(set(modules))}
    return files | {name: (HERE / name).read_text("utf-8") for name in (LOADER, STYLE)}


def source_name(module: str) -> str:
    """File name of the classic script that registers a module's text."""
    return f"{module}.source.js"


def _registration(module: str) -> str:
    text = json.dumps(module_text(module))
    return f"(window.gentangleSources = window.gentangleSources || {{}})[{json.dumps(module)}] = {text};\n"
