"""Each definition's value against TRL's own loss on the same log-probabilities, and where TRL departs from a paper."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from gentangle import OBJECTIVES, objective

PAIRS = 6
SHARED = {"beta": 0.3, "label_smoothing": 1e-3, "discopop_tau": 0.05}
#: Our names of TRL's settings.
OURS = {"robust": {"epsilon": 1e-3}, "exo": {"epsilon": 1e-3}, "discopop": {"tau": 0.05}}


class Batch:
    """Log-probabilities of tokens, the reference's, and lengths: chosen rows first, three tokens of prompt."""

    PROMPT = 3

    def __init__(self, scale, seed):
        rng = np.random.default_rng(seed)
        self.length = torch.tensor(rng.integers(1, 8, 2 * PAIRS))
        position = torch.arange(self.PROMPT + 8)
        self.attention = (position < self.PROMPT + self.length[:, None]).long()
        self.completion = self.attention * (position >= self.PROMPT)
        drawn = torch.tensor(-scale * rng.random((2, *self.attention.shape)))
        self.policy, self.reference = drawn * self.completion

    def arguments(self):
        (a, b), (a0, b0) = (x.sum(-1).chunk(2) for x in (self.policy, self.reference))
        n, k = self.length.double().chunk(2)
        return a, b, {"ref_chosen": a0, "ref_rejected": b0, "len_chosen": n, "len_rejected": k}


def forward(log_probs):
    """A model whose forward pass answers with these log-probabilities, in the form of TRL's fused head."""
    zeros = torch.zeros_like(log_probs[:, 1:])
    outputs = SimpleNamespace(log_probs=log_probs[:, 1:], entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())
    return lambda **_: outputs


def trainer(batch, **settings):
    """What a trainer's loss reads of its trainer; the rest (metrics) is swallowed."""
    found = MagicMock()
    found.aux_loss_enabled = found.precompute_ref_logps = found.use_weighting = False
    found.ld_alpha = None
    found.accelerator.device = "cpu"
    found.accelerator.gather_for_metrics = lambda x: x
    found.ref_model = forward(batch.reference)
    found.args.gradient_checkpointing = False
    found.args.discopop_tau = SHARED["discopop_tau"]
    for name, value in (SHARED | settings).items():
        setattr(found, name, value)
    return found


def dpo_trainers_loss(loss_type, batch):
    from trl import DPOTrainer

    stub = trainer(batch, f_divergence_type="reverse_kl", loss_types=[loss_type], loss_weights=[1.0])
    inputs = {"input_ids": batch.attention, "attention_mask": batch.attention, "completion_mask": batch.completion}
    return DPOTrainer._compute_loss(stub, forward(batch.policy), inputs, False)


def kto_trainers_loss(batch, divergence):
    from trl.trainer.kto_trainer import KTOTrainer

    stub = trainer(batch, loss_type="kto", calculate_KL=True, desirable_weight=1.0, undesirable_weight=1.0)
    stub._compute_kl_logps = lambda model, _: torch.full((2 * PAIRS,), 0.0 if model is stub.ref_model else divergence)
    inputs = {"input_ids": batch.attention, "attention_mask": batch.attention, "completion_mask": batch.completion}
    inputs["label"] = torch.tensor([True] * PAIRS + [False] * PAIRS)
    return 2 * KTOTrainer._compute_loss(stub, forward(batch.policy), inputs, False)


def cpo_trainers_loss(loss_type, batch):
    from trl.experimental.cpo import CPOTrainer

    a, b, given = batch.arguments()
    if loss_type == "simpo":  # which averages over tokens before it comes to its loss
        a, b = a / given["len_chosen"], b / given["len_rejected"]
    stub = trainer(batch, alpha=0.0, loss_type=loss_type, simpo_gamma=1.0, label_smoothing=0.0)
    return CPOTrainer.cpo_loss(stub, a, b)[0].mean()


def orpo_trainers_odds(batch):
    from trl.experimental.orpo import ORPOTrainer

    a, b, given = batch.arguments()
    return ORPOTrainer.odds_ratio_loss(trainer(batch), a / given["len_chosen"], b / given["len_rejected"])[0].mean()


def trls_loss(trl, batch):
    """TRL's mean loss of the batch by the objective's ``trl``, and the arguments that its settings are in our words."""
    kind, loss_type = trl.split(":")
    if kind == "dpo":
        return dpo_trainers_loss(loss_type, batch), {"beta": 0.3}
    if kind == "kto":
        return kto_trainers_loss(batch, 0.7), {"beta": 0.3, "anchor": 0.7}
    if kind == "cpo":  # its likelihood term is added outside of this function: a mean over the batch's tokens
        return cpo_trainers_loss(loss_type, batch), {"beta": 0.3} | ({"lam": 0.0} if loss_type == "sigmoid" else {})
    assert kind == "orpo"
    a, _, given = batch.arguments()
    return -(a / given["len_chosen"]).mean() - orpo_trainers_odds(batch), {"lam": 0.3}


IN_TRL = [name for name, o in OBJECTIVES.items() if o.trl]


@pytest.mark.parametrize("name", IN_TRL)
@pytest.mark.parametrize(("scale", "seed"), [(0.5, 0), (3.0, 1), (20.0, 2)])
def test_trl_computes_the_same_loss(name, scale, seed, tolerance):
    batch = Batch(scale, seed)
    theirs, settings = trls_loss(objective(name).trl, batch)
    a, b, given = batch.arguments()
    known = {symbol.name for symbol in objective(name).hyperparameters}
    ours = objective(name)(a, b, **given, **settings, **OURS.get(name, {})).mean()
    assert known >= set(settings)
    # ORPO's odds are float32 in TRL.
    assert theirs.item() == pytest.approx(ours.item(), rel=tolerance.gram if name == "orpo" else 1e-6, abs=1e-9)


def test_every_loss_of_trls_dpo_trainer_is_in_the_table_or_is_named_here():
    """A new loss_type in TRL wants a definition, or a reason why the general form does not cover it."""
    import re

    with pytest.raises(ValueError, match="Unknown loss type") as error:
        dpo_trainers_loss("none", Batch(1.0, 0))
    theirs = set(re.findall(r"'(\w+)'", str(error.value)))
    not_of_one_pair = {"aot", "aot_unpaired"}  # they sort a batch
    no_margin = {"sft"}
    ours = {o.trl.split(":")[1] for o in OBJECTIVES.values() if o.trl.startswith("dpo:")}
    assert theirs == ours | not_of_one_pair | no_margin


def test_apo_down_has_the_margin_in_its_second_term():
    """Not the rejected log-ratio, as it has been read: with chosen moved alone the second term moves too."""
    batch = Batch(3.0, 0)
    a, b, given = batch.arguments()
    ra, rb = 0.3 * (a - given["ref_chosen"]), 0.3 * (b - given["ref_rejected"])
    margin = ra.sigmoid() + 1 - (ra - rb).sigmoid()
    rejected_ratio = ra.sigmoid() + 1 - rb.sigmoid()
    theirs = dpo_trainers_loss("apo_down", batch).item()
    assert theirs == pytest.approx(margin.mean().item(), rel=1e-9)
    assert theirs != pytest.approx(rejected_ratio.mean().item(), rel=1e-3)


def test_trls_ipo_is_the_papers_only_per_token():
    batch = Batch(3.0, 0)
    a, b, given = batch.arguments()
    theirs = dpo_trainers_loss("ipo", batch).item()
    assert theirs != pytest.approx(objective("ipo")(a, b, **given, beta=0.3).mean().item(), rel=1e-2)


def test_aot_is_no_function_of_one_pair():
    """A batch's value is not the mean of its pairs' values, as it is for every other loss; of one pair it is DPO's."""
    batch = Batch(3.0, 0)
    alone = [dpo_trainers_loss("aot", only(batch, i)).item() for i in range(PAIRS)]
    pairs = [dpo_trainers_loss("sigmoid", only(batch, i)).item() for i in range(PAIRS)]
    label = SHARED["label_smoothing"]
    together = dpo_trainers_loss("aot", batch).item()
    assert together != pytest.approx(np.mean(alone), rel=1e-3)
    assert np.mean(alone) == pytest.approx(np.mean(pairs), rel=10 * label)


def only(batch, i):
    """The batch of pair i alone, repeated, so that its shape stays."""
    import copy

    found = copy.copy(batch)
    rows = torch.tensor([i] * PAIRS + [i + PAIRS] * PAIRS)
    for name in ("length", "attention", "completion", "policy", "reference"):
        setattr(found, name, getattr(batch, name)[rows])
    return found


def test_trls_orpo_counts_the_prompt_in_its_likelihood(tiny_policy, tiny_pairs, tmp_path):
    """The paper's term is the response's; TRL's mean runs over prompt and response, so the loss depends on more
    than the two log-probabilities and the general form does not cover it."""
    import copy
    import warnings

    from datasets import Dataset

    from gentangle.alignment.training import quiet

    model, tokenizer = copy.deepcopy(tiny_policy[0]), tiny_policy[1]
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in tiny_pairs]
        args = ORPOConfig(output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False, max_length=48)
        made = ORPOTrainer(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        batch = made.data_collator(list(made.train_dataset))
        nll = made.concatenated_forward(model, batch)[4].item()
        ids, mask = batch["chosen_input_ids"], batch["chosen_attention_mask"].bool()
        with torch.no_grad():
            logp = model(ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    token = logp.gather(-1, ids[:, 1:, None])[..., 0]
    response = batch["chosen_labels"][:, 1:] != -100
    assert response.sum() < mask[:, 1:].sum()
    assert nll == pytest.approx(-token[mask[:, 1:]].mean().item(), rel=1e-4)
    assert nll != pytest.approx(-token[response].mean().item(), rel=1e-4)
