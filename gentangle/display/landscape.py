"""The widget of matching in the plane: quadratic domains, and the paths that ERM, IDGM and Fish take over them."""

from functools import partial
from typing import Any

import numpy as np
import traitlets

from gentangle.display.widget import BookWidget, module_text, still

#: Direction in which each domain is steep, in degrees; its curvature there; a path that leaves this square ran away.
ANGLES, STEEP, FAR = (0.0, 45.0, 75.0, 120.0), 2.0, 1e3
ALGORITHMS = ("erm", "idgm", "fish")
_MINIMA = [[0.0, 2.0], [2.0, 0.0], [2.0, 2.0], [-2.0, 0.5]]
#: The algorithms' titles, and colours and dashes for the still picture; at least 3:1 on white and on the dark page.
_LOOKS = {"erm": ("ERM", "#009E73", ""), "idgm": ("IDGM", "#B27700", "8 4"), "fish": ("Fish", "#0080C8", "2 4")}
_UNIT = 40  # of the still picture, for a length of 1

_Point = partial(traitlets.List, traitlets.Float(min=-3.0, max=3.0), minlen=2, maxlen=2)


class DomainLandscape(BookWidget):
    r"""Losses :math:`L_i = \frac12(\theta-m_i)^\top H_i(\theta-m_i)` in the plane under ERM, IDGM and Fish.

    :math:`H_i` has the eigenvalue 2 in a direction of its own (at 0, 45, 75, 120 degrees) and ``flat`` across. ERM and
    IDGM descend at the rate :math:`\epsilon\alpha S`, at which their step is Fish's to first order in alpha. Source:
    Shi et al., arXiv 2104.09937, Algorithm 1 and its objective; the landscape is ours.

    Args:
        minima: the four :math:`m_i`, of which the first ``domains`` count; coordinates in [-3, 3].
        start: where all three paths begin.
        domains: S, from 2 to 4.
        flat: the smaller curvature, in [0.05, 2]; at 2 all domains have the same.
        alpha, eps: Fish's inner rate and outer step.
        gamma: IDGM's weight of the GIP.
        steps: of each algorithm.
        order: Fish visits the domains ``there-and-back``, an order and its reverse by turns, which matches gradients
            as random orders do on average; or in one ``fixed`` order, which does not.
    """

    module = "landscape"
    state_names = ("minima", "start", "domains", "flat", "alpha", "eps", "gamma", "steps", "order")
    _esm = module_text("landscape")

    minima = traitlets.List(_Point(), _MINIMA, minlen=4, maxlen=4).tag(sync=True)
    start = _Point(default_value=[2.0, -1.0]).tag(sync=True)
    domains = traitlets.Int(3, min=2, max=4).tag(sync=True)
    flat = traitlets.Float(0.25, min=0.05, max=STEEP).tag(sync=True)
    alpha = traitlets.Float(0.4, min=0.02, max=1.2).tag(sync=True)
    eps = traitlets.Float(0.1, min=0.02, max=1.0).tag(sync=True)
    gamma = traitlets.Float(0.2, min=0.0, max=1.0).tag(sync=True)
    steps = traitlets.Int(150, min=10, max=400).tag(sync=True)
    order = traitlets.Enum(["there-and-back", "fixed"], "there-and-back").tag(sync=True)

    @property
    def rate(self) -> float:
        """Of ERM's and IDGM's steps."""
        return self.eps * self.alpha * self.domains

    def curvatures(self) -> np.ndarray:
        """The domains' :math:`H_i`, shape (S, 2, 2)."""
        turns = np.deg2rad(ANGLES[: self.domains])
        steep = np.stack([np.cos(turns), np.sin(turns)], axis=1)
        return self.flat * np.eye(2) + (STEEP - self.flat) * steep[:, :, None] * steep[:, None]

    def gradients(self, points: Any) -> np.ndarray:
        """The domains' gradients at points of shape (..., 2): shape (..., S, 2)."""
        away = np.asarray(points)[..., None, :] - np.array(self.minima[: self.domains])
        return np.asarray(np.einsum("sij,...sj->...si", self.curvatures(), away))

    def loss_and_gip(self, point: Any) -> tuple[float, float]:
        """Mean loss and exact GIP of the domains at a point."""
        from gentangle.matching.gip import gip

        gradients = self.gradients(point)
        away = np.asarray(point) - np.array(self.minima[: self.domains])
        return float(np.sum(gradients * away)) / 2 / self.domains, gip(gradients @ gradients.T)

    def gamma_max(self) -> float:
        r"""The largest gamma at which IDGM's objective is bounded below.

        Its Hessian is :math:`M - \gamma N` with the mean curvature M and
        :math:`N = \frac{2}{S(S-1)}\sum_{i\ne j}H_iH_j`: 1 over the largest eigenvalue of :math:`M^{-1}N`.
        """
        curvatures = self.curvatures()
        total, own = curvatures.sum(0), (curvatures @ curvatures).sum(0)
        n = 2 * (total @ total - own) / self.domains / (self.domains - 1)
        return float(1 / np.linalg.eigvals(np.linalg.solve(total / self.domains, n)).real.max())

    def paths(self) -> dict[str, np.ndarray]:
        """The path of each algorithm of :mod:`gentangle.matching.algorithms`: its points, shape (steps + 1, 2).

        A path that leaves the square of half-width 1000 ends with its first point outside.
        """
        import torch

        from gentangle.matching.algorithms import ERM, IDGM, Fish

        # Two examples a domain whose mean squared error is the domain's loss: linear regression.
        roots = torch.tensor(np.linalg.cholesky(self.curvatures())).mT
        minima = torch.tensor(self.minima[: self.domains], dtype=torch.float64)
        game = list(zip(roots, roots @ minima[..., None], strict=True))
        square, sgd = torch.nn.functional.mse_loss, torch.optim.SGD
        makers: Any = {
            "erm": partial(ERM, make_optimizer=partial(sgd, lr=self.rate)),
            "idgm": partial(IDGM, make_optimizer=partial(sgd, lr=self.rate), gamma=self.gamma),
            "fish": partial(Fish, make_optimizer=partial(sgd, lr=self.alpha), eps=self.eps, permute=False, track=False),
        }
        paths = {}
        for name, make in makers.items():
            layer = torch.nn.Linear(2, 1, bias=False, dtype=torch.float64)
            layer.weight.data[0] = torch.tensor(self.start, dtype=torch.float64)
            algorithm, points = make(layer, square), [np.array(self.start)]
            while len(points) <= self.steps and np.abs(points[-1]).max() <= FAR:
                back = self.order == "there-and-back" and len(points) % 2 == 0
                algorithm.update(game[::-1] if back else game)
                points.append(layer.weight.detach()[0].numpy().copy())
            paths[name] = np.array(points)
        return paths

    def reading(self, paths: dict[str, np.ndarray] | None = None) -> dict[str, float]:
        """What the widget shows, by name; of each algorithm the end of its path, and what it cost.

        ``<name>_left`` is the step at which the path ran away, 0 where it did not; ``_gradients`` counts gradients of
        one domain, ``_double`` backward passes through S of them.
        """
        from gentangle.matching.fish import gamma_eff

        found = {
            "rate": self.rate,
            "gamma_eff": gamma_eff(self.alpha, self.domains),
            "gamma_max": self.gamma_max(),
        }
        for name, points in (paths or self.paths()).items():
            x, y = points[-1].tolist()
            loss, inner, steps = *self.loss_and_gip(points[-1]), len(points) - 1
            cost = {"gradients": self.domains * steps, "double": steps * (name == "idgm")}
            end = {"x": x, "y": y, "loss": loss, "gip": inner, "left": steps * bool(np.abs(points[-1]).max() > FAR)}
            found |= {f"{name}_{what}": value for what, value in (end | cost).items()}
        return found

    def sentence(self, reading: dict[str, float]) -> str:
        """The picture in words."""
        ends = [
            f"{_LOOKS[name][0]} runs away"
            if reading[f"{name}_left"]
            else f"{_LOOKS[name][0]} ends at ({reading[f'{name}_x']:.2f}, {reading[f'{name}_y']:.2f}) with mean loss "
            f"{reading[f'{name}_loss']:.2f} and GIP {reading[f'{name}_gip']:.2f}"
            for name in ALGORITHMS
        ]
        text = (
            f"{self.domains} domains; \u03b1 = {self.alpha:g}, \u03b5 = {self.eps:g}, \u03b3 = {self.gamma:g}, "
            f"{self.steps} steps. {'; '.join(ends)}. IDGM's objective has a minimum for \u03b3 < "
            f"{reading['gamma_max']:.2f}."
        )
        return text.replace("-", "\u2212")

    def picture(self) -> str:
        paths = self.paths()
        drawn = []
        for row, (name, points) in enumerate(paths.items()):
            title, colour, dashes = _LOOKS[name]
            at = " ".join(f"{x:.1f},{y:.1f}" for x, y in np.clip(points, -99, 99) * (_UNIT, -_UNIT))
            line = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"'
            where = 18 * row - 112
            drawn.append(
                f'<polyline points="{at}" {line}/><path d="M-124 {where}h30" {line}/>'
                f'<text x="-88" y="{where + 5}" fill="{colour}" font-size="14">{title}</text>'
            )
        for i, (x, y) in enumerate(self.minima[: self.domains], 1):
            x, y = x * _UNIT, -y * _UNIT
            drawn.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="none" stroke="#767676"/><text x="{x:.1f}" '
                f'y="{y + 4:.1f}" fill="#767676" font-size="12" text-anchor="middle">{i}</text>'
            )
        return still((-128, -128, 256, 256), "".join(drawn), self.sentence(self.reading(paths)))
