"""Every objective's symbolic definition against independent formulas, autograd and extreme inputs."""

import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gentangle import OBJECTIVES, InputError, Objective, objective
from gentangle.alignment.compile import compiled
from gentangle.alignment.symbols import (
    D_CHOSEN,
    LATEX,
    LOGP_CHOSEN,
    LOGP_REJECTED,
    MARGIN,
    inverse_complement,
    log_odds,
    log_sigmoid,
    min0,
    sigmoid,
    to_latex,
)

log_prob = st.floats(-60, -1e-3)
PAIR = {"ref_chosen": -7.0, "ref_rejected": -6.0, "len_chosen": 3.0, "len_rejected": 5.0}


def sigma(x):
    return 1 / (1 + np.exp(-x))


def expected_slopes(name, a, b, a0, b0, n, k):
    """d_w and d_l by hand at the defaults (a, b log-probabilities; a0, b0 the reference's; n, k lengths)."""
    ra, rb = a - a0, b - b0
    margin = ra - rb
    if name == "dpo":
        return (0.1 * sigma(-0.1 * margin),) * 2
    if name == "r-dpo":
        return (0.1 * sigma(-(0.1 * margin + 0.2 * (n - k))),) * 2
    if name == "dpo-shift":
        c = 0.1 * sigma(-0.1 * (ra - 0.75 * rb))
        return c, 0.75 * c
    if name == "dpo-norm":
        c = 0.1 * sigma(-0.1 * (ra / n - rb / k))
        return c / n, c / k
    if name == "robust":
        x = 0.1 * margin
        return (0.1 * (0.9 * sigma(-x) + 0.1 * sigma(x)) / 0.8,) * 2
    if name == "exo":
        x = 0.1 * margin  # d/dx of the divergence: sigma'(x) (x - log(999))
        return (-0.1 * sigma(x) * sigma(-x) * (x - np.log(999)),) * 2
    if name == "discopop":
        x = 0.1 * margin
        s = sigma(x / 0.05)
        rate = s * (1 - s) / 0.05
        falls = -sigma(-x) * (1 - s) + softplus(-x) * -rate - np.exp(-x) * s + np.exp(-x) * rate
        return (-0.1 * falls,) * 2
    if name == "ipo":
        return (2 * (5 - margin),) * 2
    if name == "ipo-norm":
        c = 2 * (5 - (ra / n - rb / k))
        return c / n, c / k
    if name == "hinge":
        return (0.1 * (0.1 * margin < 1),) * 2
    if name == "simpo":
        c = sigma(1 - 2 * (a / n - b / k))
        return 2 * c / n, 2 * c / k
    if name == "rrhf":
        active = a / n < b / k
        return active / n + 1, active / k
    if name == "slic-hf":
        active = a - b < 1
        return active + 0.1, active * 1.0
    if name == "cpo":
        c = 0.1 * sigma(-0.1 * (a - b))
        return c + 1, c
    if name == "dpop":
        c = 0.1 * sigma(-0.1 * (margin - 50 * max(0, a0 - a)))
        return c * (1 + 50 * (a < a0)), c
    if name == "orpo":
        p, q = np.exp(a / n), np.exp(b / k)
        c = 0.1 * sigma(np.log(q / (1 - q)) - np.log(p / (1 - p)))
        return 1 / n + c / n / (1 - p), c / k / (1 - q)
    if name in ("kto", "apo-zero"):
        return 0.1 * sigma(0.1 * ra) * sigma(-0.1 * ra), 0.1 * sigma(0.1 * rb) * sigma(-0.1 * rb)
    if name == "bco":
        return 0.1 * sigma(-0.1 * ra), 0.1 * sigma(0.1 * rb)
    if name == "nca":
        return 0.1 * (sigma(-0.1 * ra) - sigma(0.1 * ra) / 2), 0.05 * sigma(0.1 * rb)
    if name == "apo-down":
        d_l = 0.1 * sigma(0.1 * margin) * sigma(-0.1 * margin)
        return d_l - 0.1 * sigma(0.1 * ra) * sigma(-0.1 * ra), d_l
    if name == "sppo":
        return 2 * (5 - ra), 2 * (rb + 5)
    if name == "cal-dpo":
        c = sigma(-margin)
        return c + 2 * (5 - ra), c + 2 * (rb + 5)
    raise AssertionError(f"{name} has no independent formula here: add one, by hand, from its paper")


def softplus(x):
    """-log sigmoid(-x), written without it."""
    return np.log1p(np.exp(-abs(x))) + max(x, 0)


def expected_loss(name, a, b, a0, b0, n, k):
    """The loss itself, written from each paper and not from the definition under test."""
    ra, rb = a - a0, b - b0
    margin = ra - rb
    q = sigma(0.1 * margin)
    return {
        "dpo": lambda: softplus(-0.1 * margin),
        "r-dpo": lambda: softplus(-0.1 * margin - 0.2 * (n - k)),
        "dpo-shift": lambda: softplus(-0.1 * ra + 0.075 * rb),
        "dpo-norm": lambda: softplus(-0.1 * (ra / n - rb / k)),
        "robust": lambda: (0.9 * softplus(-0.1 * margin) - 0.1 * softplus(0.1 * margin)) / 0.8,
        "exo": lambda: q * np.log(q / 0.999) + (1 - q) * np.log((1 - q) / 0.001),
        "discopop": lambda: softplus(-0.1 * margin) * sigma(-2 * margin) + np.exp(-0.1 * margin) * sigma(2 * margin),
        "ipo": lambda: (margin - 5) ** 2,
        "ipo-norm": lambda: (ra / n - rb / k - 5) ** 2,
        "hinge": lambda: max(0, 1 - 0.1 * margin),
        "simpo": lambda: softplus(-2 * a / n + 2 * b / k + 1),
        "rrhf": lambda: max(0, b / k - a / n) - a,
        "slic-hf": lambda: max(0, 1 - a + b) - 0.1 * a,
        "cpo": lambda: softplus(-0.1 * (a - b)) - a,
        "dpop": lambda: softplus(-0.1 * (margin - 50 * max(0, a0 - a))),
        "orpo": lambda: -a / n + 0.1 * softplus(odds(b / k) - odds(a / n)),
        "kto": lambda: (1 - sigma(0.1 * ra)) + (1 - sigma(-0.1 * rb)),
        "bco": lambda: softplus(-0.1 * ra) + softplus(0.1 * rb),
        "nca": lambda: softplus(-0.1 * ra) + softplus(0.1 * ra) / 2 + softplus(0.1 * rb) / 2,
        "apo-zero": lambda: 1 - sigma(0.1 * ra) + sigma(0.1 * rb),
        "apo-down": lambda: sigma(0.1 * ra) + 1 - sigma(0.1 * margin),
        "sppo": lambda: (ra - 5) ** 2 + (rb + 5) ** 2,
        "cal-dpo": lambda: softplus(-margin) + (ra - 5) ** 2 + (rb + 5) ** 2,
    }[name]()


def odds(logp):
    return np.log(np.exp(logp) / (1 - np.exp(logp)))


@pytest.mark.parametrize("name", OBJECTIVES)
@given(a=log_prob, b=log_prob)
@settings(max_examples=50, deadline=None)
def test_loss_and_slopes_are_those_of_the_paper(name, a, b):
    margin = (a - PAIR["ref_chosen"]) - (b - PAIR["ref_rejected"])
    kink = {"slic-hf": a - b - 1, "hinge": margin - 10}.get(name, 1.0)
    assume(abs(kink) > 1e-9)  # within rounding of a kink the definition and the hand may be on different sides of it
    loss, (d_chosen, d_rejected) = objective(name)(a, b, **PAIR), objective(name).slopes(a, b, **PAIR)
    given = (a, b, *PAIR.values())
    with np.errstate(over="ignore", divide="ignore"):
        reference = expected_loss(name, *given)
    if np.isfinite(reference):  # by hand, log(sigmoid) overflows where the definition does not
        np.testing.assert_allclose(loss, reference, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose((d_chosen, d_rejected), expected_slopes(name, *given), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_slopes_are_autograds_of_the_loss_that_trains(name, scale, tolerance):
    rng = np.random.default_rng(0)
    logs = -scale * rng.random((2, 50))
    a, b = (torch.tensor(x, requires_grad=True) for x in logs)
    loss = objective(name)(a, b, **PAIR)
    assert loss.shape == a.shape
    assert torch.isfinite(loss).all()
    grad_a, grad_b = torch.autograd.grad(loss.sum(), (a, b), allow_unused=True)
    d_chosen, d_rejected = objective(name).slopes(*logs, **PAIR)
    # torch differentiates a sigmoid y as y (1 - y), which is exact to one rounding of 1 - y and no better.
    np.testing.assert_allclose(-grad_a.numpy(), d_chosen, rtol=tolerance.identity, atol=2e-16)
    np.testing.assert_allclose(grad_b.numpy(), d_rejected, rtol=tolerance.identity, atol=2e-16)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_numpy_and_torch_give_one_value(name, tolerance):
    a, b = np.array([-3.0, -900.0, -1e4]), np.array([-5.0, -1e4, -2.0])
    found = objective(name)(torch.tensor(a), torch.tensor(b), **PAIR).numpy()
    np.testing.assert_allclose(found, objective(name)(a, b, **PAIR), rtol=tolerance.identity)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_general_form_holds_and_typesets(name):
    o = objective(name)
    u, a, b = sp.Symbol("u", real=True), sp.Symbol("logp_chosen", real=True), sp.Symbol("logp_rejected", real=True)
    assert b not in o.h_chosen.free_symbols | o.likelihood.free_symbols | o.m.free_symbols
    assert a not in o.h_rejected.free_symbols | o.likelihood_rejected.free_symbols | o.m.free_symbols
    assert u in o.m.free_symbols
    for expression in (o.loss, o.d_chosen, o.d_rejected):
        assert not any(symbol.name in to_latex(expression) for symbol in LATEX if "_" in symbol.name)


def test_bad_input_gets_one_clear_error():
    with pytest.raises(InputError, match=r"Unknown objective 'dppo'\. Did you mean 'dpo'.*Known: apo-down, apo-"):
        objective("dppo")
    with pytest.raises(InputError, match="no argument 'betta'. Did you mean 'beta'"):
        objective("dpo")(-1.0, -2.0, betta=1.0)
    with pytest.raises(InputError, match="beta = -1, expected a positive number"):
        objective("dpo")(-1.0, -2.0, beta=-1)
    with pytest.raises(InputError, match="the response is empty"):
        objective("simpo")(-1.0, -2.0, len_chosen=0)
    with pytest.raises(InputError, match="epsilon = 0.5, expected a share of flipped labels"):
        objective("robust")(-1.0, -2.0, epsilon=0.5)
    with pytest.raises(InputError, match="takes odds, and a log-probability above 0"):
        objective("orpo")(np.array([-1.0, 0.5]), np.array([-2.0, -2.0]))


@pytest.mark.parametrize(
    ("name", "argument", "refused", "taken"),
    [
        ("dpo", "beta", (-0.5, 0.0, np.nan), (1e-3, 5.0)),
        ("discopop", "tau", (-0.5, 0.0), (1e-3, 5.0)),
        ("robust", "epsilon", (-0.1, 0.0, 0.5, 0.7), (1e-3, 0.49)),
        ("simpo", "len_chosen", (-1, 0, 0.5), (1, 2)),
        ("simpo", "len_rejected", (-1, 0, 0.5), (1, 2)),
    ],
)
def test_hyperparameters_and_lengths_keep_to_their_ranges(name, argument, refused, taken):
    for value in refused:
        with pytest.raises(InputError, match=f"got {argument} = {value}, expected"):
            objective(name)(-1.0, -2.0, **{argument: value})
    for value in taken:
        assert np.isfinite(objective(name)(-1.0, -2.0, **{argument: value}))


def test_without_a_reference_and_lengths_they_are_0_and_1():
    given = {"ref_chosen": 0.0, "ref_rejected": 0.0, "len_chosen": 1, "len_rejected": 1}
    assert objective("dpo-norm")(-1.0, -5.0) == objective("dpo-norm")(-1.0, -5.0, **given)
    assert objective("dpo")(0.0, 0.0) == pytest.approx(np.log(2))


@pytest.mark.parametrize("side", [0, 1])
def test_odds_are_taken_of_probabilities_alone(side):
    for above in (0.5, 2.0):
        with pytest.raises(InputError, match="takes odds"):
            objective("orpo")(*np.roll([above, -1.0], side))
    assert np.isfinite(objective("orpo")(*np.roll([0.0, -1.0], side)))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_slopes_of_tensors_are_those_of_arrays(name, tolerance):
    a, b = -np.random.default_rng(0).random((2, 50)) * 10
    for found, expected in zip(
        objective(name).slopes(torch.tensor(a), torch.tensor(b), **PAIR),
        objective(name).slopes(a, b, **PAIR),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=tolerance.identity, atol=2e-16)


def test_at_its_kink_a_hinge_has_slope_0():
    """In numpy, in torch, and by autograd."""
    at = torch.tensor([-2.0, -2.0], dtype=torch.float64, requires_grad=True)
    assert objective("rrhf").slopes(*at.detach().numpy()) == (1, 0)
    assert objective("rrhf").slopes(*at.detach()) == (1, 0)
    assert torch.autograd.grad(objective("rrhf")(*at), at)[0].tolist() == [-1, 0]


def test_the_signs_that_the_figure_shows():
    """Margins over the reference, shared evenly by the two sides; the default hyperparameters."""
    margin = np.linspace(-90, 90, 361)
    slopes = {n: OBJECTIVES[n].slopes(margin / 2 - 60, -margin / 2 - 60, **EVEN) for n in OBJECTIVES}
    for name in ("dpo", "ipo", "discopop", "exo"):
        np.testing.assert_allclose(*slopes[name])
    assert (slopes["dpo"][0] > 0).all()
    assert (np.diff(slopes["dpo"][0]) < 0).all()
    np.testing.assert_array_equal(slopes["ipo"][0] < 0, margin > 5)
    np.testing.assert_array_equal(slopes["exo"][0] < 0, margin > 10 * np.log(999))
    backwards = margin[slopes["discopop"][0] < 0]
    assert backwards.min() <= 0 < backwards.max() < 10
    np.testing.assert_allclose(slopes["cpo"][0] - slopes["cpo"][1], 1)
    np.testing.assert_array_equal(slopes["apo-down"][0] < 0, margin != 0)
    assert (slopes["apo-down"][1] > 0).all()


EVEN = {"ref_chosen": -60.0, "ref_rejected": -60.0}


@pytest.mark.parametrize("function", [sigmoid, log_sigmoid, min0, log_odds, inverse_complement])
def test_each_function_has_its_derivative(function):
    """Against central differences of what it is compiled to, first and second derivative alike."""
    x, step = sp.Symbol("x"), 1e-5
    for expression in (function(x), sp.diff(function(x), x)):
        value, slope = (compiled((x,), e, "numpy") for e in (expression, sp.diff(expression, x)))
        for at in (-0.3, -2.0, -7.0):
            differences = (value(at + step) - value(at - step)) / (2 * step)
            assert slope(at) == pytest.approx(differences, rel=1e-6, abs=1e-9)


class kinked(sp.Function):
    """A function without a derivative."""

    def fdiff(self, argindex=1):
        raise sp.core.function.ArgumentIndexError(self, argindex)


@pytest.mark.parametrize("m", [sp.Function("mystery")(MARGIN), kinked(MARGIN)])
def test_a_definition_without_a_derivative_is_refused(m):
    unknown = Objective("new", "NEW", m=m, h_chosen=LOGP_CHOSEN, h_rejected=LOGP_REJECTED, source="nowhere")
    with pytest.raises(InputError, match=r"NEW: .*fdiff, as gentangle's have"):
        unknown.slopes(-1.0, -2.0)


def test_certain_responses_keep_the_limits_of_the_odds():
    """At probability 1 the odds are infinite; ORPO's slope of chosen keeps its limit lambda odds_l / n."""
    for kind in (np.array, torch.tensor):
        d_chosen, _ = objective("orpo").slopes(kind([0.0, -1e-9]), kind([-0.7, -0.7]))
        np.testing.assert_allclose(d_chosen, 1 + 0.1 * np.exp(odds(-0.7)), rtol=1e-6)
        assert objective("orpo")(kind([0.0]), kind([-0.7])) == pytest.approx(0, abs=1e-12)
    certain = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    grad = torch.autograd.grad(objective("orpo")(certain, torch.tensor(-0.7, dtype=torch.float64)), certain)[0]
    assert -grad.item() == pytest.approx(1 + 0.1 * np.exp(odds(-0.7)), rel=1e-6)


def test_an_unknown_name_lists_them_all():
    with pytest.raises(InputError) as error:
        objective("zzz")
    assert all(name in str(error.value) for name in OBJECTIVES)
    assert D_CHOSEN.name == "d_chosen"
