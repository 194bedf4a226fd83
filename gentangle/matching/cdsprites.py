"""CdSprites-N: sprites whose colour tells the shape in every training domain, and nothing in the test domain."""

import colorsys
import math
from collections.abc import Callable, Sequence

import torch

from gentangle.errors import InputError
from gentangle.matching.environments import Environments, Examples

#: (u, v, scale) -> inside; both have the area 4 scale^2, so that size does not tell them apart.
_SHAPES: Sequence[Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = (
    lambda u, v, scale: torch.maximum(u.abs(), v.abs()) <= scale,
    lambda u, v, scale: (u / 1.5) ** 2 + (v * 1.5) ** 2 <= 4 / math.pi * scale**2,
)


def cdsprites(domains: int, examples: int, *, seed: int, side: int = 64) -> Environments:
    r"""Squares (label 0) and ellipses (label 1) of random position, scale and rotation, one colour each on black.

    Domain i paints its squares in one hue and its ellipses in another; the 2N hues are evenly spaced and dealt out at
    random. The test domain paints either shape in any of the 2N hues. So the colour predicts the label perfectly while
    learning, by 2N rules, and not at all in the test; the shape does in both, by one rule.

    Args:
        domains: N, from 2 to 50.
        examples: of each domain, to learn from; a fifth more is held out, and twice as many are tested on.
        seed: of everything.
        side: pixels, 64 in the paper.

    Returns:
        x of shape (n, 3, side, side), bytes.

    Raises:
        InputError: N out of range, or fewer than 5 examples.

    Source: after Shi et al., arXiv 2104.09937; its sprites are dSprites' own images, these are drawn anew.
    """
    if not 2 <= domains <= 50 or examples < 5:
        raise InputError(f"Got {domains} domains of {examples} examples, expected 2 to 50 domains of 5 or more.")
    generator = torch.Generator().manual_seed(seed)
    hues = torch.randperm(2 * domains, generator=generator).view(domains, 2) / (2 * domains)
    train, validation = {}, {}
    for i, own in enumerate(hues.split(1)):
        x, y = sprites(examples + examples // 5, side, own, generator)
        train[i], validation[i] = (x[:examples], y[:examples]), (x[examples:], y[examples:])
    test = sprites(2 * examples, side, hues.view(-1, 1).expand(-1, 2), generator)
    return Environments(train, validation, {"test": test}, classes=2)


def sprites(count: int, side: int, palettes: torch.Tensor, generator: torch.Generator) -> Examples:
    """``count`` sprites, half of either shape; each has the hue (0 to 1) that a random palette gives to its label.

    Args:
        palettes: shape (k, 2).
    """
    y = (torch.arange(count) % 2)[torch.randperm(count, generator=generator)]
    hue = palettes[torch.randint(len(palettes), (count,), generator=generator), y]
    scale, angle, across, down = torch.rand(4, count, 1, 1, generator=generator)
    scale, angle = 0.14 + 0.14 * scale, 2 * math.pi * angle
    grid = torch.linspace(-1, 1, side)
    a, b = grid[None, :] - (across - 0.5), grid[:, None] - (down - 0.5)  # centres within the middle half
    u, v = angle.cos() * a - angle.sin() * b, angle.sin() * a + angle.cos() * b
    inside = torch.stack([shape(u, v, scale) for shape in _SHAPES])[y, torch.arange(count)]
    colours = torch.tensor([colorsys.hsv_to_rgb(h, 1, 1) for h in hue.tolist()])
    return (255 * inside[:, None] * colours[:, :, None, None]).round().to(torch.uint8), y
