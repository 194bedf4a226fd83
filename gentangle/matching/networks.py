"""The small convolutional network of the toys."""

import torch
from torch import nn


def small_cnn(shape: torch.Size, classes: int, *, width: int, seed: int, norm: bool = False) -> nn.Sequential:
    """Convolutions of stride 2 until the image is at most 4 pixels wide, then one linear layer.

    Args:
        shape: of one input, (channels, height, width).
        classes: logits.
        width: channels of the first layer; the others have twice as many.
        seed: of the weights; the global generator is left as it was.
        norm: BatchNorm after each convolution.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        (channels, *sides), wide = shape, width
        while max(sides) > 4:
            layers += [nn.Conv2d(channels, wide, 3, stride=2, padding=1), *([nn.BatchNorm2d(wide)] * norm), nn.ReLU()]
            channels, wide, sides = wide, 2 * width, [(side + 1) // 2 for side in sides]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * sides[0] * sides[1], classes))
