"""Every word of the built pages' prose stands in a dictionary, or in words.txt beside this file."""

import os
import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from spylls.hunspell import Dictionary

# spylls leaves the dictionary's files for the garbage collector to close.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

HERE = Path(__file__).parent
BOOK = Path(os.environ.get("GENTANGLE_BOOK", HERE.parents[1] / "book" / "_build" / "html"))
#: Names, terms and British forms that the dictionary lacks, one a line, sorted.
KNOWN = (HERE / "words.txt").read_text("utf-8").split()
NOT_PROSE = "code, pre, script, style, .math, svg, .output, cite, .gt-mount, dl.py, .citation-list, a[href*='#claim-']"
PICTURE = re.compile(r"data:image/png;base64,[^\"]*")  # most of a chapter's bytes
WORD = re.compile(r"[^\W\d_]{3,}(?:['\u2019][^\W\d_]+)*")


def words(page: str) -> set[str]:
    """Words of a page's prose; code, formulas, outputs and names in citations are left out."""
    soup = BeautifulSoup(PICTURE.sub("", page), "html.parser")
    article = soup.find("article") or soup
    for part in article.select(NOT_PROSE):
        part.replace_with(" ")
    return {word.replace("\u2019", "'") for word in WORD.findall(article.get_text(" "))}


@cache
def dictionary() -> Dictionary:
    return Dictionary.from_files(str(files("spylls") / "hunspell" / "data" / "en" / "en_US"))


def misspelt(found: set[str]) -> list[str]:
    def right(word: str) -> bool:
        stem = word.removesuffix("'s").removesuffix("'")
        return bool({word, stem, stem.lower()} & set(KNOWN)) or dictionary().lookup(word) or dictionary().lookup(stem)

    return sorted(word for word in found if not right(word))


def test_every_word_of_the_pages_is_known():
    if not BOOK.is_dir():
        pytest.skip(f"{BOOK} is not built: make book")
    pages = [*BOOK.glob("book/*.html"), *BOOK.glob("notebooks/*.html")]
    where = {word: page.stem for page in pages for word in words(page.read_text("utf-8"))}
    assert {word: where[word] for word in misspelt(set(where))} == {}


def test_a_misspelt_word_is_found_and_code_is_not_read():
    assert misspelt(words("<article><p>The gradeint\u2019s colour</p><code>xqzt</code></article>")) == ["gradeint's"]


def test_known_words_are_sorted_and_each_is_needed():
    assert sorted(set(KNOWN), key=str.casefold) == KNOWN
    assert [word for word in KNOWN if dictionary().lookup(word)] == []
