"""Sphinx extension: the built site asks no other host for anything, and works from file:// too.

MathJax comes out of a wheel; the widgets' modules go only onto pages that mount one; what Jupyter Book adds for
a live kernel (Thebe, saved widget state, require.js) is taken out again. `{widget} MODULE CLASS` puts a widget onto a
page of prose.
"""

import html
import importlib.util
import re
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from gentangle.display.widget import LOADER, STYLE, BookWidget, source_name, static_files

STATIC = Path(__file__).parent / "static"
# The full component. In tex-svg.js one unknown macro fetches an extension that is not there, and then no formula of
# the page is typeset.
MATHJAX = "tex-svg-full.js"
MOUNT = re.compile(r'class="gt-mount" data-widget="([\w-]+)"')
KERNEL_SCRIPT = re.compile(r"^\s*<script( type=\"text/x-thebe-config\">|>kernelName = )")
# docutils marks a bibliography as a list, but puts anchors between its entries, and the entry's role is withdrawn:
# a screen reader is told of a list that holds no item.
MISPLACED_ROLES = re.compile(r' role="list"(?= class="citation-list")| role="doc-biblioentry"')
ICON_SCRIPT = re.compile(r"\s*<script defer src=\"[^\"]*/fontawesome\.js[^\"]*\"></script>")
SEARCH_SCRIPT = re.compile(r"\s*<script src=\"[^\"]*\b(searchtools|language_data|searchindex)\.js[^\"]*\"></script>")
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"

ENTRANCE = """\
<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={first}">
<link rel="icon" href="data:,">
<title>{title}</title>
</head>
<body><p><a href="{first}">{title}</a></p></body>
</html>
"""


def widget_html(module: str, name: str) -> str:
    """Mount element of a widget in the state that it begins with.

    Raises:
        ValueError: there is no such class, or it is no widget.
    """
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"There is no widget {name} in {module} ({error}).") from error
    if not (isinstance(kind, type) and issubclass(kind, BookWidget)):
        raise ValueError(f"{module}.{name} is no widget of the book: {kind!r}.")
    return kind().static_html()


class WidgetDirective(SphinxDirective):
    """A widget on a page of prose."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        try:
            return [nodes.raw("", widget_html(*self.arguments), format="html")]
        except ValueError as error:
            raise self.error(str(error)) from error


def mathjax_script() -> Path:
    """MathJax as one file, from the wheel sphinx-mathjax-offline (a distribution's name: it cannot be imported)."""
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise ExtensionError("sphinx-mathjax-offline is not installed: pip install 'gentangle[book]'.")
    script = Path(spec.origin).parent / "static" / "mathjax" / MATHJAX
    if not script.is_file():
        raise ExtensionError(f"{script} is missing: the book is made with sphinx-mathjax-offline 0.0.2.")
    return script


def configure(app: Sphinx, config: Config) -> None:
    """Settings that keep the site offline, kept here so that no edit of the configuration file can lose one."""
    config.mathjax_path = f"mathjax/{MATHJAX}"
    # The menu would load the accessibility explorer from another file.
    given = config.mathjax3_config or {}
    config.mathjax3_config = {**given, "options": {**given.get("options", {}), "enableMenu": False}}
    config.nb_ipywidgets_js = {}
    config.html_show_search_summary = False  # summaries are fetched, which file:// refuses
    config.html_favicon = str(STATIC / "favicon.svg")


def make_static_folder(app: Sphinx) -> None:
    """Gather MathJax, favicon and styles beside the output, and let Sphinx copy them.

    The folder is given by its absolute path: Jupyter Book adds every script of a `_static` at the source's root to
    every page.
    """
    if app.builder.format != "html":
        return
    folder = Path(app.outdir).parent / "offline_static"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "mathjax").mkdir(parents=True)
    shutil.copy(mathjax_script(), folder / "mathjax" / MATHJAX)
    app.config.html_static_path.append(str(folder))


def mounted_modules(body: str) -> list[str]:
    """Names of the widgets that a page's HTML mounts."""
    return sorted(set(MOUNT.findall(body)))


def dress_page(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Give a page the scripts of the widgets that it mounts, and take out what serves a kernel."""
    body = context.get("body", "")
    body = MISPLACED_ROLES.sub("", body)
    if body:
        context["body"] = body
    modules = mounted_modules(body) if doctree is not None else []
    if modules:
        folder = Path(app.outdir) / "_static" / "gentangle"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in static_files(modules).items():
            (folder / name).write_text(text, "utf-8")
        for name in (*map(source_name, modules), LOADER):
            app.add_js_file(f"gentangle/{name}", loading_method="defer")
        app.add_css_file(f"gentangle/{STYLE}")
    for kind in ("script_files", "css_files"):
        if kind in context:  # in place: Sphinx goes on with this very list
            context[kind][:] = [file for file in context[kind] if not needs_kernel(file)]
    # Sphinx counts the formulas of all pages below the first one as its own.
    if not app.env.get_domain("math").data["has_equations"].get(pagename) and "script_files" in context:
        context["script_files"][:] = [file for file in context["script_files"] if not typesets(file)]


def drop_kernel_scripts(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Take out the scripts that sphinx-thebe puts at the end of a page's text."""
    for node in list(doctree.findall(nodes.raw)):
        if KERNEL_SCRIPT.search(node.astext()):
            node.parent.remove(node)


def needs_kernel(file: Any) -> bool:
    """Whether a script or style of a page belongs to Thebe or holds saved widget state."""
    attributes = getattr(file, "attributes", {})
    text = f"{getattr(file, 'filename', file) or ''} {attributes.get('body') or ''}".lower()
    return "thebe" in text or attributes.get("type") == WIDGET_STATE


def typesets(file: Any) -> bool:
    """Whether a script of a page is MathJax or its settings."""
    attributes = getattr(file, "attributes", {})
    return "mathjax" in f"{getattr(file, 'filename', file) or ''} {attributes.get('body') or ''}".lower()


def write_entrance(app: Sphinx, exception: Exception | None) -> None:
    """index.html leads to the first page.

    The one that the table of contents' extension would write has neither icon nor link, so a browser asks for
    favicon.ico in vain, and a reader whose browser does not follow sees nothing. The icon here is empty: a request for
    one would be cut off by going on to the first page.
    """
    if exception is None and app.builder.format == "html" and app.config.master_doc != "index":
        page = ENTRANCE.format(
            language=app.config.language,
            title=html.escape(app.config.project or app.config.html_title or ""),
            first=app.builder.get_target_uri(app.config.master_doc),
        )
        (Path(app.outdir) / "index.html").write_text(page, "utf-8")


def lighten(app: Sphinx, exception: Exception | None) -> None:
    """Take out what no reader waits for: the theme's script of icons, and from all pages but the search its index.

    The script, two megabytes, draws anew what the theme's web font has drawn already. The index serves a search while
    one types, which is off.
    """
    if exception is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            text = page.read_text("utf-8")
            lighter = ICON_SCRIPT.sub("", text)
            if page.name != "search.html":
                lighter = SEARCH_SCRIPT.sub("", lighter)
            if lighter != text:
                page.write_text(lighter, "utf-8")
        for script in (Path(app.outdir) / "_static" / "scripts").glob("fontawesome.js*"):
            script.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("widget", WidgetDirective)
    app.connect("config-inited", configure, priority=100)
    app.connect("builder-inited", make_static_folder)
    app.connect("doctree-resolved", drop_kernel_scripts, priority=900)
    app.connect("html-page-context", dress_page, priority=900)  # after MyST-NB and MathJax, which use 500
    app.connect("build-finished", write_entrance)
    app.connect("build-finished", lighten)
    app.add_css_file("pages.css")
    app.add_js_file("reach.js", loading_method="defer")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
