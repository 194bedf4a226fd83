"""Empirical risk minimisation over domains: the gradient of the mean loss, and the GIP that comes with it.

Source: Shi et al., arXiv 2104.09937, the baseline.
"""

import torch

from gentangle.matching.domains import Domains, Gradient, gradient_at, learning, metrics, square


def erm_gradient(model: torch.nn.Module, domains: Domains) -> Gradient:
    r"""Gradient of :math:`L_{erm} = \frac1S\sum_i L_i`, one domain's graph in memory at a time.

    A domain weighs the same whatever the size of its minibatch, and BatchNorm sees one domain at a time.

    Args:
        model: any torch module.
        domains: the losses L_i by name.

    Returns:
        One tensor a learning parameter, in the order of ``model.parameters()``; and the metrics ``loss``,
        ``loss/<name>``, and the exact ``gip`` and ``cosine``.

    Raises:
        InputError: a loss is no finite scalar, or a gradient is not finite.
    """
    losses, squares, total = {}, [], [torch.zeros_like(p) for p in learning(model)]
    for name in domains:
        losses[name], gradient = gradient_at(model, domains, name)
        squares.append(square(gradient, f"domain {name!r}"))
        total = [t + g for t, g in zip(total, gradient, strict=True)]
    return [t / len(domains) for t in total], metrics(losses, square(total), squares)
