"""From a sympy expression to a function of numpy arrays or torch tensors."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import sympy as sp


def _numpy_functions() -> dict[str, Callable[..., Any]]:
    import numpy as np
    from scipy import special

    return {
        "sigmoid": special.expit,
        "log_sigmoid": special.log_expit,
        "min0": lambda x: np.minimum(0.0, x),
        "is_negative": lambda x: np.where(np.less(x, 0), 1.0, 0.0),
        "exp": np.exp,
        "log": np.log,
    }


def _torch_functions() -> dict[str, Callable[..., Any]]:
    import torch

    return {
        "sigmoid": torch.sigmoid,
        "log_sigmoid": torch.nn.functional.logsigmoid,
        "min0": lambda x: -torch.relu(-x),  # relu's derivative at 0 is 0, as min0's is defined to be
        "is_negative": lambda x: (x < 0).to(x.dtype),
        "exp": torch.exp,
        "log": torch.log,
    }


@cache
def compiled(arguments: Sequence[sp.Symbol], expression: sp.Expr, backend: str) -> Callable[..., Any]:
    """Function of ``arguments`` (a tuple, in that order) that evaluates ``expression``.

    ``backend`` is ``"numpy"`` or ``"torch"``; the torch function is differentiable, so the formula
    that the book prints is the loss that trains.
    """
    functions = _torch_functions() if backend == "torch" else _numpy_functions()
    return sp.lambdify(arguments, expression, modules=[functions], cse=True)
