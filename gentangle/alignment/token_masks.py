r"""Sparse token masks on a pair's margin, in a softmax policy whose last layer W alone learns (logits W h_t); numpy.

The objective, our reading of the paper's second mitigation, with :math:`\delta_t` a token's log-ratio to the reference
(the policy at the start) and masks :math:`\mu_t = \sigma(\phi_t)`:

.. math:: L = -\log\sigma\Bigl(\beta\bigl(\sum_{t \in w}\mu_t\delta_t - \sum_{t \in l}\mu_t\delta_t\bigr)\Bigr)
    + \lambda\sum_t \mu_t

Source: Yuan et al., arXiv 2410.13828, mitigations.
"""

from typing import Any

import numpy as np
from scipy.special import expit

from gentangle.alignment.last_layer import LastLayerPair
from gentangle.alignment.softmax import probabilities, token_residual

BETA = 0.1


def masked_changes(pair: LastLayerPair, weight: Any, mask: Any) -> np.ndarray:
    r"""First-order changes of both *whole* responses for a step of size 1 along the masked margin's gradient.

    With the token Gram matrix K, :math:`\sum_{t\in j}\sum_s K_{ts}\,\mathrm{sign}_s\,\mu_s`; shape (2,).
    """
    return pair.sums(pair.token_gram(weight) @ (pair.signs * np.asarray(mask, dtype=float)))


def learn_masks(
    pair: LastLayerPair,
    weight: Any,
    penalty: float,
    *,
    steps: int = 100,
    mask_rate: float = 100.0,
    tied: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Gradient descent on L in W (rate 1) and in :math:`\phi` (rate ``mask_rate``; 0 leaves :math:`\phi_t = 2`).

    ``weight`` is W at the start and in the reference. ``tied``: one mask for position t of both responses, which are
    then of one length.

    Returns:
        The masks, and each token's change of log-probability in nats, both of shape (n,).
    """
    states, tokens, weights = np.concatenate(pair.states), np.concatenate(pair.tokens), np.asarray(weight, dtype=float)
    phi, start = np.full(len(tokens), 2.0), pair.token_log_probs(weights)
    for _ in range(steps):
        ratios, mask = pair.token_log_probs(weights) - start, expit(phi)
        slope = BETA * expit(-BETA * np.sum(pair.signs * mask * ratios))
        residuals = token_residual(probabilities(states @ weights.T), tokens)
        pull = (slope * pair.signs * ratios - penalty) * mask * (1 - mask)
        pull = np.tile(pull.reshape(2, -1).sum(0), 2) if tied else pull
        weights = weights + (slope * pair.signs * mask * residuals.T) @ states
        phi = phi + mask_rate * pull
    return expit(phi), pair.token_log_probs(weights) - start
