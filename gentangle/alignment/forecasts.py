"""What G says a training step will do to every response of its batch, and what the step then did.

Three forecasts, each named for its update:

``pair``
    this pair alone by SGD, the papers' condition;
``batch``
    the whole batch by SGD, a row of the batch's Gram matrix;
``step``
    the optimizer's own step, <g_i, theta_after - theta_before>: momentum, preconditioner and clipping included.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from gentangle.alignment.conditions import first_order_changes, pair_blocks
from gentangle.alignment.objectives import Objective
from gentangle.alignment.policy import each_response_log_prob, response_log_probs
from gentangle.errors import InputError
from gentangle.gradients.oracle import inner_products, jacobian, whole
from gentangle.gradients.step import parameter_step, sgd_forecast, snapshot, step_forecast

FORECASTS = ("pair", "batch", "step")


class ForecastCallback(TrainerCallback):
    """Forecasts and measures every ``stride``-th step of a TRL DPOTrainer, first step included.

    The batch is seen through a forward hook, the optimizer through transformers' callbacks; the
    trainer itself is unchanged and its ``.grad`` untouched.

    Args:
        objective: what the trainer minimises, averaged over the batch's pairs.
        hyperparameters: its hyperparameters by name.
        reference: the frozen reference policy.
        stride: fixed beforehand, so that no step is picked.
        seen: called with each measured step's row, see :meth:`row`.
    """

    def __init__(
        self,
        objective: Objective,
        hyperparameters: Mapping[str, float],
        reference: torch.nn.Module,
        stride: int,
        seen: Any,
    ) -> None:
        self.objective, self.hyperparameters, self.reference = objective, dict(hyperparameters), reference
        self.stride, self.seen = stride, seen
        self._batch: dict[str, torch.Tensor] | None = None
        self._hook: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Start to watch the model's batches."""
        if args.gradient_accumulation_steps != 1:
            raise InputError(
                f"gradient_accumulation_steps is {args.gradient_accumulation_steps}: forecasts are made for one "
                "batch a step, set it to 1."
            )
        self._hook = model.register_forward_pre_hook(self._see, with_kwargs=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop watching."""
        self._hook.remove()

    def _see(self, module: torch.nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        if module.training and kwargs.get("labels") is not None and torch.is_grad_enabled():
            self._batch = {
                "input_ids": kwargs["input_ids"],
                "attention_mask": kwargs["attention_mask"],
                "completion_mask": (kwargs["labels"] != -100).long(),
            }

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any
    ) -> None:
        """Gradients are clipped and the step not yet taken: take G and the forecasts (i) and (ii)."""
        if state.global_step % self.stride or self._batch is None:
            return
        batch, hook = self._batch, self._hook
        hook.remove()  # the forward passes below are not the trainer's
        self._gradients = jacobian(model, lambda m: each_response_log_prob(m, batch))
        self._gram = whole(inner_products(self._gradients))
        with torch.no_grad():
            self._before = response_log_probs(model, batch).double()
            reference = response_log_probs(self.reference, batch).double()
        self._slopes = loss_slopes(
            self.objective, self._before, reference, batch["completion_mask"], self.hyperparameters
        )
        self._rate = optimizer.param_groups[0]["lr"]
        self._parameters = snapshot(model)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """The step is taken: forecast (iii) from the parameters' own displacement, and measure."""
        if state.global_step % self.stride or self._batch is None:
            return
        step = parameter_step(self._parameters, snapshot(model))
        with torch.no_grad():
            after = response_log_probs(model, self._batch).double()
        measured = (after - self._before).cpu().numpy()
        pairs = len(measured) // 2
        d_chosen, d_rejected = -self._slopes[:pairs] * pairs, self._slopes[pairs:] * pairs
        alone = first_order_changes(pair_blocks(self._gram), d_chosen, d_rejected, self._rate)
        forecasts = {
            "pair": alone.T.flatten(),
            "batch": sgd_forecast(self._gram, self._slopes, self._rate),
            "step": step_forecast(self._gradients, step),
        }
        self._hook = model.register_forward_pre_hook(self._see, with_kwargs=True)
        del self._gradients, self._parameters
        self.seen(self.row(state.global_step + 1, self._gram, forecasts, measured))

    @staticmethod
    def row(step: int, gram: np.ndarray, forecasts: Mapping[str, np.ndarray], measured: np.ndarray) -> dict[str, Any]:
        """One measured step: norms and inner products of P pairs; forecasts and measured changes, 2P, chosen first."""
        blocks = pair_blocks(gram)
        return {
            "kind": "forecast",
            "step": step,
            "chosen_norm_sq": blocks[:, 0, 0].tolist(),
            "rejected_norm_sq": blocks[:, 1, 1].tolist(),
            "inner_product": blocks[:, 0, 1].tolist(),
            "forecast": {name: values.tolist() for name, values in forecasts.items()},
            "measured": measured.tolist(),
        }


def loss_slopes(
    objective: Objective,
    log_probs: torch.Tensor,
    reference: torch.Tensor,
    completion_mask: torch.Tensor,
    hyperparameters: Mapping[str, float],
) -> np.ndarray:
    r"""Slopes :math:`c_i = \partial L / \partial \log\pi_i` of the batch's mean loss, (2P,), chosen rows first."""
    (chosen, rejected), (ref_chosen, ref_rejected) = log_probs.chunk(2), reference.chunk(2)
    len_chosen, len_rejected = completion_mask.sum(-1).double().chunk(2)
    given = {
        "ref_chosen": ref_chosen,
        "ref_rejected": ref_rejected,
        "len_chosen": len_chosen,
        "len_rejected": len_rejected,
    }
    d_chosen, d_rejected = objective.slopes(chosen, rejected, **given, **hyperparameters)
    return (torch.cat([-d_chosen, d_rejected]) / len(chosen)).cpu().numpy()


def agreement(rows: Sequence[Mapping[str, Any]], forecast: str, noise_floor: float) -> tuple[float, float, int]:
    """How a forecast fared: share of right signs, median relative error, and the cases counted.

    Only changes of at least ``noise_floor`` nats count; below it float32 decides the sign.
    """
    predicted = np.concatenate([row["forecast"][forecast] for row in rows])
    measured = np.concatenate([row["measured"] for row in rows])
    counted = np.abs(measured) >= noise_floor
    predicted, measured = predicted[counted], measured[counted]
    if not len(measured):
        raise InputError(f"No measured change reaches the noise floor of {noise_floor} nats: nothing to compare.")
    signs = float(np.mean(np.sign(predicted) == np.sign(measured)))
    error = float(np.median(np.abs(predicted - measured) / np.abs(measured)))
    return signs, error, len(measured)
