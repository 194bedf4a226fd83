"""Preference pairs made of human-rated tweets, in four forms that differ in what follows the contrast token."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gentangle.errors import InputError, one_of
from gentangle.rated_texts import OPINION_THRESHOLD, RatedText

#: Form -> what follows the sentiment word in both responses. ``None``: a text of its own for each pair.
FORMS: dict[str, str | None] = {
    "one-token": "",
    "short-suffix": " sentiment",
    "long-suffix": " sentiment based on the content and tone of the text",
    "natural-continuation": None,
}

QUESTION = " The sentiment of the text is"
CONTINUATION_WORDS = 12


@dataclass(frozen=True)
class Pair:
    """A prompt with the response that is preferred and the one that is not.

    Raises:
        InputError: chosen equals rejected, or a response is empty.
    """

    prompt: str
    chosen: str
    rejected: str

    def __post_init__(self) -> None:
        if self.chosen == self.rejected:
            raise InputError(f"chosen equals rejected ({self.chosen[:40]!r}): a pair must differ.")
        for side in ("chosen", "rejected"):
            if not getattr(self, side):
                raise InputError(f"The {side} response to {self.prompt[:40]!r} is empty: a response needs a token.")


def split_opinions(
    texts: Sequence[RatedText], held_out: int, seed: int = 0
) -> tuple[list[RatedText], list[RatedText], list[RatedText]]:
    """Training texts, held-out texts, and neutral texts, each in a random order drawn from ``seed``.

    Opinionated texts have ``|rating| > OPINION_THRESHOLD``, as :mod:`gentangle.rated_texts` has it; ``held_out`` of
    them are set aside.

    Raises:
        InputError: fewer opinionated texts than ``held_out`` + 1.
    """
    order = np.random.default_rng(seed).permutation(len(texts))
    opinions = [texts[i] for i in order if abs(texts[i].rating) > OPINION_THRESHOLD]
    neutral = [texts[i] for i in order if abs(texts[i].rating) <= OPINION_THRESHOLD]
    if len(opinions) <= held_out:
        raise InputError(
            f"{len(opinions)} texts have a sentiment, too few to hold {held_out} out and train on the rest."
        )
    return opinions[held_out:], opinions[:held_out], neutral


def sentiment_pairs(texts: Sequence[RatedText], form: str, neutral: Sequence[RatedText], seed: int = 0) -> list[Pair]:
    """One pair a text: the sentiment word that its raters gave against the other one.

    Args:
        texts: opinionated texts.
        form: a key of ``FORMS``.
        neutral: texts to continue from in the form ``natural-continuation``; both responses of a
            pair share one, cut to ``CONTINUATION_WORDS`` words.
        seed: draws the continuations.

    Raises:
        InputError: unknown form, or no neutral text where the form needs one.

    >>> sentiment_pairs([RatedText("1", 2.5, "Yay.")], "short-suffix", [])[0]
    Pair(prompt='Yay. The sentiment of the text is', chosen=' positive sentiment', rejected=' negative sentiment')
    """
    one_of(form, FORMS, f"Unknown form {form!r}.")
    suffix = FORMS[form]
    suffixes = [suffix] * len(texts) if suffix is not None else _continuations(len(texts), neutral, seed)
    return [
        Pair(
            prompt=text.text + QUESTION,
            chosen=(" positive" if text.rating > 0 else " negative") + shared,
            rejected=(" negative" if text.rating > 0 else " positive") + shared,
        )
        for text, shared in zip(texts, suffixes, strict=True)
    ]


def _continuations(n: int, neutral: Sequence[RatedText], seed: int) -> list[str]:
    if not neutral:
        raise InputError("The form natural-continuation needs neutral texts to continue from, got none.")
    rng = np.random.default_rng(seed)
    rounds = [rng.permutation(len(neutral)) for _ in range(-(-n // len(neutral)))]
    words = [neutral[i].text.split()[:CONTINUATION_WORDS] for i in np.concatenate(rounds)[:n]]
    return [". " + " ".join(w) for w in words]
