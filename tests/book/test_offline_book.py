"""Pages keep their widgets' scripts, lose those of a live kernel, and find MathJax in the wheel."""

import importlib.util
from types import SimpleNamespace

import pytest
from docutils import nodes
from docutils.utils import new_document
from sphinx.builders.html._assets import _CascadingStyleSheet, _JavaScript
from sphinx.errors import ExtensionError

from gentangle.display.geometry import GradientGeometry
from gentangle.display.widget import LOADER, STYLE, source_name, static_files

SAVED_STATE = {"type": "application/vnd.jupyter.widget-state+json", "body": "{}"}
MOUNT = GradientGeometry().static_html()


@pytest.fixture(scope="module")
def offline_book(load_script):
    return load_script("book/_ext/offline_book.py")


@pytest.mark.parametrize(
    "file",
    [
        _JavaScript("_static/sphinx-thebe.js", async_="async"),
        _JavaScript(None, body="let THEBE_JS_URL = 'x'; const thebe_selector = '.thebe'"),
        _JavaScript(None, **SAVED_STATE),
        _CascadingStyleSheet("_static/sphinx-thebe.css"),
        "_static/Thebe.js",
    ],
    ids=["script", "text", "widget state", "style", "name"],
)
def test_what_serves_a_kernel_is_known(offline_book, file):
    assert offline_book.needs_kernel(file)


@pytest.mark.parametrize(
    "file",
    [
        _JavaScript("_static/gentangle/geometry.source.js", defer="defer"),
        _JavaScript("_static/mathjax/tex-svg-full.js"),
        _JavaScript(None, body="window.MathJax = {}"),
        _JavaScript(None, body=None, type="module"),
        _CascadingStyleSheet("_static/ledger.css"),
        "_static/doctools.js",
    ],
    ids=["widget", "mathjax", "text", "no text", "style", "name"],
)
def test_what_the_page_needs_is_kept(offline_book, file):
    assert not offline_book.needs_kernel(file)


@pytest.mark.parametrize(
    ("body", "modules"),
    [
        ("", []),
        ("<p>class=gt-mount data-widget=geometry</p>", []),
        ('<div class="gt-mount-point" data-widget="geometry"></div>', []),
        (MOUNT, ["geometry"]),
        (f"<p>text</p>{MOUNT}<p>and again</p>{MOUNT}", ["geometry"]),
        (MOUNT.replace("geometry", "token-map") + MOUNT, ["geometry", "token-map"]),
    ],
)
def test_a_pages_widgets_are_read_off_its_mounts(offline_book, body, modules):
    assert offline_book.mounted_modules(body) == modules


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ('<script type="text/x-thebe-config">{ requestKernel: true }</script>', False),
        ('\n    <script type="text/x-thebe-config">\n{ }</script>', False),
        ("<script>kernelName = 'python3'</script>", False),
        ("<script>kernelNames = []</script>", True),
        ('<script type="module">mount()</script>', True),
        ("<p>A page on <code>&lt;script&gt;kernelName = </code></p>", True),
        (MOUNT, True),
    ],
)
def test_scripts_for_a_kernel_leave_the_page(offline_book, text, stays):
    document = new_document("page")
    section = nodes.section("", nodes.paragraph("", "before"), nodes.raw("", text, format="html"))
    document += [section, nodes.paragraph("", "after")]
    offline_book.drop_kernel_scripts(None, document, "page")
    assert [node.astext() for node in document.findall(nodes.raw)] == ([text] if stays else [])
    assert [node.astext() for node in document.findall(nodes.paragraph)] == ["before", "after"]


def test_several_scripts_of_one_page_leave_it(offline_book):
    document = new_document("page")
    script = "<script>kernelName = 'python3'</script>"
    document += [nodes.raw("", script, format="html") for _ in range(3)]
    offline_book.drop_kernel_scripts(None, document, "page")
    assert not document.children


class Page:
    """A page on its way out: what was added to it, and the folder it is written to."""

    def __init__(self, folder):
        self.outdir, self.scripts, self.styles = folder, [], []
        self.formulas = {}  # whether a page has any, by its name
        self.env = SimpleNamespace(get_domain=lambda name: SimpleNamespace(data={"has_equations": self.formulas}))

    def add_js_file(self, name, loading_method):
        assert loading_method == "defer"  # the loader comes after what it loads
        self.scripts.append(name)

    def add_css_file(self, name):
        self.styles.append(name)


def test_a_page_gets_the_scripts_of_its_widgets(offline_book, tmp_path):
    page = Page(tmp_path)
    offline_book.dress_page(page, "page", "page.html", {"body": MOUNT}, doctree=object())
    assert page.scripts == [f"gentangle/{source_name('geometry')}", f"gentangle/{LOADER}"]
    assert page.styles == [f"gentangle/{STYLE}"]
    folder = tmp_path / "_static" / "gentangle"
    assert {path.name: path.read_text("utf-8") for path in folder.iterdir()} == static_files(["geometry"])


@pytest.mark.parametrize(("body", "doctree"), [("<p>no widget</p>", object()), (MOUNT, None)])
def test_other_pages_get_none(offline_book, tmp_path, body, doctree):
    """Without a doctree it is a page of Sphinx's own, such as the search, which quotes."""
    page = Page(tmp_path)
    offline_book.dress_page(page, "page", "page.html", {"body": body}, doctree)
    assert (page.scripts, page.styles, list(tmp_path.iterdir())) == ([], [], [])


def test_scripts_and_styles_for_a_kernel_leave_the_lists_that_sphinx_holds(offline_book, tmp_path):
    scripts, styles = [_JavaScript("thebe.js"), _JavaScript("a.js")], [_CascadingStyleSheet("sphinx-thebe.css")]
    context = {"script_files": scripts, "css_files": styles}
    offline_book.dress_page(Page(tmp_path), "page", "page.html", context, doctree=object())
    assert (scripts, styles) == ([_JavaScript("a.js")], [])


def test_mathjax_is_the_full_component_of_the_wheel(offline_book):
    script = offline_book.mathjax_script()
    assert script.name == "tex-svg-full.js"
    assert script.stat().st_size > 1_000_000


def test_without_the_wheel_the_error_says_how_to_get_it(offline_book, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExtensionError, match=r"is not installed: pip install 'gentangle\[book\]'"):
        offline_book.mathjax_script()


def test_a_wheel_without_the_script_is_told_by_the_scripts_path(offline_book, monkeypatch, tmp_path):
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(
        ExtensionError, match=r"tex-svg-full.js is missing: .* sphinx-mathjax-offline 0\.0\.2"
    ) as caught:
        offline_book.mathjax_script()
    assert str(tmp_path / "static" / "mathjax") in str(caught.value)


def test_settings_that_keep_the_site_offline_win_over_the_configuration(offline_book):
    given = {"options": {"enableMenu": True, "renderActions": {}}, "svg": {"fontCache": "local"}}
    config = SimpleNamespace(mathjax3_config=given, html_show_search_summary=True)
    offline_book.configure(None, config)
    assert config.mathjax_path == "mathjax/tex-svg-full.js"
    assert config.mathjax3_config == {
        "options": {"enableMenu": False, "renderActions": {}},
        "svg": {"fontCache": "local"},
    }
    assert config.html_show_search_summary is False
    assert config.nb_ipywidgets_js == {}


def entrance(offline_book, folder, exception=None, master="book/intro", kind="html"):
    builder = SimpleNamespace(format=kind, get_target_uri=lambda name: f"{name}.html")
    config = SimpleNamespace(language="en", project="Wins & <losses>", html_title="", master_doc=master)
    offline_book.write_entrance(SimpleNamespace(builder=builder, config=config, outdir=folder), exception)
    return folder / "index.html"


def test_the_entrance_leads_to_the_first_page(offline_book, tmp_path):
    text = entrance(offline_book, tmp_path).read_text("utf-8")
    assert 'content="0; url=book/intro.html"' in text
    assert '<a href="book/intro.html">Wins &amp; &lt;losses&gt;</a>' in text
    assert '<link rel="icon"' in text


@pytest.mark.parametrize("given", [{"exception": ValueError()}, {"master": "index"}, {"kind": "latex"}])
def test_no_entrance_over_a_failed_build_or_an_index_of_the_books_own(offline_book, tmp_path, given):
    assert not entrance(offline_book, tmp_path, **given).exists()


def test_a_page_of_prose_mounts_a_widget_as_it_begins(offline_book):
    assert offline_book.widget_html("gentangle.display.geometry", "GradientGeometry") == MOUNT


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        ("gentangle.display.geometry", "Geometry", "no widget Geometry in gentangle.display.geometry"),
        ("gentangle.display.no_such", "X", "no widget X in gentangle.display.no_such"),
        ("gentangle.display.claims", "Claim", "is no widget of the book"),
    ],
)
def test_what_is_no_widget_is_named(offline_book, module, name, message):
    with pytest.raises(ValueError, match=message):
        offline_book.widget_html(module, name)


def test_mathjax_goes_only_to_pages_with_a_formula_of_their_own(offline_book, tmp_path):
    page = Page(tmp_path)
    page.formulas["chapter"] = True
    settings = _JavaScript(None, body='window.MathJax = {"options": {}}')
    for name, expected in (("chapter", 3), ("first", 1)):
        context = {"script_files": [_JavaScript("a.js"), settings, _JavaScript("mathjax/tex-svg-full.js")]}
        offline_book.dress_page(page, name, "page.html", context, doctree=object())
        assert len(context["script_files"]) == expected


def test_a_bibliography_is_no_list_without_items(offline_book, tmp_path):
    context = {"body": '<div role="list" class="citation-list"><a></a><div role="doc-biblioentry">x</div></div>'}
    offline_book.dress_page(Page(tmp_path), "page", "page.html", context, doctree=object())
    assert context["body"] == '<div class="citation-list"><a></a><div>x</div></div>'


def test_pages_wait_for_no_icons_and_only_the_search_for_its_index(offline_book, tmp_path):
    icons = '\n  <script defer src="../_static/scripts/fontawesome.js?digest=1"></script>'
    index = '\n  <script src="../_static/searchtools.js"></script>\n  <script src="../searchindex.js"></script>'
    (tmp_path / "_static" / "scripts").mkdir(parents=True)
    for name in ("page.html", "search.html", "_static/scripts/fontawesome.js", "_static/scripts/bootstrap.js"):
        (tmp_path / name).write_text(f"<head>{icons}{index}\n</head>", "utf-8")
    offline_book.lighten(SimpleNamespace(outdir=str(tmp_path), builder=SimpleNamespace(format="html")), None)
    assert (tmp_path / "page.html").read_text("utf-8") == "<head>\n</head>"
    assert (tmp_path / "search.html").read_text("utf-8") == f"<head>{index}\n</head>"
    assert [path.name for path in (tmp_path / "_static" / "scripts").iterdir()] == ["bootstrap.js"]
