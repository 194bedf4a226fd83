"""The small networks: convolutions for images, one hidden layer for vectors."""

import torch
from torch import nn


def small_network(shape: torch.Size, classes: int, *, width: int, seed: int, norm: bool = False) -> nn.Sequential:
    """:func:`small_cnn` for images; for vectors one hidden layer of ``width``, after BatchNorm where ``norm`` asks.

    Args:
        shape: of one input, (channels, height, width) or (features,).
    """
    if len(shape) == 3:
        return small_cnn(shape, classes, width=width, seed=seed, norm=norm)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = [*([nn.BatchNorm1d(shape[0])] * norm), nn.Linear(shape[0], width), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Linear(width, classes))


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
