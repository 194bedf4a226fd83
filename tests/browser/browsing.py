"""Serving a folder, finding a Chromium, and what opening a page tells."""

import os
import re
import shutil
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gentangle.display.widget import LOADER, STYLE, source_name, static_files

ROOT = Path(__file__).resolve().parents[2]
#: Another build, while one works on the book: GENTANGLE_BOOK=/tmp/trial/html.
BOOK = Path(os.environ.get("GENTANGLE_BOOK", ROOT / "book" / "_build" / "html"))
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
# No sandbox: in a container the tests run as root. The rest keeps Chromium itself from calling home.
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def missing(what: str) -> None:
    """Skip for want of a tool; on CI, where it has to be there, fail."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(what)


def find_chromium() -> str | None:
    named = os.environ.get("GENTANGLE_CHROMIUM")
    return named or next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)


def book_pages() -> list[str]:
    """Pages of the built book as paths from its root; one empty name where it is not built, for a test to skip.

    index.html is left out: it only leads on to the first page, and has a test of its own.
    """
    pages = [path.relative_to(BOOK).as_posix() for path in BOOK.rglob("*.html") if "_static" not in path.parts]
    return sorted(set(pages) - {"index.html"}) or [""]


LOADS = re.compile(r'<(?:script|link)\b[^>]*?(?:src|href)="([^"?]+\.(?:js|css))[?"]')


def pages_of_each_kind() -> list[str]:
    """One page for each set of scripts and style sheets that pages of the built book load."""
    kinds: dict[frozenset[str], str] = {}
    for name in filter(None, book_pages()):
        kinds.setdefault(frozenset(LOADS.findall((BOOK / name).read_text("utf-8"))), name)
    return sorted(kinds.values()) or [""]


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def serve(folder: Path) -> Iterator[str]:
    """Address of a local server of ``folder``, with the closing slash; it stops when the generator goes on."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Visit:
    """What opening a page, and changing the theme of the system, did and showed."""

    outside: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    themes: dict[str, str] = field(default_factory=dict)
    formulas: int = 0
    typeset: int = 0
    formula_errors: list[str] = field(default_factory=list)
    images_without_alt: list[str] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)
    overflow: dict[tuple[str, int], str] = field(default_factory=dict)


WIDTHS = (320, 1600)
THEMES = ("light", "dark")

FACTS = """() => {
  const texts = (query) => [...document.querySelectorAll(query)].map((node) => node.outerHTML.slice(0, 120));
  return {
    formulas: document.querySelectorAll(".math.notranslate, .amsmath").length,
    typeset: document.querySelectorAll("mjx-container").length,
    formula_errors: texts("mjx-container [data-mjx-error], mjx-merror, mjx-container [data-mml-node=merror]"),
    images_without_alt: texts("img:not([alt]), img[alt='']"),
    mounts: [...document.querySelectorAll(".gt-mount")].map((node) => node.dataset.mounted || "no script"),
  };
}"""

# The page may not scroll sideways; names what sticks out where it does.
OVERFLOW = """() => {
  const root = document.scrollingElement;
  if (root.scrollWidth <= window.innerWidth) return "";
  const clipped = (node) => node !== document.body
    && (getComputedStyle(node).overflowX !== "visible" || clipped(node.parentElement));
  const out = [...document.querySelectorAll("body *")].filter((node) => {
    const { right, width } = node.getBoundingClientRect();
    return right > window.innerWidth + 1 && width > 0 && !clipped(node.parentElement);
  }).at(-1);
  return `${root.scrollWidth} > ${window.innerWidth}: ${out ? out.outerHTML.slice(0, 150) : "nothing in sight"}`;
}"""


def watch(page, base: str) -> Visit:
    """A visit whose requests and complaints fill up while ``page`` loads."""
    visit = Visit()
    inside = (base, "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(inside) else visit.outside.append(request.url))
    page.on("requestfailed", lambda request: visit.complaints.append(f"failed: {request.url} {request.failure}"))
    page.on(
        "response",
        lambda reply: visit.complaints.append(f"{reply.status}: {reply.url}") if reply.status >= 400 else None,
    )
    page.on("console", lambda line: visit.complaints.append(line.text) if line.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    return visit


def settle(page) -> None:
    """Wait until formulas are typeset and widgets mounted, or have failed to be."""
    page.wait_for_load_state("load")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.gt-mount')].every((node) => node.dataset.mounted)", timeout=15_000
    )
    if page.locator(".math.notranslate, .amsmath").count():
        page.evaluate("async () => { await window.MathJax.startup.promise; }")


# Takes colours that fade to their ends: one that a part of the page inherits begins to fade when its parent's is there.
FADED = """() => {
  const fading = () => document.getAnimations().filter((animation) => animation instanceof CSSTransition);
  for (let depth = 0; depth < 9 && fading().length; depth++) fading().forEach((animation) => animation.finish());
}"""


def change_theme(page, theme: str) -> str:
    """Change the theme of the system under an open page, and return the theme that the page has when it follows."""
    page.emulate_media(color_scheme=theme)
    follows = "(theme) => document.documentElement.dataset.theme === theme"
    page.wait_for_function(follows, arg=theme, polling=20, timeout=15_000)
    page.evaluate(FADED)
    return page.evaluate("() => document.documentElement.dataset.theme")


WIDGET_PAGE = """<!doctype html><html lang="en" data-theme="{theme}"><meta charset="utf-8"><title>widget</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<link rel="stylesheet" href="{style}"><script defer src="{source}"></script>
<script defer src="{loader}"></script><body>{mounts}</body></html>"""


def write_widget_page(page: Path, *widgets, theme: str = "light") -> None:
    """A page that holds nothing but widgets of one kind, with the files that mount them beside it."""
    for name, text in static_files([widgets[0].module]).items():
        (page.parent / name).write_text(text, "utf-8")
    mounts = "".join(widget.static_html() for widget in widgets)
    source = source_name(widgets[0].module)
    page.write_text(WIDGET_PAGE.format(theme=theme, style=STYLE, source=source, loader=LOADER, mounts=mounts), "utf-8")


def widget_folder(folder: Path, widget) -> str:
    """Address of a folder with the widget's page in both themes.

    From the file system, where less is allowed; test_geometry.py has the loader from a server.
    """
    for theme in ("light", "dark"):
        write_widget_page(folder / f"{theme}.html", widget, theme=theme)
    return folder.as_uri() + "/"


@contextmanager
def quiet_page(browser, base: str, name: str = "light.html", height: int = 1000):
    """A page that is mounted, and that until its end asks no other host and complains of nothing."""
    page = browser.new_page(viewport={"width": 1000, "height": height})
    seen = watch(page, base)
    page.goto(base + name)
    settle(page)
    yield page
    page.close()
    assert (seen.outside, seen.complaints) == ([], [])


def press(page, control: str, *keys: str) -> None:
    """Focus a slider and press the keys."""
    page.locator(f"input[name={control}]").focus()
    for key in keys:
        page.keyboard.press(key)


def middle(locator) -> tuple[float, float]:
    """Where the middle of an element is in the window."""
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def assert_within_a_frame(what: str, times: list[float]) -> None:
    """The median of some moves, in milliseconds, is less than a frame of 60 a second."""
    median = statistics.median(times)
    print(f"{what}: median {median:.2f} ms, largest {max(times):.2f} ms")
    assert median < 16


def picture_without_script(browser, url: str) -> str:
    """Text of a widget's still picture, which has to be in sight where no script runs."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(url)
    picture = page.locator(".gt-still svg[role=img]")
    assert picture.is_visible()
    told = picture.get_attribute("aria-label")
    context.close()
    return told


def assert_in_window(page, width: int, elements: tuple[str, ...]) -> None:
    """Nothing scrolls sideways, and each element lies between the window's edges."""
    assert page.evaluate(OVERFLOW) == ""
    for element in elements:
        box = page.locator(element).bounding_box()
        assert box["x"] >= 0, element
        assert box["x"] + box["width"] <= width, element


def contrast(one, other) -> float:
    """Contrast ratio of two colours of 0 to 255, as WCAG 2.2 defines it."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
