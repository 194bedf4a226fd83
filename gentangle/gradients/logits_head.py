r"""A loss that takes log-probabilities from the model's logits itself, as TRL's CPOTrainer does: its slopes.

The head is then a layer like another and :class:`Capture` sees it. Where the loss depends on the logits at position t
of row i through :math:`\log\pi(y_{it})` alone, their gradient is :math:`c_{it} (e_{y_{it}} - p_{it})`, which tells
:math:`c_{it} = \partial L/\partial \log\pi(y_{it})`.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch

from gentangle.gradients.capture import Capture
from gentangle.gradients.fused_head import common_slopes
from gentangle.gradients.step import at_least_float32


class LogitsHead:
    """Watches a model's logits beside a :class:`Capture` of the same forward and backward pass.

    A row's response is the tokens at which the loss has a gradient: no mask of the trainer is seen. A mean over tokens
    or a log-likelihood term that weighs a row's tokens alike is part of their one slope.

    Args:
        capture: of the model or of what wraps it.
        model: the causal language model itself, called with ``input_ids``, whose next tokens are the labels.

    Attributes:
        log_probs: of each row's response, summed over its tokens, (R,), once the backward pass was seen; NaN where the
            loss has no gradient.
        slopes: dL/d log_probs, (R,), once the backward pass was seen; 0 where the loss has no gradient, NaN where a
            row's tokens have different ones or the loss depends on more of the logits than the labels' log-probability.
    """

    def __init__(self, capture: Capture, model: Any) -> None:
        self.capture, self.model = capture, model
        self.log_probs: torch.Tensor | None = None
        self.slopes: torch.Tensor | None = None
        self._open = ExitStack()

    def __enter__(self) -> "LogitsHead":
        self._open.callback(self.model.register_forward_hook(self._forward, with_kwargs=True).remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def log_probs_of(self, logits: torch.Tensor) -> torch.Tensor:
        """Log-probability of the same responses under other logits of the same batch, (R,) from (R, T, V)."""
        found = [_normalised(row).gather(-1, y[:, None])[:, 0] for row, y in zip(logits[:, :-1], self._y, strict=True)]
        return torch.where(self._mask, torch.stack(found), 0).sum(-1).where(self._mask.any(-1), torch.nan)

    def _forward(self, module: Any, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        logits, ids = getattr(output, "logits", None), args[0] if args else kwargs.get("input_ids")
        if torch.is_grad_enabled() and logits is not None and ids is not None and logits.requires_grad:
            self._y, seen = ids[:, 1:], logits.detach()
            self._open.callback(logits.register_hook(lambda g: self._backward(seen, g.detach())).remove)

    def _backward(self, logits: torch.Tensor, g: torch.Tensor) -> None:
        self.capture.begin_backward()
        with torch.no_grad():
            self._mask = (g[:, :-1] != 0).any(-1)
            close = max(1e-5, torch.finfo(g.dtype).eps)  # a gradient in bfloat16 is rounded token by token
            rows = zip(logits[:, :-1], self._y, g[:, :-1], strict=True)
            c = torch.stack([_token_slopes(*row, close) for row in rows])
            self.slopes = common_slopes(c, self._mask, close).where(self._mask.any(-1), 0)
            self.log_probs = self.log_probs_of(logits)


def _normalised(logits: torch.Tensor) -> torch.Tensor:
    """Log-softmax in the order of operations of TRL's ``selective_log_softmax``, so that rounding cancels."""
    x = at_least_float32(logits)
    return x - x.logsumexp(-1, keepdim=True)


def _token_slopes(logits: torch.Tensor, y: torch.Tensor, g: torch.Tensor, close: float) -> torch.Tensor:
    """The c_t of one row, (T,), NaN where the gradient is no multiple of e_y - p.

    Read off the other tokens than y: at y itself 1 - p cancels where the model is sure.
    """
    g, other = at_least_float32(g), _normalised(logits).exp().scatter_(-1, y[:, None], 0)
    g_other = g.scatter(-1, y[:, None], 0)
    c = -g_other.sum(-1) / other.sum(-1)
    multiple = (g_other + c[:, None] * other).abs().sum(-1) <= close * g_other.abs().sum(-1)
    return c.where(multiple & (g.sum(-1).abs() <= close * c.abs()), torch.nan)
