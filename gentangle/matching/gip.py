r"""The gradient inner product of domains (GIP): readings of their S x S Gram matrix. numpy only.

The convention of the whole room: the GIP is the *mean over pairs*,
:math:`\frac{2}{S(S-1)}\sum_{i<j}\langle g_i,g_j\rangle`, and :math:`L_{erm}` the *mean* over domains. Since
:math:`\sum_{i\ne j}\langle g_i,g_j\rangle = \lVert\sum_i g_i\rVert^2 - \sum_i\lVert g_i\rVert^2`, the norms of the
gradients and that of their sum are enough.

Source: Shi et al., arXiv 2104.09937, the inner product that IDGM maximises.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gentangle.errors import InputError


def gip(gram: Any) -> float:
    r"""Mean inner product of two domains' gradients, :math:`\frac{2}{S(S-1)}\sum_{i<j} G_{ij}`.

    Args:
        gram: G of the domains' losses, shape (S, S), S at least 2.

    Raises:
        InputError: another shape.

    Source: Shi et al., arXiv 2104.09937: its GIP for two domains, and the mean over pairs in its objective for more.
    """
    matrix = _checked(gram)
    return float(mean_inner_product(matrix.sum(), np.diag(matrix)))


def cosines(gram: Any) -> np.ndarray:
    r""":math:`G_{ij}/\sqrt{G_{ii}G_{jj}}` of all domains, shape (S, S).

    Raises:
        InputError: another shape, or a domain whose gradient is 0.
    """
    matrix = _checked(gram)
    norms = np.sqrt(np.diag(matrix))
    if not np.all(norms > 0):
        raise InputError(f"The gradient of domain {int(np.argmin(norms))} is 0 and has no cosine: leave it out.")
    return np.asarray(np.clip(matrix / np.outer(norms, norms), -1, 1))


def mean_inner_product(square_of_sum: Any, squares: Any) -> Any:
    r"""The GIP from norms alone, :math:`(\lVert\sum g_i\rVert^2 - \sum\lVert g_i\rVert^2)/(S(S-1))`.

    Of numbers or tensors; of tensors it can be differentiated.
    """
    return (square_of_sum - sum(squares)) / (len(squares) * (len(squares) - 1))


def mean_cosine(square_of_sum: float, squares: Sequence[float]) -> float:
    r"""Mean cosine of the pairs, each weighted by its :math:`\lVert g_i\rVert\lVert g_j\rVert`, from norms alone.

    .. math:: \Big(\lVert\textstyle\sum g_i\rVert^2 - \sum\lVert g_i\rVert^2\Big) \Big/
        \Big((\textstyle\sum\lVert g_i\rVert)^2 - \sum\lVert g_i\rVert^2\Big)

    In [-1, 1]; 0 where at most one gradient differs from 0.
    """
    weight = sum(map(math.sqrt, squares)) ** 2 - sum(squares)
    return (square_of_sum - sum(squares)) / weight if weight > 0 else 0.0


def _checked(gram: Any) -> np.ndarray:
    matrix = np.asarray(gram, dtype=float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise InputError(
            f"A Gram matrix has shape {matrix.shape}, expected (S, S) with S >= 2: one domain has no pair."
        )
    return matrix
