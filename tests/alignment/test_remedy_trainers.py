"""Remedies as TRL trainers: gradients against the oracle's rows, the split's order, the masks by hand, resuming."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trainer_defaults import defaults, messages
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer

from gentangle import InputError
from gentangle.alignment.callback import EntanglementCallback
from gentangle.alignment.conditions import first_order_changes
from gentangle.alignment.policy import collate, fresh_copy, response_log_probs, response_token_log_probs
from gentangle.alignment.preference import Pair
from gentangle.alignment.remedies import REMEDIES
from gentangle.alignment.remedy_trainers import (
    MASKS_FILE,
    ReweightedTrainer,
    SplitStepTrainer,
    TokenMaskTrainer,
    _refuse_processes,
    remedy_factors,
    remedy_trainer,
    shifted,
)
from gentangle.alignment.training import quiet
from gentangle.gradients.oracle import inner_products, jacobian, whole
from gentangle.gradients.pairs import pair_blocks

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]
BETA = 0.3
PLAIN = [(ReweightedTrainer, {"remedy": "plain"}), (SplitStepTrainer, {"kappa": 0.0})]
SHORT, LONG = " good good", " bad good good good"
SGD = {"optim": "sgd", "max_grad_norm": 0.0}


@pytest.fixture(autouse=True, scope="module")
def one_thread(tiny_policy):
    """A second thread has nothing to do in models of this size, and waits for a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Gradients(TrainerCallback):
    """What the optimizer is given at each step, and the weights it is given for."""

    def __init__(self):
        self.steps, self.weights = [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})
        self.weights.append(copy.deepcopy(model.state_dict()))


@pytest.fixture(scope="module")
def pairs():
    """Pairs whose responses differ in length, one with the same word at its start and end."""
    texts = ["a good film", "a bad day", "the tone is good", "the content is bad"]
    words, tails = [(" positive", " negative"), (" negative", " positive")] * 2, ("", " and", " a", " film day")
    tail = " based on the content"
    return [
        Pair(f"{t} The sentiment is", w + tail + more, l + tail)
        for t, (w, l), more in zip(texts, words, tails, strict=True)
    ]


@pytest.fixture(scope="module")
def reference(tiny_policy):
    """A reference that is not the policy, so that pairs have slopes of their own."""
    model, generator = fresh_copy(tiny_policy[0]), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    return model


@pytest.fixture
def make(tiny_policy, pairs, reference, tmp_path):
    """Maker of a trainer on the pairs: DPOTrainer's arguments by name, others to the class."""

    def trainer(cls=DPOTrainer, callbacks=(), own=None, model=None, pairs=pairs, ref_model=reference, **settings):
        model = fresh_copy(tiny_policy[0]) if model is None else model
        made = cls(
            model=model,
            ref_model=ref_model and fresh_copy(ref_model).to(model.dtype).eval(),
            args=DPOConfig(**defaults(pairs, tmp_path / "run") | {"beta": BETA} | settings),
            train_dataset=messages(pairs),
            processing_class=tiny_policy[1],
            callbacks=list(callbacks),
            **own or {},
        )
        made.remove_callback(PrinterCallback)
        return made

    with quiet():
        yield trainer


def exact_log_probs(model, batch):
    """In the precision of the model, (2P,)."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    tokens = logits[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return (tokens * batch["completion_mask"][:, 1:]).sum(-1)


@pytest.fixture
def gradients(make):
    """Function of a trainer's arguments that gives what the optimizer is given at the first step."""

    def of(*args, **settings):
        seen = Gradients()
        make(*args, callbacks=[seen], **settings).train()
        return seen.steps[0]

    return of


@pytest.fixture(scope="module")
def rows(tiny_policy, reference, pairs):
    """The oracle's rows by parameter, and the slopes d of each pair (P,), those of a mean over the batch."""
    batch = collate(tiny_policy[1], pairs)
    with torch.no_grad():
        ratio = response_log_probs(tiny_policy[0], batch) - response_log_probs(reference, batch)
    chosen, rejected = ratio.double().chunk(2)
    d = BETA * torch.sigmoid(-BETA * (chosen - rejected)) / len(pairs)
    return jacobian(tiny_policy[0], lambda m: response_log_probs(m, batch)), d.numpy()


def assert_same_gradient(found, expected, tolerance):
    """Up to a share of the whole gradient's norm."""
    norm = torch.stack([g.norm() for g in expected.values()]).norm()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= tolerance.gram * norm, name


def combined(rows, weights, like):
    return {name: (torch.tensor(weights) @ g.double()).reshape(like[name].shape).float() for name, g in rows.items()}


@pytest.mark.parametrize("remedy", REMEDIES)
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_the_gradient_is_the_remedys_coefficients_on_the_oracles_rows(
    remedy, micro_batches, gradients, rows, tolerance
):
    gradient, d = rows
    blocks = pair_blocks(whole(inner_products(gradient)))
    c = REMEDIES[remedy](blocks, d, d)
    settings = {"per_device_train_batch_size": 4 // micro_batches, "gradient_accumulation_steps": micro_batches}
    found = gradients(ReweightedTrainer, own={"remedy": remedy}, **settings)
    assert_same_gradient(found, combined(gradient, np.concatenate([-c[:, 0], c[:, 1]]), found), tolerance)


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}, {"loss_type": "ipo"}], ids=str)
@pytest.mark.parametrize(("cls", "own"), [(ReweightedTrainer, {"remedy": "plain"}), (SplitStepTrainer, {"kappa": 0.0})])
def test_plain_coefficients_and_a_split_of_size_0_are_dpotrainers_step(cls, own, settings, make, tolerance):
    seen, logged = [], []
    for arguments in ({"cls": DPOTrainer}, {"cls": cls, "own": own}):
        seen.append(Gradients())
        trainer = make(**arguments, callbacks=[seen[-1]], **SGD, max_steps=2, learning_rate=1e-2, **settings)
        trainer.train()
        logged.append(trainer.state.log_history[1])
    assert_same_gradient(seen[1].steps[1], seen[0].steps[1], tolerance)
    for key in ("loss", "rewards/margins", "logps/chosen", "logps/rejected", "logits/chosen"):
        assert logged[1][key] == pytest.approx(logged[0][key], rel=tolerance.gram, abs=tolerance.log_prob), key


@pytest.mark.parametrize(("cls", "own", "bf16"), [(*PLAIN[0], False), (*PLAIN[0], True), (*PLAIN[1], False)])
def test_on_adapters_plain_coefficients_are_dpotrainers_step_too(cls, own, bf16, make, tolerance):
    from peft import LoraConfig

    seen = []
    for kind, arguments in ((DPOTrainer, {}), (cls, own)):
        seen.append(Gradients())
        peft = {"peft_config": LoraConfig(r=2, lora_dropout=0.0, target_modules=["c_attn"])}
        trainer = make(kind, [seen[-1]], arguments | peft, ref_model=None, bf16=bf16, max_steps=2, **SGD)
        for name, p in trainer.model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(0))
        trainer.train()
    expected, found = (flat(gradients.steps[1].values()) for gradients in seen)
    close = torch.finfo(torch.bfloat16).eps if bf16 else tolerance.gram
    assert (found - expected).norm() <= close * expected.norm()


def test_pairs_that_no_remedy_is_defined_for_stay_plain_and_are_counted():
    w, l = np.array([1.0, 0, 0]), np.array([1.0, 1, 0])
    g = np.stack([w, w, w, 0 * w, w, l, l, l, l, l])
    c = np.array([-1.0, 0.5, np.nan, -1, -1e-20, 2.0, 1, 1, 1, 1])
    factors, plain = remedy_factors("normalised", np.outer(c, c) * (g @ g.T), c)
    assert plain.tolist() == [False, True, True, True, True]
    np.testing.assert_allclose(factors, [1, 1, 1, 1, 1, 1 / np.sqrt(2), 1, 1, 1, 1])
    assert remedy_factors("PCGrad", np.zeros((2, 2)), np.zeros(2))[1].tolist() == [True]


def test_pairs_of_negative_slopes_are_in_the_metrics(make):
    """Past its target the IPO loss pulls chosen down."""
    trainer = make(ReweightedTrainer, own={"remedy": "normalised"}, loss_type="ipo", beta=1e4)
    trainer.train()
    assert 0 < trainer.state.log_history[0]["remedy/plain_pairs"] <= 1


@pytest.mark.parametrize(("chosen", "rejected"), [(SHORT, LONG), (LONG, SHORT)], ids=["both fall", "both rise"])
def test_normalised_keeps_the_signs_that_the_plain_step_loses(chosen, rejected, make, tiny_policy):
    pair, changes = Pair("a good film The sentiment is", chosen, rejected), {}
    batch = collate(tiny_policy[1], [pair])
    for remedy in ("plain", "normalised"):
        model = fresh_copy(tiny_policy[0]).double()
        before = exact_log_probs(model, batch).detach()
        make(ReweightedTrainer, model=model, own={"remedy": remedy}, pairs=[pair], **SGD).train()
        changes[remedy] = torch.sign(exact_log_probs(model, batch) - before).tolist()
    assert changes["normalised"] == [1, -1]
    assert changes["plain"] in ([-1, -1], [1, 1])


READINGS = ("chosen_norm_sq", "rejected_norm_sq", "inner_product")


@pytest.mark.parametrize(
    ("cls", "own"),
    [(DPOTrainer, {}), (ReweightedTrainer, {"remedy": "normalised"}), (SplitStepTrainer, {})],
)
def test_the_callback_beside_it_reads_the_same_and_forecasts_the_step_taken(
    cls, own, make, tiny_policy, pairs, reference, tolerance
):
    """At each step the oracle's pairs and this pair's forecast by SGD on the loss, whatever the update is."""
    seen, weights = [], Gradients()
    callback = EntanglementCallback(forecast_every=1, seen=seen.append)
    settings = {"max_steps": 2, "learning_rate": 2e-4, "per_device_train_batch_size": 2}
    trainer = make(cls, own=own, callbacks=[weights], gradient_accumulation_steps=2, **settings)
    callback.attach(trainer)
    trainer.train()
    batch, model = collate(tiny_policy[1], pairs), fresh_copy(tiny_policy[0])
    for step in (1, 2):
        rows = [row for row in seen if row["step"] == step]
        model.load_state_dict(weights.weights[step - 1])
        blocks = pair_blocks(whole(inner_products(jacobian(model, lambda m: response_log_probs(m, batch)))))
        with torch.no_grad():
            ratio = response_log_probs(model, batch) - response_log_probs(reference, batch)
        d = BETA * torch.sigmoid(-BETA * (ratio[:4] - ratio[4:])).double().numpy()
        changes = 2e-4 * first_order_changes(blocks, d, d)
        expected = np.column_stack([blocks[:, 0, 0], blocks[:, 1, 1], blocks[:, 0, 1], changes])
        forecast = np.concatenate([np.reshape(row["forecast"]["pair"], (2, -1)) for row in rows], axis=1)
        found = np.column_stack([*(np.concatenate([row[name] for row in rows]) for name in READINGS), *forecast])
        found, expected = (table[np.argsort(table[:, 0])] for table in (found, expected))
        scale = np.abs(expected).max(axis=0)
        np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance.gram)
        last = rows[-1]  # the micro-batch that the optimizer's step is followed on
        np.testing.assert_allclose(last["measured"], last["forecast"]["step"], rtol=0.1, atol=tolerance.noise_floor)
    assert not any(module._forward_hooks for module in trainer.model.modules())


def parts_of(model, batch, slopes):
    """Gradients of the chosen and the rejected part, flat, the slopes frozen."""
    found = []
    for side in exact_log_probs(model, batch).chunk(2):
        found.append(
            torch.autograd.grad((slopes[len(found)] * side).sum(), list(model.parameters()), retain_graph=True)
        )
    return [flat(part) for part in found]


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


def at(model, parameters):
    """The same model at other parameters, a flat vector."""
    torch.nn.utils.vector_to_parameters(parameters, list(model.parameters()))
    return model


def test_the_split_is_the_mean_of_both_orders_to_third_order(make, tiny_policy, pairs, reference):
    """Halving the rate leaves an eighth of the difference; of the plain step's a quarter."""
    batch, start = collate(tiny_policy[1], pairs), fresh_copy(tiny_policy[0]).double()
    theta = flat(start.parameters())
    with torch.no_grad():
        ratio = exact_log_probs(start, batch) - exact_log_probs(fresh_copy(reference).double(), batch)
    d = BETA * torch.sigmoid(-BETA * (ratio[:4] - ratio[4:])) / len(pairs)
    c, work, differences = (-d, d), fresh_copy(start), {0.0: [], 1.0: []}
    for h in (2e-3, 1e-3):
        plain, ends = parts_of(at(work, theta), batch, c), []
        for first in (0, 1):
            halfway = theta - h * plain[first]
            ends.append(halfway - h * parts_of(at(work, halfway), batch, c)[1 - first])
        for kappa, found in differences.items():
            model = fresh_copy(start)
            make(SplitStepTrainer, model=model, own={"kappa": kappa}, learning_rate=h, **SGD).train()
            found.append((flat(model.parameters()) - sum(ends) / 2).norm().item())
    assert differences[0.0][0] / differences[0.0][1] == pytest.approx(4, rel=0.1)
    assert differences[1.0][0] / differences[1.0][1] == pytest.approx(8, rel=0.1)
    assert differences[1.0][1] < 0.1 * differences[0.0][1]


@pytest.mark.parametrize("limit", [0.0, 0.1])
def test_by_adamw_the_first_step_is_plain_and_the_second_shifts_by_the_optimizers_directions(
    limit, make, tiny_policy, pairs, reference, tolerance
):
    seen, plain = Gradients(), Gradients()
    for cls, callback in ((SplitStepTrainer, seen), (DPOTrainer, plain)):
        make(cls, callbacks=[callback], max_steps=2, max_grad_norm=limit).train()
    assert all(torch.equal(g, plain.steps[0][name]) for name, g in seen.steps[0].items())
    work, batch = fresh_copy(tiny_policy[0]), collate(tiny_policy[1], pairs)
    work.load_state_dict(seen.weights[1])
    with torch.no_grad():
        ratio = response_log_probs(work, batch) - response_log_probs(reference, batch)
    d = BETA * torch.sigmoid(-BETA * (ratio[:4] - ratio[4:])) / len(pairs)
    theta, first, parts = flat(work.parameters()), flat(seen.steps[0].values()), parts_of(work, batch, (-d, d))
    clip = limit / sum(parts).norm() if limit else 1.0
    halves = []
    for part in parts:
        optimizer = torch.optim.Adam([torch.nn.Parameter(theta.clone())], lr=1e-3 / 2, betas=(0.0, 0.999))
        (p,) = optimizer.param_groups[0]["params"]
        for gradient in (first, clip * part):  # with no momentum, a second step on the part alone
            before, p.grad = p.detach().clone(), gradient
            optimizer.step()
        halves.append(p.detach() - before)
    expected = sum(parts_of(at(work, theta + halves[1 - i]), batch, (-d, d))[i] for i in (0, 1))
    expected, plainly = (g * (limit / g.norm() if limit else 1.0) for g in (expected, sum(parts)))
    found = flat(seen.steps[1].values())
    assert (found - expected).norm() <= tolerance.gram * expected.norm()
    assert (found - plainly).norm() > 0.02 * expected.norm()


def test_shifted_parameters_come_back_to_the_bit_whatever_happens():
    p = torch.nn.Parameter(torch.rand(100, generator=torch.Generator().manual_seed(0)))
    before, step = p.detach().clone(), {"p": torch.full((100,), 1e-3)}

    def fail():
        with shifted({"p": p}, step):
            assert torch.equal(p, before + step["p"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(p, before)


def masked_trainer(make, **own):
    """A trainer whose masks differ, and the batch that all its pairs make."""
    trainer = make(TokenMaskTrainer, own=own)
    with torch.no_grad():
        trainer.mask_logits.copy_(torch.randn(trainer.mask_logits.shape, generator=torch.Generator().manual_seed(2)))
    return trainer, trainer.data_collator(list(trainer.train_dataset))


def test_the_masked_loss_and_the_masks_gradient_are_those_of_the_formula(make, tiny_policy, reference, tolerance):
    trainer, batch = masked_trainer(make, penalty=0.02)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    with torch.no_grad():
        delta = response_token_log_probs(tiny_policy[0], batch) - response_token_log_probs(reference, batch)
    mu = 1 / (1 + np.exp(-trainer.mask_logits.detach().double().numpy()))
    delta, ids = delta.double().numpy(), batch["input_ids"][:, 1:].numpy()
    responses, expected, pull, kept = batch["completion_mask"][:, 1:].numpy(), 0.0, np.zeros_like(mu), []
    for chosen, rejected in zip(range(4), range(4, 8), strict=True):
        sides = [
            (sign, [(v, x) for v, x, is_one in zip(ids[i], delta[i], responses[i], strict=True) if is_one])
            for sign, i in ((1, chosen), (-1, rejected))
        ]
        margin = sum(sign * mu[v] * x for sign, tokens in sides for v, x in tokens)
        expected += np.log1p(np.exp(-BETA * margin)) / 4
        for sign, tokens in sides:
            for v, x in tokens:
                expected += 0.02 * mu[v] / 4
                pull[v] += (-BETA / (1 + np.exp(BETA * margin)) * sign * x + 0.02) * mu[v] * (1 - mu[v]) / 4
                kept.append(mu[v] > 0.5)
    assert loss.item() == pytest.approx(expected, rel=tolerance.gram)
    np.testing.assert_allclose(trainer.mask_logits.grad, pull, atol=tolerance.gram * np.linalg.norm(pull))
    assert trainer._metrics["train"]["masks/kept"] == pytest.approx([np.mean(kept)])
    response_ids = set(ids[responses == 1].tolist())
    assert trainer.token_masks() == pytest.approx({v: mu[v] for v in response_ids})


def test_open_masks_at_rate_0_are_dpotrainers_run_and_its_metrics(make, tolerance):
    plain, masked = make(max_steps=2), make(TokenMaskTrainer, own={"penalty": 0.0, "mask_rate": 0.0}, max_steps=2)
    with torch.no_grad():
        masked.mask_logits.fill_(100.0)
    for trainer in (plain, masked):
        trainer.train()
    for a, b in zip(plain.model.parameters(), masked.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance.gram)
    for key in ("loss", "rewards/chosen", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"):
        expected = plain.state.log_history[1][key]
        assert masked.state.log_history[1][key] == pytest.approx(expected, rel=tolerance.gram, abs=tolerance.log_prob)


def test_masks_learn_at_their_own_rate_on_each_steps_gradient_alone(make):
    """Plain SGD on the penalty alone: phi <- phi - rate * penalty * count * mu (1 - mu) / pairs, twice."""
    trainer = make(
        TokenMaskTrainer, own={"penalty": 1.0, "mask_rate": 0.5}, **SGD, learning_rate=0.0, max_steps=2, beta=0
    )
    trainer.train()
    batch = trainer.data_collator(list(trainer.train_dataset))
    ids = batch["input_ids"][batch["completion_mask"] == 1]
    count, phi = torch.bincount(ids, minlength=len(trainer.mask_logits)), torch.full((len(trainer.mask_logits),), 2.0)
    for _ in range(2):
        mu = phi.sigmoid()
        phi = phi - 0.5 * count / 4 * mu * (1 - mu)
    torch.testing.assert_close(trainer.mask_logits.detach(), phi)
    assert trainer.token_masks().keys() == set(ids.tolist())
    assert 0 < trainer.state.log_history[0]["masks/kept"] <= 1


def test_the_callback_says_that_masked_tokens_have_no_common_slope(make):
    """Masks that are still equal leave the response one slope; what a step did is measured all the same."""
    rows = []
    callback = EntanglementCallback(forecast_every=1, seen=rows.append)
    trainer = make(TokenMaskTrainer, own={"mask_rate": 0.5}, max_steps=2)
    callback.attach(trainer)
    trainer.train()
    logged = trainer.state.log_history
    assert logged[0]["entanglement/undefined"] == 0 < logged[1]["entanglement/undefined"]
    assert np.isfinite(np.array([row["measured"] for row in rows], dtype=float)).all()


@pytest.mark.parametrize("name", ["split", "token-masks"])
def test_a_run_resumed_from_a_checkpoint_ends_as_the_whole_run(name, make, tmp_path):
    cls, _ = remedy_trainer(name, {})
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 2}
    whole_run, resumed = make(cls, **settings), make(cls, **settings)
    whole_run.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    for a, b in zip(whole_run.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    if name == "token-masks":
        assert whole_run.token_masks() == resumed.token_masks()
        assert torch.equal(whole_run.mask_logits, resumed.mask_logits)
        (tmp_path / "run" / "checkpoint-2" / MASKS_FILE).unlink()
        with pytest.raises(InputError, match="holds no token_masks"):
            make(cls, **settings).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))


def test_remedies_are_made_by_name_and_take_their_own_settings():
    trainer, left = remedy_trainer("split", {"kappa": 2, "beta": 0.2})
    assert (trainer.func, trainer.keywords) == (SplitStepTrainer, {"kappa": 2.0})
    assert left == {"beta": 0.2}
    trainer, left = remedy_trainer("token-masks", {"penalty": 0.1, "mask_rate": 1, "max_length": 9})
    assert (trainer.keywords, left) == ({"penalty": 0.1, "mask_rate": 1.0}, {"max_length": 9})
    for name in ("normalised", "calibrated", "PCGrad"):
        trainer, left = remedy_trainer(name, {"kappa": 1})
        assert trainer.keywords == {"remedy": name}
        assert left == {"kappa": 1}
    with pytest.raises(InputError, match="Did you mean 'token-masks'"):
        remedy_trainer("token_masks", {})


@pytest.mark.parametrize(
    ("cls", "own", "settings", "message"),
    [
        (ReweightedTrainer, {"remedy": "normalized"}, {}, "Did you mean 'normalised'"),
        (ReweightedTrainer, {"remedy": "plain"}, {"ld_alpha": 0.5}, "ld_alpha=0.5"),
        (
            SplitStepTrainer,
            {},
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
            "use_reentrant=True",
        ),
        (SplitStepTrainer, {}, {"bf16": True}, "bfloat16's 8 bits"),
        (SplitStepTrainer, {"kappa": -1.0}, {}, "kappa is -1.0"),
        (SplitStepTrainer, {}, {"optim": "adafactor"}, "optim='adafactor'"),
        (TokenMaskTrainer, {"penalty": -1.0}, {}, "penalty is -1.0"),
    ],
)
def test_what_cannot_be_read_or_is_not_known_is_said_at_construction(cls, own, settings, message, make):
    with pytest.raises(InputError, match=message):
        make(cls, own=own, **settings)


def test_several_devices_are_refused():
    several = SimpleNamespace(args=SimpleNamespace(world_size=2, n_gpu=0))
    with pytest.raises(InputError, match="2 devices"):
        _refuse_processes(several)
