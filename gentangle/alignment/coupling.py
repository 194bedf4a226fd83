r"""The margin-gradient coupling as sympy objects: what one SGD step on a pair does to both log-probabilities.

The book prints these objects and the readings of :mod:`gentangle.alignment.conditions` are compiled
from them, so the formula on the page is the formula that runs.
Source: Yuan et al., arXiv 2410.13828, the gradient inner product condition.
"""

import sympy as sp

from gentangle.alignment.symbols import (
    CHOSEN_NORM_SQ,
    D_CHOSEN,
    D_REJECTED,
    ETA,
    GRADIENT_CHOSEN,
    GRADIENT_REJECTED,
    INNER_PRODUCT,
    LOGP_CHOSEN,
    LOGP_REJECTED,
    REJECTED_NORM_SQ,
)

#: The paper's general form: m of the margin, Lambda of the chosen log-probability alone. A term Lambda_l of rejected's
#: own, as Cal-DPO has it, lies outside; it would take Lambda_l' from d_l, and all from LOSS_GRADIENT on would stand.
_m, _h_w, _h_l, _likelihood = map(sp.Function, ("m", "h_w", "h_l", "Lambda"))
MARGIN_LOSS = -(_m(_h_w(LOGP_CHOSEN) - _h_l(LOGP_REJECTED)) + _likelihood(LOGP_CHOSEN))

#: Its slopes (d_w, d_l) by the chain rule; the symbols stand for the derivatives of the four parts.
M_PRIME, H_W_PRIME, H_L_PRIME, LIKELIHOOD_PRIME = _primes = sp.symbols("m_prime h_w_prime h_l_prime Lambda_prime")
SLOPES = (M_PRIME * H_W_PRIME + LIKELIHOOD_PRIME, M_PRIME * H_L_PRIME)
SLOPES_LATEX = dict(
    zip(_primes, (r"m'(u)", r"h_w'(\log\pi_w)", r"h_l'(\log\pi_l)", r"\Lambda'(\log\pi_w)"), strict=True)
)

#: Its gradient, with w and l for the gradients of the two log-probabilities.
LOSS_GRADIENT = -(D_CHOSEN * GRADIENT_CHOSEN - D_REJECTED * GRADIENT_REJECTED)

#: G of the pair: rows and columns chosen, rejected.
PAIR_GRAM = sp.Matrix([[CHOSEN_NORM_SQ, INNER_PRODUCT], [INNER_PRODUCT, REJECTED_NORM_SQ]])

#: Slopes of the loss, dL/dlog pi: the loss falls with the chosen log-probability and rises with the rejected one.
LOSS_SLOPES = sp.Matrix([-D_CHOSEN, D_REJECTED])

#: First-order changes of (log pi_w, log pi_l) under theta <- theta - eta grad L, that is -eta G c.
FIRST_ORDER = ETA * (-PAIR_GRAM * LOSS_SLOPES)
CHANGE_CHOSEN, CHANGE_REJECTED = FIRST_ORDER

#: S_ij = c_i c_j G_ij: what one backward pass of a trainer's own loss gives, without a formula for that loss.
SCALED_GRAM = sp.diag(*LOSS_SLOPES) * PAIR_GRAM * sp.diag(*LOSS_SLOPES)

#: The same changes from it: column sums of S over the slopes.
FROM_SCALED = sp.Matrix([-ETA * sum(SCALED_GRAM[:, j]) / LOSS_SLOPES[j] for j in range(2)])

#: The conditions of the paper, for d_w, d_l > 0: chosen does not fall, rejected does not rise.
CHOSEN_CONDITION = sp.Le(INNER_PRODUCT, D_CHOSEN / D_REJECTED * CHOSEN_NORM_SQ)
REJECTED_CONDITION = sp.Le(INNER_PRODUCT, D_REJECTED / D_CHOSEN * REJECTED_NORM_SQ)

#: Squared norm of the pair's loss gradient, |d_w w - d_l l|^2 = c^T G c, never negative.
UPDATE_NORM_SQ = sp.expand((LOSS_SLOPES.T * PAIR_GRAM * LOSS_SLOPES)[0])

#: What the loss gains to first order, d_w Delta_w - d_l Delta_l. It equals eta times UPDATE_NORM_SQ,
#: so with d_w, d_l > 0 chosen down *and* rejected up (both terms negative) cannot happen.
LOSS_DECREASE = D_CHOSEN * CHANGE_CHOSEN - D_REJECTED * CHANGE_REJECTED
