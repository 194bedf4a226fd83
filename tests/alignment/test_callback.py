"""EntanglementCallback inside unmodified TRL trainers: against the oracle, whatever the loss and the settings."""

import numpy as np
import pytest
import torch

from gentangle import InputError, gram, pair_gram
from gentangle.alignment.callback import PREFIX, EntanglementCallback
from gentangle.alignment.conditions import cosine
from gentangle.alignment.forecasts import agreement
from gentangle.alignment.policy import collate, fresh_copy, response_log_probs
from gentangle.alignment.training import quiet
from gentangle.gradients.pairs import pair_blocks

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]

LOSSES = (
    "sigmoid hinge ipo exo_pair nca_pair robust bco_pair sppo_hard aot aot_unpaired apo_zero apo_down discopop "
    "sigmoid_norm"
).split()


def trainer_of(policy, pairs, folder, callback=None, peft_config=None, reference_of=None, **settings):
    """TRL's DPOTrainer on the pairs, as messages; the reference is the policy or another model."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model, tokenizer = fresh_copy(policy[0]), policy[1]
    rows = [
        {
            "prompt": [{"role": "user", "content": p.prompt}],
            "chosen": [{"role": "assistant", "content": p.chosen}],
            "rejected": [{"role": "assistant", "content": p.rejected}],
        }
        for p in pairs
    ]
    defaults = {
        "output_dir": str(folder),
        "max_steps": 1,
        "per_device_train_batch_size": len(pairs),
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }
    reference = None if peft_config else fresh_copy(reference_of or model).eval()
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=DPOConfig(**defaults | settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    if callback:
        callback.attach(trainer)
    return trainer


def run(policy, pairs, folder, *, every_n_steps=1, forecast_every=None, **settings):
    """Rows that the callback saw, and the trainer."""
    rows = []
    callback = EntanglementCallback(every_n_steps=every_n_steps, forecast_every=forecast_every, seen=rows.append)
    with quiet():
        trainer = trainer_of(policy, pairs, folder, callback, **settings)
        trainer.train()
    return rows, trainer


@pytest.fixture(scope="module")
def oracle(tiny_policy):
    """Function of pairs that gives their 2x2 Gram matrices, (P, 2, 2), by the slow way."""

    def blocks(pairs):
        model, tokenizer = tiny_policy
        batch = collate(tokenizer, pairs)
        return pair_blocks(gram(model, lambda m: response_log_probs(m, batch), method="oracle"))

    return blocks


def readings(row):
    """The row's three numbers a pair, pairs in an order of their own: a trainer shuffles."""
    names = ("chosen_norm_sq", "rejected_norm_sq", "inner_product")
    return np.array(sorted(zip(*(row[name] for name in names), strict=True)))


def expected_readings(blocks):
    return np.array(sorted(zip(blocks[:, 0, 0], blocks[:, 1, 1], blocks[:, 0, 1], strict=True)))


@pytest.mark.parametrize("loss_type", LOSSES)
def test_every_loss_of_the_trainer_gives_the_same_matrix(loss_type, tiny_policy, tiny_pairs, oracle, tmp_path):
    """G does not depend on the loss; it is unscaled by slopes that no formula told."""
    other = fresh_copy(tiny_policy[0])
    with torch.no_grad():
        other.lm_head.weight.mul_(1.5)  # at a reference equal to the policy some slopes are 0
    settings = {"label_smoothing": 1e-3} if loss_type == "exo_pair" else {}
    rows, _ = run(tiny_policy, tiny_pairs, tmp_path, loss_type=loss_type, reference_of=other, **settings)
    np.testing.assert_allclose(readings(rows[0]), expected_readings(oracle(tiny_pairs)), rtol=2e-3, atol=1e-5)


def test_metrics_stand_among_the_trainers_own(tiny_policy, tiny_pairs, oracle, tmp_path):
    _, trainer = run(tiny_policy, tiny_pairs, tmp_path, forecast_every=1)
    logged = trainer.state.log_history[0]
    assert logged["rewards/margins"] == 0
    blocks = oracle(tiny_pairs)
    assert logged[PREFIX + "cosine"] == pytest.approx(np.median(cosine(blocks)), rel=1e-3)
    assert sum(logged[PREFIX + name] for name in ("intended", "both_up", "both_down", "reversed")) == pytest.approx(1)
    assert logged[PREFIX + "undefined"] == 0
    parts = sum(logged[PREFIX + name] for name in ("own_chosen", "own_rejected", "other_chosen", "other_rejected"))
    assert parts == pytest.approx(logged[PREFIX + "batch_chosen"], rel=1e-6)
    assert logged[PREFIX + "measured_chosen"] == pytest.approx(logged[PREFIX + "step_chosen"], rel=0.3)


def test_the_forecast_of_the_step_taken_is_what_happens(tiny_policy, tiny_pairs, tmp_path):
    rows, _ = run(tiny_policy, tiny_pairs, tmp_path, forecast_every=1, max_steps=6, learning_rate=2e-4)
    found = agreement(rows, "step", 1e-4)
    assert found.signs >= 0.95
    assert found.error < 0.1


def test_under_plain_sgd_the_batchs_forecast_is_the_step(tiny_policy, tiny_pairs, tmp_path):
    settings = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 1e-2, "max_steps": 2}
    rows, _ = run(tiny_policy, tiny_pairs, tmp_path, forecast_every=1, **settings)
    for row in rows:
        batch, step = (np.array(row["forecast"][name]) for name in ("batch", "step"))
        np.testing.assert_allclose(batch, step, atol=1e-3 * np.abs(step).max())


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_checkpointing": True},
        {"bf16": True},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"max_grad_norm": 1e-3},
        {"precompute_ref_log_probs": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_of_the_trainer_change_no_reading(settings, tiny_policy, tiny_pairs, oracle, tmp_path):
    rows, _ = run(tiny_policy, tiny_pairs, tmp_path, forecast_every=1, **settings)
    found = np.array(sorted(map(tuple, np.concatenate([readings(row) for row in rows]))))
    close = {"rtol": 0.1, "atol": 0.02} if settings.get("bf16") else {"rtol": 2e-3, "atol": 1e-5}
    np.testing.assert_allclose(found, expected_readings(oracle(tiny_pairs)), **close)


def test_with_lora_only_the_adapters_count(tiny_policy, tiny_pairs, tmp_path):
    """Against the oracle on the same adapters; while their second factor is 0 the first has no gradient."""
    from peft import LoraConfig

    config = LoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, target_modules=["c_attn"], init_lora_weights="gaussian")
    rows, expected = [], []
    callback = EntanglementCallback(forecast_every=1, seen=rows.append)
    with quiet():
        trainer = trainer_of(
            tiny_policy, tiny_pairs, tmp_path, callback, peft_config=config, gradient_checkpointing=True
        )
        with torch.no_grad():
            for name, p in trainer.model.named_parameters():
                if "lora_B" in name:
                    p.normal_(generator=torch.Generator().manual_seed(0))
        batch = collate(tiny_policy[1], tiny_pairs)
        expected = pair_gram(trainer.model, lambda m: response_log_probs(m, batch), method="oracle")
        trainer.train()
    np.testing.assert_allclose(readings(rows[0]), expected_readings(expected), rtol=2e-3, atol=1e-6)
    assert agreement(rows, "step", 1e-4).signs >= 0.9


def test_the_training_is_the_same_with_and_without(tiny_policy, tiny_pairs, tmp_path):
    weights = []
    for watched in (True, False):
        callback = EntanglementCallback(forecast_every=2) if watched else None
        with quiet():
            trainer = trainer_of(
                tiny_policy, tiny_pairs, tmp_path, callback, max_steps=4, per_device_train_batch_size=2
            )
            trainer.train()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
        assert not any(module._forward_hooks for module in trainer.model.modules())
    assert torch.equal(*weights)


def test_steps_are_read_on_the_stride_and_followed_on_theirs(tiny_policy, tiny_pairs, tmp_path):
    rows, _ = run(tiny_policy, tiny_pairs, tmp_path, every_n_steps=3, forecast_every=2, max_steps=8)
    assert [row["step"] for row in rows] == [1, 4, 7]
    assert ["measured" in row for row in rows] == [True, False, True]


def test_a_saturated_or_inactive_loss_is_counted_and_divides_by_nothing(tiny_policy, tiny_pairs, tmp_path):
    """A hinge that is far from its margin's edge has slope 0 once the margin is passed."""
    settings = {"loss_type": "hinge", "beta": 1e4, "learning_rate": 1e-2, "max_steps": 4}
    rows, trainer = run(tiny_policy, tiny_pairs, tmp_path, **settings)
    undefined = [entry[PREFIX + "undefined"] for entry in trainer.state.log_history if PREFIX + "undefined" in entry]
    assert undefined[0] == 0
    assert undefined[-1] > 0
    assert all(np.isfinite(value) for entry in trainer.state.log_history for value in entry.values())
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
            "use_reentrant=True",
        ),
    ],
)
def test_what_cannot_be_watched_is_said_before_the_first_step(settings, message, tiny_policy, tiny_pairs, tmp_path):
    with pytest.raises(InputError, match=message):
        run(tiny_policy, tiny_pairs, tmp_path, **settings)


def test_bad_strides_and_other_trainers_get_one_clear_error():
    with pytest.raises(InputError, match="every_n_steps is 0"):
        EntanglementCallback(every_n_steps=0)
    with pytest.raises(InputError, match="object keeps no metrics by mode"):
        EntanglementCallback().attach(object())
