"""What a step does to pairs that are not in its batch: first-order changes along any direction of the parameters.

Source: ours; for the batch's own pairs it is the coupling of Yuan et al., arXiv 2410.13828.
"""

from collections.abc import Mapping

import numpy as np
import torch

from gentangle.alignment.policy import response_log_probs, to_device
from gentangle.gradients.capture import Capture


class Transfer:
    r"""Gradients of a batch's log-probabilities at the present parameters, kept until directions are known.

    :math:`\Delta s_j = \langle g_j, \Delta\theta\rangle` for any :math:`\Delta\theta`: the step that was taken, or the
    part of a batch's gradient that its chosen or its rejected responses make. One forward and one backward pass.

    Args:
        model: the policy.
        batch: held-out pairs, as :func:`gentangle.alignment.policy.collate` makes them.
    """

    def __init__(self, model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> None:
        batch = to_device(batch, next(model.parameters()).device)
        with torch.enable_grad(), Capture(model, offsets=[0], keep=True) as self._capture:
            log_probs = response_log_probs(model, batch)
            torch.autograd.grad(log_probs.sum(), self._capture.edges, allow_unused=True)

    def chosen(self, direction: Mapping[str, torch.Tensor]) -> np.ndarray:
        """First-order changes of the chosen responses along a direction, in nats; shape (P,)."""
        changes = self._capture.changes(direction)
        return changes[: len(changes) // 2]
