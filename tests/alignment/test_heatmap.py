"""`gentangle heatmap`: a pair's tokens against the oracle, and a page that shows foreign text as text."""

import json

import numpy as np
import pytest
from bs4 import BeautifulSoup

from gentangle import InputError, cli, pair_gram
from gentangle.alignment.heatmap import TokenHeatmap, example_on_line, token_heatmap
from gentangle.alignment.policy import collate, response_log_probs, tokenise
from gentangle.alignment.preference import Pair
from gentangle.display.report import heatmap_page

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def pair():
    return Pair("a good film The sentiment is", " positive based on tone", " negative")


@pytest.fixture(scope="module")
def heatmap(tiny_policy, pair):
    model, tokenizer = tiny_policy
    return token_heatmap(model, tokenizer, tokenise(tokenizer, pair))


def test_blocks_sum_to_the_pairs_gram_matrix(heatmap, tiny_policy, pair, tolerance):
    model, tokenizer = tiny_policy
    batch = collate(tokenizer, [pair])
    expected = pair_gram(model, lambda m: response_log_probs(m, batch), method="oracle")[0]
    np.testing.assert_allclose(heatmap.pair, expected, atol=tolerance.gram * np.trace(expected))


def test_responses_of_different_lengths_keep_their_tokens(heatmap):
    assert "".join(heatmap.chosen) == " positive based on tone"
    assert "".join(heatmap.rejected) == " negative"
    assert heatmap.gram.shape == (len(heatmap.chosen) + len(heatmap.rejected),) * 2
    np.testing.assert_allclose(np.diag(heatmap.cosine), 1)
    assert np.abs(heatmap.cosine).max() <= 1 + 1e-6


def test_a_token_without_gradient_has_cosine_0():
    assert TokenHeatmap(["a"], ["b"], np.diag([1.0, 0.0])).cosine.tolist() == [[1, 0], [0, 0]]


def test_the_page_shows_tokens_as_text_and_loads_nothing():
    gram = np.array([[4.0, -2.0], [-2.0, 9.0]])
    page = heatmap_page(TokenHeatmap(["<script>alert(1)</script>"], ["&amp;\n"], gram))
    found = BeautifulSoup(page, "html.parser")
    assert not found.find_all(["script", "link", "img", "iframe"])
    assert "http" not in page
    heads = [th.text for th in found.find("table").find_all("th", scope="col")]
    assert heads == ["<script>alert(1)</script>", "&amp;\\n"]
    cells = found.find("table").find("tbody").find_all("td")
    assert [cell["class"] for cell in cells] == [["p9"], ["n3"], ["n3"], ["p9"]]
    assert cells[1]["title"].endswith(": -0.333")


@pytest.fixture
def pairs_file(tiny_pairs, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n" + "not json\n" + "".join(json.dumps(vars(p)) + "\n" for p in tiny_pairs))
    return path


def test_the_line_is_found_whatever_stands_on_the_others(pairs_file, tiny_policy):
    model, tokenizer = tiny_policy
    third = example_on_line(pairs_file, 3, model, tokenizer, end_of_text=False)
    assert tokenizer.decode(third["chosen_ids"]) == " positive based on the content"
    for line, message in ((2, "line 2: not JSON"), (1, "has no pair on line 1"), (99, "has no pair on line 99")):
        with pytest.raises(InputError, match=message):
            example_on_line(pairs_file, line, model, tokenizer)


def test_the_command_writes_page_and_numbers(pairs_file, tiny_policy, tmp_path, capsys):
    for part in tiny_policy:
        part.save_pretrained(tmp_path / "model")
    given = ["--model", str(tmp_path / "model"), "--pairs", str(pairs_file), "--html", str(tmp_path / "h.html")]
    assert cli.main(["heatmap", *given, "--row", "4", "--json", str(tmp_path / "h.json")]) == 0
    numbers = json.loads((tmp_path / "h.json").read_text())
    assert len(numbers["gram"]) == len(numbers["chosen"]) + len(numbers["rejected"])
    assert f"<w,l> {numbers['pair'][0][1]:+.4g}" in capsys.readouterr().out
    assert "<table" in (tmp_path / "h.html").read_text()
    before = (tmp_path / "h.html").read_bytes()
    assert cli.main(["heatmap", *given, "--row", "2"]) == 2
    assert (tmp_path / "h.html").read_bytes() == before
