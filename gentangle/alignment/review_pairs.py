"""Preference pairs of whole sentences: real ones that people rated, or ones that the policy itself wrote."""

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from gentangle.alignment.preference import Pair
from gentangle.rated_texts import OPINION_THRESHOLD, RatedText, load

if TYPE_CHECKING:
    import torch

#: ``human``: rated sentences, off-policy. ``sampled``: the policy's own, on-policy. Both under the same requests.
FORMS = ("human", "sampled")

#: Domain of the rated texts -> what a request calls it.
SOURCES = {"film": "film review", "product": "product review", "newspaper": "newspaper"}
VERBS = {1: "praises", -1: "blames"}
MAX_WORDS = 24
#: A sampled sentence has at most so many tokens, and ends with its first full stop.
MAX_TOKENS = 32


def request(domain: str, sign: int) -> str:
    """What is asked for: a sentence of a domain with a sentiment, 1 or -1."""
    return f"A sentence of a {SOURCES[domain]} that {VERBS[sign]}:"


def human_pairs(seed: int = 0) -> list[Pair]:
    """Requests, each with a real sentence that fits, as its raters judged, against one that does not.

    Domains and requests alternate; sentences have at most ``MAX_WORDS`` words and none is used twice.
    """
    rng = np.random.default_rng(seed)
    return [
        pair for trio in zip(*(_of_domain(name, load(name), rng) for name in SOURCES), strict=False) for pair in trio
    ]


def _of_domain(domain: str, texts: Sequence[RatedText], rng: np.random.Generator) -> list[Pair]:
    texts = [texts[i] for i in rng.permutation(len(texts)) if len(texts[i].text.split()) <= MAX_WORDS]
    sides = {s: [" " + t.text.strip() for t in texts if t.rating * s > OPINION_THRESHOLD] for s in VERBS}
    both = zip(sides[1], sides[-1], cycle((1, -1)), strict=False)
    return [
        Pair(request(domain, sign), *((good, bad) if sign == 1 else (bad, good)))
        for good, bad, sign in both
        if good != bad
    ]


def sampled_pairs(model: Any, tokenizer: Any, pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """The same requests answered by the policy: chosen written to the request, rejected to its opposite.

    Sampled at temperature 1 from the whole distribution. A pair whose two answers are one text, or whose text is empty,
    is left out. (No judge is asked which answer is better: the request that it was written to says so.)
    """
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        written: list[Pair] = []
        for start in range(0, len(pairs), 16):
            some = pairs[start : start + 16]
            answers = [_answers(model, tokenizer, prompts) for prompts in zip(*map(_requests, some), strict=True)]
            texts = zip(some, *answers, strict=True)
            written += [Pair(p.prompt, good, bad) for p, good, bad in texts if good != bad and good and bad]
    return written


def _requests(pair: Pair) -> tuple[str, str]:
    """The pair's request and its opposite."""
    here, there = (v for v in VERBS.values()) if VERBS[1] in pair.prompt else reversed(VERBS.values())
    return pair.prompt, pair.prompt.replace(here, there)


def _answers(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    given: dict[str, torch.Tensor] = tokenizer(
        list(prompts), return_tensors="pt", padding=True, padding_side="left"
    ).to(model.device)
    out = model.generate(
        **given, do_sample=True, top_k=0, top_p=1.0, max_new_tokens=MAX_TOKENS, pad_token_id=tokenizer.pad_token_id
    )
    texts = tokenizer.batch_decode(out[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
    return [_sentence(text) for text in texts]


def _sentence(text: str) -> str:
    """The first sentence of a text, after a space; empty where there is none."""
    import re

    first = re.split(r"(?<=[.!?])\s", " ".join(text.split()))[0]
    return " " + first if first else ""
