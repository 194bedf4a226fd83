"""Objectives under TRL: its own loss and ours in its place take the same step; the callback reads both."""

import copy

import numpy as np
import pytest
import torch

from gentangle import OBJECTIVES, InputError, objective
from gentangle.alignment.callback import EntanglementCallback
from gentangle.alignment.objective_trainer import ObjectiveTrainer, hyperparameters_of, trainer_and_settings
from gentangle.alignment.policy import collate, response_log_probs
from gentangle.alignment.preference import Pair
from gentangle.alignment.recipes import Stage
from gentangle.alignment.training import LogCallback, preference

pytestmark = pytest.mark.training


@pytest.fixture
def uneven_pairs(tiny_pairs):
    """Pairs whose responses differ in length."""
    tails = ("", " and", " a", " film day")
    return [Pair(p.prompt, p.chosen + tail, p.rejected) for p, tail in zip(tiny_pairs, tails, strict=True)]


@pytest.fixture
def moved_reference(tiny_policy):
    """A reference that is not the policy, so that no loss starts at its symmetric point."""
    reference = copy.deepcopy(tiny_policy[0])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in reference.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    return reference.requires_grad_(False)


def train(policy, pairs, reference, name, extra=(), steps=2):
    """Weights and logged rows after some steps."""
    model, seen, rows = copy.deepcopy(policy[0]), [], []
    stage = Stage(steps, len(pairs), 1e-3, extra=dict(extra))
    callbacks = [LogCallback(seen.append), EntanglementCallback(forecast_every=1, seen=rows.append)]
    preference(model, policy[1], pairs, stage, seed=0, callbacks=callbacks, reference=reference, objective_name=name)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), seen, rows


@pytest.mark.parametrize("name", ["dpo", "ipo-norm", "bco", "robust"])
def test_ours_in_trls_place_takes_trls_step(name, tiny_policy, uneven_pairs, moved_reference, tolerance, monkeypatch):
    theirs, their_rows, _ = train(tiny_policy, uneven_pairs, moved_reference, name, {"beta": 0.3})
    hidden = copy.copy(OBJECTIVES[name])
    object.__setattr__(hidden, "trl", "")
    monkeypatch.setattr("gentangle.alignment.training.objective", lambda _: hidden)
    ours, our_rows, _ = train(tiny_policy, uneven_pairs, moved_reference, name, {"beta": 0.3})
    torch.testing.assert_close(ours, theirs, rtol=tolerance.gram, atol=1e-6)
    for key in ("loss", "rewards/chosen", "rewards/margins", "logps/chosen", "logps/rejected"):
        assert our_rows[0][key] == pytest.approx(their_rows[0][key], rel=1e-3, abs=1e-6), key


@pytest.mark.parametrize("name", [n for n, o in OBJECTIVES.items() if not o.trl.startswith("dpo:")])
def test_trls_trainer_trains_what_it_does_not_have(name, tiny_policy, uneven_pairs, moved_reference, tolerance):
    _, logged, rows = train(tiny_policy, uneven_pairs, moved_reference, name, steps=1)
    batch = collate(tiny_policy[1], uneven_pairs)
    with torch.no_grad():
        (a, b), (a0, b0) = (response_log_probs(m, batch).chunk(2) for m in (tiny_policy[0], moved_reference))
    n, k = batch["completion_mask"].sum(1).float().chunk(2)
    given = {"ref_chosen": a0, "ref_rejected": b0, "len_chosen": n, "len_rejected": k}
    assert logged[0]["loss"] == pytest.approx(objective(name)(a, b, **given).mean().item(), rel=tolerance.gram)
    d_w, d_l = objective(name).slopes(a, b, **given)
    blocks = np.array([rows[0][key] for key in ("chosen_norm_sq", "inner_product", "rejected_norm_sq")], dtype=float)
    order = np.argsort(blocks[0])  # the trainer's batch has an order of its own
    forecast = np.reshape(np.array(rows[0]["forecast"]["pair"], dtype=float), (2, -1))
    exact = forecasts_of_pairs(tiny_policy[0], batch, d_w, d_l)
    found = forecast[:, order] / 1e-3
    defined = np.isfinite(found)
    np.testing.assert_allclose(found[defined], exact[defined], rtol=5e-3, atol=1e-4)


def forecasts_of_pairs(model, batch, d_w, d_l):
    """d_w |w|^2 - d_l <w,l> and d_w <w,l> - d_l |l|^2 by the oracle, pairs in the order of |w|^2."""
    from gentangle import first_order_changes, gram, pair_blocks

    blocks = pair_blocks(gram(model, lambda m: response_log_probs(m, batch), method="oracle"))
    changes = first_order_changes(blocks, np.array(d_w), np.array(d_l))
    return changes[np.argsort(blocks[:, 0, 0])].T


def test_hyperparameters_are_the_defaults_and_what_is_given():
    assert hyperparameters_of(objective("dpop"), {"beta": 0.3, "warmup_ratio": 0.1}) == {"beta": 0.3, "lam": 50.0}
    trainer, settings = trainer_and_settings(objective("robust"), {"epsilon": 0.2, "max_length": 9})
    assert trainer.__name__ == "DPOTrainer"
    assert settings == {"beta": 0.1, "label_smoothing": 0.2, "max_length": 9, "loss_type": ["robust"]}
    _, settings = trainer_and_settings(objective("rrhf"), {"lam": 2.0})
    assert settings == {}


def test_a_trainer_without_a_reference_is_refused(tiny_policy, uneven_pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("trl.DPOTrainer.__init__", lambda self, *a, **k: vars(self).update(ref_model=None, args=None))
    with pytest.raises(InputError, match="give ref_model, a frozen copy"):
        ObjectiveTrainer(objective=objective("dpop"))
