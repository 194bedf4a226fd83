"""The three facts of the prerequisites page."""

import numpy as np
from scipy.special import log_softmax

from gentangle.alignment.softmax import probabilities, token_residual


def test_gradient_of_a_log_softmax():
    """e_y - p against central differences of scipy's own log_softmax."""
    logits, token, eps = np.array([0.3, -1.2, 2.0, 0.0]), 2, 1e-6
    differences = [
        (log_softmax(logits + eps * unit)[token] - log_softmax(logits - eps * unit)[token]) / (2 * eps)
        for unit in np.eye(4)
    ]
    np.testing.assert_allclose(token_residual(probabilities(logits), token), differences, atol=1e-9)
