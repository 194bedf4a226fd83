"""Chapters link to their copies on Colab and Binder where the repository has an address, and nowhere else."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from bs4 import BeautifulSoup
from sphinx.errors import ExtensionError

from gentangle.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
BOOK = Path(os.environ.get("GENTANGLE_BOOK", ROOT / "book" / "_build" / "html")).resolve()
ADDRESS = "https://github.com/owner-1/a.name"
SETTING = yaml.safe_load((ROOT / "book" / "_config.yml").read_text("utf-8"))["repository"]


@pytest.fixture(scope="module")
def launch_links(load_script):
    return load_script("book/_ext/launch_links.py")


@pytest.fixture
def unset(launch_links, monkeypatch):
    monkeypatch.delenv(launch_links.VARIABLE, raising=False)


@pytest.mark.parametrize("given", [ADDRESS, f"{ADDRESS}/", f"{ADDRESS}.git", f" {ADDRESS}\n"])
def test_an_address_is_read_as_a_forge_shows_it(launch_links, unset, given):
    assert launch_links.repository_address(given) == ADDRESS


@pytest.mark.parametrize(
    "given",
    [
        *("owner/name", "http://github.com/owner/name", "https://github.com/owner", "https://github.com/owner/.."),
        *("https://example.org/owner/name", "https://github.com/owner/name/tree/main", "git@github.com:owner/name"),
        *("https://github.com/owner/name;id", "https://github.com/owner/na me", "https://github.com/-o/name", "/srv/x"),
    ],
)
def test_what_is_no_address_is_refused_in_one_sentence(launch_links, unset, given):
    with pytest.raises(InputError, match=r"expected https://github\.com/OWNER/NAME") as caught:
        launch_links.repository_address(given)
    assert repr(given) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_variable_goes_before_the_setting(launch_links, monkeypatch):
    monkeypatch.setenv(launch_links.VARIABLE, ADDRESS)
    assert launch_links.repository_address("") == ADDRESS
    assert launch_links.repository_address("https://github.com/another/one") == ADDRESS
    monkeypatch.setenv(launch_links.VARIABLE, "")
    assert launch_links.repository_address("") == ""


def test_the_theme_gets_all_of_it_or_nothing(launch_links, unset):
    def options(url):
        config = SimpleNamespace(html_theme_options={"repository_url": url, "launch_buttons": {"thebe": True}, "a": 1})
        launch_links.link_copies(None, config)
        return config.html_theme_options

    branch = {"repository_branch": launch_links.BRANCH, "a": 1}
    assert options("") == {"repository_url": "", "launch_buttons": {}, **branch}
    assert options(ADDRESS) == {"repository_url": ADDRESS, "launch_buttons": launch_links.HOSTS, **branch}
    with pytest.raises(ExtensionError, match="expected https"):
        options("nowhere")


def test_the_address_is_one_setting():
    assert set(SETTING) == {"url"}


def launched(page: Path) -> dict[str, str]:
    """What a page's links lead to, by their text: those into the repository, or to a host that opens it."""
    links = BeautifulSoup(page.read_text("utf-8"), "html.parser").find_all("a", href=re.compile("^https?:"))
    hosts = ("github.com", "mybinder.org", "colab.research.google.com")
    return {
        link.get_text(" ", strip=True): link["href"]
        for link in links
        if "btn" in link.get("class", []) or link["href"].split("/")[2] in hosts
    }


@pytest.fixture(scope="module")
def pages():
    found = sorted(path for folder in ("book", "notebooks") for path in (BOOK / folder).glob("*.html"))
    if not found:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{BOOK} is not built: make book")
    return {path: launched(path) for path in found}


@pytest.fixture(scope="module")
def address(launch_links):
    return launch_links.repository_address(SETTING["url"])


def test_chapters_link_to_their_copies_and_other_pages_to_none(pages, address, launch_links):
    """What is expected follows the setting that these tests see: they and the book are made with the same one."""
    place = address.removeprefix("https://github.com/")
    for page, links in pages.items():
        expected = {}
        if address and page.parent.name == "notebooks":
            path = f"notebooks/{page.stem}.ipynb"
            expected = {
                "Binder": f"https://mybinder.org/v2/gh/{place}/{launch_links.BRANCH}?urlpath=lab/tree/{path}",
                "Colab": f"https://colab.research.google.com/github/{place}/blob/{launch_links.BRANCH}/{path}",
            }
        assert links == expected, page


def test_without_an_address_no_page_knows_of_launching(pages, address):
    if address:
        pytest.skip(f"this book is published: it links to {address}")
    told = [path for path in pages if re.search(r"launch-buttons|mybinder|colab\.research", path.read_text("utf-8"))]
    assert not told
