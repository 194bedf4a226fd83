"""SmoothFish: a dial between ERM and Fish."""

import torch

from gentangle.errors import InputError
from gentangle.gradients.undo import all_or_nothing, put_back
from gentangle.matching.domains import Domains, Gradient, gradient_at, learning, visiting_order
from gentangle.matching.erm import erm_gradient


def smooth_fish_gradient(
    model: torch.nn.Module, domains: Domains, *, alpha: float, gamma: float, generator: torch.Generator | None
) -> Gradient:
    r"""The direction :math:`g_{erm} + \gamma(g_{fish} - g_{erm})`, 2S gradients.

    :math:`g_{erm} = \frac1S\sum_i g_i(\theta)` and :math:`g_{fish} = \frac1S\sum_i g_i(\tilde\theta_i)` along a Fish
    loop of plain SGD. (The paper's code has the sums; divided by S, gamma 0 is the gradient of L_erm.) A step of rate
    :math:`\epsilon\alpha S` along it is ERM's at gamma 0, Fish's at gamma 1.

    Args:
        model: any torch module; its parameters end where they began, its buffers as the pass of ERM leaves them.
        domains: the losses L_i by name.
        alpha: rate of the inner steps, positive.
        gamma: 0 ERM, 1 Fish; beyond 1 it extrapolates.
        generator: draws the order; None visits the domains as they are given.

    Returns:
        As :func:`gentangle.matching.erm.erm_gradient`, whose metrics, at theta, these are.

    Raises:
        InputError: alpha is not positive, a loss is no finite scalar, or a gradient is not finite.

    Source: the code of Shi et al., arXiv 2104.09937.
    """
    if not 0 < alpha < float("inf"):
        raise InputError(f"SmoothFish got alpha = {alpha}, expected a positive rate of the inner steps.")
    erm, seen = erm_gradient(model, domains)
    fish = [torch.zeros_like(g) for g in erm]
    with all_or_nothing([*learning(model), *model.buffers()]) as before:
        for name in visiting_order(domains, generator):
            _, gradient = gradient_at(model, domains, name)
            for total, parameter, g in zip(fish, learning(model), gradient, strict=True):
                total.add_(g, alpha=1 / len(domains))
                parameter.data.sub_(g, alpha=alpha)
        put_back(before)
    return [e + gamma * (f - e) for e, f in zip(erm, fish, strict=True)], seen
