"""Pairs of whole sentences: rated by people, and written by the policy."""

import pytest

from gentangle.alignment.policy import load_policy
from gentangle.alignment.review_pairs import MAX_TOKENS, MAX_WORDS, SOURCES, VERBS, human_pairs, request, sampled_pairs

pytestmark = pytest.mark.training


def test_every_sentence_answers_its_request_and_none_is_used_twice(corpus):
    rated = {(d, " " + t.text.strip(), s) for d in SOURCES for t in corpus[d] for s in VERBS if t.rating * s > 1}
    pairs = human_pairs()
    assert len(pairs) > 300
    for number, pair in enumerate(pairs):
        domain = list(SOURCES)[number % 3]
        sign = 1 if pair.prompt == request(domain, 1) else -1
        assert pair.prompt == request(domain, sign)
        assert (domain, pair.chosen, sign) in rated
        assert (domain, pair.rejected, -sign) in rated
        assert max(len(pair.chosen.split()), len(pair.rejected.split())) <= MAX_WORDS
    assert len({p.chosen for p in pairs} | {p.rejected for p in pairs}) > 1.95 * len(pairs)
    assert {p.prompt for p in pairs} == {request(d, s) for d in SOURCES for s in VERBS}


def test_the_same_seed_draws_the_same_answers_to_both_requests():
    model, tokenizer = load_policy("recipes/tweets_base")
    pairs = human_pairs()[:20]
    written = sampled_pairs(model, tokenizer, pairs, seed=1)
    assert written == sampled_pairs(model, tokenizer, pairs, seed=1)
    assert written != sampled_pairs(model, tokenizer, pairs, seed=2)
    assert {p.prompt for p in written} <= {p.prompt for p in pairs}
    for pair in written:
        assert pair.chosen.startswith(" ")
        assert len(tokenizer(pair.chosen)["input_ids"]) <= MAX_TOKENS + 8  # re-tokenised, it may be cut otherwise


def test_rejected_is_written_to_the_opposite_request(monkeypatch):
    from gentangle.alignment import review_pairs

    asked = []

    def answers(model, tokenizer, prompts):
        asked.append(prompts)
        return [f" to {prompt}" for prompt in prompts]

    monkeypatch.setattr(review_pairs, "_answers", answers)
    pairs = human_pairs()[:6]
    written = sampled_pairs(None, None, pairs, seed=0)
    assert list(asked[0]) == [p.prompt for p in pairs]
    for pair, other in zip(pairs, asked[1], strict=True):
        sign = 1 if VERBS[1] in pair.prompt else -1
        assert other == pair.prompt.replace(VERBS[sign], VERBS[-sign])
    assert [p.chosen for p in written] == [f" to {p.prompt}" for p in pairs]
