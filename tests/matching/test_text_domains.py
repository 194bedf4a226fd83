"""Text as features: the same for a text in any company, made once, and balanced when it is drawn."""

import pytest
import torch

from gentangle import rated_texts, smollm2
from gentangle.matching import text_domains as module
from gentangle.matching.text_domains import MOST, embed, features, text_domains


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_texts_features_do_not_depend_on_its_neighbours():
    texts = ["good", "a bad film, and a long one: nobody in the hall stayed to its end", "well"]
    together = embed(texts, smollm2.fetch_model())
    assert together.shape == (3, 576)
    alone = torch.cat([embed([text], smollm2.fetched()) for text in texts])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)
    assert (together[0] - together[1]).norm() > 1


@pytest.fixture
def embedded(corpus, tmp_path, monkeypatch):
    """The texts that went through the model, which is left out; the cache holds nothing but the corpus."""
    seen = []

    def lengths(texts, folder):
        seen.append(texts)
        return torch.tensor([[float(len(text))] * 576 for text in texts])

    monkeypatch.setattr(module, "embed", lengths)
    monkeypatch.setattr(module.smollm2, "fetched", lambda: tmp_path)
    monkeypatch.setattr(module, "cache_dir", lambda: tmp_path)
    return seen


def test_features_are_made_once_of_texts_with_an_opinion(embedded):
    x, ratings = features("newspaper")
    again, _ = features("newspaper")
    assert len(embedded) == 1
    assert torch.equal(x, again)
    assert len(x) == len(ratings) == len(embedded[0]) == MOST
    # A text can be rated twice, so a text alone does not name its rating.
    known = {(text.text, round(text.rating, 4)) for text in rated_texts.load("newspaper")}
    assert {(text, round(float(r), 4)) for text, r in zip(embedded[0], ratings, strict=True)} <= known
    assert float(ratings.abs().min()) > rated_texts.OPINION_THRESHOLD


def test_a_draw_has_as_many_of_either_label_in_every_domain(embedded):
    parts = text_domains(100, seed=0)
    assert list(parts) == list(rated_texts.DOMAINS)
    assert all((len(x), int(y.sum())) == (100, 50) for x, y in parts.values())
    other = text_domains(100, seed=1)
    assert any(not torch.equal(parts[name][0], other[name][0]) for name in parts)
