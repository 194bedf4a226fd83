"""A step is all or nothing: the copy of what it may change, and the way back."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch


@contextmanager
def all_or_nothing(tensors: Sequence[torch.Tensor]) -> Iterator[dict[torch.Tensor, torch.Tensor]]:
    """A copy of each tensor, to which it returns when the block fails or is interrupted."""
    before = {tensor: tensor.detach().clone() for tensor in tensors}
    try:
        yield before
    except BaseException:
        put_back(before)
        raise


@torch.no_grad()
def put_back(before: Mapping[torch.Tensor, torch.Tensor]) -> None:
    """Give each tensor the values of its copy."""
    for tensor, copy in before.items():
        tensor.copy_(copy)
