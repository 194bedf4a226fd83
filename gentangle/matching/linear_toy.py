r"""Two binary features, one of the same use in every domain and one not, and where ERM, IDGM and Fish come to rest.

The label y and the features :math:`x_0, x_1` are -1 or 1, both labels alike often; all is an exact mean over the eight
states. :math:`E\,x_0y = m` in every domain, :math:`E\,x_1y = s_i` and :math:`E\,x_0x_1 = q_i` in domain i. The loss is
:math:`\frac12E(y - w\cdot x)^2 = \frac12w^\top A_iw - b_i^\top w + \frac12`, :math:`A_i = [[1, q_i], [q_i, 1]]`,
:math:`b_i = (m, s_i)`. All :math:`A_i` have the eigenvectors :math:`(1, \pm1)`: :math:`w_0 \pm w_1` are solved for one
at a time. Source: after the linear example of Shi et al., arXiv 2104.09937; its generator was not recovered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from gentangle.errors import InputError
from gentangle.verdict import Verdict, in_part

#: The eight states (x_0, x_1, y).
_STATES = np.array(list(product((-1, 1), repeat=3)), dtype=float)


@dataclass(frozen=True)
class LinearToy:
    """A data set of the toy.

    Args:
        invariant: m, the correlation of the invariant feature with the label, from 0 to 1.
        spurious: one number a domain, -1 to 1: the correlation of the spurious feature with what it copies.
        copies: what that is. ``label``: :math:`s_i` is the number and :math:`q_i = ms_i`; ``invariant``, the other
            feature: :math:`q_i` is the number and :math:`s_i = mq_i`.

    Raises:
        InputError: a correlation out of range, fewer than two domains, or another word for ``copies``.
    """

    invariant: float
    spurious: Sequence[float]
    copies: str = "label"

    def __post_init__(self) -> None:
        bounded = 0 <= self.invariant <= 1 and all(-1 <= s <= 1 for s in self.spurious)
        if not bounded or len(self.spurious) < 2 or self.copies not in ("label", "invariant"):
            raise InputError(f"Got {self}, expected m in [0, 1], 2 domains in [-1, 1] and copies label or invariant.")

    def probabilities(self, spurious: float) -> np.ndarray:
        """Of the states (x_0, x_1, y), shape (8,), in a domain with that number."""
        x0, x1, y = _STATES.T
        return (1 + self.invariant * x0 * y) * (1 + spurious * x1 * (y if self.copies == "label" else x0)) / 8

    def minibatches(self) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """Whole domains: x, shape (8, 2), and the columns label and probability, shape (8, 2), by domain."""
        columns = {i: np.stack([_STATES[:, 2], self.probabilities(s)], axis=1) for i, s in enumerate(self.spurious)}
        return {i: (torch.tensor(_STATES[:, :2]), torch.tensor(y)) for i, y in columns.items()}

    def eigenvalues(self, sign: int) -> tuple[np.ndarray, np.ndarray]:
        r""":math:`\lambda_i = 1 \pm q_i` of :math:`A_i` and :math:`\beta_i = m \pm s_i`, each of shape (S,)."""
        m, given = self.invariant, sign * np.asarray(self.spurious, dtype=float)
        return (1 + m * given, m + given) if self.copies == "label" else (1 + given, m + m * given)

    def rest(self, gamma: float) -> np.ndarray:
        r"""The minimum (w_0, w_1) of IDGM's objective, of ERM's at gamma 0.

        :math:`w_0 \pm w_1 = \big(\bar\beta - 2\gamma\,\overline{\lambda\beta}\big) /
        \big(\bar\lambda - 2\gamma\,\overline{\lambda\lambda}\big)`, the long overlines being means of
        :math:`\lambda_i\beta_j` and :math:`\lambda_i\lambda_j` over :math:`i \ne j`. With two domains the mean of
        Fish rests there too, for gamma = alpha/4, without a remainder.

        Raises:
            InputError: gamma is not below :meth:`gamma_limit`.
        """
        if not gamma < self.gamma_limit():
            raise InputError(f"IDGM has no minimum at gamma {gamma}: it must be below {self.gamma_limit():.4g}.")
        sums = []
        for eigenvalues, pulls in map(self.eigenvalues, (1, -1)):
            pull, curvature = (u.mean() - 2 * gamma * _over_pairs(eigenvalues, u) for u in (pulls, eigenvalues))
            sums.append(pull / curvature)
        return np.array([sums[0] + sums[1], sums[0] - sums[1]]) / 2

    def gamma_limit(self) -> float:
        """The gamma from which on IDGM's objective has no minimum; infinite if there is none."""
        found = [(u.mean(), _over_pairs(u, u)) for u, _ in map(self.eigenvalues, (1, -1))]
        return min([float(mean / (2 * pairs)) for mean, pairs in found if pairs > 0], default=np.inf)

    def gamma_flip(self) -> float:
        """The gamma at which w_0 = w_1, beyond which x_0 decides; infinite if there is none below the limit."""
        eigenvalues, pulls = self.eigenvalues(-1)
        pairs = _over_pairs(eigenvalues, pulls)
        flip = float(pulls.mean() / (2 * pairs)) if pairs else np.inf
        return flip if 0 <= flip < self.gamma_limit() else np.inf

    def accuracy(self, weights: np.ndarray, spurious: float) -> float:
        """Share of the labels that the sign of w . x gets right in a domain with that number; a tie is half right."""
        guessed = np.sign(np.round(_STATES[:, :2] @ weights, 12))
        return float(self.probabilities(spurious) @ (1 + guessed * _STATES[:, 2]) / 2)


def squared(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    r""":math:`\frac12E(y - w\cdot x)^2`, with a target of :meth:`LinearToy.minibatches`."""
    return target[:, 1] @ (output[:, 0] - target[:, 0]) ** 2 / 2


def logistic(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    r""":math:`E\log(1 + e^{-y\,w\cdot x})`, with a target of :meth:`LinearToy.minibatches`."""
    return target[:, 1] @ torch.nn.functional.softplus(-target[:, 0] * output[:, 0])


def _over_pairs(a: np.ndarray, b: np.ndarray) -> float:
    """Mean of a_i b_j over i != j."""
    return float((a.sum() * b.sum() - a @ b) / (len(a) * (len(a) - 1)))


def linear_toy_verdict() -> Verdict:
    """Status and measured figure of the claim, over 1,000 data sets with m = .86, one domain at 1, the test at .14.

    ``reproduced in part`` if ERM's minimum is right for 57 % of the test and a minimum of IDGM below its limit for 93 %
    in any of them, as there the two features alone are right; else ``differs``.
    """
    toys = [LinearToy(0.86, (1.0, k / 1000)) for k in range(1000)]
    ends = [[toy.accuracy(toy.rest(share * toy.gamma_limit()), 0.14) for share in (0, 0.999)] for toy in toys]
    inside = [k / 1000 for k, found in enumerate(ends) if np.allclose(found, [0.57, 0.93])]
    return in_part(bool(inside)), (
        f"ERM at 57 % and IDGM below its limit at 93 % in {len(inside)} of 1,000 data sets"
        + (f": with a second domain of {min(inside)} to {max(inside)}" if inside else "")
    )
