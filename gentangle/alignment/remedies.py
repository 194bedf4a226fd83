r"""Remedies against entanglement, as coefficients (c_w, c_l) of the update that the pair's Gram matrix decides.

A step :math:`\theta \leftarrow \theta + \eta\,(c_w w - c_l l)` changes the two log-probabilities as
:func:`gentangle.first_order_changes` says, with c in place of d. Each function takes G of shape (..., 2, 2) and
positive slopes and returns c of shape (..., 2); leading dimensions are pairs. numpy only.

Source: Yuan et al., arXiv 2410.13828, mitigations, where a function names no other paper.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import sympy as sp

from gentangle.alignment.compile import compiled
from gentangle.alignment.conditions import first_order_changes
from gentangle.alignment.symbols import D_CHOSEN, D_REJECTED
from gentangle.errors import InputError

#: |w|, |l|, their cosine, the dial s, and the coefficients.
CHOSEN_NORM, REJECTED_NORM = sp.symbols("norm_chosen norm_rejected", positive=True)
COSINE, DIAL, C_CHOSEN, C_REJECTED = sp.symbols("rho s c_chosen c_rejected", real=True)
LATEX = {CHOSEN_NORM: r"\lVert w\rVert", REJECTED_NORM: r"\lVert l\rVert", C_CHOSEN: "c_w", C_REJECTED: "c_l"}

#: First-order changes of (log pi_w, log pi_l) for a step of size 1, and that of the margin.
_inner = COSINE * CHOSEN_NORM * REJECTED_NORM
CHANGE_CHOSEN = C_CHOSEN * CHOSEN_NORM**2 - C_REJECTED * _inner
CHANGE_REJECTED = C_CHOSEN * _inner - C_REJECTED * REJECTED_NORM**2
MARGIN_CHANGE = CHANGE_CHOSEN - CHANGE_REJECTED

NORMALISED = sp.Matrix([D_CHOSEN / CHOSEN_NORM, D_REJECTED / REJECTED_NORM])

#: Reward calibration: alpha on the chosen side, 1/alpha on the rejected one.
CALIBRATION = sp.exp((sp.log(REJECTED_NORM / CHOSEN_NORM) - sp.log(D_CHOSEN / D_REJECTED)) / 2)
CALIBRATED = sp.Matrix([CALIBRATION * D_CHOSEN, D_REJECTED / CALIBRATION])

#: The dial: 0 leaves the slopes, the cosine gives PCGrad, 1 the direction of the unit gradients.
_longer_chosen = D_CHOSEN + DIAL * D_REJECTED * REJECTED_NORM / CHOSEN_NORM
DIALLED = sp.Matrix([_longer_chosen, D_REJECTED + DIAL * D_CHOSEN * CHOSEN_NORM / REJECTED_NORM])

_SYMBOLS = (CHOSEN_NORM, REJECTED_NORM, D_CHOSEN, D_REJECTED, DIAL)


def normalised(gram: Any, d_chosen: Any = 1.0, d_rejected: Any = 1.0) -> np.ndarray:
    r"""Pairwise normalised gradients, :math:`(d_w/\lVert w\rVert, d_l/\lVert l\rVert)`.

    Source: Yuan et al., arXiv 2410.13828, mitigations.
    """
    return _evaluate(NORMALISED, gram, d_chosen, d_rejected)


def calibrated(gram: Any, d_chosen: Any = 1.0, d_rejected: Any = 1.0) -> np.ndarray:
    r"""Reward calibration :math:`(\alpha d_w, d_l/\alpha)` to the centre of the disentanglement band.

    :math:`\alpha = \exp((\log r^* - \log r)/2)`, :math:`r = d_w/d_l`, :math:`r^* = \lVert l\rVert/\lVert w\rVert`; here
    of the pair's own exact gradients. Source: Chen et al., arXiv 2604.18239.
    """
    return _evaluate(CALIBRATED, gram, d_chosen, d_rejected)


def dialled(gram: Any, d_chosen: Any = 1.0, d_rejected: Any = 1.0, dial: Any = 0.0) -> np.ndarray:
    r""":math:`(d_w + s\,d_l\lVert l\rVert/\lVert w\rVert,\; d_l + s\,d_w\lVert w\rVert/\lVert l\rVert)`, s the dial."""
    return _evaluate(DIALLED, gram, d_chosen, d_rejected, dial)


def pcgrad(gram: Any, d_chosen: Any = 1.0, d_rejected: Any = 1.0) -> np.ndarray:
    r"""PCGrad on the losses' gradients :math:`-d_w w` and :math:`d_l l`: the dial at :math:`\max(0, \rho)`.

    For two gradients UPGrad (arXiv 2406.16232) of the sum is the same. Source: Yu et al., arXiv 2001.06782.
    """
    return dialled(gram, d_chosen, d_rejected, np.maximum(0, _polar(gram)[2]))


#: By name, in the order of the book's table.
REMEDIES: Mapping[str, Callable[..., np.ndarray]] = MappingProxyType(
    {"plain": dialled, "normalised": normalised, "calibrated": calibrated, "PCGrad": pcgrad}
)


def _evaluate(coefficients: sp.Matrix, gram: Any, d_chosen: Any, d_rejected: Any, dial: Any = 0.0) -> np.ndarray:
    d_w, d_l = np.asarray(d_chosen, dtype=float), np.asarray(d_rejected, dtype=float)
    if not (np.all(d_w > 0) and np.all(d_l > 0)):
        raise InputError("A slope is not positive, and the remedies are defined for positive d_w and d_l alone.")
    norm_w, norm_l, _ = _polar(gram)
    values = [compiled(_SYMBOLS, entry, "numpy")(norm_w, norm_l, d_w, d_l, dial) for entry in coefficients]
    return np.stack(np.broadcast_arrays(*values, norm_w)[:2], axis=-1)


def _polar(gram: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first_order_changes(gram)  # its errors at the door
    matrix = np.asarray(gram, dtype=float)
    if np.any(matrix[..., [0, 1], [0, 1]] <= 0):
        raise InputError("A gradient of the pair is 0: there is nothing to normalise or project, leave the pair out.")
    norm_w, norm_l = np.sqrt(matrix[..., 0, 0]), np.sqrt(matrix[..., 1, 1])
    return norm_w, norm_l, np.clip(matrix[..., 0, 1] / (norm_w * norm_l), -1, 1)
