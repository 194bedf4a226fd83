"""The small networks: convolutions for images, one hidden layer for vectors."""

import torch
from torch import nn


def small_network(shape: torch.Size, classes: int, *, width: int, seed: int, norm: bool = False) -> nn.Sequential:
    """For images convolutions of stride 2 until at most 4 pixels are left, then a linear layer; one hidden for vectors.

    Args:
        shape: of one input, (channels, height, width) or (features,).
        classes: logits.
        width: of the hidden layer; of images, channels of the first convolution, and the others have twice as many.
        seed: of the weights; the global generator is left as it was.
        norm: BatchNorm after each convolution; of vectors, on the input.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if len(shape) == 1:
            hidden = [*([nn.BatchNorm1d(shape[0])] * norm), nn.Linear(shape[0], width), nn.ReLU()]
            return nn.Sequential(*hidden, nn.Linear(width, classes))
        layers: list[nn.Module] = []
        (channels, *sides), wide = shape, width
        while max(sides) > 4:
            layers += [nn.Conv2d(channels, wide, 3, stride=2, padding=1), *([nn.BatchNorm2d(wide)] * norm), nn.ReLU()]
            channels, wide, sides = wide, 2 * width, [(side + 1) // 2 for side in sides]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * sides[0] * sides[1], classes))
