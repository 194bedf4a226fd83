"""The checks that the pages name are found in their sources, and what pytest said of them is kept by test."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """\
@decorated(
    1
)
def test_one(): ...

class TestGroup:
    @decorated
    def test_two(self):
        pass
"""
NAMED = ["tests/room/test_a.py::test_one", "tests/room/test_a.py::TestGroup::test_two"]
REPORT = """\
<testsuites><testsuite>
<testcase classname="notebooks.01_a.ipynb" name="Cell 0" time="1.0"/>
<testcase classname="tests.room.test_a" name="test_one[x-1]" time="0.26"/>
<testcase classname="tests.room.test_a" name="test_one[x::y]" time="1.5"><skipped/></testcase>
<testcase classname="tests.room.test_a.TestGroup" name="test_two" time="0.04"><failure/></testcase>
</testsuite></testsuites>
"""


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("book/run_checks.py")


@pytest.fixture(scope="module")
def source(load_script):
    return load_script("book/check_source.py")


@pytest.fixture
def root(tmp_path):
    for folder in ("tests/room", "book", "notebooks", "results"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "tests" / "room" / "test_a.py").write_text(TESTS)
    return tmp_path


def test_tests_are_named_by_pages_chapters_formulas_and_claims(source, root):
    (root / "book" / "a.md").write_text("```{check} tests/a.py::test_a\n:for: x\n```\n`{check}` names the test.\n")
    (root / "book" / "b.md").write_text("```{formula} x\n:label: y\n:check: tests/b.py::TestB::test_b[1]\n```\n")
    (root / "notebooks" / "c.ipynb").write_text('"```{check} tests/c.py::test_c\\n"')
    claims = (ROOT / "book" / "claims.yml").read_text("utf-8")
    (root / "book" / "claims.yml").write_text(claims)
    claimed = {claim.test.split("[")[0] for claim in source.load_claims(ROOT / "book" / "claims.yml") if claim.test}
    assert source.named_tests(root) == sorted(
        claimed | {"tests/a.py::test_a", "tests/b.py::TestB::test_b", "tests/c.py::test_c"}
    )


def test_a_source_is_the_function_with_its_decorators(source, root):
    found = source.source_of("tests/room/test_a.py::test_one[1]", root)
    assert (found.text, found.line) == ("@decorated(\n    1\n)\ndef test_one(): ...", 1)
    found = source.source_of("tests/room/test_a.py::TestGroup::test_two", root)
    assert (found.text, found.line) == ("@decorated\ndef test_two(self):\n    pass", 7)


def test_a_report_is_read_by_test_with_the_worst_of_its_cases(script, root):
    (root / "report.xml").write_text(REPORT)
    found = script.read_report(root / "report.xml", "2026-11-27", root, NAMED)
    assert list(found) == NAMED
    assert list(script.read_report(root / "report.xml", "2026-11-27", root, NAMED[1:])) == NAMED[1:]
    one, two = found.values()
    assert (one.outcome, one.cases, one.seconds, one.date) == ("skipped", 2, 1.8, "2026-11-27")
    assert (two.outcome, two.cases, two.seconds) == ("failed", 1, 0.0)


@pytest.mark.parametrize("named", [NAMED, NAMED[:1]])
def test_reports_of_a_run_that_was_made_are_read_and_nothing_is_run(script, root, named, monkeypatch, capsys):
    monkeypatch.setattr(script, "ROOT", root)
    monkeypatch.setattr(script, "named_tests", lambda _: named)
    (root / "reports").mkdir()
    with pytest.raises(SystemExit):
        script.main(["--reports", str(root / "reports")])
    assert "holds no report" in capsys.readouterr().err
    (root / "reports" / "unit.xml").write_text(REPORT)
    assert script.main(["--reports", str(root / "reports")]) == len(named) - 1  # the second one failed
    assert script.results(root).keys() == set(named)


def test_a_result_is_told_with_what_changed_since(script, source, root):
    (root / "report.xml").write_text(REPORT)
    result = script.read_report(root / "report.xml", "2026-11-27", root, NAMED)["tests/room/test_a.py::test_one"]
    here = source.source_of("tests/room/test_a.py::test_one", root)
    assert source.told(result, here) == "skipped (2 cases) on 2026-11-27 in 1.8 s"
    other = source.CheckSource(here.test, here.text.replace("1", "2"), 1)
    assert source.told(result, other).endswith("; the test has changed since")
    assert source.told(None, here) == "no result recorded"


def test_the_results_kept_are_of_tests_that_the_book_names_and_none_failed(source):
    kept = source.results(ROOT)
    assert kept.keys() <= set(source.named_tests(ROOT))
    assert [test for test, result in kept.items() if result.outcome == "failed"] == []
    for test in kept:
        source.source_of(test, ROOT)
