"""Four real domains of text, seen through a frozen language model: is what a person wrote good or bad news?"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from gentangle import rated_texts, smollm2
from gentangle.atomic import write_atomic
from gentangle.cache import cache_dir
from gentangle.matching.environments import Examples

#: Of each domain so many, drawn once, go through the language model: all that the smallest has.
MOST = 1_400


def text_domains(texts: int, *, seed: int) -> Mapping[str, Examples]:
    """Tweets, film and product reviews, newspaper sentences: features of SmolLM2, and whether the rating is positive.

    Args:
        texts: of each domain, drawn at random, as many of either label; fewer where a domain has fewer.
        seed: of the draw.

    Returns:
        x of shape (n, 576), see :func:`features`, by domain.

    Raises:
        InputError: the texts or the model are not in the cache.
    """
    random, parts = np.random.default_rng(seed), {}
    for domain in rated_texts.DOMAINS:
        x, ratings = features(domain)
        good, bad = (np.flatnonzero(sign * ratings.numpy() > 0) for sign in (1, -1))
        count = min(texts // 2, len(good), len(bad))
        chosen = torch.tensor(np.concatenate([random.permutation(group)[:count] for group in (good, bad)]))
        parts[domain] = x[chosen].float(), (ratings[chosen] > 0).long()
    return parts


def features(domain: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Features, shape (n, 576), and mean ratings, shape (n,), of the texts with an opinion; made once, then cached.

    Raises:
        InputError: the texts or the model are not in the cache.
    """
    from safetensors.torch import load_file, save

    path = cache_dir() / "text_features" / f"{domain}-{rated_texts.corpus_hash()[:12]}.safetensors"
    if not path.exists():
        texts = [t for t in rated_texts.load(domain) if abs(t.rating) > rated_texts.OPINION_THRESHOLD]
        texts = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:MOST]]
        found = embed([t.text for t in texts], smollm2.fetched())
        write_atomic(path, save({"x": found.half(), "rating": torch.tensor([t.rating for t in texts])}))
    kept = load_file(path)
    return kept["x"], kept["rating"]


def embed(texts: Sequence[str], folder: Path, batch_size: int = 32) -> torch.Tensor:
    """The mean of a text's last hidden states, shape (n, d): at most 64 tokens, no gradient."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, use_safetensors=True)
    model.eval()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # alike lengths beside each other: less padding
    found = torch.empty(len(texts), model.config.hidden_size)
    with torch.no_grad():
        for at in range(0, len(texts), batch_size):
            rows = order[at : at + batch_size]
            batch = tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=64, return_tensors="pt"
            )
            mask = batch["attention_mask"][..., None]
            states = model(**batch).last_hidden_state
            found[rows] = (states * mask).sum(dim=1) / mask.sum(dim=1)
    return found
