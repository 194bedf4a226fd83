"""Softmax policies whose last linear layer alone learns: gradients and Gram matrices in closed form, in numpy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sympy as sp
from scipy.special import log_softmax

from gentangle.alignment.compile import compiled
from gentangle.errors import InputError

#: |w|^2, |l|^2 and <w,l> of one token with shared state h, in p_w, p_l, |p|^2 and |h|^2 (see single_token_gram).
P_CHOSEN, P_REJECTED, P_NORM_SQ, H_NORM_SQ = sp.symbols("p_w p_l p_norm_sq h_norm_sq", nonnegative=True)
SINGLE_TOKEN_CHOSEN_NORM_SQ = H_NORM_SQ * (1 - 2 * P_CHOSEN + P_NORM_SQ)
SINGLE_TOKEN_REJECTED_NORM_SQ = H_NORM_SQ * (1 - 2 * P_REJECTED + P_NORM_SQ)
SINGLE_TOKEN_INNER_PRODUCT = H_NORM_SQ * (P_NORM_SQ - P_CHOSEN - P_REJECTED)
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
    return np.eye(probability.shape[-1])[index] - probability


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
