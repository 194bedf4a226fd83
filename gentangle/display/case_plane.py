"""The plane of the three cases: which of them one SGD step on a pair falls into, by norm ratio and cosine."""

from typing import TYPE_CHECKING

import numpy as np

from gentangle.alignment.conditions import BOTH_DOWN, BOTH_UP, CASE_TITLES, INTENDED, case, first_order_changes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Colour of a case and the place of its name in the plane.
_REGIONS = {BOTH_DOWN: ("C1", (2.4, 0.8)), BOTH_UP: ("C4", (0.42, 0.8)), INTENDED: ("C0", (1.0, -0.4))}


def case_plane(points: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Norm ratios :math:`\lVert l\rVert / \lVert w\rVert`, cosines, and the case at each, for d_w = d_l.

    Three arrays of shape (points, points); the ratios run from 1/4 to 4 on a logarithmic scale.
    """
    ratio, cosine = np.meshgrid(np.geomspace(1 / 4, 4, points), np.linspace(-1, 1, points))
    inner = cosine * ratio  # |w| = 1
    pairs = np.moveaxis(np.array([[np.ones_like(ratio), inner], [inner, ratio**2]]), (0, 1), (-2, -1))
    return ratio, cosine, case(first_order_changes(pairs))


def draw_cases(figure: "Figure") -> None:
    """The plane with its three regions, each named."""
    axes = figure.subplots()
    ratio, cosine, names = case_plane()
    for name, (colour, place) in _REGIONS.items():
        axes.contourf(ratio, cosine, names == name, levels=[0.5, 1.5], colors=[colour], alpha=0.75)
        axes.text(*place, CASE_TITLES[name], fontsize=11, color="#111111", ha="center")
    axes.set(xscale="log", xlabel="norm ratio |l| / |w|", ylabel="cosine of the two gradients")
    axes.minorticks_off()
    axes.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
