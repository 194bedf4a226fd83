"""Hooks that watch one forward and one backward pass and leave behind the Gram matrix of the batch rows' gradients."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from gentangle.gradients.factors import (
    Factor,
    Formed,
    Gather,
    Products,
    combined,
    cross_gram,
    from_diagonals,
    gram_of,
    gram_under,
    narrowed,
    times,
    with_numbers,
)
from gentangle.gradients.oracle import trainable_parameters
from gentangle.gradients.refusal import EngineRefusal
from gentangle.gradients.rules import by_differentiation, embedding, rule_of
from gentangle.gradients.step import at_least_float32


@dataclass
class _Uses:
    """The calls of modules that use one parameter: how many were made, and what of them still has to be multiplied."""

    made: int = 0
    arrived: list[Factor] = field(default_factory=list)
    gathers: list[torch.Tensor] = field(default_factory=list)


class Capture:
    r"""While it is entered, one forward and one backward pass of a model tell their rows' Gram matrix.

    The backward pass is of any scalar :math:`L(s_1, \dots, s_n)` in which s_i depends on row i of the batch alone.
    Every module's input and output gradient are seen by hooks; what they add to the matrix is computed at once, and
    no gradient of a single row is formed where that is dearer. ``.grad``, if the pass fills it, is left alone.

    Args:
        model: a module whose batch has its rows first.
        n: number of scalars; a batch of n m rows counts m neighbouring rows to each. It may be set after the
            forward pass; left out, each row is a scalar.
        offsets: only the entries (i, i + d) for these d, all by default. ``(0, n // 2)`` are the pairs of a batch
            with its chosen rows first.
        keep: hold on to the factors of the gradients, for :meth:`changes` and :meth:`combination`.

    Attributes:
        edges: where the modules' outputs stand in the graph. ``torch.autograd.grad(loss, edges, allow_unused=True)`` is
            a backward pass that is seen whole and forms no parameter's gradient.

    After the backward pass :meth:`gram_by_parameter` gives the *scaled* matrix :math:`S_{ij} = c_i c_j G_{ij}` with
    :math:`c_i = \partial L/\partial s_i`, parameter by parameter.

    Raises:
        EngineRefusal: on entering, a module that couples rows (BatchNorm in training mode); on the forward pass, a
            module whose output has not the batch's rows first.
    """

    def __init__(
        self, model: nn.Module, n: int | None = None, offsets: Iterable[int] | None = None, *, keep: bool = False
    ) -> None:
        self.model, self.n, self.keep = model, n, keep
        self.offsets = None if offsets is None else sorted(set(offsets))
        self.names = list(trainable_parameters(model))
        self.own = own_parameters(model)
        self.edges: list[GradientEdge] = []
        self._uses = {name: _Uses() for name in self.names}
        self._diagonals: dict[str, list[torch.Tensor]] = {}
        self._kept: dict[str, list[Factor]] = {}
        self._products = Products()
        self._handles: list[RemovableHandle] = []
        self._busy = self._arriving = False
        self._rows: int | None = None

    def __enter__(self) -> Self:
        refuse_coupled_rows(self.model)
        for module in self.own:
            self._handles.append(module.register_forward_hook(self._forward, with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def gram_by_parameter(self) -> dict[str, np.ndarray]:
        """Each parameter's share of the scaled matrix, (n, n) in float64; entries that were not asked for are 0."""
        n, shares = self._scalars(), {}
        for name in self.names:
            found = self._diagonals.get(name)
            whole = torch.stack(found).double().sum(0) if found else torch.zeros(0)
            shares[name] = from_diagonals(whole, self._wanted() if found else [], n)
        return shares

    def changes(self, step: Mapping[str, torch.Tensor]) -> np.ndarray:
        r"""First-order change :math:`c_i \langle g_i, \Delta\theta\rangle` of every scalar, times its c_i, shape (n,).

        Args:
            step: the parameters' step by name, as :func:`gentangle.gradients.parameter_step` gives it.

        Raises:
            EngineRefusal: the capture was not made with ``keep=True``.
        """
        self._require_factors()
        parts = []
        with torch.no_grad():
            for name in self.names:
                moved = step[name]
                if hasattr(moved, "full_tensor"):  # sharded (FSDP2): every process gathers every step, in one order
                    moved = moved.full_tensor()
                parts += [times(factor, moved).double() for factor in self._wide(name)]
        return np.asarray(torch.stack(parts).sum(0).cpu())

    def combination(self, weights: Any) -> dict[str, torch.Tensor]:
        r"""The update :math:`\sum_i a_i c_i g_i`, by parameter, without another backward pass.

        Args:
            weights: a, shape (n,), the same for the gradients of all parameters.

        Raises:
            EngineRefusal: the capture was not made with ``keep=True``.
        """
        self._require_factors()
        parameters, found = trainable_parameters(self.model), {}
        with torch.no_grad():
            for name in self._kept:
                parts = [combined(factor, _like(weights, factor)).flatten() for factor in self._wide(name)]
                found[name] = sum(parts[1:], parts[0]).reshape(parameters[name].shape).to(parameters[name].dtype)
        return found

    def gram_under(self, diagonal: Mapping[str, torch.Tensor]) -> np.ndarray:
        r"""The scaled matrix in another inner product, :math:`c_i c_j\, g_i^\top D\, g_j`, shape (n, n) in float64.

        Args:
            diagonal: D by parameter, each of the parameter's shape, positive.

        Raises:
            EngineRefusal: the capture was not made with ``keep=True``.
        """
        self._require_factors()
        with torch.no_grad():
            parts = [gram_under(self._wide(name), diagonal[name]) for name in self._kept]
        return np.asarray(torch.stack(parts).sum(0).cpu())

    def _wide(self, name: str) -> list[Factor]:
        """What is kept of a parameter, in the precision in which products are taken."""
        return [with_numbers(factor, at_least_float32) for factor in self._kept.get(name, ())]

    def _require_factors(self) -> None:
        if not self.keep:
            raise EngineRefusal("The factors of the gradients were not kept (keep=True)")

    def _forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        # What is run again once gradients arrive is a checkpointed layer, whose first pass was seen.
        if self._busy or self._arriving or not torch.is_grad_enabled():
            return None
        if not isinstance(output, torch.Tensor):
            raise EngineRefusal(
                f"{type(module).__name__} owns parameters and returns {type(output).__name__}, expected a tensor"
            )
        if not output.requires_grad or not output.numel():
            return None
        inputs = input_of(args, kwargs)
        result = None
        if len(output) == 1 and self._batch_rows(inputs) > 1:
            # One row for all (position embeddings): each row gets a copy of its own, and so a gradient of its own.
            result = output = output.expand(self._batch_rows(inputs), *output.shape[1:])
        if output.ndim and len(output) == self._batch_rows(inputs):  # an outer Capture may have given copies
            args = tuple(_expanded(a, len(output)) for a in args)
            kwargs = {k: _expanded(a, len(output)) for k, a in kwargs.items()}
        if output.ndim == 0 or len(output) % self._batch_rows(inputs):  # more rows: positions of a row, flattened
            raise EngineRefusal(
                f"{type(module).__name__} gave a tensor of shape {tuple(output.shape)}, expected the batch's "
                f"{self._batch_rows(inputs)} rows first"
            )
        rule = rule_of(module)
        for name in self.own[module].values():
            self.announce(name, input_of(args, kwargs) if rule is embedding else None)
        if rule is not None:
            args, kwargs = (_as_narrow(input_of(args, kwargs), output.dtype),), {}
        call = [(module, args, kwargs)]  # emptied when its gradient arrives: activations are not held longer
        self._handles.append(output.register_hook(lambda b: self._backward(*call.pop(), b)))
        self.edges.append(get_gradient_edge(output))  # the tensor itself may yet be changed in place
        return result

    def _batch_rows(self, inputs: Any) -> int:
        """Rows of the batch: those of the first layer's input."""
        if self._rows is None:
            if not isinstance(inputs, torch.Tensor) or inputs.ndim == 0:
                kind = type(inputs).__name__
                raise EngineRefusal(f"The first layer's input is {kind}, expected a batch of rows")
            self._rows = len(inputs)
        return self._rows

    def _wanted(self) -> Sequence[int]:
        return range(self._scalars()) if self.offsets is None else self.offsets

    def _scalars(self) -> int:
        if self.n is None:
            self.n = self._rows
        if self.n is None or self._rows is None or self._rows % self.n:
            raise EngineRefusal(
                f"{self.n} scalars do not share the {self._rows} rows of the batch evenly, expected one row, or "
                "equally many, for each"
            )
        return self.n

    def _backward(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], b: torch.Tensor) -> None:
        self._busy = self._arriving = True
        try:
            with torch.no_grad():
                rule, n = rule_of(module), self._scalars()
                x, b, came = input_of(args, kwargs), b.detach(), b.dtype
                if rule is None:
                    found = by_differentiation(module, args, kwargs, b, n)
                else:
                    # Under autocast the layer saw its input in the output's precision; products are taken in float32.
                    x = at_least_float32(x.detach().to(b.dtype)) if x.is_floating_point() else x
                    found = rule(module, x, at_least_float32(b), n)
                for own, name in self.own[module].items():
                    self.arrive(name, found[own], came)
        finally:
            self._busy = False

    def begin_backward(self) -> None:
        """Say that gradients arrive: whatever is run forward from now on is a checkpointed layer, once more."""
        self._arriving = True

    def announce(self, name: str, index: torch.Tensor | None = None) -> None:
        """Say that the forward pass used a parameter; ``index`` are the rows that an embedding took of it."""
        self._uses[name].made += 1
        if index is not None:
            self._uses[name].gathers.append(index.flatten())

    def arrive(self, name: str, factor: Factor, came: torch.dtype | None = None) -> None:
        """Take in the gradients of one announced use of a parameter, whose numbers came in the precision ``came``."""
        self.begin_backward()
        uses, offsets = self._uses[name], self._wanted()
        found = self._diagonals.setdefault(name, [])
        if offsets:  # else the factors alone are wanted
            found.append(gram_of(factor, offsets, self._products))
            found += [cross_gram(other, factor, offsets) for other in uses.arrived]
        if self.keep:
            narrow = with_numbers(factor, lambda numbers: numbers.to(came)) if came else factor  # nothing is lost
            self._kept.setdefault(name, []).append(narrow)
        if uses.made > len(uses.arrived) + 1:
            still_gathers = len(uses.gathers) == uses.made - len(uses.arrived) - 1 and not isinstance(factor, Gather)
            uses.arrived.append(narrowed(factor, torch.cat(uses.gathers)) if still_gathers else factor)


def own_parameters(model: nn.Module) -> dict[nn.Module, dict[str, str]]:
    """For each module that owns trainable parameters, its name of each and the model's; tied ones have one name."""
    first = {id(p): name for name, p in trainable_parameters(model).items()}
    own = {
        module: {name: first[id(p)] for name, p in module.named_parameters(recurse=False) if id(p) in first}
        for module in model.modules()
    }
    return {module: names for module, names in own.items() if names}


def refuse_coupled_rows(model: nn.Module) -> None:
    """Raise where a module's output for one row depends on the other rows."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or not module.track_running_stats):
            raise EngineRefusal(
                f"{name or type(module).__name__} is a BatchNorm in training mode: it couples the rows of a batch, so "
                "a row has no gradient of its own (after model.eval() it has)"
            )


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A layer's input: its first argument, named or not."""
    return args[0] if args else next(iter(kwargs.values()), None)


def _like(weights: Any, factor: Factor) -> torch.Tensor:
    numbers = factor.rows if isinstance(factor, Formed) else factor.right
    return torch.as_tensor(weights, dtype=numbers.dtype, device=numbers.device)


def _as_narrow(x: Any, dtype: torch.dtype) -> Any:
    """A layer's input no wider than its output: under autocast it multiplied that, and PEFT widens it first."""
    wider = isinstance(x, torch.Tensor) and x.is_floating_point() and x.dtype.itemsize > dtype.itemsize
    return x.detach().to(dtype) if wider else x


def _expanded(value: Any, rows: int) -> Any:
    alike = isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == 1
    return value.expand(rows, *value.shape[1:]) if alike else value
