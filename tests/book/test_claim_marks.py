"""Each claim has its test and each test its claims; every sentence of the two abstracts is in the ledger."""

import dataclasses
import re
from pathlib import Path

import pytest

from gentangle.display.claims import PAPERS, load_claims

ROOT = Path(__file__).parents[2]
CLAIMS = load_claims(ROOT / "book" / "claims.yml")
#: Sentences of the abstracts that claim something, by number; the first ones say what the field is.
CLAIMING = {"2410.13828": range(2, 9), "2104.09937": range(3, 9)}


@pytest.fixture(scope="module")
def claim_marks(load_script):
    return load_script("book/_ext/claim_marks.py")


def test_the_ledger_and_the_marks_agree(claim_marks):
    marks = claim_marks.marks_of(ROOT / "tests")
    assert claim_marks.mark_problems(CLAIMS, marks) == []
    assert len({id for ids in marks.values() for id in ids}) == len(CLAIMS)


def test_a_mark_is_read_without_an_import(claim_marks, tmp_path):
    (tmp_path / "tests").mkdir()
    text = '@pytest.mark.claims("a", "b")\n@pytest.mark.slow\ndef test_it(): ...\ndef test_b(): ...\nraise SystemExit'
    (tmp_path / "tests" / "test_x.py").write_text(text)
    assert claim_marks.marks_of(tmp_path / "tests") == {"tests/test_x.py::test_it": ["a", "b"]}


@pytest.mark.parametrize(
    ("test", "marks", "said"),
    [
        ("", {}, "claim 'CLAIM' names no test: give the one that decides it"),
        ("tests/t.py::test_it", {}, "mark it with @pytest.mark.claims"),
        ("tests/t.py::test_it", {"tests/t.py::test_other": ["CLAIM"]}, "mark it with @pytest.mark.claims"),
        ("tests/t.py::test_it", {"tests/t.py::test_it": ["CLAIM", "gone"]}, "marked with the claim 'gone', which"),
    ],
)
def test_what_is_amiss_on_either_side_is_told(claim_marks, test, marks, said):
    claim = dataclasses.replace(CLAIMS[0], id="CLAIM", test=test)
    (sentence,) = claim_marks.mark_problems([claim], marks)
    assert said in sentence


@pytest.mark.parametrize("paper", PAPERS)
def test_every_sentence_of_the_abstract_has_a_row(paper):
    places = [re.search(r"abstract, sentences? (\d+)(?: and (\d+))?", c.place) for c in CLAIMS if c.paper == paper]
    rows = {int(number) for place in places if place for number in place.groups() if number}
    assert rows == {*CLAIMING[paper]}
