"""The fast way: one forward and one backward pass for all scalars, and a second backward pass that checks it."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from gentangle.gradients.capture import Capture
from gentangle.gradients.oracle import evaluate_scalars, trainable_parameters
from gentangle.gradients.pairs import count_of_pairs
from gentangle.gradients.refusal import EngineRefusal

if TYPE_CHECKING:
    from gentangle.gradients.oracle import Scalars

#: Relative disagreement, of a parameter's squared gradient norm, above which the check refuses the result. A mix-up of
#: rows is of order one; what lies below is rounding (models in float64 may normalise in float32).
_AGREE = {torch.float64: 1e-5, torch.float32: 1e-3}
_AGREE_LOW = 5e-2


def engine_gram(
    model: torch.nn.Module, scalars: "Scalars", *, pairs: bool = False, verify: bool = True
) -> dict[str, np.ndarray]:
    r"""Each parameter's share of the Gram matrix, from one forward and one backward pass.

    Scalar i has to depend on its own rows of the batch alone. ``verify`` makes sure of it: with random weights
    :math:`\varepsilon_i` the squared norm of autograd's own gradient of :math:`\sum_i \varepsilon_i s_i` is compared,
    parameter by parameter, with :math:`\sum_{ij} \varepsilon_i \varepsilon_j G_{ij}`: a second backward pass.
    With ``pairs`` only the entries (i, i) and (i, i + n / 2) are computed, and the check looks at one pair.

    Raises:
        EngineRefusal: the model or the scalars are not of the kind that this way can take; the message says why.
    """
    with Capture(model) as seen:
        values = torch.stack(evaluate_scalars(model, scalars))
        seen.n = len(values)
        if pairs:
            seen.offsets = [0, count_of_pairs(len(values))]
        torch.autograd.grad(values.sum(), seen.edges, retain_graph=verify, allow_unused=True)
    shares = seen.gram_by_parameter()
    if verify:
        check_by_autograd(model, values, shares, pairs=pairs)
    return shares


def check_by_autograd(
    model: torch.nn.Module, values: torch.Tensor, shares: dict[str, np.ndarray], *, pairs: bool = False
) -> None:
    """Refuse shares that autograd's own gradient of the weighted sum of all scalars contradicts."""
    parameters = trainable_parameters(model)
    weights = np.random.default_rng(0).normal(size=len(values))  # no two alike: equal ones would hide mixed-up rows
    if pairs:
        weights[np.arange(len(values)) % (len(values) // 2) != 0] = 0
    total = (values * torch.as_tensor(weights, dtype=values.dtype, device=values.device)).sum()
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    floor = 1e-6 * sum(np.trace(share) for share in shares.values())  # some gradients are 0 but for rounding
    for (name, p), gradient in zip(parameters.items(), gradients, strict=True):
        expected = 0.0 if gradient is None else float(gradient.double().square().sum())
        found, scale = weights @ shares[name] @ weights, max(np.trace(shares[name]), expected, floor)
        if abs(found - expected) > _AGREE.get(p.dtype, _AGREE_LOW) * scale:
            raise EngineRefusal(
                f"The gradients of {name} are not those of rows of their own: a scalar depends on another one's rows, "
                "or the parameter is used outside its module's forward pass"
            )
