"""Pairs among scalars: the chosen ones first, then the rejected ones, as TRL batches them."""

from typing import Any

import numpy as np

from gentangle.errors import InputError


def count_of_pairs(scalars: int) -> int:
    """Half the number of scalars.

    Raises:
        InputError: the number is odd.
    """
    if scalars % 2:
        raise InputError(f"{scalars} scalars are no pairs, expected an even number, the chosen ones first.")
    return scalars // 2


def pair_blocks(gram: Any) -> np.ndarray:
    """The 2x2 Gram matrix of every pair of a batch, shape (P, 2, 2), from the whole one of shape (2P, 2P).

    Rows are ordered as TRL batches them: the P chosen responses, then the P rejected ones.

    Raises:
        InputError: a matrix of another shape, or of an odd number of rows.
    """
    matrix = np.asarray(gram, dtype=float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] % 2:
        raise InputError(
            f"A Gram matrix of shape {matrix.shape} is no batch of pairs: it takes (2P, 2P), chosen rows first."
        )
    pairs = np.arange(matrix.shape[0] // 2)
    rows = np.stack([pairs, pairs + len(pairs)], axis=-1)
    return matrix[rows[:, :, None], rows[:, None, :]]
