r"""How each type of layer makes the gradients of its parameters from its input and its output's gradient.

A rule takes the module, its input x, the gradient b of the scalars' sum with respect to its output, and n, the number
of scalars; batch rows of one scalar are neighbours and count as more positions of one row. It returns a factor for
each parameter that requires a gradient.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gentangle.gradients.factors import Factor, Formed, Gather, Outer
from gentangle.gradients.refusal import EngineRefusal

Rule = Callable[[Any, torch.Tensor, torch.Tensor, int], dict[str, Factor]]


def positions(tensor: torch.Tensor, n: int) -> torch.Tensor:
    """A tensor of shape (rows, ..., d) as (n, T, d), T = rows / n times the positions of a row."""
    return tensor.reshape(n, -1, tensor.shape[-1])


def linear(module: nn.Linear, x: torch.Tensor, b: torch.Tensor, n: int) -> dict[str, Factor]:
    """y = x W^T + bias: the gradient of W is the sum over positions of b x^T."""
    return {"weight": Outer(positions(b, n), positions(x, n)).without_zeros(), "bias": Formed(positions(b, n).sum(1))}


def conv1d(module: nn.Module, x: torch.Tensor, b: torch.Tensor, n: int) -> dict[str, Factor]:
    """GPT-2's Conv1D, y = x W + bias: a linear layer whose weight is stored transposed."""
    return {"weight": Outer(positions(x, n), positions(b, n)).without_zeros(), "bias": Formed(positions(b, n).sum(1))}


def embedding(module: nn.Embedding, x: torch.Tensor, b: torch.Tensor, n: int) -> dict[str, Factor]:
    """y_t = W[x_t]: the gradient adds b_t to the row x_t of W."""
    if module.scale_grad_by_freq or module.max_norm is not None:
        raise EngineRefusal(
            "An Embedding with scale_grad_by_freq or max_norm changes its gradient or its weight by the batch"
        )
    if module.padding_idx is not None:
        b = b.masked_fill((x == module.padding_idx)[..., None], 0)
    return {"weight": Gather(x.reshape(n, -1), positions(b, n), module.num_embeddings)}


def layer_norm(module: nn.LayerNorm, x: torch.Tensor, b: torch.Tensor, n: int) -> dict[str, Factor]:
    """y = weight * normalised x + bias, elementwise over the last axes."""
    size = module.normalized_shape
    scaled = b * nn.functional.layer_norm(x, size, eps=module.eps)
    return {
        name: Formed(gradient.reshape(n, -1, *size).sum(1).flatten(1))
        for name, gradient in (("weight", scaled), ("bias", b))
    }


def rms_norm(module: Any, x: torch.Tensor, b: torch.Tensor, n: int) -> dict[str, Factor]:
    """y = weight * x / sqrt(mean x^2 + eps), normalised in float32 as transformers does it."""
    eps = module.variance_epsilon
    wide = x.float()
    normalised = (wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()).to(b.dtype)
    return {"weight": Formed((b * normalised).reshape(n, -1, x.shape[-1]).sum(1))}


_RULES: Mapping[type, Rule] = {
    nn.Linear: linear,
    nn.Embedding: embedding,
    nn.LayerNorm: layer_norm,
}
#: Classes of transformers by name, so that it need not be imported; their forward passes are those of the rules.
_TRANSFORMERS: Mapping[str, Rule] = {
    "Conv1D": conv1d,
    "LlamaRMSNorm": rms_norm,
    "MistralRMSNorm": rms_norm,
    "Qwen2RMSNorm": rms_norm,
    "Qwen3RMSNorm": rms_norm,
}


def rule_of(module: nn.Module) -> Rule | None:
    """The rule of exactly this type of module; a subclass may compute something else and has none."""
    kind = type(module)
    if kind.__bases__[0].__name__ == "FSDPModule":  # made by fully_shard; it computes what its other base does
        kind = kind.__bases__[1]
    if kind in _RULES:
        return _RULES[kind]
    return _TRANSFORMERS.get(kind.__name__) if kind.__module__.startswith("transformers.") else None


def by_differentiation(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], b: torch.Tensor, n: int
) -> dict[str, Factor]:
    """Any other module: its forward once more, differentiated for each batch row apart.

    Raises:
        EngineRefusal: the module's forward cannot be repeated row by row.
    """
    own = {name: p.detach() for name, p in module.named_parameters(recurse=False) if p.requires_grad}
    batched = [i for i, a in enumerate(args) if _has_rows(a, len(b))]
    batched_names = [k for k, a in kwargs.items() if _has_rows(a, len(b))]

    def of_row(row_args: Sequence[torch.Tensor], row_kwargs: Mapping[str, torch.Tensor], gradient: torch.Tensor) -> Any:
        given, named = list(args), dict(kwargs)
        for i, value in zip(batched, row_args, strict=True):
            given[i] = value[None]
        for k, value in row_kwargs.items():
            named[k] = value[None]
        pull = torch.func.vjp(lambda p: torch.func.functional_call(module, p, tuple(given), named), own)[1]
        return pull(gradient[None])[0]

    rows = ([args[i].detach() for i in batched], {k: kwargs[k].detach() for k in batched_names}, b)
    try:
        found = torch.func.vmap(of_row)(*rows)
    except RuntimeError as error:
        raise EngineRefusal(
            f"The gradients of a {type(module).__name__} cannot be taken row by row ({str(error).splitlines()[0]})"
        ) from error
    return {name: Formed(g.reshape(n, -1, own[name].numel()).sum(1)) for name, g in found.items()}


def _has_rows(value: Any, rows: int) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == rows
