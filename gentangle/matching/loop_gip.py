"""The GIP read off a Fish loop, with no gradient beyond those that the loop takes.

Source: ours, for the algorithm of Shi et al., arXiv 2104.09937.
"""

from collections.abc import Hashable, Mapping

import torch

from gentangle.matching.domains import square


class LoopGIP:
    r"""Norms of the gradients :math:`\tilde g_i = g_i(\tilde\theta_i)` of a loop, and that of their sum.

    With plain SGD inside, :math:`\sum_i\tilde g_i = (\theta-\tilde\theta)/\alpha`: the sum is there already. Any other
    optimizer's displacement is no sum of gradients, so there it is kept, one more copy of the parameters.

    Against the GIP at theta the error is at most :math:`\alpha L M^2 (S-1)`, and :math:`S(S-1)` times that for the sum
    over :math:`i \ne j` (gradients along the loop at most M long and L-Lipschitz: each visit before a domain's own
    moves its gradient by at most alpha L M). In float32 the displacement carries a rounding of about
    :math:`6\cdot10^{-8}\lVert\theta\rVert/\alpha`: where that is not small against the gradients, take
    :func:`gentangle.matching.domains.domain_gram`.

    Args:
        optimizer: the inner one.
        track: False sees nothing and costs nothing.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, track: bool) -> None:
        groups = optimizer.param_groups if track else []
        self.rates = {p: float(group["lr"]) for group in groups for p in group["params"] if p.requires_grad}
        self.sums = {} if is_plain_sgd(optimizer) else {p: torch.zeros_like(p) for p in self.rates}
        self.squares: list[torch.Tensor] = []

    def visit(self, name: Hashable) -> None:
        """Note the gradient of a domain that ``.grad`` holds, before the inner step."""
        gradients = {p: p.grad for p in self.rates if p.grad is not None}
        if gradients:
            self.squares.append(square(gradients.values(), f"domain {name!r}"))
        for parameter in self.sums.keys() & gradients.keys():
            self.sums[parameter] += gradients[parameter]

    def square_of_sum(self, before: Mapping[torch.Tensor, torch.Tensor]) -> torch.Tensor | None:
        r""":math:`\lVert\sum_i\tilde g_i\rVert^2` at the loop's end; ``before`` has its start."""
        if not self.squares:
            return None
        if self.sums:
            return square(self.sums.values())
        moved = [square([before[p] - p.detach()]) / rate**2 for p, rate in self.rates.items()]
        return torch.stack(moved).sum()


def is_plain_sgd(optimizer: torch.optim.Optimizer) -> bool:
    """Whether every step is -lr times the gradient and nothing else."""
    extras = ("momentum", "weight_decay", "maximize")
    plain = [group["lr"] > 0 and not any(group.get(key) for key in extras) for group in optimizer.param_groups]
    return type(optimizer) is torch.optim.SGD and all(plain)
