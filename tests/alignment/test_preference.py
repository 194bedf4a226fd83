"""Preference pairs from ratings: forms, splits, and what is refused."""

import pytest

from gentangle import InputError
from gentangle.alignment.preference import FORMS, Pair, sentiment_pairs, split_opinions
from gentangle.rated_texts import RatedText


@pytest.mark.parametrize("form", FORMS)
def test_chosen_and_rejected_differ_in_the_sentiment_word_alone(corpus, form):
    train, _, neutral = split_opinions(corpus["tweets"], 500)
    for text, pair in zip(train, sentiment_pairs(train, form, neutral), strict=True):
        word, _, chosen_rest = pair.chosen[1:].partition(" ")
        other, _, rejected_rest = pair.rejected[1:].partition(" ")
        assert {word.strip("."), other.strip(".")} == {"positive", "negative"}
        assert chosen_rest == rejected_rest
        assert (word.strip(".") == "positive") == (text.rating > 0)
        assert pair.prompt.startswith(text.text)


def test_splits_are_disjoint_repeatable_and_rated_as_they_say(corpus):
    first, again = split_opinions(corpus["tweets"], 500), split_opinions(corpus["tweets"], 500)
    assert first == again
    identifiers = [{text.identifier for text in part} for part in first]
    assert sum(map(len, identifiers)) == len(set.union(*identifiers)) == 4200
    assert len(first[1]) == 500
    assert all(abs(text.rating) > 1 for text in first[0] + first[1])
    assert all(abs(text.rating) <= 1 for text in first[2])


def test_natural_continuations_differ_between_pairs(corpus):
    train, _, neutral = split_opinions(corpus["tweets"], 500)
    pairs = sentiment_pairs(train[:300], "natural-continuation", neutral)
    assert len({pair.chosen.split(".", 1)[1] for pair in pairs}) > 290


def test_bad_input_gets_one_clear_error():
    text = RatedText("1", 2.0, "Yay.")
    with pytest.raises(InputError, match="Did you mean 'one-token'"):
        sentiment_pairs([text], "one-tokn", [])
    with pytest.raises(InputError, match="needs neutral texts"):
        sentiment_pairs([text], "natural-continuation", [])
    with pytest.raises(InputError, match="chosen equals rejected"):
        Pair("p", "a", "a")
    with pytest.raises(InputError, match="rejected response to 'p' is empty"):
        Pair("p", "a", "")
    with pytest.raises(InputError, match="1 texts have a sentiment, too few to hold 5 out"):
        split_opinions([text, RatedText("2", 0.0, "Hm.")], 5)
