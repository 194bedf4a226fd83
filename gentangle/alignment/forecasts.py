"""What G says a training step will do to every response of its batch, and what the step then did.

Three readings, each named for its update. The first two are made before the step; the third takes the gradients
from before it and the displacement that the optimizer then made, and tests the linear picture.

``pair``
    this pair alone by SGD, the paper's condition;
``batch``
    the whole batch by SGD, a row of the batch's Gram matrix;
``step``
    the optimizer's own step, <g_i, theta_after - theta_before>: momentum, preconditioner and clipping included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from gentangle.alignment.conditions import case, first_order_changes, pair_blocks
from gentangle.alignment.objectives import Objective
from gentangle.alignment.policy import each_response_log_prob, response_log_probs
from gentangle.errors import InputError, nearest
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


@dataclass(frozen=True)
class Agreement:
    """How a forecast fared.

    Attributes:
        signs: share of changes whose sign it has.
        error: median of the relative error, (forecast - measured) over measured without its sign.
        commoner: share of changes that have the commoner sign, which a guess without a forecast gets right.
        cases: changes counted.
    """

    signs: float
    error: float
    commoner: float
    cases: int


def agreement(
    rows: Sequence[Mapping[str, Any]], forecast: str, noise_floor: float, side: str | None = None
) -> Agreement:
    """Compare a forecast with the measured changes.

    Args:
        rows: of :class:`ForecastCallback`.
        forecast: one of ``FORECASTS``.
        noise_floor: only changes of at least so many nats count; below it float32 decides the sign.
        side: ``"chosen"`` or ``"rejected"``; both where it is left out.

    Raises:
        InputError: an unknown forecast or side, or no change that counts.
    """
    if forecast not in FORECASTS:
        raise InputError(f"Unknown forecast {forecast!r}. {nearest(forecast, FORECASTS)}")
    predicted = _of_side([row["forecast"][forecast] for row in rows], side)
    measured = _of_side([row["measured"] for row in rows], side)
    counted = np.abs(measured) >= noise_floor
    predicted, measured = predicted[counted], measured[counted]
    if not len(measured):
        raise InputError(f"No measured change reaches the noise floor of {noise_floor} nats: nothing to compare.")
    rising = float(np.mean(measured > 0))
    return Agreement(
        signs=float(np.mean(np.sign(predicted) == np.sign(measured))),
        error=float(np.median(np.abs(predicted - measured) / np.abs(measured))),
        commoner=max(rising, 1 - rising),
        cases=len(measured),
    )


def measured_cases(rows: Sequence[Mapping[str, Any]], noise_floor: float) -> np.ndarray:
    """Case of each pair from its measured changes, of the pairs whose two changes both reach ``noise_floor`` nats."""
    changes = np.concatenate([np.reshape(row["measured"], (2, -1)).T for row in rows])
    return case(changes[(np.abs(changes) >= noise_floor).all(axis=1)])


def _of_side(values: Sequence[Sequence[float]], side: str | None) -> np.ndarray:
    """Values of batches, 2P each with the chosen ones first, as one array of the side asked for."""
    halves = {"chosen": slice(0, 1), "rejected": slice(1, 2), None: slice(0, 2)}
    if side not in halves:
        raise InputError(f"Unknown side {side!r}. {nearest(str(side), ('chosen', 'rejected'))}")
    return np.concatenate([np.reshape(batch, (2, -1))[halves[side]].ravel() for batch in values])
