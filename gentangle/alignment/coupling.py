r"""The margin-gradient coupling as sympy objects: what one SGD step on a pair does to both log-probabilities.

The book prints these objects and the readings of :mod:`gentangle.alignment.conditions` are compiled
from them, so the formula on the page is the formula that runs. Source: Yuan et al., arXiv 2410.13828, Section 3.
"""

import sympy as sp

from gentangle.alignment.symbols import (
    CHOSEN_NORM_SQ,
    D_CHOSEN,
    D_REJECTED,
    ETA,
    INNER_PRODUCT,
    REJECTED_NORM_SQ,
)

#: G of the pair: rows and columns chosen, rejected.
PAIR_GRAM = sp.Matrix([[CHOSEN_NORM_SQ, INNER_PRODUCT], [INNER_PRODUCT, REJECTED_NORM_SQ]])

#: Slopes of the loss, dL/dlog pi: the loss falls with the chosen log-probability and rises with the rejected one.
LOSS_SLOPES = sp.Matrix([-D_CHOSEN, D_REJECTED])

#: First-order changes of (log pi_w, log pi_l) under theta <- theta - eta grad L, that is -eta G c.
FIRST_ORDER = (-ETA * PAIR_GRAM * LOSS_SLOPES).applyfunc(sp.expand)
CHANGE_CHOSEN, CHANGE_REJECTED = FIRST_ORDER

#: The change of the margin log pi_w - log pi_l.
CHANGE_MARGIN = sp.expand(CHANGE_CHOSEN - CHANGE_REJECTED)

#: The conditions of the paper: chosen does not fall, rejected does not rise.
CHOSEN_DOES_NOT_FALL = sp.Ge(CHANGE_CHOSEN, 0)
REJECTED_DOES_NOT_RISE = sp.Le(CHANGE_REJECTED, 0)

#: Squared norm of the pair's loss gradient, |d_w w - d_l l|^2 = c^T G c, never negative.
UPDATE_NORM_SQ = sp.expand((LOSS_SLOPES.T * PAIR_GRAM * LOSS_SLOPES)[0])

#: What the loss gains to first order, d_w Delta_w - d_l Delta_l. It equals eta times UPDATE_NORM_SQ,
#: so with d_w, d_l > 0 chosen down *and* rejected up (both terms negative) cannot happen.
LOSS_DECREASE = sp.expand(D_CHOSEN * CHANGE_CHOSEN - D_REJECTED * CHANGE_REJECTED)
