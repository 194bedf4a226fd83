"""The built pages as files: every link leads somewhere, nothing is loaded from another host, pictures have words."""

import os
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]
BOOK = Path(os.environ.get("GENTANGLE_BOOK", ROOT / "book" / "_build" / "html")).resolve()
# What a browser follows by itself when it shows a page; a link that a reader clicks may leave the site.
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}
LOADED_RELATIONS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch"}


def book_pages() -> list[Path]:
    return sorted(path for path in BOOK.rglob("*.html") if "_static" not in path.parts)


@cache
def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text("utf-8"), "html.parser")


@cache
def anchors(page: Path) -> frozenset[str]:
    return frozenset(
        {tag["id"] for tag in soup(page).find_all(id=True)} | {a["name"] for a in soup(page)("a", {"name": True})}
    )


def is_outside(address: str) -> bool:
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme not in ("", "data", "blob")


def broken_links(page: Path) -> list[str]:
    """Addresses within the site that lead to no file or to no anchor."""
    broken = []
    for tag in soup(page).find_all(True):
        for address in filter(None, (tag.get("href"), tag.get("src"))):
            parts = urlsplit(address)
            if is_outside(address) or parts.scheme:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.is_file() or not target.is_relative_to(BOOK):
                broken.append(f"{address}: no such file")
            elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in anchors(target):
                broken.append(f"{address}: no such anchor")
    return broken


def loaded_from_outside(page: Path) -> list[str]:
    """Addresses on other hosts that showing the page would load."""
    found = [
        tag[name] for kind, name in LOADED.items() for tag in soup(page)(kind, **{name: True}) if is_outside(tag[name])
    ]
    for link in soup(page)("link", href=is_outside):
        if LOADED_RELATIONS & set(link.get("rel", [])):
            found.append(link["href"])
    return found


def pictures_without_words(page: Path) -> list[str]:
    images = [img for img in soup(page)("img") if not (img.get("alt") or "").strip()]
    drawings = [svg for svg in soup(page)("svg", role="img") if not (svg.get("aria-label") or svg.find("title"))]
    return [str(picture)[:120] for picture in images + drawings]


@pytest.fixture(params=book_pages() or [None], ids=lambda page: str(page and page.relative_to(BOOK)))
def page(request):
    if request.param is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{BOOK} is not built: make book")
    return request.param


def test_every_link_of_a_page_leads_somewhere(page):
    assert broken_links(page) == []


def test_page_loads_nothing_from_another_host(page):
    assert loaded_from_outside(page) == []


def test_every_picture_has_words(page):
    assert pictures_without_words(page) == []


def test_page_has_no_leftover_of_a_kernel(page):
    text = re.sub(r"data:image/[^\"]*", "", page.read_text("utf-8"))  # a picture's bytes spell anything
    assert "thebe" not in text.lower()
    assert "application/vnd.jupyter.widget-state+json" not in text


def test_widget_scripts_stand_only_where_a_widget_is(page):
    scripts = [tag.get("src", "") for tag in soup(page)("script", src=True) if "/gentangle/" in tag.get("src", "")]
    assert bool(scripts) == bool(soup(page)(class_="gt-mount"))


# ---- the checks themselves, on a site of one page ----


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "BOOK", tmp_path)

    def write(body: str) -> Path:
        path = tmp_path / "page.html"
        path.write_text(f"<html><body>{body}</body></html>", "utf-8")
        soup.cache_clear()
        anchors.cache_clear()
        return path

    yield write
    soup.cache_clear()
    anchors.cache_clear()


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ('<a id="here" href="#here">x</a><a href="https://arxiv.org/abs/2410.13828">y</a>', 0),
        ('<a href="#nowhere">x</a>', 1),
        ('<a href="page.html#nowhere">x</a>', 1),
        ('<a href="absent.html">x</a>', 1),
        ('<img src="absent.png" alt="x">', 1),
        ('<a href="../outside.html">x</a>', 1),
    ],
)
def test_broken_links_are_found(site, body, found):
    assert len(broken_links(site(body))) == found


@pytest.mark.parametrize(
    "body",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<script src="//cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="https://cdn.example/x.css">',
        '<link rel="preconnect" href="https://fonts.example">',
        '<img alt="x" src="http://example/x.png">',
    ],
)
def test_outside_sources_are_found(site, body):
    assert len(loaded_from_outside(site(body))) == 1


def test_inside_sources_are_not_outside(site):
    body = '<img alt="x" src="data:image/png;base64,AA"><script src="a.js"></script><link rel="canonical" href="https://x.y">'
    assert loaded_from_outside(site(body)) == []


@pytest.mark.parametrize("body", ['<img src="a.png">', '<img alt=" " src="a.png">', '<svg role="img"></svg>'])
def test_pictures_without_words_are_found(site, body):
    assert len(pictures_without_words(site(body))) == 1
