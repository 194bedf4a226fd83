"""The margin losses of the field, each defined once.

To add an objective, add a row to ``_DEFINITIONS``: its tests and its row of the book's table follow.

Source: the general form of Yuan et al., arXiv 2410.13828; each row names its own paper.
"""

from collections.abc import Mapping
from types import MappingProxyType

import sympy as sp

from gentangle.alignment.margin_loss import Objective
from gentangle.alignment.symbols import (
    ALPHA,
    ANCHOR,
    BETA,
    DELTA,
    EPSILON,
    GAMMA,
    LAMBDA,
    LAMBDA_CHOSEN,
    LAMBDA_REJECTED,
    LEN_CHOSEN,
    LEN_REJECTED,
    LOGP_CHOSEN,
    LOGP_REJECTED,
    MARGIN,
    REF_CHOSEN,
    REF_REJECTED,
    TAU,
    log_odds,
    log_sigmoid,
    min0,
    sigmoid,
)
from gentangle.errors import one_of

# What the rows share: log-ratios to the reference, per token or not, and the reference's part of DPO's margin.
_RATIO_W, _RATIO_L = LOGP_CHOSEN - REF_CHOSEN, LOGP_REJECTED - REF_REJECTED
_W, _L = BETA * LOGP_CHOSEN, BETA * LOGP_REJECTED
_REF = BETA * (REF_CHOSEN - REF_REJECTED)
_REF_PER_TOKEN = REF_CHOSEN / LEN_CHOSEN - REF_REJECTED / LEN_REJECTED
_X = MARGIN - _REF
_TARGET = 1 / (2 * BETA)

_DEFINITIONS = (
    Objective(
        "dpo",
        "DPO",
        m=log_sigmoid(_X),
        h_chosen=_W,
        h_rejected=_L,
        defaults={BETA: 0.1},
        source="Rafailov et al., arXiv 2305.18290, Equation 7",
        trl="dpo:sigmoid",
    ),
    Objective(
        "r-dpo",
        "R-DPO",
        m=log_sigmoid(_X + ALPHA * (LEN_CHOSEN - LEN_REJECTED)),
        h_chosen=_W,
        h_rejected=_L,
        defaults={BETA: 0.1, ALPHA: 0.2},
        source="Park et al., arXiv 2403.19159; the sign of the length term follows from the reward r - alpha len",
    ),
    Objective(
        "dpo-shift",
        "DPO-Shift",
        m=log_sigmoid(MARGIN - BETA * (REF_CHOSEN - LAMBDA * REF_REJECTED)),
        h_chosen=_W,
        h_rejected=LAMBDA * _L,
        defaults={BETA: 0.1, LAMBDA: 0.75},
        source="Yang et al., arXiv 2502.07599, with a constant lambda",
    ),
    Objective(
        "dpo-norm",
        "DPO per token",
        m=log_sigmoid(MARGIN - BETA * _REF_PER_TOKEN),
        h_chosen=_W / LEN_CHOSEN,
        h_rejected=_L / LEN_REJECTED,
        defaults={BETA: 0.1},
        source="the loss of Lambert et al. (Tulu 3), arXiv 2411.15124",
        trl="dpo:sigmoid_norm",
    ),
    Objective(
        "dpop",
        "DPOP",
        m=log_sigmoid(_X),
        h_chosen=BETA * (LOGP_CHOSEN + LAMBDA * min0(_RATIO_W)),
        h_rejected=_L,
        defaults={BETA: 0.1, LAMBDA: 50.0},
        source="Pal et al., arXiv 2402.13228 (Smaug), Equation 3",
    ),
    Objective(
        "robust",
        "robust DPO",
        m=((1 - EPSILON) * log_sigmoid(_X) - EPSILON * log_sigmoid(-_X)) / (1 - 2 * EPSILON),
        h_chosen=_W,
        h_rejected=_L,
        defaults={BETA: 0.1, EPSILON: 0.1},
        source="Chowdhury et al., arXiv 2403.00409; epsilon is the share of flipped labels, at 0 it is DPO",
        trl="dpo:robust",
    ),
    Objective(
        "exo",
        "EXO",
        m=-sigmoid(_X) * (log_sigmoid(_X) - sp.log(1 - EPSILON)) - sigmoid(-_X) * (log_sigmoid(-_X) - sp.log(EPSILON)),
        h_chosen=_W,
        h_rejected=_L,
        defaults={BETA: 0.1, EPSILON: 1e-3},
        source="Ji et al., arXiv 2402.00856, Equation 16, for two responses",
        trl="dpo:exo_pair",
    ),
    Objective(
        "discopop",
        "DiscoPOP",
        # exp(-x) sigma(x / tau) as one exponential: the factors alone overflow and underflow.
        m=log_sigmoid(_X) * sigmoid(-_X / TAU) - sp.exp(log_sigmoid(_X / TAU) - _X),
        h_chosen=_W,
        h_rejected=_L,
        defaults={BETA: 0.1, TAU: 0.05},
        source="Lu et al., arXiv 2406.08414, Equation 5",
        trl="dpo:discopop",
    ),
    Objective(
        "ipo",
        "IPO",
        m=-((MARGIN - (REF_CHOSEN - REF_REJECTED) - _TARGET) ** 2),
        h_chosen=LOGP_CHOSEN,
        h_rejected=LOGP_REJECTED,
        defaults={BETA: 0.1},
        source="Azar et al., arXiv 2310.12036, Equation 17 (its tau is beta here, as in TRL); summed over tokens",
    ),
    Objective(
        "ipo-norm",
        "IPO per token",
        m=-((MARGIN - _REF_PER_TOKEN - _TARGET) ** 2),
        h_chosen=LOGP_CHOSEN / LEN_CHOSEN,
        h_rejected=LOGP_REJECTED / LEN_REJECTED,
        defaults={BETA: 0.1},
        source="TRL's reading of Azar et al., arXiv 2310.12036, Equation 17: log-ratios averaged over tokens",
        trl="dpo:ipo",
    ),
    Objective(
        "hinge",
        "hinge",
        m=min0(_X - 1),
        h_chosen=_W,
        h_rejected=_L,
        defaults={BETA: 0.1},
        source="Liu et al. (RSO), arXiv 2309.06657, the normalised hinge loss",
        trl="dpo:hinge",
    ),
    Objective(
        "simpo",
        "SimPO",
        m=log_sigmoid(MARGIN - GAMMA),
        h_chosen=_W / LEN_CHOSEN,
        h_rejected=_L / LEN_REJECTED,
        defaults={BETA: 2.0, GAMMA: 1.0},
        source="Meng et al., arXiv 2405.14734, Equation 6",
        trl="cpo:simpo",
    ),
    Objective(
        "rrhf",
        "RRHF",
        m=min0(MARGIN),
        h_chosen=LOGP_CHOSEN / LEN_CHOSEN,
        h_rejected=LOGP_REJECTED / LEN_REJECTED,
        likelihood=LAMBDA * LOGP_CHOSEN,
        defaults={LAMBDA: 1.0},
        source="Yuan et al., arXiv 2304.05302",
    ),
    Objective(
        "slic-hf",
        "SLiC-HF",
        m=min0(MARGIN - DELTA),
        h_chosen=LOGP_CHOSEN,
        h_rejected=LOGP_REJECTED,
        likelihood=LAMBDA * LOGP_CHOSEN,
        defaults={DELTA: 1.0, LAMBDA: 0.1},
        source="Zhao et al., arXiv 2305.10425, Equation 1",
    ),
    Objective(
        "cpo",
        "CPO",
        m=log_sigmoid(MARGIN),
        h_chosen=_W,
        h_rejected=_L,
        likelihood=LAMBDA * LOGP_CHOSEN,
        defaults={BETA: 0.1, LAMBDA: 1.0},
        source="Xu et al., arXiv 2401.08417; TRL divides the likelihood term by the number of tokens",
        trl="cpo:sigmoid",
    ),
    Objective(
        "orpo",
        "ORPO",
        m=LAMBDA * log_sigmoid(MARGIN),
        h_chosen=log_odds(LOGP_CHOSEN / LEN_CHOSEN),
        h_rejected=log_odds(LOGP_REJECTED / LEN_REJECTED),
        likelihood=LOGP_CHOSEN / LEN_CHOSEN,
        defaults={LAMBDA: 0.1},
        source="Hong et al., arXiv 2403.07691, Equations 6 and 7",
        trl="orpo:orpo",
    ),
    Objective(
        "kto",
        "KTO",
        m=MARGIN - LAMBDA_CHOSEN,
        h_chosen=LAMBDA_CHOSEN * sigmoid(BETA * (_RATIO_W - ANCHOR)),
        h_rejected=LAMBDA_REJECTED * sigmoid(BETA * (_RATIO_L - ANCHOR)),
        defaults={BETA: 0.1, ANCHOR: 0.0, LAMBDA_CHOSEN: 1.0, LAMBDA_REJECTED: 1.0},
        source="Ethayarajh et al., arXiv 2402.01306, Equation 8, for a pair; z_0, a divergence in nats, is no function "
        "of the parameters",
        trl="kto:kto",
    ),
    Objective(
        "bco",
        "BCO",
        m=MARGIN,
        h_chosen=log_sigmoid(BETA * _RATIO_W),
        h_rejected=-log_sigmoid(-BETA * _RATIO_L),
        defaults={BETA: 0.1},
        source="Jung et al., arXiv 2404.04656, without the reward shift, as TRL's bco_pair",
        trl="dpo:bco_pair",
    ),
    Objective(
        "nca",
        "NCA",
        m=MARGIN,
        h_chosen=log_sigmoid(BETA * _RATIO_W) + log_sigmoid(-BETA * _RATIO_W) / 2,
        h_rejected=-log_sigmoid(-BETA * _RATIO_L) / 2,
        defaults={BETA: 0.1},
        source="Chen et al., arXiv 2402.05369, for two responses",
        trl="dpo:nca_pair",
    ),
    Objective(
        "apo-zero",
        "APO-zero",
        m=MARGIN - 1,
        h_chosen=sigmoid(BETA * _RATIO_W),
        h_rejected=sigmoid(BETA * _RATIO_L),
        defaults={BETA: 0.1},
        source="D'Oosterlinck et al., arXiv 2408.06266, Equation 7, up to a constant",
        trl="dpo:apo_zero",
    ),
    Objective(
        "apo-down",
        "APO-down",
        m=sigmoid(_X) - 1,
        h_chosen=_W,
        h_rejected=_L,
        likelihood=-sigmoid(BETA * _RATIO_W),
        defaults={BETA: 0.1},
        source="D'Oosterlinck et al., arXiv 2408.06266, Equation 8, up to a constant",
        trl="dpo:apo_down",
    ),
    Objective(
        "sppo",
        "SPPO",
        m=MARGIN,
        h_chosen=-((_RATIO_W - _TARGET) ** 2),
        h_rejected=(_RATIO_L + _TARGET) ** 2,
        defaults={BETA: 0.1},
        source="Wu et al., arXiv 2405.00675, Equation 4.7, with a sure winner",
        trl="dpo:sppo_hard",
    ),
    Objective(
        "cal-dpo",
        "Cal-DPO",
        m=log_sigmoid(MARGIN - (REF_CHOSEN - REF_REJECTED)),
        h_chosen=LOGP_CHOSEN,
        h_rejected=LOGP_REJECTED,
        likelihood=-((_RATIO_W - _TARGET) ** 2),
        likelihood_rejected=-((_RATIO_L + _TARGET) ** 2),
        defaults={BETA: 0.1},
        source="Xiao et al., arXiv 2412.14516",
    ),
)

OBJECTIVES: Mapping[str, Objective] = MappingProxyType({o.name: o for o in _DEFINITIONS})


def objective(name: str) -> Objective:
    """The objective called ``name``.

    Raises:
        InputError: there is none; the message lists the names, the nearest one first.

    >>> objective("dpo").d_chosen == objective("dpo").d_rejected
    True
    """
    one_of(name, OBJECTIVES, f"Unknown objective {name!r}.")
    return OBJECTIVES[name]
