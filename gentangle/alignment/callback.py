"""Entanglement in an unmodified TRL trainer: what each batch's Gram matrix says, among the trainer's own metrics."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from transformers import TrainerCallback

from gentangle.alignment.conditions import (
    BOTH_DOWN,
    BOTH_UP,
    INTENDED,
    PUSHES,
    REVERSED,
    attribution,
    band_distance,
    case,
    cosine,
    normalised_inner_products,
)
from gentangle.alignment.forecasts import FORECASTS, PRECONDITIONED
from gentangle.alignment.transfer import Transfer
from gentangle.errors import InputError
from gentangle.gradients.capture import Capture
from gentangle.gradients.fused_head import FusedHead
from gentangle.gradients.logits_head import LogitsHead
from gentangle.gradients.oracle import trainable_parameters, whole
from gentangle.gradients.pairs import pair_blocks
from gentangle.gradients.preconditioner import adam_preconditioner
from gentangle.gradients.step import parameter_step, snapshot

PREFIX = "entanglement/"
#: Below it a slope's square, and so the scaled Gram matrix, is lost in float32: nothing is divided by it.
NO_SLOPE = 1e-15


@dataclass
class _Watch:
    """One forward and backward pass that is read. Who holds it holds its factors: it goes once they are used."""

    model: Any
    capture: Capture
    fused: FusedHead = field(init=False)
    logits: LogitsHead = field(init=False)
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fused, self.logits = FusedHead(self.capture, self.model), LogitsHead(self.capture, self.model)

    def enter(self, stack: ExitStack) -> None:
        """Set the hooks, which ``stack`` removes."""
        for part in (self.capture, self.fused, self.logits):
            stack.enter_context(part)
        stack.callback(self.model.register_forward_pre_hook(self._note_call, with_kwargs=True).remove)

    def _note_call(self, module: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        if torch.is_grad_enabled():
            self.args, self.kwargs = args, dict(kwargs)

    @property
    def head(self) -> FusedHead | LogitsHead:
        """The one that the loss went through."""
        return self.logits if self.fused.slopes is None else self.fused

    def measured(self, model: Any) -> np.ndarray:
        """Change of the rows' log-probabilities up to now, (R,); ``model`` is what the trainer calls."""
        with torch.no_grad():
            out, head = model(*self.args, **self.kwargs), self.head
            now: Any = head.log_probs_of(out.logits) if isinstance(head, LogitsHead) else out.log_probs.sum(-1)
        return np.asarray((now - head.log_probs).double().cpu())


class EntanglementCallback(TrainerCallback):
    """Reads the scaled Gram matrix of a DPOTrainer's or CPOTrainer's (SimPO's) own backward pass, whatever its loss.

    The trainer is unchanged: hooks watch its forward and backward pass, and slopes are read where the loss reaches
    the log-probabilities, so no formula of the loss is needed. With gradient accumulation each micro-batch is a batch
    of its own. In a run of several processes each reads its own rows. A CPOTrainer's term of likelihood is in the
    slopes of the chosen responses; of its batch loss a pair's own share is what its tokens have in it. Under a trainer
    of :mod:`gentangle.alignment.remedy_trainers` all but ``step`` and ``measured`` speak of the loss's own gradient,
    and ``optimizer`` has the remedy in it.

    Metrics, each under ``entanglement/`` and averaged by the trainer as its own are (medians over the pairs of a batch,
    nats where they are changes):

    - ``cosine``, ``inner_over_chosen``, ``inner_over_rejected``: the inner product over the norms, over the
      squared norm of chosen, over that of rejected;
    - ``intended``, ``both_up``, ``both_down``, ``reversed``: share, of the pairs that have a forecast, in each case,
      this pair by SGD; a pair that does not move is in none;
    - ``undefined``: share of pairs without a forecast, because a slope of the loss is 0 or no slope exists; where it is
      0 a DPOTrainer's pairs get norms and cosine from unit cotangents, by one more pass (not for a sharded model);
    - ``band_distance``: how far the slopes lie outside the disentanglement band;
    - ``pair_chosen``, ``pair_rejected``, ``batch_chosen``, ``batch_rejected``: mean forecasts by SGD;
    - ``own_chosen``, ``own_rejected``, ``other_chosen``, ``other_rejected``: the mean of ``batch_chosen``, split by
      whose gradients move it;
    - on steps that are forecast, by Adam, the same four with ``preconditioned_`` before the name, in the inner product
      of its preconditioner: what they leave of ``step_chosen`` are clipping and momentum, pairs of earlier batches;
    - and on steps that are forecast ``step_chosen``, ``step_rejected`` (first order in the optimizer's own step),
      ``measured_chosen``, ``measured_rejected``, and ``optimizer``, ``step_chosen`` minus ``batch_chosen``.

    Args:
        every_n_steps: read one step in so many, first step included.
        forecast_every: on one *read* step in so many also follow the optimizer's own step; this holds every layer's
            input and output gradient until the step is taken. Never where it is left out.
        seen: called with a row for each batch that was read, see :meth:`row`.
        held_out: pairs outside the training set, as :func:`gentangle.alignment.policy.collate` makes them; on steps
            that are forecast the row then says what the step does to their chosen responses, and which sides of the
            batch do it.

    Example::

        trainer = DPOTrainer(...)
        EntanglementCallback(every_n_steps=10, forecast_every=5).attach(trainer)
        trainer.train()
    """

    def __init__(
        self,
        *,
        every_n_steps: int = 1,
        forecast_every: int | None = None,
        seen: Callable[[dict[str, Any]], None] | None = None,
        held_out: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("forecast_every", forecast_every)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}, expected a whole number of at least 1.")
        self.every, self.forecast_every, self.seen = every_n_steps, forecast_every, seen
        self._held_out = held_out
        self._metrics: Any = None
        self._open = ExitStack()
        self._watched: _Watch | None = None
        self._batches: list[dict[str, Any]] = []
        self._before: dict[str, torch.Tensor] | None = None
        self._transfer: Transfer | None = None

    def attach(self, trainer: Any) -> Self:
        """Add this callback to a TRL trainer and its readings to the trainer's metrics.

        Raises:
            InputError: the trainer keeps no metrics as TRL's DPOTrainer or CPOTrainer does.
        """
        self._metrics = getattr(trainer, "_stored_metrics", None)  # CPOTrainer's: made on demand, dropped when logged
        if self._metrics is None:
            self._metrics = getattr(trainer, "_metrics", {})
            if "train" not in self._metrics:
                raise InputError(
                    f"{type(trainer).__name__} keeps no metrics by mode, expected TRL's DPOTrainer or CPOTrainer."
                )
        trainer.add_callback(self)
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Say at once what cannot be watched."""
        for name in ("fp16", "padding_free", "use_liger_kernel"):
            if getattr(args, name, False):
                raise InputError(f"{name}=True: its gradients cannot be read row by row. Set {name}=False.")
        if args.gradient_checkpointing and (args.gradient_checkpointing_kwargs or {}).get("use_reentrant"):
            raise InputError(
                "Gradient checkpointing with use_reentrant=True runs a layer's forward pass where no hook can tell it "
                'from the first: set gradient_checkpointing_kwargs={"use_reentrant": False}.'
            )
        base = causal_model(model)
        if getattr(base.config, "is_encoder_decoder", False):
            raise InputError(f"{type(base).__name__} is an encoder-decoder model, expected a causal language model.")
        FusedHead(Capture(model), base)

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Begin to watch, on a step that is read."""
        self._batches.clear()
        if state.global_step % self.every == 0:
            reads = state.global_step // self.every
            self._forecast = self.forecast_every is not None and reads % self.forecast_every == 0
            self._watch(model)

    def on_substep_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """A micro-batch is through: read it and watch the next."""
        if self._watched:
            self._read(self._watched)
            self._watch(model)

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any
    ) -> None:
        """The last micro-batch is through and the step not yet taken."""
        if self._watched:
            self._read(self._watched)
            self._rate = optimizer.param_groups[0]["lr"]
            self._before = snapshot(model) if self._forecast else None
            self._transfer = Transfer(model, self._held_out) if self._forecast and self._held_out else None

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any
    ) -> None:
        """The step is taken: what it did to first order, and what it did."""
        if not (watched := self._watched):
            return
        for batch in self._batches:
            batch |= forecasts(batch["scaled"], batch["slopes"], self._rate, args.gradient_accumulation_steps)
        if self._before is not None and self._batches:
            last = self._batches[-1]
            now = {name: p.detach() for name, p in trainable_parameters(model).items()}
            step = parameter_step(self._before, now)
            with np.errstate(invalid="ignore", divide="ignore"):
                last["step"] = watched.capture.changes(step) / last["slopes"]
                if preconditioner := adam_preconditioner(optimizer, model):
                    scaled = watched.capture.gram_under(preconditioner)
                    found = forecasts(scaled, last["slopes"], self._rate, args.gradient_accumulation_steps)
                    last |= {f"preconditioned_{name}": values for name, values in found.items()}
            if self._transfer:
                last["transfer"] = self._transferred(self._transfer, watched.capture, step)
            last["measured"] = watched.measured(model)
        self._before = self._watched = self._transfer = None
        for batch in self._batches:
            if self._metrics is not None:
                for name, value in summary(batch).items():
                    self._metrics["train"][PREFIX + name].append(value)
            if self.seen:
                self.seen(self.row(state.global_step + 1, batch))

    def _transferred(
        self, transfer: Transfer, capture: Capture, step: Mapping[str, torch.Tensor]
    ) -> dict[str, np.ndarray]:
        """Changes of the held-out chosen responses by SGD on either side of the batch, and by the step taken, (H,)."""
        found = {"step": transfer.chosen(step)}
        pairs = len(self._batches[-1]["slopes"]) // 2
        for side, weights in zip(("chosen", "rejected"), np.repeat(np.eye(2), pairs, axis=1), strict=True):
            part = capture.combination(weights)
            found[side] = -self._rate * transfer.chosen(part)
        return found

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave no hook behind."""
        self._open.close()
        self._watched = None

    def _watch(self, model: Any) -> None:
        self._watched = _Watch(causal_model(model), Capture(model, keep=self._forecast))
        self._watched.enter(self._open)

    def _read(self, watched: _Watch) -> None:
        self._open.close()
        if watched.head.slopes is None:
            raise InputError(
                "The trainer's loss reached log-probabilities neither through TRL's fused head nor through the model's "
                "logits: EntanglementCallback reads TRL 1.16's DPOTrainer and CPOTrainer."
            )
        scaled = whole(watched.capture.gram_by_parameter())
        batch = {"scaled": scaled, "slopes": watched.head.slopes.double().cpu().numpy()}
        sharded = any(hasattr(p, "full_tensor") for p in watched.capture.model.parameters())
        # A pass of one process alone would wait for the others where the model is sharded.
        if not (np.abs(batch["slopes"]) >= NO_SLOPE).all() and watched.head is watched.fused and not sharded:
            batch["unit"] = _from_unit_cotangents(watched)
        self._batches.append(batch)

    @staticmethod
    def row(step: int, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch of P pairs, ready for JSON: norms, inner products; forecasts and measured changes, 2P, chosen first;
        and the chosen responses' batch forecast split by whose gradients move it (columns as in ``PUSHES``).

        On a step that was forecast, by Adam, ``preconditioned_pair``, ``preconditioned_batch`` and
        ``preconditioned_attribution`` are the same in the inner product of its preconditioner, without momentum and
        before clipping. ``transfer`` splits the change of held-out chosen responses by SGD on the batch into what its
        chosen and its rejected sides do, beside the first order change by the ``step`` taken.

        Where a slope is 0 norms and inner products come from unit cotangents; what stays undefined is None. On a step
        that was not forecast ``measured`` is missing, and ``forecast`` has no ``step``.
        """
        blocks = pair_grams(batch)
        found = {
            "kind": "forecast",
            "step": step,
            "chosen_norm_sq": _numbers(blocks[:, 0, 0]),
            "rejected_norm_sq": _numbers(blocks[:, 1, 1]),
            "inner_product": _numbers(blocks[:, 0, 1]),
            "forecast": {name: _numbers(batch[name]) for name in FORECASTS + PRECONDITIONED if name in batch},
        }
        for name in ("attribution", "preconditioned_attribution"):
            if name in batch:
                found[name] = [_numbers(parts) for parts in batch[name]]
        if "transfer" in batch:
            found["transfer"] = {name: _numbers(values) for name, values in batch["transfer"].items()}
        return found | ({"measured": _numbers(batch["measured"])} if "measured" in batch else {})


def _from_unit_cotangents(watched: _Watch) -> np.ndarray:
    """The pairs' Gram matrices by a pass of their own, where the loss has no slope to divide by."""
    base = watched.model
    with torch.enable_grad(), Capture(base) as seen, FusedHead(seen, base):
        log_probs = base(*watched.args, **watched.kwargs).log_probs
        seen.offsets = [0, len(log_probs) // 2]
        torch.autograd.grad(log_probs.sum(), seen.edges, allow_unused=True)
    return pair_blocks(whole(seen.gram_by_parameter()))


def pair_grams(batch: Mapping[str, Any]) -> np.ndarray:
    """Every pair's Gram matrix, (P, 2, 2): unscaled by the slopes, else from unit cotangents, else NaN."""
    c = batch["slopes"]
    with np.errstate(invalid="ignore", divide="ignore"):
        blocks = pair_blocks(batch["scaled"] / np.outer(c, c))
    lost = ~(np.abs(c) >= NO_SLOPE).reshape(2, -1).all(0)
    blocks[lost] = batch["unit"][lost] if "unit" in batch else np.nan
    return blocks


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]


def causal_model(model: Any) -> Any:
    """The causal language model inside what wraps it: DistributedDataParallel, PEFT."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def forecasts(scaled: np.ndarray, slopes: np.ndarray, eta: float, accumulation: int = 1) -> dict[str, np.ndarray]:
    """Changes of the 2P log-probabilities by SGD: on each pair alone, and on the batch; NaN where a slope is 0.

    The batch's loss is a mean over its P pairs (and over ``accumulation`` micro-batches); the pair's is its own.
    """
    pairs = len(slopes) // 2
    own = pair_blocks(scaled).sum(axis=1).T.flatten()  # S_ww + S_wl for chosen, then S_wl + S_ll for rejected
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "pair": -eta * own / slopes * pairs * accumulation,
            "batch": -eta * scaled.sum(axis=0) / slopes,
            "attribution": attribution(scaled, slopes, eta),
        }


def summary(batch: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of one batch, by name without the prefix; those that no pair defines are left out."""
    slopes = batch["slopes"]
    chosen, rejected = slopes.reshape(2, -1)
    defined = (np.abs(slopes) >= NO_SLOPE).reshape(2, -1).all(0)
    found, gram = {"undefined": float(np.mean(~defined))}, pair_grams(batch)
    over_chosen, over_rejected = normalised_inner_products(gram).T
    medians = {"cosine": cosine(gram), "inner_over_chosen": over_chosen, "inner_over_rejected": over_rejected}
    c, gram = np.stack([chosen, rejected], axis=-1)[defined], gram[defined]
    if defined.any() and (c[:, 0] < 0).all() and (c[:, 1] > 0).all():
        medians["band_distance"] = band_distance(gram, -c[:, 0], c[:, 1])
    found |= {name: float(np.nanmedian(values)) for name, values in medians.items() if np.isfinite(values).any()}
    if not defined.any():
        return found
    followed = [name for name in ("pair", "batch", "step", "measured") if name in batch]
    sides = {name: batch[name].reshape(2, -1)[:, defined] for name in followed}
    cases = case(sides["pair"].T)
    for name, kind in (("intended", INTENDED), ("both_up", BOTH_UP), ("both_down", BOTH_DOWN), ("reversed", REVERSED)):
        found[name] = float(np.mean(cases == kind))
    for name, values in sides.items():
        found |= {f"{name}_chosen": float(values[0].mean()), f"{name}_rejected": float(values[1].mean())}
    for prefix in ("", "preconditioned_"):
        if f"{prefix}attribution" in batch:
            pushes = batch[f"{prefix}attribution"][defined].mean(0).tolist()
            found |= {prefix + name: push for name, push in zip(PUSHES, pushes, strict=True)}
    if "step" in sides:
        found["optimizer"] = found["step_chosen"] - found["batch_chosen"]
    return found
