r"""Two responses that differ in one token and share what follows: their Gram matrix when the last layer alone learns.

Chosen and rejected are prefix + contrast token + suffix. Up to the contrast token both see the same hidden states;
after it, states and distributions may depend on which of the two tokens came (the *branch*). :class:`SuffixPair` holds
for any states, ``ORTHOGONAL_ENTRIES`` for states orthogonal across positions.

Source: after Yuan et al., arXiv 2410.13828, the theorem on shared tokens; the hypotheses and the closed forms are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import sympy as sp

from gentangle.alignment import softmax
from gentangle.alignment.compile import compiled
from gentangle.errors import InputError

#: Length T of the suffix; k = |h^w|^2 and |h^l| / |h^w| of a position's two states, then their cosine.
LENGTH, STATE_NORM_SQ, KAPPA = sp.symbols("T k kappa", positive=True)
RHO = sp.Symbol("rho", real=True)
#: 1 - probability of the suffix's token after either branch; |o|^2 of the distribution over the other tokens.
MISS_CHOSEN, MISS_REJECTED, OFF_NORM_SQ = sp.symbols("varepsilon_w varepsilon_l o_norm_sq", nonnegative=True)
SUFFIX_LATEX = softmax.SINGLE_TOKEN_LATEX | {OFF_NORM_SQ: r"\lVert o\rVert^2"}

#: |w|^2, |l|^2 and <w,l>: the contrast token's, and what T positions add.
_ADDED = LENGTH * STATE_NORM_SQ * (1 + OFF_NORM_SQ)
ORTHOGONAL_ENTRIES = (
    softmax.SINGLE_TOKEN_CHOSEN_NORM_SQ + _ADDED * MISS_CHOSEN**2,
    softmax.SINGLE_TOKEN_REJECTED_NORM_SQ + _ADDED * KAPPA**2 * MISS_REJECTED**2,
    softmax.SINGLE_TOKEN_INNER_PRODUCT + _ADDED * RHO * KAPPA * MISS_CHOSEN * MISS_REJECTED,
)


class Span(NamedTuple):
    """Consecutive tokens (n,), the hidden states (n, d) that predicted them, and their distributions (n, V)."""

    states: np.ndarray
    p: np.ndarray
    tokens: np.ndarray

    def residuals(self) -> np.ndarray:
        """e_y - p of every token, (n, V)."""
        return softmax.token_residual(self.p, self.tokens)

    def gradient(self) -> np.ndarray:
        """Gradient of the tokens' summed log-probabilities in the last layer, (V, d)."""
        return self.residuals().T @ self.states


def same_position(own: Span, other: Span) -> np.ndarray:
    r"""What each position of two spans gives to :math:`\langle g, g - g'\rangle` with itself, shape (n,)."""
    (h, r), (k, s) = ((span.states, span.residuals()) for span in (own, other))
    return (h * h).sum(1) * (r * r).sum(1) - (h * k).sum(1) * (r * s).sum(1)


#: Rows of :meth:`SuffixPair.parts`.
PARTS = ("prefix", "contrast", "contrast with suffix", "same position", "across positions")


@dataclass(frozen=True)
class SuffixPair:
    """A preference pair: a shared prefix (or none), the contrast token, a shared suffix.

    ``state`` (d,) and ``p`` (V,) predict the contrast token, which is ``chosen`` or ``rejected``; the suffix, the same
    tokens on both sides, is predicted by ``after_chosen`` and by ``after_rejected``. ``prefix`` is of the responses.

    Raises:
        InputError: the branches' suffixes have other tokens, or chosen equals rejected.
    """

    state: np.ndarray
    p: np.ndarray
    chosen: int
    rejected: int
    after_chosen: Span
    after_rejected: Span
    prefix: Span | None = None

    def __post_init__(self) -> None:
        if self.chosen == self.rejected:
            raise InputError(f"chosen and rejected are both token {self.chosen}: a pair must differ.")
        if not np.array_equal(self.after_chosen.tokens, self.after_rejected.tokens):
            raise InputError("The tokens of after_chosen and after_rejected differ: a shared suffix is one text.")

    def sides(self) -> list[tuple[Span, Span, Span]]:
        """Prefix, contrast token and suffix of the chosen and of the rejected response."""
        before = self.prefix or Span(self.state[None][:0], self.p[None][:0], np.zeros(0, dtype=int))
        after = ((self.chosen, self.after_chosen), (self.rejected, self.after_rejected))
        return [(before, Span(self.state[None], self.p[None], np.array([y])), suffix) for y, suffix in after]

    def responses(self) -> list[Span]:
        """The chosen and the rejected response, each as one span."""
        return [Span(*map(np.concatenate, zip(*side, strict=True))) for side in self.sides()]

    def gram(self) -> np.ndarray:
        """The pair's Gram matrix, shape (2, 2)."""
        return softmax.last_layer_gram(*map(list, zip(*self.responses(), strict=True)))

    def parts(self) -> np.ndarray:
        r"""Where the slacks of the two conditions come from, shape (5, 2): a row for each of ``PARTS``.

        The columns add up to :math:`\lVert w\rVert^2 - \langle w,l\rangle` and to
        :math:`\lVert l\rVert^2 - \langle w,l\rangle`.
        """
        sides, columns = self.sides(), []
        for own, other in (sides, sides[::-1]):  # <g, g - g'>: the prefix drops out of the difference
            prefix, token, suffix = (span.gradient() for span in own)
            _, token_apart, suffix_apart = (a.gradient() - b.gradient() for a, b in zip(own, other, strict=True))
            same = np.sum(same_position(own[2], other[2]))
            before = np.sum(prefix * (token_apart + suffix_apart))
            crossed = np.sum(token * suffix_apart + suffix * token_apart)
            columns.append((before, np.sum(token * token_apart), crossed, same, np.sum(suffix * suffix_apart) - same))
        return np.array(columns).T


def even_pair(p: np.ndarray, states: Sequence[np.ndarray], misses: Sequence[Any], tokens: np.ndarray) -> SuffixPair:
    """Tokens 0 (chosen) and 1 (rejected) at state (1, 0, ..., 0), then a suffix whose tokens are missed evenly.

    ``states`` and ``misses`` (a number, or one a token, (T, 1)) hold the chosen branch's, then the rejected branch's.
    """
    hit = np.eye(len(p))[tokens]
    q = [hit * (1 - miss) + (1 - hit) * miss / (len(p) - 1) for miss in misses]
    after = [Span(h, k, tokens) for h, k in zip(states, q, strict=True)]
    return SuffixPair(np.eye(states[0].shape[1])[0], p, 0, 1, *after)


def orthogonal_gram(p_w: Any, p_l: Any, length: Any, miss_w: Any, miss_l: Any, rho: Any, kappa: Any = 1) -> np.ndarray:
    """Gram matrix by ``ORTHOGONAL_ENTRIES``, shape (..., 2, 2), of a vocabulary of six.

    p and the misses are spread evenly over the unnamed tokens; the contrast token's state and the suffix's states after
    chosen have norm 1.

    Args:
        p_w, p_l: probabilities of the contrast tokens.
        length: tokens of the suffix.
        miss_w, miss_l: 1 - probability of a suffix token after chosen, after rejected.
        rho, kappa: cosine of a position's two states, and the norm of the rejected branch's.

    Raises:
        InputError: p_w, p_l, p_w + p_l or a miss outside 0..1.
    """
    given = p_w, p_l, miss_w, miss_l = [np.asarray(x, dtype=float) for x in (p_w, p_l, miss_w, miss_l)]
    if not all(((x >= 0) & (x <= 1 + 1e-9)).all() for x in (*given, p_w + p_l)):
        raise InputError("p_w, p_l, p_w + p_l, miss_w and miss_l are probabilities: expected numbers from 0 to 1.")
    symbols = (softmax.P_CHOSEN, softmax.P_REJECTED, softmax.P_NORM_SQ, LENGTH, MISS_CHOSEN, MISS_REJECTED, RHO, KAPPA)
    values = (p_w, p_l, p_w**2 + p_l**2 + (1 - p_w - p_l) ** 2 / 4, length, miss_w, miss_l, rho, kappa)
    units = {softmax.H_NORM_SQ: 1, STATE_NORM_SQ: 1, OFF_NORM_SQ: sp.Rational(1, 5)}
    entries = (compiled(symbols, entry.subs(units), "numpy")(*values) for entry in ORTHOGONAL_ENTRIES)
    w, l, inner = np.broadcast_arrays(*entries)
    return np.stack([np.stack([w, inner], -1), np.stack([inner, l], -1)], -1)
