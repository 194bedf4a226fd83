"""Whatever a text, a token or a name says, a page shows it as text: no tag, no script, no turned direction."""

import copy
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from bs4 import BeautifulSoup

from gentangle import cli
from gentangle.alignment.conditions import CASES
from gentangle.alignment.heatmap import TokenHeatmap
from gentangle.alignment.preference import Pair
from gentangle.display.live_pair import LivePair
from gentangle.display.report import COLUMNS, heatmap_page, page_end, page_start, pair_row
from gentangle.display.widget import BookWidget, _registration

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TAGS = "<script>alert(1)</script>"
#: Each would be a tag, an attribute, an entity, the end of what it stands in, or a turned direction.
FOREIGN = {
    "a script": TAGS,
    "the end of a cell": '</td></table></style></title><img src=x onerror="alert(1)">',
    "the end of an attribute": '" onmouseover="alert(1)" \'><svg/onload=alert(1)>',
    "entities": "&lt;script&gt; &#60;b&#62; &amp;amp;",
    "marks of direction": "\u202eabc\u202c \u2066def\u2069 \u200f",
    "control characters": "a\x00b\x1b[31m\x08\r\n\tc\u2028d",
    "half a surrogate pair": "a\ud800b",
    "a comment": "<!-- --!> <![CDATA[ ]]> <?php ?>",
    "a megabyte": "<b>" * 350_000,
}
MARKS = set(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)))


class Tags(HTMLParser):
    """The tags of a page, and its attributes' names."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes = set(), set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_comment(self, data):
        self.tags.add("a comment")

    def unknown_decl(self, data):
        self.tags.add("a declaration")

    def handle_pi(self, data):
        self.tags.add("an instruction")


def assert_harmless(page, plain):
    """The page has the tags and attributes of the one with plain texts, can be written, and turns no direction."""
    found, expected = Tags(page), Tags(plain)
    assert found.tags == expected.tags
    assert found.attributes == expected.attributes
    assert not [name for name in found.attributes if name.startswith("on")]
    assert not MARKS & set(page)
    page.encode("utf-8")


@pytest.mark.parametrize("what", FOREIGN)
def test_tokens_of_a_heatmap(what):
    text, gram = FOREIGN[what], np.array([[4.0, -2.0], [-2.0, 9.0]])
    page = heatmap_page(TokenHeatmap([text], [text], gram))
    assert_harmless(page, heatmap_page(TokenHeatmap(["a"], ["b"], gram)))
    if what == "a script":
        heads = BeautifulSoup(page, "html.parser").find("table").find_all("th", scope="col")
        assert [head.text for head in heads] == [text] * 2
    assert len(page) < 50_000


@pytest.mark.parametrize("what", [what for what in FOREIGN if what != "a megabyte"])
def test_the_title_of_a_page_of_pairs(what):
    text = FOREIGN[what]

    def page(title):
        entry = dict.fromkeys(COLUMNS, 1.0) | {"case": "both-up", "line": 3}
        return page_start(title) + pair_row(entry) + page_end("1 pair")

    assert_harmless(page(text), page("a"))


def test_the_command_escapes_the_files_name_and_the_tokens(tiny_policy, tmp_path, monkeypatch, capsys):
    from gentangle.alignment import policy

    monkeypatch.setattr(policy, "load_policy", lambda *_: tiny_policy)
    pairs = tmp_path / '\u202e<script>"&.jsonl'
    row = {"prompt": f"a {TAGS}", "chosen": f" good {TAGS}"[:24], "rejected": " \u202ebad"}
    pairs.write_text(json.dumps(row) + "\n")
    assert cli.main(["diagnose", "--pairs", str(pairs), "--html", str(tmp_path / "d.html"), "--no-eos"]) == 0
    assert (
        cli.main(["heatmap", "--pairs", str(pairs), "--row", "1", "--html", str(tmp_path / "h.html"), "--no-eos"]) == 0
    )
    for name in ("d.html", "h.html"):
        page = (tmp_path / name).read_text(encoding="utf-8")
        assert "script" not in Tags(page).tags
        assert not MARKS & set(page)
    assert (
        BeautifulSoup((tmp_path / "d.html").read_text(), "html.parser").title.text == 'Pairs of \\u202e<script>"&.jsonl'
    )


@pytest.fixture(scope="module")
def live(tiny_policy):
    return LivePair(
        copy.deepcopy(tiny_policy[0]), tiny_policy[1], Pair("a good film The sentiment is", " good", " bad")
    )


@pytest.mark.parametrize("what", [what for what in FOREIGN if what != "half a surrogate pair"])
def test_texts_and_errors_of_a_live_pair(what, live):
    text = FOREIGN[what][:50_000]
    plain = "<div><dl><dt><dd><p><table><tbody><tr><th><td><sub><b><iframe>"
    for field, value in (("prompt", f"a {text}"), ("chosen", f" {text}")):
        live.fields[field].value = value
    live.read()
    page = live._repr_mimebundle_()[0]["text/html"] + live.shown.value
    assert Tags(page).tags <= Tags(plain).tags
    assert not [name for name in Tags(page).attributes if name.startswith("on")]
    for frame in BeautifulSoup(live.shown.value, "html.parser").find_all("iframe"):
        assert not frame["sandbox"]
        assert "script" not in Tags(frame["srcdoc"]).tags
    # Each of the texts is alone in a block of its own, beyond which no mark of direction reaches.
    shown = BeautifulSoup(page, "html.parser")
    assert {node.parent.name for node in shown.find_all(string=lambda s: bool(MARKS & set(s)))} <= {"dd", "p"}


class Foreign(BookWidget):
    """A widget whose state and module are whatever a text says."""

    module = f'x" onclick="{TAGS}'
    _esm = "export default {}"

    def __init__(self, text):
        super().__init__()
        self.text = text

    def state(self):
        return {"text": self.text}

    def picture(self):
        return ""


@pytest.mark.parametrize("what", FOREIGN)
def test_the_state_of_a_widget(what):
    page = Foreign(FOREIGN[what]).static_html()
    assert_harmless(page, Foreign("a").static_html())
    mount = BeautifulSoup(page, "html.parser").div
    assert json.loads(mount["data-state"]) == {"text": FOREIGN[what]}


def test_a_registered_module_is_a_string_of_its_script():
    """A line end of Unicode or a quotation mark in a module's text does not end the string."""
    line = _registration("geometry")
    assert line.count("\n") == 1
    assert line.isascii()


def test_the_cases_names_are_no_markup():
    assert all(name.replace("-", "").isalpha() for name in CASES)
