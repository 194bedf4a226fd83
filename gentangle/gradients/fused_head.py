r"""The head of a language model as TRL computes it: log-probabilities in tiles, without a call of the head's module.

TRL's trainers call ``model(..., labels=labels, fused_lm_head=True)`` and get the log-probability of each label. With
:math:`c_{it} = \partial L/\partial \log\pi(y_{it})` the head's weight has the gradient
:math:`\sum_t c_{it} (e_{y_{it}} - p_{it}) h_{it}^\top` of row i; p is computed once more, where there are labels.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from gentangle.gradients.capture import Capture
from gentangle.gradients.factors import Formed, Outer, in_order, used_first
from gentangle.gradients.refusal import EngineRefusal
from gentangle.gradients.step import at_least_float32

#: Settings of a model's config by which TRL's head scales or squashes logits; none is followed here.
_SCALINGS = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


class FusedHead:
    """Watches the fused head beside a :class:`Capture` of the same forward and backward pass.

    Args:
        capture: of the model or of what wraps it.
        model: the causal language model itself, as transformers made it.

    Attributes:
        log_probs: of each row's labels, summed over its tokens, (R,), once the forward pass was seen.
        slopes: dL/d log_probs, (R,), once the backward pass was seen; NaN where a row's tokens have different ones.

    Raises:
        EngineRefusal: a head whose logits are scaled or squashed.
    """

    def __init__(self, capture: Capture, model: Any) -> None:
        config = model.config.get_text_config()
        for name in _SCALINGS:
            if getattr(config, name, None) not in (None, 1, 1.0):
                raise EngineRefusal(f"The head's logits are changed by {name} = {getattr(config, name)}")
        self.capture, self.model = capture, model
        self.log_probs: torch.Tensor | None = None
        self.slopes: torch.Tensor | None = None
        self._hidden: torch.Tensor | None = None
        self._handles: list[RemovableHandle] = []
        head = model.get_output_embeddings()
        self._head: Any = head
        self._own: Mapping[str, str] = capture.own.get(head, {})

    def __enter__(self) -> "FusedHead":
        self._handles.append(self.model.base_model.register_forward_hook(self._backbone))
        self._handles.append(self.model.register_forward_hook(self._forward, with_kwargs=True))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _backbone(self, module: nn.Module, args: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            self._hidden = output.last_hidden_state

    def _forward(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        if not (torch.is_grad_enabled() and kwargs.get("fused_lm_head")):
            return
        assert self._hidden is not None
        hidden, labels = self._hidden[:, :-1].detach(), kwargs["labels"][:, 1:]
        self._hidden = None
        labels = labels[:, -hidden.shape[1] :]
        self.log_probs = output.log_probs.detach().sum(-1)
        for name in self._own.values():
            self.capture.announce(name)
        self._handles.append(output.log_probs.register_hook(lambda c: self._backward(hidden, labels, c.detach())))

    def _backward(self, hidden: torch.Tensor, labels: torch.Tensor, c: torch.Tensor) -> None:
        self.capture.begin_backward()
        mask = labels != -100
        self.slopes = common_slopes(c, mask)
        if not self._own:
            return
        with torch.no_grad():
            order = used_first(mask)
            h = at_least_float32(in_order(hidden, order))
            y, slope = labels.gather(1, order).clamp(min=0), (c * mask).gather(1, order).to(h.dtype)
            logits = self._head(h.to(self._head.weight.dtype)).to(h.dtype)
            left = logits.softmax(-1).mul_(-slope[..., None])
            left.scatter_add_(2, y[..., None], slope[..., None])
            for own, name in self._own.items():
                self.capture.arrive(name, Outer(left, h) if own == "weight" else Formed(left.sum(1)))


def common_slopes(c: torch.Tensor, mask: torch.Tensor, close: float = 1e-5) -> torch.Tensor:
    """The one slope that a row's tokens ``mask`` share, (R,) from (R, T); NaN where they have different ones.

    A row whose tokens all have one slope is a function of its summed log-probability.
    """
    low, high = c.masked_fill(~mask, torch.inf).amin(-1), c.masked_fill(~mask, -torch.inf).amax(-1)
    return torch.where(high - low <= close * (high.abs() + low.abs()), (low + high) / 2, torch.nan)
