"""Gradients of scalars and the Gram matrix of their inner products."""

from gentangle.gradients.gram import gram, gram_by_parameter, pair_gram
from gentangle.gradients.oracle import jacobian
from gentangle.gradients.step import parameter_step, sgd_forecast, snapshot, step_forecast

__all__ = [
    "gram",
    "gram_by_parameter",
    "jacobian",
    "pair_gram",
    "parameter_step",
    "sgd_forecast",
    "snapshot",
    "step_forecast",
]
