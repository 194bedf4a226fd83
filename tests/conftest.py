"""What every test shares: the tolerances of the profile, a small policy, the rated texts."""

import importlib.util
import sys
from pathlib import Path

import pytest

from gentangle import profiles, rated_texts


@pytest.fixture(scope="session")
def tolerance():
    return profiles.profile().tolerance


@pytest.fixture(scope="session")
def corpus():
    """The rated texts, fetched into the cache where they are not there yet."""
    rated_texts.fetch()
    return {domain: rated_texts.load(domain) for domain in rated_texts.DOMAINS}


@pytest.fixture(scope="session")
def tiny_policy():
    """A one-layer GPT-2 with a tokenizer of its own: (model, tokenizer), to be copied before training."""
    import torch

    from gentangle.alignment.policy import small_gpt2, train_tokenizer

    torch.set_num_threads(profiles.profile().threads)
    words = "the sentiment of text is positive negative based on content and tone a good bad film day".split()
    tokenizer = train_tokenizer([" " + " ".join(words)] * 3, vocab_size=400)
    return small_gpt2(tokenizer, layers=1, width=16, heads=2, positions=64, seed=0), tokenizer


@pytest.fixture
def tiny_pairs():
    from gentangle.alignment.preference import Pair

    texts = ["a good film", "a bad day", "the tone is good", "the content is bad"]
    words = [(" positive", " negative"), (" negative", " positive")] * 2
    tail = " based on the content"
    return [Pair(f"{t} The sentiment is", w + tail, l + tail) for t, (w, l) in zip(texts, words, strict=True)]


ROOT = Path(__file__).parents[1]


@pytest.hookimpl(trylast=True)  # of the tests that are left
def pytest_collection_modifyitems(items):
    """What takes longest comes first: files with tests that train or open a browser."""
    slow = {item.path for item in items if {"training", "browser"} & {mark.name for mark in item.iter_markers()}}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def load_script():
    """Load a file of the repository as the module of its stem; Sphinx and dataclasses look it up in sys.modules.

    As where it is run, it can import its neighbours.
    """
    loaded = []

    def load(path):
        name = Path(path).stem
        if name not in loaded:
            spec = importlib.util.spec_from_file_location(name, ROOT / path)
            sys.modules[name] = importlib.util.module_from_spec(spec)
            loaded.append(name)
            sys.path.insert(0, str((ROOT / path).parent))
            try:
                spec.loader.exec_module(sys.modules[name])
            finally:
                sys.path.pop(0)
        return sys.modules[name]

    yield load
    for name in loaded:
        del sys.modules[name]
