"""Any objective of the package, trained by TRL: its own loss where its DPOTrainer has it, else ours in its place."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from trl import DPOConfig, DPOTrainer

from gentangle.alignment.margin_loss import Objective
from gentangle.errors import InputError

#: What TRL's DPOConfig calls the hyperparameters of its losses.
_TRL_NAMES = {"beta": "beta", "epsilon": "label_smoothing", "tau": "discopop_tau"}


def hyperparameters_of(objective: Objective, settings: Mapping[str, Any]) -> dict[str, float]:
    """The objective's hyperparameters by name: its defaults, and what ``settings`` gives in their place."""
    return {symbol.name: float(settings.get(symbol.name, value)) for symbol, value in objective.defaults.items()}


def trainer_and_settings(objective: Objective, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The trainer of an objective, and DPOConfig's settings for it.

    Args:
        objective: of :data:`gentangle.OBJECTIVES`.
        settings: of DPOConfig by name, and the objective's hyperparameters by theirs. With ``sft_weight`` the chosen
            responses' own loss, as in fine-tuning, is added to TRL's loss with that weight.

    Returns:
        TRL's DPOTrainer where it has the loss (its own value is then compared with ours in a test), else a maker of
        :class:`ObjectiveTrainer`; and the settings without what DPOConfig does not know.

    Raises:
        InputError: an auxiliary term of TRL's is asked for beside an objective that TRL does not have.
    """
    values = hyperparameters_of(objective, settings)
    others = {name: value for name, value in settings.items() if name not in values}
    weight = others.pop("sft_weight", None)
    kind, _, loss_type = objective.trl.partition(":")
    if kind == "dpo":
        theirs = {_TRL_NAMES[name]: value for name, value in values.items()}
        losses: dict[str, Any] = {"loss_type": [loss_type]}
        if weight is not None:
            losses = {"loss_type": [loss_type, "sft"], "loss_weights": [1.0, weight]}
        return DPOTrainer, others | theirs | losses
    if weight is not None:
        raise InputError(f"sft_weight is given, but TRL has no {objective.title}: the term is TRL's. Leave it out.")

    make = partial(ObjectiveTrainer, objective=objective, hyperparameters=values)
    return make, others | ({"beta": values["beta"]} if "beta" in values else {})


def labelled(batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What a model is called with for TRL's fused head to give the log-probabilities of the responses' tokens."""
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
    return given | {"use_cache": False, "fused_lm_head": True}


class ObjectiveTrainer(DPOTrainer):
    """TRL's DPOTrainer, with an objective of the package in place of its losses.

    Data, batches, reference and metrics (``rewards/*``, ``logps/*``) are as in DPOTrainer; rewards are beta times the
    log-ratio to the reference, also for objectives without one.

    Args:
        objective: the loss.
        hyperparameters: by name, its defaults where left out.

    Raises:
        InputError: no ``ref_model`` was given, or reference log-probabilities are to be computed beforehand.
    """

    def __init__(
        self, *args: Any, objective: Objective, hyperparameters: Mapping[str, float] | None = None, **more: Any
    ) -> None:
        self.objective, self.hyperparameters = objective, dict(hyperparameters or {})
        super().__init__(*args, **more)
        config: DPOConfig = self.args
        if self.ref_model is None or config.precompute_ref_log_probs:
            raise InputError(
                "ObjectiveTrainer runs its reference beside the policy: give ref_model, a frozen copy of the model, "
                "and leave precompute_ref_log_probs at False."
            )

    def _compute_loss(self, model: Any, inputs: Mapping[str, torch.Tensor], return_outputs: bool = False) -> Any:
        log_probs, reference = (tokens.sum(1) for tokens in self._token_log_probs(model, inputs))
        (chosen, rejected), (ref_chosen, ref_rejected) = log_probs.chunk(2), reference.chunk(2)
        len_chosen, len_rejected = inputs["completion_mask"][:, 1:].sum(1).to(log_probs.dtype).chunk(2)
        losses = self.objective(
            chosen,
            rejected,
            ref_chosen=ref_chosen,
            ref_rejected=ref_rejected,
            len_chosen=len_chosen,
            len_rejected=len_rejected,
            **self.hyperparameters,
        )
        self._log_pair(chosen, rejected, ref_chosen, ref_rejected)
        return losses.mean()

    def _token_log_probs(self, model: Any, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the next token under the policy and under the reference, (2P, T - 1); 0 where it is no response's."""
        given = labelled(inputs)
        log_probs = model(**given).log_probs
        with torch.no_grad():
            return log_probs, self.ref_model(**given).log_probs

    def _log_pair(self, chosen: Any, rejected: Any, ref_chosen: Any, ref_rejected: Any) -> None:
        """DPOTrainer's own metrics of the pair, under its names."""
        rewards = {"chosen": self.beta * (chosen - ref_chosen), "rejected": self.beta * (rejected - ref_rejected)}
        found = {f"rewards/{side}": value for side, value in rewards.items()}
        found["rewards/margins"] = rewards["chosen"] - rewards["rejected"]
        found["rewards/accuracies"] = (found["rewards/margins"] > 0).float()
        found |= {"logps/chosen": chosen, "logps/rejected": rejected}
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name, value in found.items():
            metrics[name].append(self.accelerator.gather_for_metrics(value.detach()).mean().item())
