"""The one object of the book: the Gram matrix of the gradients of a model's scalars."""

import warnings
from typing import TYPE_CHECKING

import numpy as np

from gentangle.errors import one_of
from gentangle.gradients.oracle import inner_products, jacobian, whole
from gentangle.gradients.pairs import count_of_pairs, pair_blocks

if TYPE_CHECKING:
    import torch

    from gentangle.gradients.oracle import Scalars

METHODS = ("auto", "engine", "oracle")


def gram(model: "torch.nn.Module", scalars: "Scalars", *, method: str = "auto") -> np.ndarray:
    r"""Gram matrix of gradients, :math:`G_{ij} = \langle \nabla_\theta s_i, \nabla_\theta s_j \rangle`.

    The scalars may be log-probabilities of responses or of tokens (alignment) or losses of domains
    (domain generalisation); both papers are readings of this matrix.

    Args:
        model: any torch module; the gradient runs over its parameters that require one.
        scalars: function of the model that returns s, shape (n,), in the unit of the user's choice
            (nats for log-probabilities).
        method: ``"engine"``, one forward pass and two backward passes whatever n, where each scalar depends on
            its own rows of a batch alone (the second pass makes sure of that); ``"oracle"``, for any scalars, one
            backward pass each and n times the parameters in memory; ``"auto"``, the engine, and where it refuses the
            oracle with a warning that says why.

    Returns:
        Array of shape (n, n), float64, symmetric and positive semi-definite up to rounding.

    Raises:
        InputError: no parameter requires a gradient, the scalars are not a finite vector that
            depends on them, the method is unknown, or the engine was asked for and cannot take the model.

    Source: Yuan et al., arXiv 2410.13828 (n = 2, log-probabilities); Shi et al., arXiv 2104.09937 (domains).

    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> inputs = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    >>> gram(model, lambda m: m(inputs)[:, 0]).tolist()
    [[1.0, 1.0], [1.0, 2.0]]
    """
    return whole(gram_by_parameter(model, scalars, method=method))


def gram_by_parameter(model: "torch.nn.Module", scalars: "Scalars", *, method: str = "auto") -> dict[str, np.ndarray]:
    """Each parameter's share of :func:`gram`, shape (n, n); the shares add up to the whole."""
    return _shares(model, scalars, method, pairs=False)


def pair_gram(model: "torch.nn.Module", scalars: "Scalars", *, method: str = "auto") -> np.ndarray:
    r"""The 2x2 Gram matrix of every pair, without the products between pairs.

    Args:
        model, method: as in :func:`gram`.
        scalars: function of the model that returns 2P log-probabilities, the chosen ones first.

    Returns:
        Array of shape (P, 2, 2): :math:`\lVert w\rVert^2`, :math:`\langle w,l\rangle`, :math:`\lVert l\rVert^2` of
        each pair.

    Raises:
        InputError: as :func:`gram`, or an odd number of scalars.
    """
    matrix = whole(_shares(model, scalars, method, pairs=True))
    count_of_pairs(len(matrix))
    return pair_blocks(matrix)


def _shares(model: "torch.nn.Module", scalars: "Scalars", method: str, *, pairs: bool) -> dict[str, np.ndarray]:
    one_of(method, METHODS, f"Unknown method {method!r} for the Gram matrix.")
    if method != "oracle":
        from gentangle.gradients.engine import engine_gram
        from gentangle.gradients.refusal import EngineRefusal

        try:
            return engine_gram(model, scalars, pairs=pairs)
        except EngineRefusal as refusal:
            if method == "engine":
                raise
            warnings.warn(f"The Gram matrix goes the oracle's way, a backward pass a scalar. {refusal}", stacklevel=3)
    return inner_products(jacobian(model, scalars))
