"""Invariant risk minimisation (IRMv1): one classifier on top is to be optimal in every domain at once."""

from collections.abc import Hashable

import torch

from gentangle.matching.domains import Domains, Gradient, learning, loss_at, metrics, square


def irm_gradient(model: torch.nn.Module, domains: Domains, *, penalty: float) -> Gradient:
    r"""Gradient of :math:`\frac1S\sum_i\big[L_i + \lambda\,(\partial_c L_i(c f)|_{c=1})^2\big]`, c scaling f.

    Args:
        model: a module whose output is one tensor, twice differentiable.
        domains: the losses L_i by name; each calls its model for that output.
        penalty: :math:`\lambda`; 0 is ERM.

    Returns:
        As :func:`gentangle.matching.erm.erm_gradient`, whose metrics, of the L_i, these are.

    Raises:
        InputError: a loss is no finite scalar, or a gradient is not finite.

    Source: Arjovsky et al., arXiv 1907.02893, IRMv1.
    """
    losses: dict[Hashable, torch.Tensor] = {}
    parameters, squares = learning(model), []
    plain, total = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    for name in domains:
        scale = torch.ones((), dtype=parameters[0].dtype, device=parameters[0].device, requires_grad=True)
        loss = loss_at(lambda *x, c=scale: c * model(*x), domains, name)  # type: ignore[arg-type]
        (slope,) = torch.autograd.grad(loss, scale, create_graph=True)
        gradient = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
        of_penalty = torch.autograd.grad(penalty * slope**2, parameters, materialize_grads=True)
        losses[name] = loss.detach()
        squares.append(square(gradient, f"domain {name!r}"))
        plain = [t + g for t, g in zip(plain, gradient, strict=True)]
        total = [t + g + p for t, g, p in zip(total, gradient, of_penalty, strict=True)]
    return [t / len(domains) for t in total], metrics(losses, square(plain), squares)
