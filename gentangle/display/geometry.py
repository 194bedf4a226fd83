"""The widget of gradient entanglement: two gradients in a plane, the update, and where it takes both responses."""

import html
import math

import traitlets

from gentangle.alignment import conditions
from gentangle.display.widget import BookWidget, module_text

#: How a case is written for a reader.
CASE_TITLES = {
    conditions.INTENDED: "chosen up, rejected down",
    conditions.BOTH_UP: "both up",
    conditions.BOTH_DOWN: "both down",
    conditions.REVERSED: "chosen down, rejected up",
    conditions.UNMOVED: "unmoved",
}

_SIZE = 240  # of the static picture, in its own units
_COLOURS = {
    "w": "#0072B2",
    "l": "#D55E00",
    "v": "#767676",
}  # the figures' own; each at least 3:1 on white and on the dark page


class GradientGeometry(BookWidget):
    r"""Gradients w and l in the plane they span, the update v = d_w w - d_l l, and the predicted changes.

    To first order :math:`\Delta\log\pi_w = \eta\langle w, v\rangle`, :math:`\Delta\log\pi_l = \eta\langle l, v\rangle`;
    d_l is 1, so d_w is the ratio. Source: Yuan et al., arXiv 2410.13828, the gradient inner product condition.

    Args:
        chosen_norm, rejected_norm: :math:`\lVert w\rVert` and :math:`\lVert l\rVert`, in [0.1, 3].
        angle: between the two gradients, in degrees, in [0, 180].
        ratio: d_w / d_l, in [0.25, 4].
        eta: step, in [0.05, 1].

    >>> GradientGeometry(angle=0).reading()["case"]
    'both-down'
    """

    module = "geometry"
    state_names = ("chosen_norm", "rejected_norm", "angle", "ratio", "eta")
    _esm = module_text("geometry")

    chosen_norm = traitlets.Float(1.0, min=0.1, max=3.0).tag(sync=True)
    rejected_norm = traitlets.Float(2.0, min=0.1, max=3.0).tag(sync=True)
    angle = traitlets.Float(20.0, min=0.0, max=180.0).tag(sync=True)
    ratio = traitlets.Float(1.0, min=0.25, max=4.0).tag(sync=True)
    eta = traitlets.Float(1.0, min=0.05, max=1.0).tag(sync=True)

    def gram(self) -> list[list[float]]:
        """The pair's Gram matrix, rows chosen and rejected."""
        # To 15 decimals: in floating point cos 60 degrees is above 1/2, and a tie would be read as a fall.
        inner = self.chosen_norm * self.rejected_norm * round(math.cos(math.radians(self.angle)), 15)
        return [[self.chosen_norm**2, inner], [inner, self.rejected_norm**2]]

    def reading(self) -> dict[str, float | bool | str]:
        """What the widget shows, computed by :mod:`gentangle.alignment.conditions`, by name."""
        gram = self.gram()
        changes = conditions.first_order_changes(gram, self.ratio, 1.0, self.eta)
        chosen_ok, rejected_ok = conditions.conditions_hold(gram, self.ratio, 1.0)
        return {
            "inner_product": gram[0][1],
            "cosine": float(conditions.cosine(gram)),
            "change_chosen": float(changes[0]),
            "change_rejected": float(changes[1]),
            "chosen_bound": self.ratio * gram[0][0],
            "rejected_bound": gram[1][1] / self.ratio,
            "chosen_does_not_fall": bool(chosen_ok),
            "rejected_does_not_rise": bool(rejected_ok),
            "case": str(conditions.case(changes)),
        }

    def sentence(self) -> str:
        """The picture in words."""
        reading = self.reading()
        return (
            f"Gradients of length |w| = {self.chosen_norm:g} and |l| = {self.rejected_norm:g} at {self.angle:g}\u00b0 "
            f"(cosine {_decimal(reading['cosine'])}), d_w/d_l = {self.ratio:g}: to first order a step of "
            f"\u03b7 = {self.eta:g} changes log \u03c0_w by {_decimal(reading['change_chosen'])} and log \u03c0_l by "
            f"{_decimal(reading['change_rejected'])}: {CASE_TITLES[str(reading['case'])]}."
        )

    def picture(self) -> str:
        angle = math.radians(self.angle)
        w = (self.chosen_norm, 0.0)
        l = (self.rejected_norm * math.cos(angle), self.rejected_norm * math.sin(angle))
        v = (self.ratio * w[0] - l[0], self.ratio * w[1] - l[1])
        unit = 0.42 * _SIZE / max(math.hypot(*tip) for tip in (w, l, v))
        arrows = "".join(_arrow(name, tip[0] * unit, -tip[1] * unit) for name, tip in (("v", v), ("l", l), ("w", w)))
        sentence = html.escape(self.sentence(), quote=True)
        half = _SIZE // 2
        return (
            f'<figure class="gt-still"><svg role="img" aria-label="{sentence}" width="{_SIZE}" height="{_SIZE}" '
            f'viewBox="{-half} {-half} {_SIZE} {_SIZE}">{arrows}</svg><figcaption>{sentence}</figcaption></figure>'
        )


def _arrow(name: str, x: float, y: float) -> str:
    """SVG of an arrow from the origin to (x, y), y downwards, with its name beyond the tip."""
    length = math.hypot(x, y)
    if length < 1:  # shorter than its own head: the update of two equal gradients
        return ""
    along, across = (x / length, y / length), (-y / length, x / length)
    back = (x - 9 * along[0], y - 9 * along[1])
    head = ((x, y), *((back[0] + side * across[0], back[1] + side * across[1]) for side in (4, -4)))
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in head)
    colour = _COLOURS[name]
    return (
        f'<g class="gt-arrow-{name}" stroke="{colour}" fill="{colour}">'
        f'<line x1="0" y1="0" x2="{back[0]:.1f}" y2="{back[1]:.1f}" stroke-width="3"/><polygon points="{points}"/>'
        f'<text x="{x + 11 * along[0]:.1f}" y="{y + 11 * along[1] + 5:.1f}" stroke="none" font-style="italic" '
        f'font-size="16" text-anchor="middle">{name}</text></g>'
    )


def _decimal(value: float | bool | str) -> str:
    """Two decimals, no negative zero, and the minus sign of print."""
    rounded = round(float(value), 2) + 0.0
    return f"{rounded:.2f}".replace("-", "\u2212")
