"""The slow, obviously right way: one backward pass a scalar, every gradient kept whole."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gentangle.errors import InputError

if TYPE_CHECKING:
    import torch

    Scalars = Callable[[torch.nn.Module], torch.Tensor | Sequence[torch.Tensor]]


def trainable_parameters(model: "torch.nn.Module") -> "dict[str, torch.nn.Parameter]":
    """The model's parameters that require a gradient, by name; a tied parameter appears once.

    Raises:
        InputError: no parameter requires a gradient, or they lie on several devices.
    """
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise InputError(
            f"No parameter of {type(model).__name__} requires a gradient, so there is no gradient to "
            "multiply: unfreeze the parameters that the training updates."
        )
    devices = sorted({str(p.device) for p in found.values()})
    if len(devices) > 1:
        raise InputError(f"The parameters lie on several devices ({', '.join(devices)}): move the model to one.")
    return found


def evaluate_scalars(model: "torch.nn.Module", scalars: "Scalars") -> "list[torch.Tensor]":
    """``scalars(model)`` as a list of scalar tensors, each checked to be finite and to depend on the model.

    Raises:
        InputError: it is neither a tensor of shape (n,) nor a sequence of n scalars, n >= 1; a
            scalar carries no graph, or is NaN or infinite.
    """
    import torch

    given = scalars(model)
    values = list(given) if isinstance(given, list | tuple) or getattr(given, "ndim", 0) == 1 else []
    if not values or not all(isinstance(v, torch.Tensor) and v.ndim == 0 for v in values):
        shape = tuple(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
        raise InputError(
            f"scalars(model) gave {shape}, expected a tensor of shape (n,) or a list of n scalar tensors, n >= 1."
        )
    loose = [i for i, v in enumerate(values) if not v.requires_grad]
    if loose:
        raise InputError(
            f"Scalars {loose} do not depend on a parameter that requires a gradient: compute them from the "
            "model's output, outside torch.no_grad() and without .detach() or .item()."
        )
    bad = [i for i, v in enumerate(values) if not torch.isfinite(v)]
    if bad:
        raise InputError(
            f"Scalars {bad} are NaN or infinite; their gradients have no inner product. Check these inputs."
        )
    return values


def jacobian(model: "torch.nn.Module", scalars: "Scalars") -> "dict[str, torch.Tensor]":
    r"""Gradients :math:`g_i = \nabla_\theta s_i` of n scalars, one backward pass each.

    Args:
        model: a module with d parameters that require a gradient.
        scalars: a function of the model that returns s: a tensor of shape (n,), or a list of n
            scalars. From a list each backward pass visits that scalar's own graph alone.

    Returns:
        For each parameter's name a tensor of shape (n, numel): row i is that parameter's share of
        g_i, zero where s_i does not depend on it. Nothing is written to ``.grad``.

    Raises:
        InputError: see :func:`trainable_parameters` and :func:`evaluate_scalars`.
    """
    import torch

    parameters = trainable_parameters(model)
    rows = []
    for value in evaluate_scalars(model, scalars):
        # The graph is kept: scalars of one forward pass share it.
        gradient = torch.autograd.grad(value, list(parameters.values()), retain_graph=True, allow_unused=True)
        rows.append(
            [torch.zeros_like(p) if g is None else g for g, p in zip(gradient, parameters.values(), strict=True)]
        )
    return {name: torch.stack([row[k].flatten() for row in rows]) for k, name in enumerate(parameters)}


def inner_products(gradients: "Mapping[str, torch.Tensor]") -> dict[str, np.ndarray]:
    """Each parameter's share of the Gram matrix, J J^T in float64, shape (n, n); J as :func:`jacobian` gives it."""
    shares = {}
    for name, rows in gradients.items():
        double = rows.double()
        product = (double @ double.T).cpu().numpy()
        shares[name] = (product + product.T) / 2  # BLAS rounds the two halves apart
    return shares


def whole(shares: "Mapping[str, np.ndarray]") -> np.ndarray:
    """The sum of the parameters' shares."""
    return np.sum(list(shares.values()), axis=0)
