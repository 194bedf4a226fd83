"""Factors of gradients against the gradients they stand for, formed and multiplied as they are."""

from itertools import product

import numpy as np
import pytest
import torch

from gentangle.gradients import factors
from gentangle.gradients.factors import (
    Formed,
    Gather,
    Outer,
    Products,
    combined,
    cross_gram,
    from_diagonals,
    gram_of,
    gram_under,
    in_order,
    narrowed,
    slab,
    times,
    used_first,
)

ROWS, WIDTH, SIZE = 4, 3, 5


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(kind, positions=2, seed=0):
    """Gradients of a weight of shape (SIZE, WIDTH), one a row."""
    right = draw(ROWS, positions, WIDTH, seed=seed)
    if kind == "outer":
        return Outer(draw(ROWS, positions, SIZE, seed=seed + 1), right)
    index = torch.randint(SIZE, (ROWS, positions), generator=torch.Generator().manual_seed(seed))
    gathered = Gather(index, right, SIZE)
    return gathered if kind == "gather" else Formed(gathered.formed())


def dense(factor):
    """The gradients (ROWS, SIZE WIDTH), position by position."""
    if isinstance(factor, Formed):
        return factor.rows
    left = factor.left if isinstance(factor, Outer) else torch.eye(SIZE, dtype=torch.float64)[factor.index]
    return torch.einsum("rtl,rtm->rlm", left, factor.right).flatten(1)


def diagonals(matrix, offsets):
    return torch.cat([matrix.diagonal(d) for d in offsets])


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


KINDS = ("outer", "gather", "formed")
OFFSETS = ([0, 1, 2, 3], [0], [0, 2], [3])


@pytest.mark.parametrize("kind", KINDS)
def test_a_factor_forms_its_gradients_and_multiplies_as_they_do(kind):
    factor = made(kind)
    rows, step, weights = dense(factor), draw(SIZE, WIDTH, seed=7), draw(ROWS, seed=8)
    close(factor.formed(), rows)
    close(times(factor, step), rows @ step.flatten())
    close(combined(factor, weights).flatten(), weights @ rows)


@pytest.mark.parametrize("contracts", [True, False])
@pytest.mark.parametrize("positions", [1, 63, 64, 65, 128, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_the_diagonals_are_those_of_the_gram_matrix(kind, positions, contracts, monkeypatch):
    """Rows of less than a piece, of one, of several whole ones and of a part."""
    monkeypatch.setattr(factors, "_contraction_is_cheaper", lambda factor, offsets: contracts)
    factor = made(kind, positions)
    matrix = dense(factor) @ dense(factor).T
    for offsets in OFFSETS:
        found = gram_of(factor, offsets, Products())
        torch.testing.assert_close(found, diagonals(matrix, offsets), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("limit", [1, 4 * 2 * 4 * 2, 10**6])
@pytest.mark.parametrize("rows", [1, 2, 4, 5, 9])
def test_all_rows_at_once_are_taken_in_blocks_of_rows(rows, limit, monkeypatch):
    monkeypatch.setattr(factors, "BLOCK", limit)
    factor, kept = Outer(draw(rows, 2, SIZE), draw(rows, 2, WIDTH, seed=1)), Products()
    gathered = Gather(torch.arange(2 * rows).reshape(rows, 2) % SIZE, factor.right, SIZE)
    for some in (factor, gathered):
        close(gram_of(some, range(rows), kept), diagonals(dense(some) @ dense(some).T, range(rows)))
    for block in kept.of(factor.left, None):
        assert block.shape[0] <= 2 * -(-rows // 4)
        assert block.numel() <= max(limit, 4 * rows)  # one row of two positions with every row, at least


@pytest.mark.parametrize(("one", "other"), list(product(KINDS, KINDS)))
def test_two_uses_of_a_parameter_add_their_products(one, other):
    u, v = made(one, 2), made(other, 3, seed=3)
    whole = dense(u) + dense(v)
    crossed = whole @ whole.T - dense(u) @ dense(u).T - dense(v) @ dense(v).T
    for offsets in OFFSETS:
        close(cross_gram(u, v, offsets), diagonals(crossed, offsets))


@pytest.mark.parametrize("limit", [1, ROWS * WIDTH * 2, 10**6])
@pytest.mark.parametrize("kinds", [("outer",), ("gather",), ("formed",), ("outer", "gather"), ("formed", "outer")])
def test_under_a_diagonal_slabs_add_up_to_the_whole(kinds, limit, monkeypatch):
    """One row of the parameter at a time, two, all; and a parameter that is used twice."""
    monkeypatch.setattr(factors, "BLOCK", limit)
    uses = [made(kind, 2, seed=seed) for seed, kind in enumerate(kinds)]
    diagonal, rows = draw(SIZE, WIDTH, seed=9).abs() + 0.1, sum(dense(factor) for factor in uses)
    close(gram_under(uses, diagonal), rows * diagonal.flatten() @ rows.T)
    sizes = []
    monkeypatch.setattr(factors, "slab", lambda *given: sizes.append(slab(*given).numel()) or slab(*given))
    gram_under(uses, diagonal)
    assert sum(sizes) == ROWS * SIZE * WIDTH * len(uses)
    assert max(sizes) <= max(limit, ROWS * WIDTH)


def test_a_number_alone_has_a_diagonal_of_one():
    rows = draw(ROWS, 1)
    close(gram_under([Formed(rows)], torch.tensor(3.0, dtype=torch.float64)), 3 * rows @ rows.T)


@pytest.mark.parametrize("order", [1, -1])
def test_a_narrowed_factor_gives_the_same_products_with_what_it_was_narrowed_for(order):
    outer, gather = made("outer"), made("gather", 3, seed=3)
    gather = Gather(gather.index % 3 + 1, gather.right, SIZE)
    narrow = narrowed(outer, gather.index)
    assert narrow.left.shape[-1] == 3
    expected = cross_gram(*(outer, gather)[::order], OFFSETS[0])
    close(cross_gram(*(narrow, gather)[::order], OFFSETS[0]), expected)
    assert narrowed(gather, gather.index) is gather
    with pytest.raises(AssertionError, match="a Gather alone"):
        narrow.formed()


def test_diagonals_make_a_symmetric_matrix_and_what_is_not_given_is_0():
    matrix = from_diagonals(torch.tensor([1.0, 2.0, 3.0, 4.0]), [0, 2], 3)
    np.testing.assert_array_equal(matrix, [[1, 0, 4], [0, 2, 0], [4, 0, 3]])
    np.testing.assert_array_equal(from_diagonals(torch.zeros(0), [], 2), np.zeros((2, 2)))


def test_positions_that_are_used_come_first_and_in_their_order():
    used = torch.tensor([[False, True, False, True], [False, False, True, False]])
    order = used_first(used)
    assert order.shape == (2, 2)
    assert order[0].tolist() == [1, 3]
    assert order[1, 0] == 2
    tensor = draw(2, 4, 3)
    torch.testing.assert_close(in_order(tensor, order)[0], tensor[0, [1, 3]])
    assert used_first(torch.zeros(2, 4, dtype=torch.bool)).shape == (2, 1)  # a row has one position at least


@pytest.mark.parametrize("wide", ["left", "right"])
def test_where_one_side_is_wide_positions_that_are_zero_are_left_out(wide, monkeypatch):
    monkeypatch.setattr(factors, "WIDE", 6)
    broad, narrow = draw(2, 4, 6) * 1e-3, draw(2, 4, 5, seed=1)
    broad[0, [0, 2]], broad[1, [0, 1, 3]] = 0, 0
    sides = (broad, narrow) if wide == "left" else (narrow, broad)
    found = Outer(*sides).without_zeros()
    assert found.left.shape[1] == found.right.shape[1] == 2
    close(found.formed(), Outer(*sides).formed())


def test_what_is_narrow_or_has_no_zeros_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(factors, "WIDE", 6)
    broad = draw(2, 4, 6)
    full = Outer(broad, draw(2, 4, 3))
    assert full.without_zeros() is full
    square = Outer(broad, broad * (torch.arange(4) == 1)[:, None])  # of two sides alike the left one is looked at
    assert square.without_zeros() is square
    narrow = Outer(torch.zeros(2, 4, 5), draw(2, 4, 3))
    assert narrow.without_zeros() is narrow


def test_products_of_one_tensor_are_taken_once():
    kept, u = Products(), draw(ROWS, 2, 2)
    first = kept.of(u, 0)
    assert kept.of(u, 0) is first
    assert kept.of(u, 1) is not first
    for other in (u.mT, u[:, :1], u.clone()):  # of other strides, of another shape, elsewhere
        close(kept.of(other, 0)[0], other @ other.mT)
    tensors = [draw(ROWS, 2, 2, seed=seed) for seed in range(5)]
    for tensor in tensors:
        kept.of(tensor, 0)
    assert [entry[0].data_ptr() for entry in kept.kept] == [tensor.data_ptr() for tensor in tensors[-2:]]


@pytest.mark.parametrize(
    ("rows", "left", "right", "offsets"),
    [(1, 60, 60, [0]), (4, 30, 70, [0, 1, 2, 3]), (6, 100, 8, [0, 3]), (3, 8, 120, [0])],
)
def test_the_way_taken_is_that_of_fewer_multiplications(rows, left, right, offsets):
    """Counted row by row and block by block; a number read or written is worth so many multiplications."""
    ways = set()
    for positions in range(1, 250):
        sides = (torch.empty(1).expand(rows, positions, width) for width in (left, right))
        contract = form = 0
        for _ in range(rows):
            form += (positions + factors.MEMORY) * left * right  # made at each position, then written
        for d in offsets:
            for _ in range(rows - d):
                contract += positions * positions * (left + right)
                form += 2 * factors.MEMORY * left * right  # two of them are read
        found = factors._contraction_is_cheaper(Outer(*sides), offsets)
        assert found == (contract <= form)
        ways.add(found)
    assert ways == {True, False}
