"""Domains as named losses of one model: the door that minibatches come through, the order of visits, the metrics."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from gentangle.errors import InputError
from gentangle.gradients import gram
from gentangle.gradients.step import at_least_float32
from gentangle.gradients.undo import all_or_nothing, put_back
from gentangle.matching.gip import mean_cosine, mean_inner_product

#: Name of a domain -> its loss as a function of the model, a scalar tensor.
Domains = Mapping[Hashable, Callable[[torch.nn.Module], torch.Tensor]]
#: (x, y, ...) of each domain, by name or in order; what follows y, as WILDS' metadata, is not looked at.
Minibatches = Mapping[Any, Sequence[Any]] | Sequence[Sequence[Any]]
#: One tensor a learning parameter, and the metrics.
Gradient = tuple[list[torch.Tensor], dict[str, float]]

_BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.SyncBatchNorm)


def domains_of(model: torch.nn.Module, loss: Callable[[Any, Any], torch.Tensor], minibatches: Minibatches) -> Domains:
    """The losses ``loss(model(x), y)`` of one update, each minibatch looked at before anything moves.

    Raises:
        InputError: fewer than two domains, an empty minibatch, or one of a single example while BatchNorm trains.
    """
    named = dict(minibatches if isinstance(minibatches, Mapping) else enumerate(minibatches))
    if len(named) < 2:
        raise InputError(f"The update got {len(named)} minibatch, expected 2 or more: gradients match between domains.")
    normed = any(isinstance(m, _BATCH_NORMS) and m.training for m in model.modules())
    for name, (_, y, *_) in named.items():
        if len(y) == 0:
            raise InputError(f"The minibatch of domain {name!r} is empty: leave the domain out of the update.")
        if len(y) == 1 and normed:
            raise InputError(f"Domain {name!r} has 1 example, and BatchNorm in training needs 2: draw more, or eval().")
    return {name: partial(_minibatch_loss, loss, batch) for name, batch in named.items()}


def _minibatch_loss(loss: Callable[[Any, Any], torch.Tensor], batch: Sequence[Any], model: torch.nn.Module) -> Any:
    return loss(model(batch[0]), batch[1])


def loss_at(model: torch.nn.Module, domains: Domains, name: Hashable) -> torch.Tensor:
    """The loss of one domain, a finite scalar; an error in it gets a note that names the domain.

    Raises:
        InputError: it is no scalar, or NaN or infinite.
    """
    try:
        loss = domains[name](model)
    except Exception as error:
        error.add_note(f"(in domain {name!r}; the parameters are as they were before the step)")
        raise
    if loss.ndim:
        raise InputError(
            f"The loss of domain {name!r} has shape {tuple(loss.shape)}, expected a scalar: take its mean."
        )
    return finite(loss, f"loss of domain {name!r}")


def gradient_at(model: torch.nn.Module, domains: Domains, name: Hashable) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Loss and gradient g_i of one domain over the parameters that learn; nothing is written to ``.grad``."""
    loss = loss_at(model, domains, name)
    return loss.detach(), list(torch.autograd.grad(loss, learning(model), materialize_grads=True))


def domain_gram(model: torch.nn.Module, domains: Domains) -> np.ndarray:
    r"""Exact :math:`G_{ij} = \langle g_i, g_j\rangle` of the domains, shape (S, S); S gradients are kept meanwhile.

    :func:`gentangle.gram` of the losses; the model's buffers are left as they were.
    """
    with all_or_nothing(list(model.buffers())) as before:
        matrix = gram(model, lambda m: [loss_at(m, domains, name) for name in domains], method="oracle")
        put_back(before)
    return matrix


def visiting_order(domains: Domains, generator: torch.Generator | None) -> list[Hashable]:
    """The domains' names in a fresh uniform order; as they are given where there is no generator."""
    names = list(domains)
    return names if generator is None else [names[i] for i in torch.randperm(len(names), generator=generator)]


def learning(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that require a gradient."""
    return [p for p in model.parameters() if p.requires_grad]


def finite(value: torch.Tensor, what: str) -> torch.Tensor:
    """The number itself, where it is neither NaN nor infinite; else InputError, which says ``what`` it is."""
    if not torch.isfinite(value):
        raise InputError(
            f"The {what} is {value.item()}, expected a finite number; the parameters are as they were before the step. "
            "Look at that minibatch, or lower the learning rate."
        )
    return value


def square(gradient: Iterable[torch.Tensor], of: str = "the update") -> torch.Tensor:
    r""":math:`\lVert g\rVert^2` of a gradient given by its parts, in float32 at least; differentiable.

    Raises:
        InputError: it is not finite; ``of`` says whose it is.
    """
    flat = (at_least_float32(part).flatten() for part in gradient)
    return finite(torch.stack([part @ part for part in flat]).sum(), f"squared gradient norm of {of}")


def metrics(
    losses: Mapping[Hashable, torch.Tensor], square_of_sum: torch.Tensor | None, squares: Sequence[torch.Tensor]
) -> dict[str, float]:
    """``loss`` (the mean), ``loss/<name>``; with norms of two domains or more also ``gip`` and ``cosine``."""
    values = {f"loss/{name}": loss.item() for name, loss in losses.items()}
    values = {"loss": sum(values.values()) / len(values)} | values
    if square_of_sum is None or len(squares) < 2:
        return values
    norms = square_of_sum.item(), [s.item() for s in squares]
    return values | {"gip": mean_inner_product(*norms), "cosine": mean_cosine(*norms)}


def mean_metrics(seen: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over several updates of their ``loss``, and of ``gip`` and ``cosine`` where they have them."""
    return {name: sum(s[name] for s in seen) / len(seen) for name in ("loss", "gip", "cosine") if name in seen[0]}
