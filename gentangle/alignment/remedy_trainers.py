r"""Remedies against entanglement as TRL trainers: data, loss, reference and metrics stay those of its DPOTrainer.

The loss reaches the model through the responses' log-probabilities :math:`\log\pi_i` alone, so a micro-batch's gradient
is :math:`\sum_i c_i g_i` with :math:`g_i = \nabla\log\pi_i` and :math:`c_i = \partial L/\partial\log\pi_i`; for a pair
:math:`d_w = -c_w` and :math:`d_l = c_l`. Two of the trainers put another gradient in its place before the optimizer
steps, the third another loss.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from trl import DPOTrainer

from gentangle.alignment.callback import NO_SLOPE, EntanglementCallback, causal_model, pair_grams
from gentangle.alignment.objective_trainer import ObjectiveTrainer, labelled
from gentangle.alignment.objectives import objective
from gentangle.alignment.remedies import REMEDIES
from gentangle.errors import InputError, one_of
from gentangle.gradients.capture import Capture
from gentangle.gradients.fused_head import FusedHead
from gentangle.gradients.oracle import trainable_parameters, whole
from gentangle.gradients.preconditioner import adam_denominator
from gentangle.gradients.undo import all_or_nothing, put_back

Gradient = dict[str, torch.Tensor]
MASKS_FILE = "token_masks.safetensors"
#: Optimizers whose step on a part of the gradient :class:`SplitStepTrainer` knows.
SPLIT_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd")


class RowGradientTrainer(DPOTrainer):
    """DPOTrainer whose gradient is put together anew from those of the batch's rows, which its backward pass tells.

    One forward and one backward pass, as DPOTrainer's own, with its loss and metrics. What earlier micro-batches have
    accumulated is kept, and a parameter that no module of the pass owns keeps its gradient.

    Raises:
        InputError: settings under which rows cannot be read (see
            :meth:`gentangle.alignment.callback.EntanglementCallback.on_train_begin`), ``ld_alpha``, which gives a
            response's tokens different slopes, or more than one process.
    """

    #: Whether :meth:`gradient` reads the pairs' Gram matrices.
    reads_gram = False

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        EntanglementCallback().on_train_begin(self.args, None, None, model=self.model)
        _refuse_processes(self)
        if self.args.ld_alpha is not None:
            raise InputError(f"ld_alpha={self.args.ld_alpha}: a response then has no single slope. Leave ld_alpha out.")

    def training_step(self, model: Any, inputs: Mapping[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """DPOTrainer's own step, and then the other gradient in ``.grad``."""
        parameters: Mapping[str, Any] = trainable_parameters(model)
        earlier = {name: p.grad for name, p in parameters.items()}
        model.zero_grad()
        offsets = (0, len(inputs["input_ids"]) // 2) if self.reads_gram else ()
        with Capture(model, offsets=offsets, keep=True) as seen, FusedHead(seen, causal_model(model)) as head:
            loss = super().training_step(model, inputs, num_items_in_batch)
        for name, gradient in self.gradient(model, self._prepare_inputs(inputs), seen, head.slopes).items():
            parameters[name].grad = gradient
        for name, p in parameters.items():
            if earlier[name] is not None:
                p.grad = earlier[name] if p.grad is None else earlier[name].add_(p.grad)
        return loss

    def gradient(self, model: Any, inputs: Mapping[str, Any], seen: Capture, slopes: Any) -> Gradient:
        """The micro-batch's gradient by parameter; ``slopes`` c, (2P,), are NaN where a response has no token."""
        raise NotImplementedError


class ReweightedTrainer(RowGradientTrainer):
    r"""DPOTrainer with a remedy's coefficients on each pair: the gradient is :math:`\sum_p (c_l l - c_w w)_p`.

    The coefficients come from the pair's own exact Gram matrix and slopes, and the update from the same backward pass.
    They are the remedy's as it is defined, which changes the length of the update as well as its direction:
    ``normalised`` has :math:`d_w/\lVert w\rVert` in the place of :math:`d_w`. AdamW's step is nearly free of its
    gradient's scale, but not of the pairs' weights among each other; by SGD, or where ``max_grad_norm`` clips one
    and not the other, runs compare only after their rates were tuned.

    A pair whose slopes are not both positive, or of whose gradients one is 0, keeps its plain gradient; the metric
    ``remedy/plain_pairs`` is the share of such pairs.

    Args:
        remedy: key of :data:`gentangle.alignment.remedies.REMEDIES`.

    Raises:
        InputError: an unknown remedy, and as :class:`RowGradientTrainer`.
    """

    reads_gram = True

    def __init__(self, *args: Any, remedy: str, **more: Any) -> None:
        one_of(remedy, REMEDIES, f"No remedy is called {remedy!r}.")
        self.remedy = remedy
        super().__init__(*args, **more)

    def gradient(self, model: Any, inputs: Mapping[str, Any], seen: Capture, slopes: Any) -> Gradient:
        """The rows' gradients, each times the remedy's coefficient over the pair's own."""
        scaled = whole(seen.gram_by_parameter())
        factors, plain = remedy_factors(self.remedy, scaled, slopes.double().cpu().numpy())
        self._metrics["train"]["remedy/plain_pairs"].append(float(plain.mean()))
        return seen.combination(factors)


def remedy_factors(remedy: str, scaled: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Factors :math:`a_i` of the rows in :math:`\sum_i a_i c_i g_i`: a remedy's coefficients over :math:`(d_w, d_l)`.

    Args:
        remedy: key of :data:`gentangle.alignment.remedies.REMEDIES`.
        scaled: :math:`S_{ij} = c_i c_j G_{ij}`, (2P, 2P), chosen rows first; only pairs are read.
        slopes: c, (2P,).

    Returns:
        a, (2P,), and which pairs stay plain, (P,): those for which no remedy is defined.
    """
    chosen, rejected = slopes.reshape(2, -1)
    gram, d = pair_grams({"scaled": scaled, "slopes": slopes}), np.stack([-chosen, rejected], axis=-1)
    able = (d >= NO_SLOPE).all(-1) & (gram[:, [0, 1], [0, 1]] > 0).all(-1)
    factors = np.ones_like(d)
    factors[able] = REMEDIES[remedy](gram[able], *d[able].T) / d[able]
    return factors.T.flatten(), np.logical_not(able)


class SplitStepTrainer(RowGradientTrainer):
    r"""DPOTrainer by the virtual split step: chosen and rejected each pulled where half of the other's step leads.

    With :math:`g_+ = \sum_p c_w w` and :math:`g_- = \sum_p c_l l`, the two parts of the loss's gradient, it becomes

    .. math:: g_+\bigl(\theta - \tfrac{\kappa h}{2} u_-\bigr) + g_-\bigl(\theta - \tfrac{\kappa h}{2} u_+\bigr),

    h the learning rate and u the optimizer's direction on that part alone. The slopes c stay those at :math:`\theta`.
    By SGD (u = g) at :math:`\kappa = 1` that is, up to :math:`O(h^3)`, the mean over both orders of two steps, one on
    each part, the second's gradient taken after the first: it adds :math:`-(h/2)\langle g_+, g_-\rangle` to the loss
    that the plain step follows. By AdamW :math:`u = g/(\sqrt{\hat v} + \epsilon)` with the second moment that the
    optimizer would have after a step on that part. (Not before it: that moment has only seen sums in which the parts
    nearly cancel, and would shift single coordinates by many times their size.) AdamW's first step is plain.

    Both parts are clipped as the plain gradient would be; momentum and weight decay are left out. With gradient
    accumulation each micro-batch is split in itself. Chosen and rejected rows are each passed forward and backward
    once more, so a step costs about twice the policy's share of a plain one, and holds some copies of the parameters
    more.

    Args:
        kappa: 0 is the plain step.

    Raises:
        InputError: a negative kappa, bfloat16, an optimizer other than AdamW and SGD, and as
            :class:`RowGradientTrainer`.

    Source: J. Yu, The Implicit Bias of Gradient Accumulation in RLHF, for the split and its virtual form; there the
    second moment is that of plain gradients.
    """

    def __init__(self, *args: Any, kappa: float = 1.0, **more: Any) -> None:
        _refuse_negative(kappa=kappa)
        self.kappa = kappa
        super().__init__(*args, **more)
        if self.args.bf16 or self.model.dtype.itemsize < 4:
            raise InputError("Half a step is lost in bfloat16's 8 bits: set bf16=False and give the model in float32.")
        name = self.args.optim.value
        if name not in SPLIT_OPTIMIZERS:
            raise InputError(f"optim={name!r}: its step on a part is not known. Known: {', '.join(SPLIT_OPTIMIZERS)}.")

    def gradient(self, model: Any, inputs: Mapping[str, Any], seen: Capture, slopes: Any) -> Gradient:
        """Both parts, each after half of the other's step; nothing before AdamW has a second moment."""
        if "betas" in self.optimizer.param_groups[0] and not self.optimizer.state:
            return {}
        parameters: Mapping[str, Any] = trainable_parameters(model)
        pairs, c = len(slopes) // 2, slopes.nan_to_num(0)
        chosen = seen.combination(np.repeat([1.0, 0.0], pairs))
        rejected = {name: p.grad - chosen[name] for name, p in parameters.items() if name in chosen}
        found: Gradient = {}
        for rows, other in ((slice(0, pairs), rejected), (slice(pairs, None), chosen)):
            with shifted(parameters, self._half_step(parameters, other)):
                part = self._part(model, {name: inputs[name][rows] for name in _ROWS}, c[rows])
            found = {name: found[name] + gradient if name in found else gradient for name, gradient in part.items()}
        return found

    def _half_step(self, parameters: Mapping[str, Any], part: Gradient) -> Gradient:
        """kappa / 2 of the optimizer's step on a part of the gradient."""
        norm, limit = torch.nn.utils.get_total_norm([parameters[n].grad for n in part]), self.args.max_grad_norm
        clip = min(1.0, limit / (float(norm) + 1e-6)) if limit else 1.0
        group, state = self.optimizer.param_groups[0], self.optimizer.state
        half = -self.kappa * group["lr"] / 2
        return {n: half * direction(clip * g, state.get(parameters[n], {}), group) for n, g in part.items()}

    def _part(self, model: Any, batch: Mapping[str, torch.Tensor], slopes: torch.Tensor) -> Gradient:
        """Gradient of sum_i c_i log pi_i where the parameters now stand."""
        parameters = trainable_parameters(model)
        with self.compute_loss_context_manager():
            # Not a call: hooks on the model, a callback's, watch the step's own pass alone.
            out = causal_model(model).forward(**labelled(batch))
        total = (slopes * out.log_probs.sum(1)).sum()
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        return {name: g for name, g in zip(parameters, gradients, strict=True) if g is not None}


def direction(gradient: torch.Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> torch.Tensor:
    r"""What an optimizer's rate multiplies in its next step on this gradient, momentum and weight decay apart.

    .. math:: g / (\sqrt{\hat v} + \epsilon), \qquad
        \hat v = \frac{\beta_2 v + (1 - \beta_2) g^2}{1 - \beta_2^{t + 1}}

    Args:
        gradient: g, of one parameter.
        state: the optimizer's of that parameter after t steps; at t = 0, where it is empty, the direction is 0.
        group: the parameter's; without ``betas`` (SGD) the direction is g.

    Source: Kingma and Ba, arXiv 1412.6980, Algorithm 1.
    """
    if "betas" not in group:
        return gradient
    if not state:
        return torch.zeros_like(gradient)
    decay = group["betas"][1]
    moment = decay * state["exp_avg_sq"] + (1 - decay) * gradient**2
    return gradient / adam_denominator(moment, float(state["step"]) + 1, group)


_ROWS = ("input_ids", "attention_mask", "completion_mask")


@contextmanager
def shifted(parameters: Mapping[str, torch.Tensor], step: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """The parameters moved by ``step`` while it is entered, and after it as they were, to the bit."""
    with all_or_nothing([parameters[name] for name in step]) as before:
        for name, moved in step.items():
            parameters[name].data.add_(moved)
        yield
        put_back(before)


class TokenMaskTrainer(ObjectiveTrainer):
    r"""DPO on a margin that sparse masks narrow to the tokens worth it, one learnable mask a token of the vocabulary.

    With :math:`\mu_v = \sigma(\phi_v)` for token v, in chosen and rejected alike, and :math:`\delta_t` a response
    token's log-ratio to the reference,

    .. math:: L = -\log\sigma\Bigl(\beta\bigl(\textstyle\sum_{t \in w}\mu_{y_t}\delta_t
        - \sum_{t \in l}\mu_{y_t}\delta_t\bigr)\Bigr) + \lambda \sum_{t \in w, l}\mu_{y_t},

    its mean over the batch's pairs. :math:`\phi` starts at 2 and is learned by the trainer's optimizer at a rate of its
    own, on the schedule of the policy's, without weight decay or clipping. AdamW is nearly free of its gradient's
    scale: while the log-ratios are near 0, any penalty > 0 closes masks at the full rate. Checkpoints hold the masks.

    Metrics are DPOTrainer's of the whole responses (``rewards/*``, ``logps/*``), and ``masks/kept``, the share of the
    batch's response tokens with a mask above 1/2. A response's tokens have different slopes here, so
    :class:`gentangle.alignment.callback.EntanglementCallback` has no forecasts once masks differ.

    Args:
        penalty: :math:`\lambda`, in loss a token.
        mask_rate: the learning rate of :math:`\phi`.

    Raises:
        InputError: a negative argument, more than one process, a checkpoint without masks, and as ObjectiveTrainer.

    Source: Yuan et al., arXiv 2410.13828, mitigations (our reading, one mask a token of the vocabulary).
    """

    def __init__(self, *args: Any, penalty: float = 0.01, mask_rate: float = 0.01, **more: Any) -> None:
        _refuse_negative(penalty=penalty, mask_rate=mask_rate)
        self.penalty, self.mask_rate = penalty, mask_rate
        super().__init__(*args, objective=objective("dpo"), **more)
        _refuse_processes(self)
        size, device = causal_model(self.model).get_input_embeddings().num_embeddings, self.accelerator.device
        self.mask_logits = torch.nn.Parameter(torch.full((size,), 2.0, device=device))
        self.seen = torch.zeros(size, dtype=torch.bool, device=device)

    def token_masks(self) -> dict[int, float]:
        r""":math:`\mu_v` by token id, of the tokens that the responses trained on have had."""
        masks = self.mask_logits.detach().sigmoid().cpu()
        return {int(v): float(masks[v]) for v in self.seen.cpu().nonzero().flatten()}

    def _compute_loss(self, model: Any, inputs: Mapping[str, torch.Tensor], return_outputs: bool = False) -> Any:
        tokens, reference = self._token_log_probs(model, inputs)
        ids, responses = inputs["input_ids"][:, 1:], inputs["completion_mask"][:, 1:].bool()
        masks = self.mask_logits.sigmoid()[ids] * responses
        chosen, rejected = (masks * (tokens - reference)).sum(1).chunk(2)
        losses = -torch.nn.functional.logsigmoid(self.beta * (chosen - rejected))
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["masks/kept"].append(((masks > 0.5).sum() / responses.sum()).item())
        self._log_pair(*tokens.sum(1).chunk(2), *reference.sum(1).chunk(2))
        if mode == "train":
            self.seen[ids[responses]] = True
        return losses.mean() + self.penalty * masks.sum() / len(losses)

    def create_optimizer(self, model: Any = None) -> Any:
        """The trainer's own, with a group for the masks."""
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if made:
            optimizer.add_param_group({"params": [self.mask_logits], "lr": self.mask_rate, "weight_decay": 0.0})
            # The trainer clears the gradients of the model alone.
            optimizer.register_step_post_hook(lambda *_: setattr(self.mask_logits, "grad", None))
        return optimizer

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        save_file({"logits": self.mask_logits.detach(), "seen": self.seen}, os.path.join(output_dir, MASKS_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        path = os.path.join(checkpoint, MASKS_FILE)
        if not os.path.isfile(path):
            raise InputError(f"{checkpoint} holds no {MASKS_FILE}: resume from a checkpoint of TokenMaskTrainer.")
        saved = load_file(path)
        self.mask_logits.data.copy_(saved["logits"])
        self.seen.copy_(saved["seen"])


#: Trainers by the remedy's name, each made as DPOTrainer is.
REMEDY_TRAINERS: Mapping[str, Any] = MappingProxyType(
    {name: partial(ReweightedTrainer, remedy=name) for name in ("normalised", "calibrated", "PCGrad")}
    | {"split": SplitStepTrainer, "token-masks": TokenMaskTrainer}
)
_OWN_SETTINGS: Mapping[str, Sequence[str]] = {"split": ("kappa",), "token-masks": ("penalty", "mask_rate")}


def remedy_trainer(name: str, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The maker of a remedy's trainer, and the settings that are left for DPOConfig.

    Args:
        name: key of :data:`REMEDY_TRAINERS`.
        settings: of DPOConfig by name, and the remedy's own (``kappa``; ``penalty``, ``mask_rate``).

    Raises:
        InputError: an unknown name.
    """
    one_of(name, REMEDY_TRAINERS, f"No remedy's trainer is called {name!r}.")
    own = {key: float(settings[key]) for key in _OWN_SETTINGS.get(name, ()) if key in settings}
    return partial(REMEDY_TRAINERS[name], **own), {key: value for key, value in settings.items() if key not in own}


def _refuse_negative(**given: float) -> None:
    for name, value in given.items():
        if value < 0:
            raise InputError(f"{name} is {value}, expected a number of at least 0.")


def _refuse_processes(trainer: Any) -> None:
    processes = trainer.args.world_size * max(1, trainer.args.n_gpu)
    if processes > 1 or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise InputError(
            f"{type(trainer).__name__} was given {processes} devices, or shards: gradients of several are not put "
            "together. Train in one process on one device."
        )
