"""The networks: small convolutions for images, one hidden layer for vectors, and DomainBed's ResNets."""

import torch
from torch import nn

#: Of a recipe of images: the small one below, or one of torchvision's.
NETWORKS = ("small", "resnet18", "resnet50")


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


def image_network(name: str, classes: int, *, weights: str, seed: int) -> nn.Module:
    """torchvision's ``resnet50`` or ``resnet18`` with a new last layer, and BatchNorm frozen as in DomainBed.

    BatchNorm takes the running statistics that the weights came with, in training too, and does not move them; its
    scales and shifts learn. The networks never call ``train()``, so it stays so.

    Args:
        weights: ``imagenet``, ``random``, or a file, see :func:`gentangle.matching.wilds_models.make_network`.
        seed: of the last layer, and of random weights.

    Raises:
        InputError: torchvision is not installed (see requirements/wilds.txt), or the weights cannot be had.
    """
    from gentangle.matching.wilds_data import import_wilds
    from gentangle.matching.wilds_models import make_network

    import_wilds()  # which makes torchvision importable beside another build of torch
    model = make_network(name, classes, weights=weights, seed=seed, config={}, channels=3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model
