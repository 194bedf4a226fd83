"""Softmax policies whose last linear layer alone learns: gradients and Gram matrices in closed form, in numpy.

Source: Yuan et al., arXiv 2410.13828, the theory of the inner product, one token and the last layer learning; derived
anew in the book.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sympy as sp
from scipy.special import log_softmax

from gentangle.alignment.compile import compiled
from gentangle.alignment.symbols import D_CHOSEN, D_REJECTED, ETA
from gentangle.errors import InputError

#: |w|^2, |l|^2 and <w,l> of one token with shared state h, in p_w, p_l, |p|^2 and |h|^2 (see single_token_gram).
P_CHOSEN, P_REJECTED, P_NORM_SQ, H_NORM_SQ = sp.symbols("p_w p_l norm_sq_p h_norm_sq", nonnegative=True)
SINGLE_TOKEN_CHOSEN_NORM_SQ = H_NORM_SQ * (1 - 2 * P_CHOSEN + P_NORM_SQ)
SINGLE_TOKEN_REJECTED_NORM_SQ = H_NORM_SQ * (1 - 2 * P_REJECTED + P_NORM_SQ)
SINGLE_TOKEN_INNER_PRODUCT = H_NORM_SQ * (P_NORM_SQ - P_CHOSEN - P_REJECTED)

#: |w|^2 - <w,l> and |l|^2 - <w,l>: what the two conditions of a pair with d_w = d_l have to spare.
CHOSEN_SLACK = H_NORM_SQ * (1 - P_CHOSEN + P_REJECTED)
REJECTED_SLACK = H_NORM_SQ * (1 - P_REJECTED + P_CHOSEN)

#: Bystanders j, k (neither chosen nor rejected) in one tabular step (see logit_step): the change of log(p_j / p_k),
#: exact at any eta, and the change of log p_j to first order.
P_J, P_K = sp.symbols("p_j p_k", nonnegative=True)
BYSTANDER_RATIO_CHANGE = ETA * (D_REJECTED - D_CHOSEN) * (P_J - P_K)
BYSTANDER_CHANGE = ETA * ((D_REJECTED - D_CHOSEN) * (P_J - P_NORM_SQ) + D_REJECTED * P_REJECTED - D_CHOSEN * P_CHOSEN)

#: What every bystander's probability is multiplied by once z_w - z_l has grown by 2s in steps with d_w = d_l.
LOGIT_SHIFT = sp.Symbol("s", positive=True)
BYSTANDER_FACTOR = 1 / (1 + P_CHOSEN * (sp.exp(LOGIT_SHIFT) - 1) - P_REJECTED * (1 - sp.exp(-LOGIT_SHIFT)))

SINGLE_TOKEN_LATEX = {
    P_CHOSEN: "p_w",
    P_REJECTED: "p_l",
    P_NORM_SQ: r"\lVert p\rVert^2",
    H_NORM_SQ: r"\lVert h\rVert^2",
}


def probabilities(logits: Any) -> np.ndarray:
    """softmax(logits) over the last axis, finite for logits of any size."""
    return np.exp(log_softmax(np.asarray(logits, dtype=float), axis=-1))


def token_residual(p: Any, token: Any) -> np.ndarray:
    r"""Gradient of log p(y) with respect to the logits, :math:`e_y - p`, shape (..., V).

    Args:
        p: probabilities, shape (..., V).
        token: index y of the token, shape (...).

    Raises:
        InputError: the probabilities do not sum to 1, or a token lies outside 0..V-1.
    """
    probability, index = np.asarray(p, dtype=float), np.asarray(token)
    if not np.allclose(probability.sum(axis=-1), 1, atol=1e-8) or (probability < 0).any():
        raise InputError("The probabilities do not sum to 1 over the last axis: pass softmax(logits), not logits.")
    if not ((index >= 0) & (index < probability.shape[-1])).all():
        raise InputError(
            f"A token index lies outside 0..{probability.shape[-1] - 1}, the vocabulary of the probabilities."
        )
    return (np.arange(probability.shape[-1]) == index[..., None]) - probability


def single_token_gram(p: Any, chosen: int, rejected: int, hidden_norm_sq: float = 1.0) -> np.ndarray:
    r"""Gram matrix of two one-token responses to one prompt, last layer learnable.

    .. math::
        \lVert w\rVert^2 = \lVert h\rVert^2 (1 - 2p_w + \lVert p\rVert^2), \qquad
        \langle w,l\rangle = \lVert h\rVert^2 (\lVert p\rVert^2 - p_w - p_l)

    so :math:`\lVert w\rVert^2 - \langle w,l\rangle = \lVert h\rVert^2 (1 - p_w + p_l) > 0`: DPO on one
    token never pulls the chosen one down. Shape (2, 2).

    Raises:
        InputError: probabilities that do not sum to 1, chosen equal to rejected.
    """
    if chosen == rejected:
        raise InputError(f"chosen and rejected are both token {chosen}: a pair must differ.")
    p = np.asarray(p, dtype=float)
    token_residual(p, np.array([chosen, rejected]))  # checks p and the indices
    symbols = (P_CHOSEN, P_REJECTED, P_NORM_SQ, H_NORM_SQ)
    values = (p[chosen], p[rejected], p @ p, hidden_norm_sq)
    w, l, inner = (
        float(compiled(symbols, formula, "numpy")(*values))
        for formula in (SINGLE_TOKEN_CHOSEN_NORM_SQ, SINGLE_TOKEN_REJECTED_NORM_SQ, SINGLE_TOKEN_INNER_PRODUCT)
    )
    return np.array([[w, inner], [inner, l]])


def gram_from_logits(p: Any, tokens: Any, kernel: Any) -> np.ndarray:
    r"""Gram matrix of one-token log-probabilities of one prompt, whatever layers learn.

    .. math:: G_{ij} = (e_{y_i} - p)^\top K\, (e_{y_j} - p), \qquad K = J J^\top,

    with J the Jacobian of the logits, so K is their own Gram matrix: the identity for tabular logits,
    :math:`\lVert h\rVert^2` times it for a last layer, ``gentangle.gram(model, logits)`` for a deeper model.

    Args:
        p: probabilities, shape (V,).
        tokens: n token indices.
        kernel: K, shape (V, V).

    Returns:
        Shape (n, n).

    Raises:
        InputError: a kernel of another shape, or what :func:`token_residual` refuses.
    """
    residuals, matrix = token_residual(p, tokens), np.asarray(kernel, dtype=float)
    if matrix.shape != (residuals.shape[-1],) * 2:
        raise InputError(
            f"The logit kernel has shape {matrix.shape}, expected (V, V) with V = {residuals.shape[-1]}: "
            "gentangle.gram(model, logits) gives it."
        )
    return residuals @ matrix @ residuals.T


def logit_step(
    p: Any, chosen: int, rejected: int, d_chosen: float = 1.0, d_rejected: float = 1.0, eta: float = 1.0
) -> np.ndarray:
    r"""Change of the logits in one SGD step on a one-token pair, tabular logits.

    .. math:: \Delta z = \eta \left( d_w (e_w - p) - d_l (e_l - p) \right)

    A learnable last layer with state h takes the same step, :math:`\lVert h\rVert^2` times as long. With
    ``d_chosen=0`` it pushes rejected down and does nothing else. Shape (V,).

    Raises:
        InputError: what :func:`token_residual` refuses.
    """
    up, down = token_residual(p, np.array([chosen, rejected]))
    return eta * (d_chosen * up - d_rejected * down)


def token_changes(p: Any, step: Any) -> np.ndarray:
    r"""First-order change of every token's log-probability, :math:`\Delta z_j - \langle p, \Delta z\rangle`.

    Args:
        p: probabilities, shape (..., V).
        step: change of the logits, shape (..., V).
    """
    logits = np.asarray(step, dtype=float)
    return logits - np.sum(np.asarray(p, dtype=float) * logits, axis=-1, keepdims=True)


def last_layer_gram(states: Sequence[Any], p: Sequence[Any], tokens: Sequence[Any]) -> np.ndarray:
    r"""Gram matrix of sequence log-probabilities when the last layer W (logits W h_t) alone learns.

    .. math:: G_{ij} = \sum_{t,s} \langle h^i_t, h^j_s\rangle \langle e_{y^i_t} - p^i_t, e_{y^j_s} - p^j_s\rangle

    Args:
        states: for each of n responses its hidden states, shape (T_i, d).
        p: for each response its next-token probabilities, shape (T_i, V).
        tokens: for each response its tokens, shape (T_i,).

    Returns:
        Shape (n, n).

    Raises:
        InputError: lengths that do not fit, an empty response, probabilities that do not sum to 1.
    """
    hidden = [np.asarray(h, dtype=float) for h in states]
    lengths = {(len(h), len(q), len(y)) for h, q, y in zip(hidden, p, tokens, strict=True)}
    if any(len(set(triple)) > 1 or 0 in triple for triple in lengths):
        raise InputError(
            f"States, probabilities and tokens of a response have lengths {sorted(lengths)}: expected three "
            "equal, positive numbers for each response."
        )
    residuals = [token_residual(q, np.asarray(y)) for q, y in zip(p, tokens, strict=True)]
    n = len(hidden)
    result = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            result[i, j] = np.sum((hidden[i] @ hidden[j].T) * (residuals[i] @ residuals[j].T))
    return result
