"""Updates along a weighted sum of the domains' gradients, with weights that the losses decide: V-REx, group DRO.

Source: V-REx, Krueger et al., arXiv 2003.00688; group DRO, Sagawa et al., arXiv 1911.08731.
"""

from collections.abc import Callable
from typing import Any

import torch

from gentangle.matching.domains import Domains, Gradient, gradient_at, metrics, square


def weighted_gradient(
    model: torch.nn.Module, domains: Domains, weights: Callable[[torch.Tensor], torch.Tensor]
) -> Gradient:
    r""":math:`\sum_i c_i g_i` with :math:`c = ` ``weights(L)``, L the losses, shape (S,); S gradients are kept.

    Returns:
        As :func:`gentangle.matching.erm.erm_gradient`, which this is where every weight is 1/S.

    Raises:
        InputError: a loss is no finite scalar, or a gradient is not finite.
    """
    found = {name: gradient_at(model, domains, name) for name in domains}
    squares = [square(gradient, f"domain {name!r}") for name, (_, gradient) in found.items()]
    c = weights(torch.stack([loss for loss, _ in found.values()]))
    columns = list(zip(*(gradient for _, gradient in found.values()), strict=True))
    weighted: list[Any] = [sum(w * g for w, g in zip(c, column, strict=True)) for column in columns]
    square_of_sum = square(sum(column) for column in columns)
    return weighted, metrics({name: loss for name, (loss, _) in found.items()}, square_of_sum, squares)


def vrex_weights(losses: torch.Tensor, penalty: float) -> torch.Tensor:
    r""":math:`c_i = \frac1S\big(1 + 2\lambda(L_i - \bar L)\big)`.

    They make the gradient of :math:`\bar L + \lambda\,\mathrm{Var}(L)`, the variance being the mean square deviation of
    the S losses. A weight is negative where a loss is more than :math:`1/(2\lambda)` below the mean: it is then raised.

    Source: Krueger et al., arXiv 2003.00688.
    """
    return (1 + 2 * penalty * (losses - losses.mean())) / len(losses)


def group_dro_weights(log_weights: torch.Tensor, losses: torch.Tensor, step: float) -> torch.Tensor:
    r""":math:`q_i \propto q_i\,e^{\eta L_i}`: the logarithm of the weights after one step of mirror ascent.

    Source: Sagawa et al., arXiv 1911.08731.
    """
    return torch.log_softmax(log_weights + step * losses, dim=0)
