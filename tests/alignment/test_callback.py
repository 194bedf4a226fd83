"""EntanglementCallback inside unmodified TRL trainers: against the oracle, whatever the loss and the settings."""

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trainer_defaults import defaults, messages

from gentangle import InputError, gram, pair_gram
from gentangle.alignment.callback import PREFIX, EntanglementCallback
from gentangle.alignment.conditions import cosine
from gentangle.alignment.forecasts import agreement
from gentangle.alignment.policy import collate, fresh_copy, response_log_probs
from gentangle.alignment.preference import Pair
from gentangle.alignment.training import quiet
from gentangle.gradients.capture import Capture
from gentangle.gradients.logits_head import LogitsHead
from gentangle.gradients.pairs import pair_blocks

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]

LOSSES = (
    "sigmoid hinge ipo exo_pair nca_pair robust bco_pair sppo_hard aot aot_unpaired apo_zero apo_down discopop "
    "sigmoid_norm"
).split()


def trainer_of(policy, pairs, folder, callback=None, peft_config=None, reference_of=None, **settings):
    """TRL's DPOTrainer on the pairs, as messages; the reference is the policy or another model."""
    from trl import DPOConfig, DPOTrainer

    model, tokenizer = fresh_copy(policy[0]), policy[1]
    reference = None if peft_config else fresh_copy(reference_of or model).eval()
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=DPOConfig(**defaults(pairs, folder) | settings),
        train_dataset=messages(pairs),
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
    rows, trainer = run(tiny_policy, tiny_pairs, tmp_path, forecast_every=1)
    logged = trainer.state.log_history[0]
    assert logged["rewards/margins"] == 0
    blocks = oracle(tiny_pairs)
    assert logged[PREFIX + "cosine"] == pytest.approx(np.median(cosine(blocks)), rel=1e-3)
    assert sum(logged[PREFIX + name] for name in ("intended", "both_up", "both_down", "reversed")) == pytest.approx(1)
    assert logged[PREFIX + "undefined"] == 0
    parts, under_d = (
        sum(logged[PREFIX + prefix + name] for name in ("own_chosen", "own_rejected", "other_chosen", "other_rejected"))
        for prefix in ("", "preconditioned_")
    )
    assert parts == pytest.approx(logged[PREFIX + "batch_chosen"], rel=1e-6)
    assert under_d == pytest.approx(np.mean(rows[0]["forecast"]["preconditioned_batch"][:4]), rel=1e-6)
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


@pytest.mark.parametrize("trainer", ["dpo", "cpo"])
def test_factors_are_let_go_before_the_next_pass(trainer, tiny_policy, tiny_pairs, tmp_path, monkeypatch):
    """They are as large as the pass's activations: of two micro-batches one's stand at a time, and later none."""
    captures, at_forward = [], []

    class Counted(Capture):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            captures.append(weakref.ref(self))

        def __exit__(self, *error):
            super().__exit__(*error)
            assert self._kept  # what would stay

    monkeypatch.setattr("gentangle.alignment.callback.Capture", Counted)
    backbone = type(tiny_policy[0].base_model)
    plain = backbone.forward

    def forward(self, *args, **kwargs):
        if torch.is_grad_enabled():
            at_forward.append(sum(capture() is not None for capture in captures))
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(backbone, "forward", forward)
    gc.collect()
    gc.disable()  # no cycle may hold them either
    settings = {"max_steps": 3, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    try:
        if trainer == "dpo":
            run(tiny_policy, tiny_pairs, tmp_path, every_n_steps=2, forecast_every=1, **settings)
        else:
            cpo_run(tiny_policy, tiny_pairs, tmp_path, forecast_every=1, **settings)
    finally:
        gc.enable()
    assert len(captures) >= 4
    assert at_forward == ([1, 1, 0, 0, 1, 1] if trainer == "dpo" else [1] * 6)  # of DPO, steps 1 and 3 are read


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


@pytest.mark.parametrize(("beta", "loss_type"), [(1e4, "hinge"), (1e4, "sigmoid"), (200.0, "sigmoid")])
def test_pairs_without_a_slope_are_read_from_unit_cotangents(
    beta, loss_type, tiny_policy, tiny_pairs, oracle, tmp_path
):
    """Pairs past the hinge's edge, or deep in the sigmoid's tail, have the same matrix as those that still push."""
    other = fresh_copy(tiny_policy[0])
    with torch.no_grad():
        other.lm_head.weight.mul_(3)
    rows, trainer = run(tiny_policy, tiny_pairs, tmp_path, loss_type=loss_type, beta=beta, reference_of=other)
    logged = trainer.state.log_history[0]
    assert 0 < logged[PREFIX + "undefined"] <= 1
    blocks = oracle(tiny_pairs)
    np.testing.assert_allclose(readings(rows[0]), expected_readings(blocks), rtol=2e-3, atol=1e-5)
    assert logged[PREFIX + "cosine"] == pytest.approx(np.median(cosine(blocks)), rel=1e-3)
    assert all(np.isfinite(value) for value in logged.values())


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


def cpo_run(policy, pairs, folder, *, forecast_every=None, peft_config=None, reads=None, **settings):
    """Rows that the callback saw in TRL's CPOTrainer, the trainer, and ``reads`` of model and batch before training."""
    from datasets import Dataset
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    rows, found = [], None
    with quiet():
        trainer = CPOTrainer(
            model=fresh_copy(policy[0]),
            args=CPOConfig(**defaults(pairs, folder) | settings),
            train_dataset=Dataset.from_list(
                [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs]
            ),
            processing_class=policy[1],
            peft_config=peft_config,
        )
        for name, p in trainer.model.named_parameters():
            if "lora_B" in name:  # while it is 0 the first factor has no gradient
                torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(0))
        if reads:
            whole = trainer.concatenated_inputs(
                trainer.data_collator(list(trainer.train_dataset)), padding_value=trainer.pad_token_id
            )
            batch = {name: whole[f"concatenated_{name}"] for name in ("input_ids", "attention_mask")}
            found = reads(trainer.model, batch | {"completion_mask": whole["concatenated_labels"] != -100})
        EntanglementCallback(forecast_every=forecast_every, seen=rows.append).attach(trainer)
        trainer.train()
    return rows, trainer, found


def oracle_of(model, batch):
    """The oracle's Gram matrix, the log-probabilities and the responses' lengths."""
    matrix = gram(model, lambda m: response_log_probs(m, batch), method="oracle")
    return matrix, response_log_probs(model, batch).detach(), batch["completion_mask"][:, 1:].sum(-1)


def cpo_loss(s, length, loss_type, cpo_alpha, beta=0.1, gamma=0.5):
    """The papers' losses: CPO on sums (with its likelihood a token), SimPO and IPO on means over tokens."""
    w, l = (s / length if loss_type in ("simpo", "ipo") else s).chunk(2)
    losses = {
        "simpo": -torch.nn.functional.logsigmoid(beta * (w - l) - gamma),
        "sigmoid": -torch.nn.functional.logsigmoid(beta * (w - l)),
        "hinge": torch.relu(1 - beta * (w - l)),
        "ipo": (w - l - 1 / (2 * beta)) ** 2,
    }
    return losses[loss_type].mean() - cpo_alpha * s.chunk(2)[0].sum() / length.chunk(2)[0].sum()


@pytest.mark.parametrize(
    ("loss_type", "cpo_alpha"), [("simpo", 0.0), ("simpo", 1.0), ("sigmoid", 1.0), ("hinge", 0.0), ("ipo", 0.5)]
)
def test_cpo_and_simpo_give_the_matrix_and_the_slopes_of_their_formula(
    loss_type, cpo_alpha, tiny_policy, tiny_pairs, tmp_path
):
    """The batch's forecast is -eta G c: it tells the slopes c, here by autograd of the formula."""
    pairs = [
        Pair(p.prompt, p.chosen + tail, p.rejected)
        for p, tail in zip(tiny_pairs, ("", " and", " a", " film day"), strict=True)
    ]
    settings = {"loss_type": loss_type, "cpo_alpha": cpo_alpha}
    rows, _, (matrix, s, length) = cpo_run(tiny_policy, pairs, tmp_path, reads=oracle_of, **settings)
    (c,) = torch.autograd.grad(cpo_loss(s.requires_grad_(), length, **settings), s)
    forecast = -1e-3 * matrix @ c.double().numpy()
    blocks = pair_blocks(matrix)
    expected = sorted(zip(blocks[:, 0, 0], blocks[:, 1, 1], blocks[:, 0, 1], forecast[:4], forecast[4:], strict=True))
    names = ("chosen_norm_sq", "rejected_norm_sq", "inner_product")
    batch = rows[0]["forecast"]["batch"]
    found = sorted(zip(*(rows[0][name] for name in names), batch[:4], batch[4:], strict=True))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-9)


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_checkpointing": True},
        {"bf16": True},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"lora": True, "gradient_checkpointing": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_of_the_cpo_trainer_change_no_reading(settings, tiny_policy, tiny_pairs, tmp_path):
    from peft import LoraConfig

    settings, peft_config = dict(settings), None
    if settings.pop("lora", False):
        peft_config = LoraConfig(
            r=2, lora_alpha=4, lora_dropout=0.0, target_modules=["c_attn"], init_lora_weights="gaussian"
        )
    rows, _, (matrix, *_) = cpo_run(
        tiny_policy, tiny_pairs, tmp_path, forecast_every=1, peft_config=peft_config, reads=oracle_of, **settings
    )
    found = np.array(sorted(map(tuple, np.concatenate([readings(row) for row in rows]))))
    close = {"rtol": 0.1, "atol": 0.02} if settings.get("bf16") else {"rtol": 2e-3, "atol": 1e-5}
    np.testing.assert_allclose(found, expected_readings(pair_blocks(matrix)), **close)


@pytest.mark.parametrize("settings", [{"loss_type": "simpo", "cpo_alpha": 0.0}, {}], ids=["simpo", "cpo"])
def test_metrics_stand_in_the_log_of_the_cpo_trainer_at_every_step(settings, tiny_policy, tiny_pairs, tmp_path):
    rows, trainer, (matrix, *_) = cpo_run(
        tiny_policy,
        tiny_pairs,
        tmp_path,
        forecast_every=1,
        reads=oracle_of,
        max_steps=4,
        learning_rate=2e-4,
        **settings,
    )
    logged = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    assert len(logged) == 4
    assert logged[0][PREFIX + "cosine"] == pytest.approx(np.median(cosine(pair_blocks(matrix))), rel=1e-3)
    assert all(entry[PREFIX + "undefined"] == 0 for entry in logged)
    assert all(entry[PREFIX + "measured_chosen"] != 0 for entry in logged)
    found = agreement(rows, "step", 1e-4)
    assert found.signs >= 0.95
    assert found.error < 0.1


def test_the_cpo_training_is_the_same_and_no_hook_stays(tiny_policy, tiny_pairs, tmp_path):
    weights = []
    for forecast_every in (None, 1):
        _, trainer, _ = cpo_run(tiny_policy, tiny_pairs, tmp_path, forecast_every=forecast_every, max_steps=3)
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
        assert not any(module._forward_hooks for module in trainer.model.modules())
    assert torch.equal(*weights)


class Bigrams(torch.nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.table = torch.nn.Embedding.from_pretrained(logits, freeze=False)

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.table(input_ids))


def test_slopes_are_told_where_the_model_is_sure_and_left_undefined_where_there_are_none():
    """Rows: one slope; tokens of unlike weights; at one token entropy, or the logits' scale; no loss at all."""
    ids = torch.arange(6).expand(5, 6)
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    logits[torch.arange(5), torch.arange(1, 6)] += torch.tensor([0.0, 4.0, 8.0, 12.0, 16.0])  # 1 - p down to 1e-7
    model = Bigrams(logits)
    with Capture(model) as capture, LogitsHead(capture, model) as head:
        out = model(ids).logits[:, :-1]
        log_p = out.log_softmax(-1)
        tokens = log_p.gather(-1, ids[:, 1:, None])[..., 0]
        (
            -0.3 * tokens[0, 1:].sum()
            + (tokens[1] * torch.arange(5)).sum()
            + tokens[2, 0]
            + 0.1 * (log_p[2, 0].exp() * log_p[2, 0]).sum()
            + tokens[3, 0]
            + 0.1 * out[3, 0].logsumexp(-1)
        ).backward()
    np.testing.assert_allclose(head.slopes, [-0.3, np.nan, np.nan, np.nan, 0], rtol=1e-5)
    assert head.log_probs[0] == pytest.approx(tokens[0, 1:].sum().item(), rel=1e-5)
    assert torch.isnan(head.log_probs).tolist() == [False, False, False, False, True]


def test_an_encoder_decoder_model_is_refused():
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": 8, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    args = SimpleNamespace(gradient_checkpointing=False)
    with pytest.raises(InputError, match="is an encoder-decoder model"):
        EntanglementCallback().on_train_begin(args, None, None, model=T5ForConditionalGeneration(T5Config(**sizes)))
