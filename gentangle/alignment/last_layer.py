r"""A preference pair in a softmax policy whose last layer W alone learns: logits :math:`W h_t`, hidden states fixed.

Source: Yuan et al., arXiv 2410.13828, the theory of the inner product; derived anew in the book.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax

from gentangle.alignment.softmax import last_layer_gram, probabilities, token_residual
from gentangle.errors import InputError


@dataclass(frozen=True)
class LastLayerPair:
    r"""Two responses (chosen, rejected) with fixed hidden states; the last layer W, shape (V, d), learns.

    Token t has logits :math:`W h_t` and probabilities :math:`q_t = \mathrm{softmax}(W h_t)`. Of each response
    ``states`` holds the :math:`h_t`, shape (T, d), and ``tokens`` the :math:`y_t`, shape (T,). What is given for each
    token has shape (n,), n = T_w + T_l, the chosen response's first.

    Raises:
        InputError: shapes that do not fit, or an empty response.
    """

    states: tuple[np.ndarray, np.ndarray]
    tokens: tuple[np.ndarray, np.ndarray]

    def __post_init__(self) -> None:
        shapes = [(np.shape(h), np.shape(y)) for h, y in zip(self.states, self.tokens, strict=True)]
        if any(len(h) != 2 or h[:1] != y or not h[0] for h, y in shapes) or len({h[1] for h, _ in shapes}) != 1:
            raise InputError(f"States and tokens have shapes {shapes}: expected (T, d) and (T,), T >= 1, d the same.")

    @property
    def signs(self) -> np.ndarray:
        """+1 for a token of the chosen response, -1 for one of the rejected; shape (n,)."""
        return np.repeat([1, -1], [len(y) for y in self.tokens])

    def sums(self, per_token: Any) -> np.ndarray:
        """Sums over the chosen and over the rejected response, shape (2,)."""
        return np.array([np.sum(part) for part in np.split(np.asarray(per_token), [len(self.tokens[0])])])

    def token_log_probs(self, weight: Any) -> np.ndarray:
        """Log-probability of each token, in nats; shape (n,)."""
        logs = log_softmax(np.concatenate(self.states) @ np.transpose(weight), axis=-1)
        return np.asarray(np.take_along_axis(logs, np.concatenate(self.tokens)[:, None], axis=-1)[:, 0])

    def log_probs(self, weight: Any) -> np.ndarray:
        """log pi_w and log pi_l in nats, summed over tokens; shape (2,)."""
        return self.sums(self.token_log_probs(weight))

    def token_gram(self, weight: Any) -> np.ndarray:
        r"""Inner products :math:`\langle h_t,h_s\rangle\langle e_{y_t}-q_t, e_{y_s}-q_s\rangle`, shape (n, n)."""
        states, tokens = np.concatenate(self.states), np.concatenate(self.tokens)
        q = probabilities(states @ np.transpose(weight))
        return last_layer_gram(*(list(part[:, None]) for part in (states, q, tokens)))

    def gradients(self, weight: Any) -> np.ndarray:
        r"""w and l, for each response :math:`\sum_t (e_{y_t} - q_t) h_t^\top`; shape (2, V, d)."""
        rows = zip(self.states, self.tokens, strict=True)
        return np.stack([token_residual(probabilities(h @ np.transpose(weight)), y).T @ h for h, y in rows])

    def gram(self, weight: Any) -> np.ndarray:
        """Gram matrix of w and l, shape (2, 2)."""
        gradients = self.gradients(weight).reshape(2, -1)
        return np.asarray(gradients @ gradients.T)

    def variances(self, weight: Any, direction: Any) -> np.ndarray:
        r"""Minus each second derivative along U: :math:`\sum_t \mathrm{Var}_{q_t}(U h_t)`; shape (2,)."""
        each = [(probabilities(h @ np.transpose(weight)), h @ np.transpose(direction)) for h in self.states]
        return np.array([np.sum(q * u**2) - np.sum(np.sum(q * u, axis=-1) ** 2) for q, u in each])


def suffix_pair(length: int, miss: tuple[float, float], similarity: float) -> tuple[LastLayerPair, np.ndarray]:
    r"""A pair that differs in its first token and shares ``length`` more, and the last layer it starts from; 6 tokens.

    Suffix states have norm 1, are orthogonal across positions, and have the cosine ``similarity`` between the
    responses. The first token is uniform; a suffix token is missed with probabilities ``miss`` (:math:`\epsilon` after
    chosen, :math:`\epsilon'` after rejected), spread evenly over the other tokens.

    Raises:
        InputError: a miss outside (0, 1), or a similarity outside (-1, 1).
    """
    if not (all(0 < e < 1 for e in miss) and -1 < similarity < 1):
        raise InputError(
            f"suffix_pair got miss {miss} and similarity {similarity}: expected probabilities between 0 and 1, and a "
            "cosine between -1 and 1."
        )
    eye, across = np.eye(1 + 2 * length), np.sqrt(1 - similarity**2)
    first, own, fresh = np.split(eye, [1, 1 + length])
    suffix = 2 + np.arange(length) % 4
    hit = np.eye(6)[suffix]
    chosen, rejected = (np.log(hit * (1 - e) + (1 - hit) * e / 5) for e in miss)
    weight = chosen.T @ own + (rejected - similarity * chosen).T @ fresh / across
    states = (np.vstack([first, own]), np.vstack([first, similarity * own + across * fresh]))
    return LastLayerPair(states, (np.r_[0, suffix], np.r_[1, suffix])), weight
