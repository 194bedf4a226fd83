r"""Gradients of one parameter, one a batch row, kept as factors: their inner products need no gradient to be formed.

The gradient of row i of a linear layer's weight is a sum over positions, :math:`g_i = \sum_t l_{it} r_{it}^\top`, so

.. math:: \langle g_i, g_j\rangle = \sum_{t,s} \langle l_{it}, l_{js}\rangle \langle r_{it}, r_{js}\rangle .

With T positions a block (i, j) costs :math:`T^2 (L + M)` multiplications for a weight of shape (L, M), against
:math:`T L M` for forming a gradient and :math:`L M` for each product of two: the cheaper way is taken.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

#: Multiplications that one number read from or written to memory is worth, when the two ways are compared.
MEMORY = 20
#: Positions of a row are cut into pieces of this length, so that the symmetric half of a row with itself is skipped.
PIECE = 64
#: A factor of this width (a vocabulary's) is searched for positions that are zero: the prompt's, at the head.
WIDE = 8192
#: At most so many numbers are made at once: inner products of positions, or gradients; 64 MB in float32.
BLOCK = 2**24


@dataclass
class Products:
    """Inner products of positions that several factors share: modules fed by one tensor have one left or right factor.

    Kept are the last few tensors only; a backward pass meets such modules one after another.
    """

    kept: list[tuple[torch.Tensor, dict[int | None, list[torch.Tensor]]]] = field(default_factory=list)

    def of(self, factor: torch.Tensor, offset: int | None) -> list[torch.Tensor]:
        """The blocks of :func:`_position_products` of ``factor`` with itself, rows ``offset`` apart; None: all rows."""
        found = next((entry for entry in self.kept if _same(entry[0], factor)), (factor, {}))
        others = [entry for entry in self.kept if entry[1] is not found[1]]
        self.kept = [*others[-1:], found]
        blocks = found[1]
        if offset not in blocks:
            blocks[offset] = _all_products(factor) if offset is None else _position_products(factor, offset)
        return blocks[offset]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()


def used_first(used: torch.Tensor) -> torch.Tensor:
    """Positions of each row, those that are ``used`` (R, T) first, cut to the longest row's number of them."""
    length = max(1, int(used.sum(-1).max()))
    return used.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :length]


def in_order(tensor: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """The positions ``order`` (R, length) of a tensor (R, T, d)."""
    return tensor.gather(1, order[..., None].expand(-1, -1, tensor.shape[-1]))


@dataclass
class Outer:
    """Gradient of a matrix, ``left`` (R, T, L) and ``right`` (R, T, M); rows may be padded with zeros."""

    left: torch.Tensor
    right: torch.Tensor

    def without_zeros(self) -> "Outer":
        """The same gradients from the positions that count, where one side is as wide as a vocabulary."""
        wide = self.left if self.left.shape[-1] >= self.right.shape[-1] else self.right
        if wide.shape[-1] < WIDE:
            return self
        order = used_first(torch.linalg.vector_norm(wide, torch.inf, dim=-1) > 0)
        if order.shape[1] == wide.shape[1]:
            return self
        return Outer(in_order(self.left, order), in_order(self.right, order))

    def formed(self) -> torch.Tensor:
        """Every row's gradient, (R, L M)."""
        return (self.left.mT @ self.right).flatten(1)


@dataclass
class Gather:
    """Gradient of an embedding of ``size`` rows: ``right`` (R, T, M) added to the rows ``index`` (R, T)."""

    index: torch.Tensor
    right: torch.Tensor
    size: int

    def formed(self) -> torch.Tensor:
        """Every row's gradient, (R, size M)."""
        rows, _, width = self.right.shape
        whole = self.right.new_zeros(rows, self.size, width)
        whole.scatter_add_(1, self.index[..., None].expand_as(self.right), self.right)
        return whole.flatten(1)


@dataclass
class Formed:
    """Gradients as they are, ``rows`` (R, numel)."""

    rows: torch.Tensor

    def formed(self) -> torch.Tensor:
        return self.rows


Factor = Outer | Gather | Formed


def with_numbers(factor: Factor, change: Callable[[torch.Tensor], torch.Tensor]) -> Factor:
    """The factor with its numbers position by position changed; gradients that are formed stay as they are."""
    if isinstance(factor, Outer):
        return replace(factor, left=change(factor.left), right=change(factor.right))
    return replace(factor, right=change(factor.right)) if isinstance(factor, Gather) else factor


def from_diagonals(entries: torch.Tensor, offsets: Sequence[int], n: int) -> np.ndarray:
    """The symmetric matrix (n, n) of its diagonals ``offsets``, float64; entries of the others are 0.

    Args:
        entries: one diagonal after another, as :func:`gram_of` gives them.
    """
    matrix, values = np.zeros((n, n)), entries.double().cpu().numpy()
    for offset in offsets:
        i = np.arange(n - offset)
        matrix[i, i + offset] = matrix[i + offset, i] = values[i]
        values = values[n - offset :]
    return matrix


def gram_of(factor: Factor, offsets: Sequence[int], products: Products) -> torch.Tensor:
    """Inner products of one parameter's gradients: <g_i, g_{i+d}>, i = 0 .. R-d-1, for one offset d or more."""
    if isinstance(factor, Gather) or (isinstance(factor, Outer) and _contraction_is_cheaper(factor, offsets)):
        if len(offsets) == len(factor.right):
            return _diagonals(_contract_all(factor, products), offsets)
        if isinstance(factor, Gather):
            return torch.cat([_contract(factor, factor, d) for d in offsets])
        return torch.cat([_contract_self(factor, d, products) for d in offsets])
    rows = factor.formed()
    return _of_formed(rows, rows, offsets)


def cross_gram(one: Factor, other: Factor, offsets: Sequence[int]) -> torch.Tensor:
    """What two uses of one parameter add to its Gram matrix: <u_i, v_{i+d}> + <v_i, u_{i+d}>, as in :func:`gram_of`."""
    if isinstance(one, Formed) or isinstance(other, Formed):
        u, v = one.formed(), other.formed()
        return _of_formed(u, v, offsets) + _of_formed(v, u, offsets)
    return torch.cat([_contract(one, other, d) + _contract(other, one, d) for d in offsets])


def times(factor: Factor, step: torch.Tensor) -> torch.Tensor:
    """Inner product of every row's gradient with one step of the parameter, (R,)."""
    if isinstance(factor, Formed):
        return factor.rows @ step.flatten().to(factor.rows.dtype)
    step = step.to(factor.right.dtype)
    moved = step[factor.index] if isinstance(factor, Gather) else factor.left @ step
    return (moved * factor.right).flatten(1).sum(1)


def combined(factor: Factor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted sum of the rows' gradients, in the parameter's own numbers, flat where the factor is formed."""
    if isinstance(factor, Formed):
        return weights @ factor.rows
    right = (factor.right * weights[:, None, None]).flatten(0, 1)
    if isinstance(factor, Gather):
        return right.new_zeros(factor.size, right.shape[-1]).index_add_(0, factor.index.flatten(), right)
    return factor.left.flatten(0, 1).mT @ right


def slab(factor: Factor, size: int, part: slice) -> torch.Tensor:
    """Every row's gradient in the rows ``part`` of a parameter that has ``size`` of them, (R, rows of the part, M)."""
    if isinstance(factor, Formed):
        return factor.rows.unflatten(1, (size, -1))[:, part]
    if isinstance(factor, Outer):
        return factor.left[..., part].mT @ factor.right
    rows, length = factor.right.shape[0], part.stop - part.start
    inside = (factor.index >= part.start) & (factor.index < part.stop)
    at = (factor.index - part.start).where(inside, length)  # what lies outside goes to a row of its own
    found = factor.right.new_zeros(rows, length + 1, factor.right.shape[-1])
    return found.scatter_add_(1, at[..., None].expand_as(factor.right), factor.right)[:, :length]


def gram_under(factors: Sequence[Factor], diagonal: torch.Tensor) -> torch.Tensor:
    r"""Inner products :math:`\sum_k g_{ik} D_k g_{jk}` of one parameter's gradients, (R, R) in float64.

    The gradients are formed slab by slab, each once: a product of two would need both.

    Args:
        factors: the parameter's uses.
        diagonal: D, of the parameter's shape, positive.
    """
    size = diagonal.shape[0] if diagonal.ndim else 1
    root = diagonal.sqrt().reshape(size, -1)
    rows = len(factors[0].rows if isinstance(factors[0], Formed) else factors[0].right)
    step, found = max(1, BLOCK // (rows * root.shape[1])), []
    for start in range(0, size, step):
        part = slice(start, min(start + step, size))
        scaled = sum(slab(factor, size, part) for factor in factors) * root[part]
        scaled = scaled.flatten(1)
        found.append((scaled @ scaled.T).double())
    return torch.stack(found).sum(0)


def narrowed(factor: Factor, index: torch.Tensor) -> Factor:
    """Of a factor with a wide left side, only the columns that products with ``Gather(index)`` read."""
    if not isinstance(factor, Outer):
        return factor
    columns = index.unique()
    narrow = torch.zeros(factor.left.shape[-1], dtype=torch.long, device=index.device)
    narrow[columns] = torch.arange(len(columns), device=index.device)
    return _Narrowed(factor.left[..., columns], factor.right, narrow)


@dataclass
class _Narrowed(Outer):
    """An Outer whose left side holds only some columns; ``place`` maps a column to where it stands."""

    place: torch.Tensor

    def formed(self) -> torch.Tensor:
        raise AssertionError("a narrowed factor is multiplied with a Gather alone")


def _contraction_is_cheaper(factor: Outer, offsets: Sequence[int]) -> bool:
    rows, length, left = factor.left.shape
    weight = left * factor.right.shape[-1]
    blocks = sum(rows - d for d in offsets)
    contract = blocks * length**2 * (left + factor.right.shape[-1])
    form = rows * length * weight + MEMORY * (rows + 2 * blocks) * weight
    return contract <= form


def _position_products(u: torch.Tensor, offset: int) -> list[torch.Tensor]:
    """<u_it, u_{i+offset, s}> in pieces (..., t, s); of a row with itself each off-diagonal piece stands once."""
    rows, length, width = u.shape
    if offset or length <= PIECE:
        return [u[: rows - offset] @ u[offset:].mT]
    count = -(-length // PIECE)
    pieces = torch.nn.functional.pad(u, (0, 0, 0, count * PIECE - length)).reshape(rows, count, PIECE, width)
    return [pieces[:, : count - d] @ pieces[:, d:].mT for d in range(count)]


def _blocks(rows: int, length: int) -> list[slice]:
    """Blocks of rows, to be multiplied with the rows from their first on.

    Few and large: on a GPU the many diagonals of a large batch, one by one, spend their time in being launched.
    """
    step = max(1, min(-(-rows // 4), BLOCK // (rows * length**2)))
    return [slice(i, i + step) for i in range(0, rows, step)]


def _all_products(u: torch.Tensor) -> list[torch.Tensor]:
    """<u_it, u_js> by blocks of rows i, for all rows j from the block's first on: (rows T, rows' T)."""
    blocks = _blocks(*u.shape[:2])
    return [u[block].flatten(0, 1) @ u[block.start :].flatten(0, 1).T for block in blocks]


def _contract_all(factor: Outer | Gather, products: Products) -> torch.Tensor:
    """<g_i, g_j>, (R, R), right on and above the diagonal."""
    rows, length, _ = factor.right.shape
    if isinstance(factor, Gather):
        at, blocks = factor.index, _blocks(rows, length)
        left = [at[block].flatten()[:, None] == at[block.start :].flatten() for block in blocks]
    else:
        left = products.of(factor.left, None)
    found = []
    for a, b in zip(left, products.of(factor.right, None), strict=True):
        block = (a * b).unflatten(1, (-1, length)).unflatten(0, (-1, length)).sum((1, 3))
        found.append(torch.nn.functional.pad(block, (rows - block.shape[1], 0)))
    return torch.cat(found)


def _diagonals(matrix: torch.Tensor, offsets: Sequence[int]) -> torch.Tensor:
    return torch.cat([matrix.diagonal(d) for d in offsets])


def _contract_self(factor: Outer, offset: int, products: Products) -> torch.Tensor:
    left = products.of(factor.left, offset)
    right = products.of(factor.right, offset)
    sums = [_dots(a, b) for a, b in zip(left, right, strict=True)]
    return sums[0] if len(sums) == 1 else sums[0] + 2 * torch.stack(sums[1:]).sum(0)


def _contract(one: Factor, other: Factor, offset: int) -> torch.Tensor:
    """<u_i, v_{i+offset}> for u of ``one`` and v of ``other``, (R - offset,)."""
    assert not isinstance(one, Formed)
    assert not isinstance(other, Formed)
    count = len(one.right) - offset
    right = one.right[:count] @ other.right[offset:].mT  # (n, T, S)
    if isinstance(one, Gather) and isinstance(other, Gather):
        left = one.index[:count, :, None] == other.index[offset:, None, :]
    elif isinstance(one, Gather):
        left = _columns(other, one.index[:count], offset, count).mT
    elif isinstance(other, Gather):
        left = _columns(one, other.index[offset:], 0, count)
    else:
        left = one.left[:count] @ other.left[offset:].mT
    return _dots(left.to(right.dtype), right)


def _dots(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Sum of a * b over all axes but the first, without the product as a tensor."""
    return (a.flatten(1)[:, None, :] @ b.flatten(1)[:, :, None]).flatten()


def _columns(factor: Factor, index: torch.Tensor, start: int, count: int) -> torch.Tensor:
    """left_{i, t}[index_{i, s}], (n, T, S)."""
    assert isinstance(factor, Outer)
    left = factor.left[start : start + count]
    place = factor.place[index] if isinstance(factor, _Narrowed) else index
    return left.gather(2, place[:, None, :].expand(-1, left.shape[1], -1))


def _of_formed(u: torch.Tensor, v: torch.Tensor, offsets: Sequence[int]) -> torch.Tensor:
    rows = len(u)
    if len(offsets) == rows:
        return _diagonals(u @ v.mT, offsets)
    return torch.cat([(u[: rows - d] * v[d:]).sum(1) for d in offsets])
