"""A pair typed by hand: its numbers against the oracle, mistakes told in a line, foreign text shown as text."""

import copy

import numpy as np
import pytest
from bs4 import BeautifulSoup

from gentangle import InputError, case, first_order_changes, pair_gram
from gentangle.alignment.conditions import CASE_TITLES
from gentangle.alignment.policy import collate, response_log_probs
from gentangle.alignment.preference import Pair
from gentangle.display.live_pair import MOST_TOKENS, LivePair, pair_heatmap

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PAIR = Pair("a good film The sentiment is", " positive based on tone", " negative")


@pytest.fixture
def live(tiny_policy):
    model, tokenizer = tiny_policy
    return LivePair(copy.deepcopy(model), tokenizer, PAIR)


def numbers(live) -> list[float]:
    return [float(cell.text) for cell in BeautifulSoup(live.shown.value, "html.parser").select(".gt-pair td")]


def expected(live, pair) -> list[float]:
    batch = collate(live.tokenizer, [pair])
    gram = pair_gram(live.model, lambda m: response_log_probs(m, batch), method="oracle")[0]
    chosen, rejected = first_order_changes(gram)
    cosine = gram[0, 1] / np.sqrt(gram[0, 0] * gram[1, 1])
    return [gram[0, 0], gram[0, 1], gram[1, 1], cosine, chosen, rejected]


def test_first_reading_is_the_oracles(live):
    np.testing.assert_allclose(numbers(live), expected(live, PAIR), rtol=6e-3)
    title = BeautifulSoup(live.shown.value, "html.parser").find("b").text
    assert title == CASE_TITLES[str(case(expected(live, PAIR)[4:]))].capitalize() + "."


def test_button_reads_what_was_typed(live):
    live.fields["chosen"].value = " negative"
    live.fields["rejected"].value = " positive"
    assert numbers(live) == []  # the reading of the texts before is gone
    live.button.click()
    np.testing.assert_allclose(numbers(live), expected(live, Pair(PAIR.prompt, " negative", " positive")), rtol=6e-3)
    assert "rejected=' positive'" in repr(live)


def test_heatmap_stands_in_a_frame_without_scripts(live):
    frame = BeautifulSoup(live.shown.value, "html.parser").find("iframe")
    assert not frame["sandbox"]  # nothing is allowed in it
    page = BeautifulSoup(frame["srcdoc"], "html.parser")
    tokens = [head.text for head in page.find("table").find_all("th", scope="col")]
    assert "".join(tokens) == PAIR.chosen + PAIR.rejected


@pytest.mark.parametrize(
    ("chosen", "rejected", "told"),
    [
        ("", " bad", "chosen response to"),
        (" bad", " bad", "chosen equals rejected"),
        (" good" * MOST_TOKENS, " bad", "the model's context holds 64"),
    ],
)
def test_a_mistake_is_told_and_the_fields_stay(live, chosen, rejected, told):
    live.fields["chosen"].value, live.fields["rejected"].value = chosen, rejected
    live.button.click()
    assert told in BeautifulSoup(live.shown.value, "html.parser").find(role="alert").text
    assert live.fields["chosen"].value == chosen
    live.fields["chosen"].value, live.fields["rejected"].value = PAIR.chosen, PAIR.rejected
    live.button.click()
    assert len(numbers(live)) == 6


def test_a_prompt_is_needed_to_predict_from(live):
    live.fields["prompt"].value = ""
    live.button.click()
    assert "the prompt is empty" in BeautifulSoup(live.shown.value, "html.parser").find(role="alert").text


def test_foreign_text_is_text(live):
    live.fields["chosen"].value = " <script>alert(1)</script>"
    live.button.click()
    page = BeautifulSoup(live._repr_mimebundle_()[0]["text/html"] + live.shown.value, "html.parser")
    assert not page.find_all("script")
    assert not BeautifulSoup(page.find("iframe")["srcdoc"], "html.parser").find_all("script")
    assert " <script>" in page.find_all("dd")[1].text


def test_a_page_without_a_kernel_shows_texts_and_numbers_in_few_bytes(live):
    still = live._repr_mimebundle_()[0]["text/html"]
    assert len(still) < 2_000
    page = BeautifulSoup(still, "html.parser")
    assert [text.text for text in page.find_all("dd")] == [PAIR.prompt, PAIR.chosen, PAIR.rejected]
    assert len(page.select(".gt-pair td")) == 6
    assert still == live._repr_mimebundle_()[0]["text/html"]


def test_a_heatmap_too_large_to_draw_is_refused_before_the_model_runs(tiny_policy):
    model, tokenizer = copy.deepcopy(tiny_policy[0]), tiny_policy[1]
    model.config.n_positions = 10_000
    with pytest.raises(InputError, match=f"at most {MOST_TOKENS}"):
        pair_heatmap(model, tokenizer, Pair("a", " good" * 200, " bad"))
