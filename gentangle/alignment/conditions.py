"""Readings of a preference pair's Gram matrix: predicted changes, the two conditions, the cases.

Every function takes G of shape (..., 2, 2), rows and columns (chosen, rejected), as
:func:`gentangle.gram` returns it for one pair; leading dimensions are pairs. numpy only.

Source: Yuan et al., arXiv 2410.13828, the gradient inner product condition; the scaled form, batches and attribution
are ours.
"""

from typing import Any

import numpy as np
import sympy as sp

from gentangle.alignment.compile import compiled
from gentangle.alignment.coupling import CHANGE_CHOSEN, CHANGE_REJECTED
from gentangle.alignment.symbols import (
    CHOSEN_NORM_SQ,
    D_CHOSEN,
    D_REJECTED,
    ETA,
    INNER_PRODUCT,
    REJECTED_NORM_SQ,
)
from gentangle.errors import InputError
from gentangle.gradients.pairs import pair_blocks

INTENDED = "chosen-up-rejected-down"
BOTH_UP = "both-up"
BOTH_DOWN = "both-down"
REVERSED = "chosen-down-rejected-up"
UNMOVED = "unmoved"

#: The three cases of the paper's condition; REVERSED cannot occur at first order for d_w, d_l > 0.
CASES = (INTENDED, BOTH_UP, BOTH_DOWN)

#: How a case is written for a reader.
CASE_TITLES = {
    INTENDED: "chosen up, rejected down",
    BOTH_UP: "both up",
    BOTH_DOWN: "both down",
    REVERSED: "chosen down, rejected up",
    UNMOVED: "unmoved",
}


def first_order_changes(gram: Any, d_chosen: Any = 1.0, d_rejected: Any = 1.0, eta: Any = 1.0) -> np.ndarray:
    r"""Predicted changes of (log pi_w, log pi_l) under one SGD step on the pair's loss.

    .. math::
        \Delta\log\pi_w = \eta\,(d_w \lVert w\rVert^2 - d_l \langle w,l\rangle), \qquad
        \Delta\log\pi_l = \eta\,(d_w \langle w,l\rangle - d_l \lVert l\rVert^2)

    Args:
        gram: shape (..., 2, 2).
        d_chosen, d_rejected: slopes of the objective, scalars or shape (...); any sign.
        eta: learning rate, positive.

    Returns:
        Shape (..., 2), in nats; the error is second order in eta.

    Raises:
        InputError: the Gram matrix has another shape, is not finite, or is not symmetric.

    Source: Yuan et al., arXiv 2410.13828, the gradient inner product condition.

    >>> first_order_changes([[1, 2], [2, 4]]).tolist()  # |w|^2 = 1, |l|^2 = 4, <w,l> = 2: both fall
    [-1.0, -2.0]
    """
    matrix = _pair_gram(gram)
    values = (
        matrix[..., 0, 0],
        matrix[..., 1, 1],
        matrix[..., 0, 1],
        np.asarray(d_chosen, dtype=float),
        np.asarray(d_rejected, dtype=float),
        np.asarray(eta, dtype=float),
    )
    symbols = (CHOSEN_NORM_SQ, REJECTED_NORM_SQ, INNER_PRODUCT, D_CHOSEN, D_REJECTED, ETA)
    changes = [compiled(symbols, sp.sympify(change), "numpy")(*values) for change in (CHANGE_CHOSEN, CHANGE_REJECTED)]
    return np.stack(np.broadcast_arrays(*changes), axis=-1)


def changes_from_scaled(scaled_gram: Any, loss_slopes: Any, eta: Any = 1.0) -> np.ndarray:
    r"""Predicted changes from the scaled Gram matrix, with no formula for the loss.

    With :math:`S_{ij} = c_i c_j G_{ij}` and :math:`c = \partial L/\partial(\log\pi_w, \log\pi_l)`,
    :math:`\Delta s_j = -\eta \sum_i S_{ij} / c_j`. One backward pass of a trainer's own loss gives S.

    Args:
        scaled_gram: S, shape (..., 2, 2).
        loss_slopes: c, shape (..., 2); c_w < 0 < c_l for most losses.
        eta: learning rate.

    Returns:
        Shape (..., 2), in nats.

    Raises:
        InputError: a slope is 0 (an inactive hinge, a saturated sigmoid): S then tells nothing of G.
    """
    matrix, slopes = _pair_gram(scaled_gram), np.asarray(loss_slopes, dtype=float)
    if slopes.shape[-1:] != (2,):
        raise InputError(f"loss_slopes has shape {slopes.shape}, expected (..., 2): dL/dlog pi of chosen and rejected.")
    if np.any(slopes == 0):
        raise InputError(
            "A slope dL/dlog pi is 0, so the scaled Gram matrix has lost that row: take the Gram matrix "
            "itself from gentangle.gram and use first_order_changes."
        )
    return -np.asarray(eta)[..., None] * matrix.sum(axis=-2) / slopes


def scaled_gram(gram: Any, loss_slopes: Any) -> np.ndarray:
    r"""Scaled Gram matrix :math:`S_{ij} = c_i c_j G_{ij}`, shape (..., 2, 2); c as in :func:`changes_from_scaled`."""
    slopes = np.asarray(loss_slopes, dtype=float)
    return _pair_gram(gram) * slopes[..., :, None] * slopes[..., None, :]


def conditions_hold(gram: Any, d_chosen: Any = 1.0, d_rejected: Any = 1.0) -> tuple[np.ndarray, np.ndarray]:
    r"""Whether, to first order, chosen does not fall and whether rejected does not rise.

    For d_w, d_l > 0 they read :math:`\langle w,l\rangle \le (d_w/d_l) \lVert w\rVert^2` and
    :math:`\langle w,l\rangle \le (d_l/d_w) \lVert l\rVert^2`; the form used here, the sign of the
    change, holds for slopes of any sign. Two boolean arrays of shape (...).
    """
    changes = first_order_changes(gram, d_chosen, d_rejected)
    return changes[..., 0] >= 0, changes[..., 1] <= 0


def case(changes: Any) -> np.ndarray:
    """Case of each pair from its two changes, shape (..., 2): an array of names, shape (...).

    A change of exactly 0 counts as intended (the conditions are ``<=``); two zeros are ``unmoved``.

    >>> case([[1, -1], [1, 2], [-1, -2], [0, 0]]).tolist()
    ['chosen-up-rejected-down', 'both-up', 'both-down', 'unmoved']

    Raises:
        InputError: another shape.
    """
    values = np.asarray(changes, dtype=float)
    if values.shape[-1:] != (2,):
        raise InputError(f"changes has shape {values.shape}, expected (..., 2): chosen and rejected.")
    chosen_ok, rejected_ok = values[..., 0] >= 0, values[..., 1] <= 0
    return np.select(
        [(values == 0).all(axis=-1), chosen_ok & rejected_ok, chosen_ok, rejected_ok],
        [UNMOVED, INTENDED, BOTH_UP, BOTH_DOWN],
        REVERSED,
    )


def cosine(gram: Any) -> np.ndarray:
    r"""Cosine :math:`\langle w,l\rangle / (\lVert w\rVert \lVert l\rVert)`, shape (...); NaN where a norm is 0."""
    matrix = _pair_gram(gram)
    with np.errstate(invalid="ignore", divide="ignore"):
        return matrix[..., 0, 1] / np.sqrt(matrix[..., 0, 0] * matrix[..., 1, 1])


def normalised_inner_products(gram: Any) -> np.ndarray:
    r"""The pair :math:`\langle w,l\rangle/\lVert w\rVert^2, \langle w,l\rangle/\lVert l\rVert^2`, shape (..., 2).

    For DPO chosen does not fall iff the first is at most 1, rejected does not rise iff the second is.
    """
    matrix = _pair_gram(gram)
    with np.errstate(invalid="ignore", divide="ignore"):
        return matrix[..., 0, 1, None] / np.stack([matrix[..., 0, 0], matrix[..., 1, 1]], axis=-1)


def band_distance(gram: Any, d_chosen: Any = 1.0, d_rejected: Any = 1.0) -> np.ndarray:
    r"""How far a pair's slopes lie outside the disentanglement band, shape (...), 0 inside it.

    With :math:`r = d_w/d_l`, :math:`r^* = \lVert l\rVert/\lVert w\rVert` and the cosine :math:`\rho > 0`, chosen rises
    and rejected falls iff :math:`|\log r - \log r^*| \le -\log\rho`; the distance is the excess, in units of log r.
    For :math:`\rho \le 0` every r > 0 will do. It is the two conditions in one line.

    Raises:
        InputError: a slope is not positive.

    Source: Chen et al., arXiv 2604.18239.
    """
    matrix = _pair_gram(gram)
    d_w, d_l = np.asarray(d_chosen, dtype=float), np.asarray(d_rejected, dtype=float)
    if not (np.all(d_w > 0) and np.all(d_l > 0)):
        raise InputError("The disentanglement band is defined for positive slopes d_w and d_l alone.")
    with np.errstate(invalid="ignore", divide="ignore"):
        off_centre = np.abs(np.log(d_w / d_l) - np.log(matrix[..., 1, 1] / matrix[..., 0, 0]) / 2)
        rho = cosine(matrix)
        return np.where(rho > 0, np.maximum(0, off_centre + np.log(rho)), 0.0)


#: Who moves a chosen log-probability in an SGD step on a batch, in the order of :func:`attribution`'s columns.
PUSHES = ("own_chosen", "own_rejected", "other_chosen", "other_rejected")


def attribution(scaled_gram: Any, loss_slopes: Any, eta: Any = 1.0) -> np.ndarray:
    r"""First-order change of each chosen log-probability under SGD on a batch, split by whose gradients moved it.

    :math:`\Delta \log\pi_{w_j} = -\eta \sum_i S_{i w_j} / c_{w_j}`: the sum runs over the pair's own chosen response,
    its own rejected one, the chosen ones of the other pairs, and their rejected ones.

    Args:
        scaled_gram: S of the batch, shape (2P, 2P), chosen rows first.
        loss_slopes: c, shape (2P,).
        eta: learning rate.

    Returns:
        Shape (P, 4) in nats, columns as in ``PUSHES``; a row adds up to the forecast for the batch. NaN where c is 0.

    Raises:
        InputError: shapes that do not fit.
    """
    matrix, slopes = np.asarray(scaled_gram, dtype=float), np.asarray(loss_slopes, dtype=float)
    pairs = len(pair_blocks(matrix))
    if slopes.shape != (2 * pairs,):
        raise InputError(f"loss_slopes has shape {slopes.shape}, expected ({2 * pairs},): one for each row of S.")
    with np.errstate(invalid="ignore", divide="ignore"):
        moves = -eta * matrix[:, :pairs] / slopes[:pairs]  # of row i on the chosen response of column j
    own = np.arange(pairs)
    own_chosen, own_rejected = moves[own, own], moves[own + pairs, own]
    chosen, rejected = moves[:pairs].sum(0) - own_chosen, moves[pairs:].sum(0) - own_rejected
    return np.stack([own_chosen, own_rejected, chosen, rejected], axis=-1)


def _pair_gram(gram: Any) -> np.ndarray:
    matrix = np.asarray(gram, dtype=float)
    if matrix.shape[-2:] != (2, 2):
        raise InputError(f"The Gram matrix of a pair has shape (..., 2, 2), got {matrix.shape}: rows chosen, rejected.")
    if not np.isfinite(matrix).all():
        raise InputError("The Gram matrix has a NaN or infinite entry: check the log-probabilities it was made from.")
    if not np.allclose(matrix, np.swapaxes(matrix, -1, -2), rtol=1e-6, atol=0):
        raise InputError("The Gram matrix is not symmetric, so it holds no inner products of one set of gradients.")
    return matrix
