"""Inter-domain gradient matching (IDGM): the objective itself, by double backward."""

import torch

from gentangle.matching.domains import Domains, Gradient, learning, loss_at, metrics, square
from gentangle.matching.gip import mean_inner_product


def idgm_gradient(model: torch.nn.Module, domains: Domains, *, gamma: float) -> Gradient:
    r"""Exact gradient of :math:`L_{idgm} = L_{erm} - \gamma\,\frac{2}{S(S-1)}\sum_{i<j}\langle g_i,g_j\rangle`.

    Linear in S: the pairs are read off :math:`\lVert\sum g_i\rVert^2 - \sum\lVert g_i\rVert^2`, so S first-order
    gradients and one double backward are enough. All S graphs are in memory at once. Unbounded below for large gamma:
    quadratic domains of one curvature h need :math:`\gamma \le 1/(2h)`.

    Args:
        model: a module whose losses are twice differentiable (fused attention is not).
        domains: the losses L_i by name, at least two.
        gamma: weight of the matching; 0 is ERM.

    Returns:
        As :func:`gentangle.matching.erm.erm_gradient`; ``loss`` is L_erm.

    Raises:
        InputError: a loss is no finite scalar, or a gradient is not finite.

    Source: Shi et al., arXiv 2104.09937, the IDGM objective.
    """
    losses, parameters = {name: loss_at(model, domains, name) for name in domains}, learning(model)
    gradients = [torch.autograd.grad(v, parameters, create_graph=True, materialize_grads=True) for v in losses.values()]
    squares = [square(g, f"domain {name!r}") for name, g in zip(losses, gradients, strict=True)]
    square_of_sum = square(sum(parts) for parts in zip(*gradients, strict=True))
    objective = torch.stack([*losses.values()]).mean() - gamma * mean_inner_product(square_of_sum, squares)
    gradient = torch.autograd.grad(objective, parameters, materialize_grads=True)
    return list(gradient), metrics(losses, square_of_sum, squares)
