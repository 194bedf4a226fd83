r"""Gradients of one parameter, one a batch row, kept as factors: their inner products need no gradient to be formed.

The gradient of row i of a linear layer's weight is a sum over positions, :math:`g_i = \sum_t l_{it} r_{it}^\top`, so

.. math:: \langle g_i, g_j\rangle = \sum_{t,s} \langle l_{it}, l_{js}\rangle \langle r_{it}, r_{js}\rangle .

With T positions a block (i, j) costs :math:`T^2 (L + M)` multiplications for a weight of shape (L, M), against
:math:`T L M` for forming a gradient and :math:`L M` for each product of two: the cheaper way is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

#: Multiplications that one number read from or written to memory is worth, when the two ways are compared.
MEMORY = 20
#: Positions of a row are cut into pieces of this length, so that the symmetric half of a row with itself is skipped.
PIECE = 64
#: A factor of this width (a vocabulary's) is searched for positions that are zero: the prompt's, at the head.
WIDE = 8192


@dataclass
class Products:
    """Inner products of positions that several factors share: modules fed by one tensor have one left or right factor.

    Kept are the last few tensors only; a backward pass meets such modules one after another.
    """

    kept: list[tuple[torch.Tensor, dict[int, list[torch.Tensor]]]] = field(default_factory=list)

    def of(self, factor: torch.Tensor, offset: int) -> list[torch.Tensor]:
        """The blocks of :func:`_position_products` of ``factor`` with itself, rows ``offset`` apart."""
        found = next((entry for entry in self.kept if _same(entry[0], factor)), (factor, {}))
        others = [entry for entry in self.kept if entry[1] is not found[1]]
        self.kept = [*others[-1:], found]
        blocks = found[1]
        if offset not in blocks:
            blocks[offset] = _position_products(factor, offset)
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


#: Inner products <g_i, g_{i + d}> for i = 0 .. R - d - 1, by d.
Diagonals = dict[int, torch.Tensor]


def from_diagonals(diagonals: Diagonals, n: int) -> np.ndarray:
    """The symmetric matrix (n, n) of these diagonals, float64; entries of the others are 0."""
    matrix = np.zeros((n, n))
    for offset, values in diagonals.items():
        i = np.arange(n - offset)
        matrix[i, i + offset] = matrix[i + offset, i] = values.double().cpu().numpy()
    return matrix


def gram_of(factor: Factor, offsets: Sequence[int], products: Products) -> Diagonals:
    """Inner products of one parameter's gradients, the diagonals ``offsets`` of their Gram matrix."""
    if isinstance(factor, Outer) and _contraction_is_cheaper(factor, offsets):
        return {d: _contract_self(factor, d, products) for d in offsets}
    if isinstance(factor, Gather):
        return {d: _contract(factor, factor, d) for d in offsets}
    rows = factor.formed()
    return _of_formed(rows, rows, offsets)


def cross_gram(one: Factor, other: Factor, offsets: Sequence[int]) -> Diagonals:
    """What two uses of one parameter add to its Gram matrix: <u_i, v_{i+d}> + <v_i, u_{i+d}>."""
    if isinstance(one, Formed) or isinstance(other, Formed):
        u, v = one.formed(), other.formed()
        back = _of_formed(v, u, offsets)
        return {d: there + back[d] for d, there in _of_formed(u, v, offsets).items()}
    return {d: _contract(one, other, d) + _contract(other, one, d) for d in offsets}


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


def _of_formed(u: torch.Tensor, v: torch.Tensor, offsets: Sequence[int]) -> Diagonals:
    rows = len(u)
    if len(offsets) == rows:
        whole = u @ v.mT
        return {d: whole.diagonal(d) for d in offsets}
    return {d: (u[: rows - d] * v[d:]).sum(1) for d in offsets}
