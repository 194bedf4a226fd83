r"""Adam's preconditioner: the diagonal D by which it multiplies a gradient, momentum apart."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gentangle.gradients.oracle import trainable_parameters

if TYPE_CHECKING:
    import torch


def adam_preconditioner(optimizer: Any, model: "torch.nn.Module") -> "dict[str, torch.Tensor] | None":
    r"""The diagonal of the step that was just taken, :math:`D = 1/(\sqrt{v/(1-\beta_2^t)} + \epsilon)`, by parameter.

    With a fixed D > 0 every statement on G holds for the *preconditioned* inner products
    :math:`\langle a,b\rangle_D = a^\top D\,b`. Momentum, clipping and weight decay are not in it.

    Args:
        optimizer: torch's Adam or AdamW, or a wrapper that has it as ``optimizer``; after a step.
        model: whose trainable parameters it steps.

    Returns:
        Tensors of the parameters' shapes, or None where the optimizer steps by another rule (AMSGrad, NAdam and RAdam
        too), or the parameters are sharded.

    Source: Kingma and Ba, arXiv 1412.6980, Algorithm 1.
    """
    import torch

    inner, found = getattr(optimizer, "optimizer", optimizer), {}
    if not isinstance(inner, torch.optim.Adam | torch.optim.AdamW):
        return None
    names = {id(p): name for name, p in trainable_parameters(model).items()}
    for group in inner.param_groups:
        for p in (p for p in group["params"] if id(p) in names):
            state = inner.state.get(p, {})
            if "exp_avg_sq" not in state or group["amsgrad"] or hasattr(p, "full_tensor"):
                return None
            found[names[id(p)]] = 1 / adam_denominator(state["exp_avg_sq"], float(state["step"]), group)
    return found


def adam_denominator(second_moment: "torch.Tensor", steps: float, group: Mapping[str, Any]) -> "torch.Tensor":
    r""":math:`\sqrt{v/(1-\beta_2^t)} + \epsilon`, by which Adam divides after t steps; ``group`` has its settings."""
    return (second_moment / (1 - group["betas"][1] ** steps)).sqrt() + group["eps"]
