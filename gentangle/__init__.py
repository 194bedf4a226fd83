"""gentangle: the inner product of gradients, and the two papers that stand on it.

The public names are loaded when first used, so ``import gentangle`` imports no torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "InputError": "gentangle.errors",
    "OBJECTIVES": "gentangle.alignment.objectives",
    "Objective": "gentangle.alignment.margin_loss",
    "case": "gentangle.alignment.conditions",
    "changes_from_scaled": "gentangle.alignment.conditions",
    "conditions_hold": "gentangle.alignment.conditions",
    "cosine": "gentangle.alignment.conditions",
    "first_order_changes": "gentangle.alignment.conditions",
    "gram": "gentangle.gradients",
    "gram_by_parameter": "gentangle.gradients",
    "last_layer_gram": "gentangle.alignment.softmax",
    "normalised_inner_products": "gentangle.alignment.conditions",
    "objective": "gentangle.alignment.objectives",
    "pair_blocks": "gentangle.gradients.pairs",
    "pair_gram": "gentangle.gradients",
    "profile": "gentangle.profiles",
    "scaled_gram": "gentangle.alignment.conditions",
    "sgd_forecast": "gentangle.gradients",
    "single_token_gram": "gentangle.alignment.softmax",
    "step_forecast": "gentangle.gradients",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gentangle' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
