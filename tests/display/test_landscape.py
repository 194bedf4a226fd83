"""The landscape widget in Python: the package's own algorithms in the plane, and the HTML that the page starts from."""

import json
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import torch
import traitlets
from bs4 import BeautifulSoup

from gentangle.display.landscape import ALGORITHMS, ANGLES, STEEP, DomainLandscape
from gentangle.matching.domains import domain_gram
from gentangle.matching.gip import gip

DEFAULTS = DomainLandscape(steps=40)


@pytest.fixture(scope="module")
def paths():
    return DEFAULTS.paths()


def torch_losses(widget):
    minima = torch.tensor(widget.minima[: widget.domains], dtype=torch.float64)
    curvatures = torch.tensor(widget.curvatures())

    def loss(i):
        return lambda model: 0.5 * (model.weight[0] - minima[i]) @ curvatures[i] @ (model.weight[0] - minima[i])

    return {i: loss(i) for i in range(widget.domains)}


def at(point):
    layer = torch.nn.Linear(2, 1, bias=False, dtype=torch.float64)
    layer.weight.data[0] = torch.tensor(point, dtype=torch.float64)
    return layer


@pytest.mark.parametrize("domains", [2, 3, 4])
def test_loss_gradients_and_gip_are_autograds(domains):
    widget, point = DomainLandscape(domains=domains, flat=0.6), [0.3, -1.7]
    model, losses = at(point), torch_losses(widget)
    values = [loss(model) for loss in losses.values()]
    gradients = [torch.autograd.grad(value, model.weight)[0][0].numpy() for value in values]
    np.testing.assert_allclose(widget.gradients(point), gradients, rtol=1e-12)
    mean, inner = widget.loss_and_gip(point)
    assert mean == pytest.approx(np.mean([value.item() for value in values]), rel=1e-12)
    assert inner == pytest.approx(gip(domain_gram(model, losses)), rel=1e-12)


def test_each_domain_is_steep_in_its_own_direction():
    for turn, curvature in zip(np.deg2rad(ANGLES), DomainLandscape(domains=4).curvatures(), strict=True):
        steep, flat = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
        np.testing.assert_allclose(curvature @ steep, STEEP * steep, atol=1e-12)
        np.testing.assert_allclose(curvature @ flat, 0.25 * flat, atol=1e-12)


def test_first_steps_are_the_formulas(paths):
    """ERM's and Fish's from the gradients; IDGM's by differences of its objective."""
    start, gradients = np.array(DEFAULTS.start), DEFAULTS.gradients(DEFAULTS.start)
    np.testing.assert_allclose(paths["erm"][1], start - DEFAULTS.rate * gradients.mean(0), rtol=1e-12)
    point = start
    for i in range(DEFAULTS.domains):
        point = point - DEFAULTS.alpha * DEFAULTS.gradients(point)[i]
    np.testing.assert_allclose(paths["fish"][1], start + DEFAULTS.eps * (point - start), rtol=1e-12)

    def objective(where):
        g = DEFAULTS.gradients(where)
        return DEFAULTS.loss_and_gip(where)[0] - DEFAULTS.gamma * np.mean([a @ b for a, b in combinations(g, 2)])

    slope = [(objective(start + 1e-5 * e) - objective(start - 1e-5 * e)) / 2e-5 for e in np.eye(2)]
    np.testing.assert_allclose(paths["idgm"][1], start - DEFAULTS.rate * np.array(slope), rtol=1e-7)


def test_orders_take_turns_or_stay(paths):
    fixed = DomainLandscape(steps=40, order="fixed").paths()["fish"]
    np.testing.assert_array_equal(fixed[1], paths["fish"][1])
    point = start = paths["fish"][1]
    for i in reversed(range(DEFAULTS.domains)):
        point = point - DEFAULTS.alpha * DEFAULTS.gradients(point)[i]
    np.testing.assert_allclose(paths["fish"][2], start + DEFAULTS.eps * (point - start), rtol=1e-12)
    assert np.abs(fixed[2] - paths["fish"][2]).max() > 1e-3


def test_beyond_gamma_max_idgm_has_a_direction_down():
    """The objective's curvature along its worst direction changes sign there."""
    for flat in (0.05, 0.7, STEEP):
        widget = DomainLandscape(flat=flat)
        curvatures = widget.curvatures()
        n = np.mean([a @ b + b @ a for a, b in combinations(curvatures, 2)], axis=0)
        for share, sign in ((1 - 1e-6, 1), (1 + 1e-6, -1)):
            least = np.linalg.eigvalsh(curvatures.mean(0) - share * widget.gamma_max() * n)[0]
            assert np.sign(least) == sign
    assert DomainLandscape(flat=STEEP).gamma_max() == pytest.approx(1 / (2 * STEEP))  # the theorem's 1 / (2 lambda)


def test_a_path_that_runs_away_ends_outside_the_square():
    widget = DomainLandscape(gamma=1.0)
    paths = widget.paths()
    reading = widget.reading(paths)
    assert 0 < reading["idgm_left"] == len(paths["idgm"]) - 1 < widget.steps
    assert np.abs(paths["idgm"][-1]).max() > 1e3 >= np.abs(paths["idgm"][-2]).max()
    assert (reading["erm_left"], reading["fish_left"]) == (0, 0)
    assert reading["idgm_gradients"] == 3 * reading["idgm_double"] == 3 * reading["idgm_left"]
    assert "IDGM runs away" in widget.sentence(reading)


def test_reading_of_the_chapters_game():
    reading = DomainLandscape().reading()
    assert reading["erm_loss"] < reading["fish_loss"] < reading["idgm_loss"]
    assert reading["erm_gip"] < reading["fish_gip"] < reading["idgm_gip"] < 0
    assert reading["gamma_eff"] == pytest.approx(0.2)
    assert [reading[f"{name}_gradients"] for name in ALGORITHMS] == [450, 450, 450]
    assert [reading[f"{name}_double"] for name in ALGORITHMS] == [0, 150, 0]


def test_static_page_has_state_picture_and_sentence():
    place = BeautifulSoup(DEFAULTS.static_html(), "html.parser").find(class_="gt-mount")
    assert json.loads(place["data-state"]) == DEFAULTS.state()
    assert place["data-widget"] == "landscape"
    assert {text.text for text in place.find_all("text")} == {"ERM", "IDGM", "Fish", "1", "2", "3"}
    for words in (place.find("svg")["aria-label"], place.find("figcaption").text):
        assert "3 domains" in words
        assert "\u03b3 < 0.36" in words
        assert words.count("ends at") == 3
    assert DomainLandscape(steps=40).static_html() == DEFAULTS.static_html()


@pytest.mark.parametrize("state", [{"alpha": 1.3}, {"domains": 5}, {"order": "random"}, {"start": [0.0, 4.0]}])
def test_impossible_states_are_refused(state):
    with pytest.raises(traitlets.TraitError, match=next(iter(state))):
        DomainLandscape(**state)


@pytest.mark.parametrize("minima", [[[0.0, 1.0]], [[0.0, 1.0, 2.0]] * 4, [[0.0, 9.0]] * 4])
def test_impossible_minima_are_refused(minima):
    with pytest.raises(traitlets.TraitError):
        DomainLandscape(minima=minima)


def test_import_needs_no_torch():
    code = "import sys; from gentangle.display.landscape import DomainLandscape; DomainLandscape().gamma_max(); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "False"
