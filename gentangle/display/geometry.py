"""The widget of gradient entanglement: two gradients in a plane, the update, and where it takes both responses.

The same two arrows read as the gradients of two domains show what a step of ERM and a loop of Fish do.
"""

import math
from typing import Any

import numpy as np
import traitlets

from gentangle.alignment import conditions
from gentangle.alignment.objectives import OBJECTIVES
from gentangle.display.objective_menu import PAIR_IN_WORDS, objective_menu
from gentangle.display.widget import CHOSEN, REJECTED, BookWidget, module_text, still
from gentangle.errors import InputError

#: How a case of two domains is written for a reader, by a step of ERM.
DOMAIN_TITLES = {
    "agree": "the domains agree",
    "orthogonal": "neither domain helps the other",
    "conflict": "the domains conflict, and neither loss rises",
    "one-rises": "the domains conflict, and one loss rises",
    "cancel": "the domains cancel, and ERM rests",
}
#: Names of the objective that is none of the menu's, and of the two readings of the arrows.
OWN, READINGS = "own", ("pair", "domains")
#: Curvature of each domain's loss along its own gradient; across it there is none.
CURVATURE = 0.5

_SIZE = 240  # of the static picture, in its own units
_LONGEST = 4.0  # slope ratio up to which v is drawn whole
_COLOURS = {"w": CHOSEN, "l": REJECTED, "v": "#767676"}  # each at least 3:1 on white and on the dark page
_SENTENCES = {
    "pair": "Gradients of length |w| = {chosen_norm} and |l| = {rejected_norm} at {angle}\u00b0 (cosine {cosine}), "
    "d_w/d_l = {ratio}{objective}: to first order a step of \u03b7 = {eta} changes log \u03c0_w by {change_chosen} and "
    "log \u03c0_l by {change_rejected}: {title}.",
    "domains": "Domain gradients of length |g\u2081| = {chosen_norm} and |g\u2082| = {rejected_norm} at {angle}\u00b0 "
    "(GIP {gip}, cosine {cosine}): to first order ERM's step of \u03b7 = {eta} changes the losses by {change_one} and "
    "{change_two}: {title}. For losses of curvature 1/2 along their own "
    "gradient the GIP is then {erm_gip}, and {fish_gip} where Fish's loop ends.",
}
_LETTERS = {"pair": {"w": "w", "l": "l", "v": "v"}, "domains": {"w": "g\u2081", "l": "g\u2082", "v": "ERM"}}


class GradientGeometry(BookWidget):
    r"""Two gradients in the plane they span: those of a preference pair, or those of two domains.

    A pair: :math:`v = d_w w - d_l l`, and to first order :math:`\Delta\log\pi_w = \eta\langle w, v\rangle`,
    :math:`\Delta\log\pi_l = \eta\langle l, v\rangle`. Steps and changes are counted for :math:`d_l = 1`, so that the
    ratio alone tells the objectives apart. Source: Yuan et al., arXiv 2410.13828, the gradient inner product condition.

    Two domains: gradients :math:`g_1, g_2` of their losses. ERM's step is :math:`-\eta(g_1+g_2)/2`; Fish's loop takes
    one step of rate :math:`\alpha = \eta/2` on each domain in turn, as long to first order. Losses are quadratic, of
    curvature :math:`h = 1/2` along their own gradient and 0 across it (a linear model's squared error on one example),
    so that the loop is exact: a step :math:`-ag_1-bg_2` scales :math:`g_i` by :math:`1 - h\langle g_i, ag_1+bg_2\rangle
    / \lVert g_i\rVert^2`. Source: Shi et al., arXiv 2104.09937; the quadratic losses are ours.

    Args:
        chosen_norm, rejected_norm: :math:`\lVert w\rVert` and :math:`\lVert l\rVert`, or those of :math:`g_1` and
            :math:`g_2`, in [0.1, 3].
        angle: between the two gradients, in degrees, in [0, 180].
        ratio: d_w / d_l, in [0.01, 100]; the objective's where one is named, else 1.
        eta: step, in [0.05, 1].
        objective: a name of :data:`gentangle.OBJECTIVES`, whose slopes at
            :data:`gentangle.display.objective_menu.PAIR` are taken; or ``own``, any ratio. To set another ratio is to
            leave the objective.
        read_as: ``pair`` or ``domains``.

    Raises:
        InputError: a ratio is given that is not the named objective's.
        traitlets.TraitError: a value out of its range.

    >>> GradientGeometry(angle=0).reading()["case"]
    'both-down'
    >>> round(GradientGeometry(objective="dpo-shift").ratio, 6)
    1.333333
    """

    module = "geometry"
    state_names = ("chosen_norm", "rejected_norm", "angle", "ratio", "eta", "objective", "read_as")
    _esm = module_text("geometry")

    chosen_norm = traitlets.Float(1.0, min=0.1, max=3.0).tag(sync=True)
    rejected_norm = traitlets.Float(2.0, min=0.1, max=3.0).tag(sync=True)
    angle = traitlets.Float(20.0, min=0.0, max=180.0).tag(sync=True)
    ratio = traitlets.Float(1.0, min=0.01, max=100.0).tag(sync=True)
    eta = traitlets.Float(1.0, min=0.05, max=1.0).tag(sync=True)
    objective = traitlets.Enum([OWN, *OBJECTIVES], OWN).tag(sync=True)
    read_as = traitlets.Enum(READINGS, READINGS[0]).tag(sync=True)
    #: What the menu knows: ``pair`` in words, and ``rows`` of :func:`gentangle.display.objective_menu.objective_menu`.
    menu = traitlets.Dict().tag(sync=True)

    @traitlets.default("menu")
    def _menu(self) -> dict[str, Any]:
        return {"pair": PAIR_IN_WORDS, "rows": [list(row) for row in objective_menu()]}

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        if any(getattr(self, name) != traits.get(name, getattr(self, name)) for name in ("objective", "ratio")):
            raise InputError(
                f"Got objective = {traits['objective']!r} and ratio = {traits['ratio']}, but its ratio is "
                f"{self._slopes(traits['objective'])[2]}: leave one of the two out."
            )

    @traitlets.observe("objective")
    def _take_the_objectives_ratio(self, change: Any) -> None:
        if self.objective != OWN:
            self.ratio = self._slopes(self.objective)[2]

    @traitlets.observe("ratio")
    def _leave_the_objective(self, change: Any) -> None:
        if self.ratio != self._slopes(self.objective)[2]:
            self.objective = OWN

    def _slopes(self, objective: str) -> tuple[float, float, float]:
        """d_w, d_l and their ratio; without an objective d_l is 1."""
        slopes = {name: (d_chosen, d_rejected) for name, _, d_chosen, d_rejected, *_ in self.menu["rows"]}
        d_chosen, d_rejected = slopes.get(objective, (self.ratio, 1.0))
        return d_chosen, d_rejected, d_chosen / d_rejected

    def state(self) -> dict[str, Any]:
        return super().state() | {"menu": self.menu}

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.state_names)  # the menu is no setting
        return f"{type(self).__name__}({given})"

    def gram(self) -> list[list[float]]:
        """The Gram matrix of the two gradients, chosen before rejected."""
        # To 15 decimals: in floating point cos 60 degrees is above 1/2, and a tie would be read as a fall.
        inner = self.chosen_norm * self.rejected_norm * round(math.cos(math.radians(self.angle)), 15)
        return [[self.chosen_norm**2, inner], [inner, self.rejected_norm**2]]

    def reading(self) -> dict[str, float | bool | str]:
        r"""What the widget shows, by name.

        Of a pair the slopes, the changes, the two conditions with their bounds, and the case, by
        :mod:`gentangle.alignment.conditions`. Of two domains the GIP, ERM's first-order changes of both losses, their
        conditions :math:`\langle g_1,g_2\rangle \ge -\lVert g_i\rVert^2`, the case, and the exact GIP where ERM's step
        ends and where Fish's loop does (the mean of its two orders).
        """
        return self._pair_reading() if self.read_as == "pair" else self._domain_reading()

    def _pair_reading(self) -> dict[str, float | bool | str]:
        gram = self.gram()
        changes = conditions.first_order_changes(gram, self.ratio, 1.0, self.eta)
        chosen_ok, rejected_ok = conditions.conditions_hold(gram, self.ratio, 1.0)
        d_chosen, d_rejected, _ = self._slopes(self.objective)
        return {
            "d_chosen": d_chosen,
            "d_rejected": d_rejected,
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

    def _domain_reading(self) -> dict[str, float | bool | str]:
        from gentangle.matching.gip import cosines, gip

        gram = self.gram()
        # ERM's step is a pair's update with the slopes -1/2 and 1/2: both losses fall along it.
        one, two = conditions.first_order_changes(gram, -0.5, 0.5, self.eta).tolist()
        inner = gip(gram)
        return {
            "gip": inner,
            "cosine": float(cosines(gram)[0, 1]),
            "change_one": one,
            "change_two": two,
            "one_bound": -gram[0][0],
            "two_bound": -gram[1][1],
            "one_does_not_rise": one <= 0,
            "two_does_not_rise": two <= 0,
            "erm_gip": self._gip_after(np.full(2, self.eta / 2)),
            "fish_gip": self._gip_after(self.fish_loops().mean(0)),
            "case": _domain_case(inner, one, two),
        }

    def fish_loops(self) -> np.ndarray:
        """How much of :math:`-g_1` and of :math:`-g_2` Fish's loop steps along, shape (2 orders, 2).

        Rows: domain 1 first, domain 2 first. The second visit finds its gradient scaled by what the first has moved.
        """
        alpha, gram = self.eta / 2, np.array(self.gram())
        seconds = alpha * (1 - CURVATURE * alpha * gram[0, 1] / np.diag(gram))  # of domain 1, and of domain 2
        return np.array([[alpha, seconds[1]], [seconds[0], alpha]])

    def _gip_after(self, along: np.ndarray) -> float:
        """Exact GIP after the step :math:`-ag_1 - bg_2`, a and b being ``along``."""
        gram = np.array(self.gram())
        return float(gram[0, 1] * np.prod(1 - CURVATURE * gram @ along / np.diag(gram)))

    def sentence(self) -> str:
        """The picture in words."""
        reading = self.reading()
        numbers = {name: _decimal(value) for name, value in reading.items() if name != "case"}
        settings = {
            name: f"{getattr(self, name):g}" for name in ("chosen_norm", "rejected_norm", "angle", "ratio", "eta")
        }
        title = (conditions.CASE_TITLES | DOMAIN_TITLES)[str(reading["case"])]
        objective = "".join(f" ({row[1]})" for row in self.menu["rows"] if row[0] == self.objective)
        return _SENTENCES[self.read_as].format(**numbers, **settings, title=title, objective=objective)

    def picture(self) -> str:
        angle, domains = math.radians(self.angle), self.read_as == "domains"
        w = np.array([self.chosen_norm, 0.0])
        l = self.rejected_norm * np.array([math.cos(angle), math.sin(angle)])
        shrink = max(1.0, self.ratio / _LONGEST)
        v = -self.eta / 2 * (w + l) if domains else (self.ratio * w - l) / shrink
        unit = 0.42 * _SIZE / max(math.hypot(*tip) for tip in (w, l, v))
        drawn = "".join(
            _arrow(name, _LETTERS[self.read_as][name], tip[0] * unit, -tip[1] * unit)
            for name, tip in (("v", v), ("l", l), ("w", w))
        )
        words = self.sentence()
        if domains:
            x, y = (-unit, unit) * (self.fish_loops().mean(0) @ [w, l])
            drawn += f'<g fill="{_COLOURS["v"]}" stroke="{_COLOURS["v"]}"><circle cx="{x:.1f}" cy="{y:.1f}" r="6" '
            drawn += f'fill="none"/><text x="{x + 9:.1f}" y="{y + 16:.1f}" font-size="14" stroke="none">Fish</text></g>'
        elif shrink > 1:
            words += f" v is drawn at 1 : {shrink:.3g}."
        return still((-_SIZE // 2, -_SIZE // 2, _SIZE, _SIZE), drawn, words)


def _domain_case(inner: float, one: float, two: float) -> str:
    """Case of two domains from their GIP and ERM's changes of both losses."""
    if one == two == 0:
        return "cancel"
    if inner >= 0:
        return "agree" if inner else "orthogonal"
    return "one-rises" if max(one, two) > 0 else "conflict"


def _arrow(name: str, letter: str, x: float, y: float) -> str:
    """SVG of an arrow from the origin to (x, y), y downwards, with its letter beyond the tip."""
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
        f'font-size="16" text-anchor="middle">{letter}</text></g>'
    )


def _decimal(value: float | bool | str) -> str:
    """Two decimals, no negative zero, and the minus sign of print."""
    rounded = round(float(value), 2) + 0.0
    return f"{rounded:.2f}".replace("-", "\u2212")
