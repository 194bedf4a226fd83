"""What a step of the parameters does to scalars, to first order, whichever optimizer made it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from gentangle.errors import InputError
from gentangle.gradients.oracle import trainable_parameters, whole

if TYPE_CHECKING:
    import torch


def at_least_float32(tensor: "torch.Tensor") -> "torch.Tensor":
    """The tensor in a precision in which inner products and differences are taken."""
    return tensor if tensor.element_size() >= 4 else tensor.float()


def snapshot(model: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    """Copy of every trainable parameter, by name."""
    return {name: p.detach().clone() for name, p in trainable_parameters(model).items()}


def parameter_step(
    before: "Mapping[str, torch.Tensor]", after: "Mapping[str, torch.Tensor]"
) -> "dict[str, torch.Tensor]":
    r"""The step :math:`\Delta\theta = \theta_{after} - \theta_{before}` between two snapshots, in float32 at least.

    The difference of two floats within a factor of 2 of each other is exact, so no wider numbers are needed.

    Raises:
        InputError: the snapshots name other parameters.
    """
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())
        raise InputError(
            f"The two snapshots differ in their parameters ({', '.join(odd[:3])}): take both of one model."
        )
    return {name: at_least_float32(after[name]) - at_least_float32(before[name]) for name in before}


def step_forecast(gradients: "Mapping[str, torch.Tensor]", step: "Mapping[str, torch.Tensor]") -> np.ndarray:
    r"""First-order change of every scalar under a step, :math:`\langle g_i, \Delta\theta \rangle`, shape (n,).

    Args:
        gradients: rows g_i by parameter, as :func:`gentangle.gradients.oracle.jacobian` gives them, taken
            before the step.
        step: the optimizer's own step, from :func:`parameter_step`: momentum, preconditioner, weight
            decay and clipping are all in it.

    Returns:
        float64, in the unit of the scalars; the error is second order in the step.

    Raises:
        InputError: gradients and step name other parameters.
    """
    if gradients.keys() != step.keys():
        odd = sorted(gradients.keys() ^ step.keys())
        raise InputError(f"Gradients and step differ in their parameters ({', '.join(odd[:3])}).")
    return whole(
        {name: (rows.double() @ step[name].flatten().double()).cpu().numpy() for name, rows in gradients.items()}
    )


def sgd_forecast(gram: np.ndarray, loss_slopes: np.ndarray, eta: float) -> np.ndarray:
    r"""First-order change of n scalars under one SGD step on a loss of all of them.

    .. math:: \Delta s_j = -\eta \sum_i c_i G_{ij}, \qquad c_i = \partial L / \partial s_i

    Args:
        gram: G, shape (n, n).
        loss_slopes: c, shape (n,), in loss per unit of the scalar.
        eta: learning rate, positive.

    Returns:
        Shape (n,), in the unit of the scalars.

    Raises:
        InputError: the shapes do not fit.
    """
    matrix, slopes = np.asarray(gram, dtype=float), np.asarray(loss_slopes, dtype=float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or slopes.shape != matrix.shape[:1]:
        raise InputError(
            f"A Gram matrix of shape {matrix.shape} and slopes of shape {slopes.shape} do not fit: (n, n) and (n,)."
        )
    return -eta * slopes @ matrix
