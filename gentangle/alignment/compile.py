"""From a sympy expression to a function of numpy arrays or torch tensors."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import sympy as sp

# A probability that rounds to 1 has infinite odds; this far below, the products of the ORPO loss keep their limits.
_TINY = 2.2250738585072014e-308


def _numpy_functions() -> dict[str, Callable[..., Any]]:
    import numpy as np
    from scipy import special

    return {
        "sigmoid": special.expit,
        "log_sigmoid": special.log_expit,
        "min0": lambda x: np.minimum(0.0, x),
        "is_negative": lambda x: np.where(np.less(x, 0), 1.0, 0.0),
        "log_odds": lambda x: (y := np.minimum(x, -_TINY)) - np.log(-np.expm1(y)),
        "inverse_complement": lambda x: -1 / np.expm1(np.minimum(x, -_TINY)),
        "exp": np.exp,
        "sqrt": np.sqrt,
        "log": np.log,
    }


def _torch_functions() -> dict[str, Callable[..., Any]]:
    import torch

    def below_one(x: torch.Tensor) -> torch.Tensor:
        return x - torch.relu(x + torch.finfo(x.dtype).tiny).detach()  # its value is bounded, its slope stays 1

    def log_odds(x: torch.Tensor) -> torch.Tensor:
        return (y := below_one(x)) - torch.log(-torch.expm1(y))

    return {
        "sigmoid": torch.sigmoid,
        "log_sigmoid": torch.nn.functional.logsigmoid,
        "min0": lambda x: -torch.relu(-x),  # relu's derivative at 0 is 0, as min0's is defined to be
        "is_negative": lambda x: (x < 0).to(x.dtype),
        "log_odds": log_odds,
        "inverse_complement": lambda x: -1 / torch.expm1(below_one(x)),
        "exp": torch.exp,
        "sqrt": torch.sqrt,
        "log": lambda x: torch.log(x) if isinstance(x, torch.Tensor) else math.log(x),  # of a hyperparameter too
    }


@cache
def compiled(arguments: Sequence[sp.Symbol], expression: sp.Expr, backend: str) -> Callable[..., Any]:
    """Function of ``arguments`` (a tuple, in that order) that evaluates ``expression``.

    ``backend`` is ``"numpy"`` or ``"torch"``; the torch function is differentiable, so the formula
    that the book prints is the loss that trains.
    """
    functions = _torch_functions() if backend == "torch" else _numpy_functions()
    return sp.lambdify(arguments, expression, modules=[functions], cse=True)
