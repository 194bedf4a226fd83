r"""The Gram matrix of tokens, which share a row's earlier positions: one forward pass, one batched backward pass.

All tokens see the same layer inputs :math:`a_s`. With :math:`b_{ks}` the gradient of token k's log-probability with
respect to a linear layer's output at position s,

.. math:: G_{kl} = \sum_{s,u} \langle a_s, a_u\rangle \langle b_{ks}, b_{lu}\rangle,

so the inputs' products are taken once for all tokens, and no gradient of a weight is formed.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gentangle.errors import InputError
from gentangle.gradients.capture import input_of, own_parameters, refuse_coupled_rows
from gentangle.gradients.engine import check_by_autograd
from gentangle.gradients.factors import (
    WIDE,
    Factor,
    Formed,
    Gather,
    Outer,
    Products,
    cross_gram,
    from_diagonals,
    gram_of,
)
from gentangle.gradients.oracle import whole
from gentangle.gradients.refusal import EngineRefusal
from gentangle.gradients.rules import by_differentiation, conv1d, linear, rule_of
from gentangle.gradients.step import at_least_float32

#: Tokens whose gradients at a head as wide as a vocabulary are held at once; only positions that count are kept.
AT_ONCE = 8


@dataclass
class _Pass:
    """The calls of one forward pass, in order, cut where a layer of a stack begins."""

    segments: list[tuple[torch.Tensor | None, list[tuple[nn.Module, Any, Any, torch.Tensor]]]] = field(
        default_factory=lambda: [(None, [])]
    )
    rows: int = 0

    def cut(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        hidden = input_of(args, kwargs)
        if isinstance(hidden, torch.Tensor) and hidden.requires_grad:
            self.segments.append((hidden, []))

    def call(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if not isinstance(output, torch.Tensor):
            raise EngineRefusal(f"{type(module).__name__} owns parameters and returns {type(output).__name__}")
        self.rows = self.rows or len(input_of(args, kwargs))
        expanded = output.expand(self.rows, *output.shape[1:]) if len(output) == 1 else output
        self.segments[-1][1].append((module, args, kwargs, expanded))
        return expanded


def token_gram(model: nn.Module, scalars: Callable[[nn.Module], torch.Tensor]) -> np.ndarray:
    r"""Gram matrix of the gradients of every token's scalar, shape (R T, R T), row by row.

    Args:
        model: any torch module whose batch has its R rows first.
        scalars: function of the model that returns (R, T); what stands in row i depends on the batch's row i alone.
            Where a row has fewer than T tokens, zeros fill it.

    Returns:
        float64; entry (r T + k, s T + l) is the inner product of token k of row r with token l of row s.

    Raises:
        InputError: the scalars are no finite matrix; no parameter requires a gradient.
        EngineRefusal: a model that cannot be read this way; :func:`gentangle.gram` of the flattened scalars may.
    """
    own, seen, handles = own_parameters(model), _Pass(), []
    refuse_coupled_rows(model)
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            handles += [layer.register_forward_pre_hook(seen.cut, with_kwargs=True) for layer in module]
        if module in own:
            handles.append(module.register_forward_hook(seen.call, with_kwargs=True))
    try:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels' backward cannot be batched
            values = scalars(model)
    finally:
        for handle in handles:
            handle.remove()
    if values.ndim != 2 or not values.isfinite().all():
        raise InputError(f"scalars(model) gave {tuple(values.shape)}, expected finite numbers of shape (R, T).")
    shares = _shares(own, seen, values)
    check_by_autograd(model, values.flatten(), shares)
    return whole(shares)


def _shares(own: dict[nn.Module, dict[str, str]], seen: _Pass, values: torch.Tensor) -> dict[str, np.ndarray]:
    rows, tokens = values.shape
    n = rows * tokens
    heads: torch.Tensor = values
    # One cotangent a position for all rows together: rows do not meet.
    cotangents = torch.eye(tokens, dtype=values.dtype, device=values.device)[:, None].expand(-1, rows, -1)
    uses = Counter(name for _, calls in seen.segments for call in calls for name in own[call[0]].values())
    shares = {name: np.zeros((n, n)) for names in own.values() for name in names.values()}
    earlier: dict[str, list[Factor]] = {}
    while seen.segments:
        below, calls = seen.segments.pop()
        outputs = [output for *_, output in calls] + ([] if below is None else [below])
        wide = any(output.shape[-1] >= WIDE for output in outputs)
        passed: list[torch.Tensor] = []
        factors: list[list[dict[str, Factor | _Shared]]] = [[] for _ in calls]
        for part in cotangents.split(AT_ONCE if wide else tokens):
            found = list(
                torch.autograd.grad(
                    heads, outputs, part, retain_graph=True, is_grads_batched=True, materialize_grads=True
                )
            )
            if below is not None:
                passed.append(found.pop())
            for (module, args, kwargs, _), made in zip(reversed(calls), factors, strict=True):
                b = at_least_float32(found.pop().transpose(0, 1).unflatten(0, (rows, -1)).transpose(1, 2))
                made.append(_factors(module, args, kwargs, b))
        if below is not None:
            heads, cotangents = below, torch.cat(passed)
        for (module, *_), made in zip(reversed(calls), factors, strict=True):
            for parameter, name in own[module].items():
                factor = _joined([some[parameter] for some in made], rows)
                if isinstance(factor, _Shared):
                    shares[name] += factor.gram()
                else:
                    shares[name] += from_diagonals(gram_of(factor, range(n), Products()), range(n), n)
                if uses[name] > 1:
                    written = factor.outer() if isinstance(factor, _Shared) else factor
                    for other in earlier.setdefault(name, []):
                        shares[name] += from_diagonals(cross_gram(other, written, range(n)), range(n), n)
                    earlier[name].append(written)
    return shares


def _factors(module: nn.Module, args: Any, kwargs: Any, b: torch.Tensor) -> "dict[str, Factor | _Shared]":
    """Gradients of a module's parameters, one a token.

    ``b`` has shape (R, T, positions of a row where the module saw them flattened, else 1, ...).
    """
    rule, (rows, tokens) = rule_of(module), b.shape[:2]

    def repeated(value: Any) -> Any:
        """Each row of a batch once a token; what is no batch stays."""
        if not isinstance(value, torch.Tensor) or value.ndim == 0 or len(value) % rows:
            return value
        return value.unflatten(0, (rows, -1)).repeat_interleave(tokens, 0).flatten(0, 1)

    with torch.no_grad():
        if rule is None:
            given = tuple(repeated(a) for a in args), {k: repeated(v) for k, v in kwargs.items()}
            return dict(by_differentiation(module, *given, b.flatten(0, 2), rows * tokens))
        x = input_of(args, kwargs).detach()
        x = (x.to(b.dtype) if x.is_floating_point() else x).expand(-1 if len(x) > 1 else rows, *x.shape[1:])
        if rule in (linear, conv1d) and b.shape[-1] < WIDE:
            shared = x.reshape(rows, -1, x.shape[-1]), b.reshape(rows, tokens, -1, b.shape[-1])
            return {"weight": _Shared(*shared, rule is conv1d), "bias": Formed(shared[1].sum(2).flatten(0, 1))}
        return dict(rule(module, repeated(x), b.flatten(0, 2), rows * tokens))


@dataclass
class _Shared:
    """Gradients of a layer's weight whose inputs (R, S, M) all tokens share; output gradients (R, T, S, L)."""

    inputs: torch.Tensor
    gradients: torch.Tensor
    transposed: bool

    def gram(self) -> np.ndarray:
        rows, tokens = self.gradients.shape[:2]
        matrix = np.zeros((rows, tokens, rows, tokens))
        flat = self.gradients.flatten(2)
        for r in range(rows):
            for s in range(r, rows):
                mixed = (self.inputs[r] @ self.inputs[s].mT) @ self.gradients[s]  # (T, S, L)
                block = (flat[r] @ mixed.flatten(1).mT).double().cpu().numpy()
                matrix[r, :, s], matrix[s, :, r] = block, block.T
        return matrix.reshape(rows * tokens, -1)

    def outer(self) -> Outer:
        """The same with the inputs written out for each token."""
        b = self.gradients.flatten(0, 1)
        x = self.inputs.repeat_interleave(len(b) // len(self.inputs), 0)
        return Outer(x, b) if self.transposed else Outer(b, x)


def _joined(parts: list[Factor | _Shared], rows: int) -> Factor | _Shared:
    """Factors of a few tokens at a time as one of all, row by row."""
    if len(parts) == 1:
        return parts[0]

    def join(tensors: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([t.unflatten(0, (rows, -1)) for t in tensors], 1).flatten(0, 1)

    if isinstance(parts[0], _Shared):
        shared = [part for part in parts if isinstance(part, _Shared)]
        return replace(shared[0], gradients=torch.cat([part.gradients for part in shared], 1))
    if isinstance(parts[0], Formed):
        return Formed(join([part.rows for part in parts if isinstance(part, Formed)]))
    if isinstance(parts[0], Gather):
        gathers = [part for part in parts if isinstance(part, Gather)]
        return Gather(join([g.index for g in gathers]), join([g.right for g in gathers]), gathers[0].size)
    outers = [part for part in parts if isinstance(part, Outer)]
    longest = max(outer.left.shape[1] for outer in outers)

    def padded(tensor: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(tensor, (0, 0, 0, longest - tensor.shape[1]))

    return Outer(join([padded(o.left) for o in outers]), join([padded(o.right) for o in outers]))
