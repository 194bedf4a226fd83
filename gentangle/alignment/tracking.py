"""The paper's figure: log-probabilities and the Gram matrix of fixed pairs, followed through training."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from gentangle.alignment.conditions import case, first_order_changes
from gentangle.alignment.policy import collate, response_log_probs, to_device
from gentangle.alignment.preference import Pair
from gentangle.gradients.gram import pair_gram

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TrackingCallback(TrainerCallback):
    """Looks at the same pairs every ``stride``-th step, before the first step and after the last.

    Args:
        tokenizer: of the policy.
        pairs: named groups of pairs, as ``{"train": ..., "held_out": ...}``.
        gram_pairs: the first so many pairs of each group whose Gram matrices are taken.
        stride: in optimizer steps.
        seen: called with each group's row, see :func:`look`.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        pairs: Mapping[str, Sequence[Pair]],
        gram_pairs: int,
        stride: int,
        seen: Any,
    ) -> None:
        self.groups = {name: collate(tokenizer, group) for name, group in pairs.items()}
        self.gram_pairs, self.stride, self.seen = gram_pairs, stride, seen

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Look before the first step, unless a checkpoint resumes (its metrics hold that look)."""
        if state.global_step == 0:
            self._look(model, 0)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Look at every stride and after the last step."""
        if state.global_step % self.stride == 0 or state.global_step == state.max_steps:
            self._look(model, state.global_step)

    def _look(self, model: torch.nn.Module, step: int) -> None:
        for name, batch in self.groups.items():
            self.seen({"kind": "track", "step": step, "group": name} | look(model, batch, self.gram_pairs))


def look(model: torch.nn.Module, batch: Mapping[str, torch.Tensor], gram_pairs: int) -> dict[str, Any]:
    """Log-probabilities of a batch's responses and the 2x2 Gram matrices of its first ``gram_pairs`` pairs.

    Returns:
        ``chosen`` and ``rejected`` (P log-probabilities in nats), ``chosen_norm_sq``,
        ``rejected_norm_sq``, ``inner_product`` and ``case`` (DPO's, this pair by SGD), one a pair.
    """
    batch = to_device(batch, next(model.parameters()).device)
    with torch.no_grad():
        chosen, rejected = response_log_probs(model, batch).chunk(2)
    pairs = len(chosen)
    first = torch.arange(min(gram_pairs, pairs), device=chosen.device)
    looked_at = {key: tensor[torch.cat([first, first + pairs])] for key, tensor in batch.items()}
    matrices = pair_gram(model, partial(response_log_probs, batch=looked_at), method="engine")
    return {
        "chosen": chosen.tolist(),
        "rejected": rejected.tolist(),
        "chosen_norm_sq": matrices[:, 0, 0].tolist(),
        "rejected_norm_sq": matrices[:, 1, 1].tolist(),
        "inner_product": matrices[:, 0, 1].tolist(),
        "case": case(first_order_changes(matrices)).tolist(),
    }
