"""Runs node's own test runner on the widget's maths, against golden numbers from Python."""

import math
from copy import deepcopy
from functools import partial, reduce
from itertools import product

import numpy as np
import pytest
import torch

from gentangle.alignment import conditions
from gentangle.alignment.objectives import OBJECTIVES
from gentangle.display.geometry import CURVATURE, GradientGeometry
from gentangle.matching.fish import fish_step
from gentangle.matching.gip import gip

SLIDERS = ("chosen_norm", "rejected_norm", "angle", "ratio", "eta")
#: The largest relative gap between a slope of the menu and the objective's own: the menu rounds to 12 digits.
ROUNDING = 1e-11


def golden_pair(gram, d_chosen=1.0, d_rejected=1.0, eta=1.0) -> dict:
    changes = conditions.first_order_changes(gram, d_chosen, d_rejected, eta)
    return {
        "gram": np.asarray(gram).tolist(),
        "d_chosen": d_chosen,
        "d_rejected": d_rejected,
        "eta": eta,
        "changes": changes.tolist(),
        "holds": [bool(holds) for holds in conditions.conditions_hold(gram, d_chosen, d_rejected)],
        "case": str(conditions.case(changes)),
        "cosine": float(conditions.cosine(gram)),
    }


def golden_pairs() -> list[dict]:
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(240):
        gradients = rng.normal(size=(2, 3)) * 10 ** rng.uniform(-3, 3)
        # Slopes of either sign: with d_w, d_l > 0 the reversed case cannot occur.
        slopes = rng.uniform(-2, 2, size=2)
        pairs.append(golden_pair(gradients @ gradients.T, *slopes.tolist(), float(rng.uniform(1e-3, 1))))
    ties = (
        [[1, 1], [1, 1]],
        [[1, 1], [1, 4]],
        [[4, 1], [1, 1]],
        [[1, 0], [0, 1]],
        [[1, -2], [-2, 4]],
        [[1, 2], [2, 4]],
    )
    return pairs + [golden_pair(gram) for gram in ties]


def golden_widgets() -> list[dict]:
    angles = [0.0, 20.0, 60.0, 90.0, 110.0, 180.0]
    values = [*product([0.1, 1.0, 2.95], [0.5, 1.0, 2.0], angles, [0.5, 1.0, 2.0], [0.3])]
    states = [dict(zip(SLIDERS, each, strict=True)) for each in values]
    states += [state | {"read_as": "domains"} for state in states if state["ratio"] == 1.0]
    states += [{"objective": name, "angle": angle} for name in OBJECTIVES for angle in (20.0, 100.0)]
    found = []
    for widget in [GradientGeometry(**state) for state in states]:
        state = {name: value for name, value in widget.state().items() if name != "menu"}
        found.append({"state": state, "gram": widget.gram(), "reading": widget.reading()})
    return found


def golden_objectives() -> list[dict]:
    """Slopes by the objectives themselves at the menu's pair, given here a second time, in numbers."""
    found = []
    for name, objective in OBJECTIVES.items():
        references = {"ref_chosen": -36.0, "ref_rejected": -36.0}
        slopes = objective.slopes(-40.0, -38.0, len_chosen=20.0, len_rejected=25.0, **references)
        d_chosen, d_rejected = map(float, slopes)
        ratio = GradientGeometry(objective=name).ratio
        assert abs(ratio * d_rejected / d_chosen - 1) < ROUNDING, name
        rounded = GradientGeometry(objective=name).reading()
        for slope, own in (("d_chosen", d_chosen), ("d_rejected", d_rejected)):
            assert abs(rounded[slope] / own - 1) < ROUNDING, (name, slope)
        found.append({"objective": name, "ratio": ratio} | {d: rounded[d] for d in ("d_chosen", "d_rejected")})
    return found


def golden_fish() -> list[dict]:
    """Loops of the package's Fish, and exact GIPs, on two linear models of one example each, by torch."""
    rng = np.random.default_rng(1)
    states = [rng.uniform((0.1, 0.1, 0, 0.05), (3, 3, 180, 1)) for _ in range(40)]
    return [loops_of_fish(*map(float, state)) for state in states]


def loops_of_fish(one: float, two: float, angle: float, eta: float) -> dict:
    model = torch.nn.Linear(2, 1, bias=False, dtype=torch.float64)
    turn = math.radians(angle)
    units = torch.tensor([[1.0, 0.0], [math.cos(turn), math.sin(turn)]], dtype=torch.float64)
    targets = torch.tensor([one, two], dtype=torch.float64) / CURVATURE

    def loss(i: int, model: torch.nn.Module) -> torch.Tensor:
        """h/2 (x.theta + |g|/h)^2 along a unit vector x: at theta = 0 its gradient is |g| x."""
        return CURVATURE / 2 * (model(units[i]) + targets[i]).square().sum()

    def gradients() -> torch.Tensor:
        return torch.stack([torch.autograd.grad(loss(i, model), model.weight)[0][0] for i in (0, 1)])

    def go(to: torch.Tensor) -> None:
        with torch.no_grad():
            model.weight[0] = to

    go(torch.zeros(2))
    start, loops, gips = gradients(), [], []
    for order in ((0, 1), (1, 0)):
        go(torch.zeros(2))
        sgd = torch.optim.SGD(model.parameters(), lr=eta / 2)
        fish_step(model, {i: partial(loss, i) for i in order}, sgd, eps=1.0, generator=None)
        loops.append((-torch.linalg.solve(start.T, model.weight[0])).tolist())
        gips.append(gip(gradients() @ gradients().T))
    go(-eta / 2 * start.sum(0))
    gips.append(gip(gradients() @ gradients().T))
    widget = GradientGeometry(chosen_norm=one, rejected_norm=two, angle=angle, eta=eta, read_as="domains")
    np.testing.assert_allclose(widget.fish_loops(), loops, rtol=1e-9, atol=1e-12)
    assert widget.reading()["erm_gip"] == pytest.approx(gips[-1], rel=1e-9, abs=1e-12)
    return {"gram": (start @ start.T).tolist(), "alpha": eta / 2, "loops": loops, "gips": gips}


@pytest.fixture(scope="module")
def golden() -> dict:
    return {
        "pairs": golden_pairs(),
        "widgets": golden_widgets(),
        "menu": GradientGeometry().menu,
        "chosen": golden_objectives(),
        "fish": golden_fish(),
    }


def test_maths_of_the_module_is_pythons(run_node, golden):
    done = run_node("geometry", golden)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pass 8" in done.stdout  # node counts a file without tests as passed


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("pairs", 0, "changes", 0), "change 0 of"),
        (("widgets", -1, "reading", "change_chosen"), "change_chosen of"),
        (("chosen", 4, "d_chosen"), "d_w of dpop"),
        (("fish", 0, "gips", 1), "GIP 1 of"),
    ],
)
def test_a_wrong_number_fails_in_node(run_node, golden, place, message):
    numbers = deepcopy(golden)
    *path, last = place
    reduce(lambda found, key: found[key], path, numbers)[last] *= 1 + 1e-6
    done = run_node("geometry", numbers)
    assert done.returncode != 0
    assert message in done.stdout
