"""Fish: a loop of inner steps, one domain each in a fresh random order, and a step towards where it ends.

Source: Shi et al., arXiv 2104.09937, Algorithm 1; ``gamma_eff`` is ours.
"""

from collections.abc import Mapping

import torch

from gentangle.errors import InputError, one_of
from gentangle.gradients.undo import all_or_nothing
from gentangle.matching.domains import Domains, learning, loss_at, metrics, visiting_order
from gentangle.matching.loop_gip import LoopGIP

BUFFERS = ("interpolate", "inner")


def fish_step(
    model: torch.nn.Module,
    domains: Domains,
    optimizer: torch.optim.Optimizer,
    *,
    eps: float,
    generator: torch.Generator | None,
    buffers: str = "interpolate",
    track: bool = False,
) -> dict[str, float]:
    r"""One step of Fish, in place: :math:`\theta \leftarrow \theta + \epsilon(\tilde\theta - \theta)`.

    :math:`\tilde\theta` starts at :math:`\theta` and takes one optimizer step on each domain's loss, at the point that
    the domains before it have left. If any of it fails, the parameters and buffers are as they were (moments that the
    optimizer keeps have seen the domains before).

    Args:
        model: any torch module; one copy of its learning parameters and buffers is made.
        domains: the losses L_i by name; one domain at eps = 1 is the optimizer's plain step.
        optimizer: the inner one, over the model's parameters; plain SGD of rate alpha in the paper's analysis.
        eps: positive; at most 1 in the paper.
        generator: draws the order. None visits the domains as they are given, which does *not* match gradients.
        buffers: ``"interpolate"`` moves BatchNorm's running statistics by eps as the parameters (the authors' code),
            ``"inner"`` takes them as the loop left them. Counters are taken from the loop either way.
        track: read the GIP off the loop, see :class:`gentangle.matching.loop_gip.LoopGIP`.

    Returns:
        ``loss``, ``loss/<name>`` (each at its visit), and with ``track`` ``gip`` and ``cosine``.

    Raises:
        InputError: a loss is no finite scalar, a gradient that is tracked is not finite, or eps or buffers is invalid.

    Source: Shi et al., arXiv 2104.09937, Algorithm 1.
    """
    _check(eps, buffers)
    losses, seen = {}, LoopGIP(optimizer, track)
    with all_or_nothing([*learning(model), *model.buffers()]) as before:
        for name in visiting_order(domains, generator):
            optimizer.zero_grad()
            loss = loss_at(model, domains, name)
            loss.backward()
            seen.visit(name)
            optimizer.step()
            losses[name] = loss.detach()
        optimizer.zero_grad()  # what follows needs room
        square_of_sum = seen.square_of_sum(before)
        interpolate(before, eps, buffers)
    return metrics(losses, square_of_sum, seen.squares)


@torch.no_grad()
def interpolate(before: Mapping[torch.Tensor, torch.Tensor], eps: float, buffers: str) -> None:
    r"""Each tensor :math:`\tilde\theta` becomes :math:`\theta + \epsilon(\tilde\theta-\theta)`, in place."""
    for tensor, old in before.items():
        if isinstance(tensor, torch.nn.Parameter) or (buffers == "interpolate" and tensor.is_floating_point()):
            tensor.lerp_(old, 1 - eps)


def gamma_eff(alpha: float, domains: int) -> float:
    r"""The gamma of IDGM that Fish's loop follows, :math:`\gamma_{eff} = \alpha(S-1)/4`.

    Over uniform orders, with plain SGD of rate alpha inside,
    :math:`E[\theta-\tilde\theta] = \alpha\sum_i g_i - \frac{\alpha^2}{2}\sum_{i<j}\nabla\langle g_i,g_j\rangle
    + O(\alpha^3) = \alpha S\,\nabla L_{idgm}(\gamma_{eff}) + O(\alpha^3)`.
    """
    return alpha * (domains - 1) / 4


def _check(eps: float, buffers: str) -> None:
    if not 0 < eps < float("inf"):
        raise InputError(f"Fish got eps = {eps}, expected a positive number: 1 goes all the way to the loop's end.")
    one_of(buffers, BUFFERS, f"Unknown way {buffers!r} to treat buffers.")
