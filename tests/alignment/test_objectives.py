"""Every objective's symbolic definition against independent formulas, autograd and extreme inputs."""

import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gentangle import OBJECTIVES, InputError, objective
from gentangle.alignment.symbols import D_CHOSEN, LATEX, to_latex

log_prob = st.floats(-60, -1e-3)
PAIR = {"ref_chosen": -7.0, "ref_rejected": -6.0, "len_chosen": 3.0, "len_rejected": 5.0}


def sigma(x):
    return 1 / (1 + np.exp(-x))


def expected_slopes(name, a, b, a0, b0, n, k):
    """d_w and d_l by hand at the defaults (a, b log-probabilities; a0, b0 the reference's; n, k lengths)."""
    margin = (a - a0) - (b - b0)
    if name == "dpo":
        return (0.1 * sigma(-0.1 * margin),) * 2
    if name == "r-dpo":
        return (0.1 * sigma(-(0.1 * margin + 0.2 * (n - k))),) * 2
    if name == "ipo":
        return (2 * (5 - margin),) * 2
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
    raise AssertionError(f"{name} has no independent formula here: add one, by hand, from its paper")


def expected_loss(name, a, b, a0, b0, n, k):
    """The loss itself, written from each paper and not from the definition under test."""
    margin = (a - a0) - (b - b0)
    return {
        "dpo": lambda: -np.log(sigma(0.1 * margin)),
        "r-dpo": lambda: -np.log(sigma(0.1 * margin + 0.2 * (n - k))),
        "ipo": lambda: (margin - 5) ** 2,
        "simpo": lambda: -np.log(sigma(2 * a / n - 2 * b / k - 1)),
        "rrhf": lambda: max(0, b / k - a / n) - a,
        "slic-hf": lambda: max(0, 1 - a + b) - 0.1 * a,
        "cpo": lambda: -np.log(sigma(0.1 * (a - b))) - a,
        "dpop": lambda: -np.log(sigma(0.1 * (margin - 50 * max(0, a0 - a)))),
    }[name]()


@pytest.mark.parametrize("name", OBJECTIVES)
@given(a=log_prob, b=log_prob)
@settings(max_examples=50, deadline=None)
def test_loss_and_slopes_are_those_of_the_paper(name, a, b):
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
    np.testing.assert_allclose(-grad_a.numpy(), d_chosen, rtol=tolerance.identity, atol=1e-300)
    np.testing.assert_allclose(grad_b.numpy(), d_rejected, rtol=tolerance.identity, atol=1e-300)


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
    assert a not in o.h_rejected.free_symbols | o.m.free_symbols
    assert u in o.m.free_symbols
    for expression in (o.loss, o.d_chosen, o.d_rejected):
        assert not any(symbol.name in to_latex(expression) for symbol in LATEX if "_" in symbol.name)


def test_trl_computes_the_same_dpo_loss_and_ipo_per_token(tiny_policy, tiny_pairs, tolerance):
    """The definition against TRL's own loss on one batch: DPO as it is, IPO after TRL's division by lengths."""
    import copy

    from gentangle.alignment.policy import collate, response_log_probs
    from gentangle.alignment.recipes import Stage
    from gentangle.alignment.training import LogCallback, preference

    model, tokenizer = tiny_policy
    reference = copy.deepcopy(model)
    with torch.no_grad():
        for p in reference.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    batch = collate(tokenizer, tiny_pairs)
    with torch.no_grad():
        (a, b), (a0, b0) = response_log_probs(model, batch).chunk(2), response_log_probs(reference, batch).chunk(2)
    lengths = batch["completion_mask"].sum(-1).float().chunk(2)
    for loss_type, by_hand in {
        "sigmoid": objective("dpo")(a, b, ref_chosen=a0, ref_rejected=b0, beta=0.3),
        "ipo": objective("ipo")(
            a / lengths[0], b / lengths[1], ref_chosen=a0 / lengths[0], ref_rejected=b0 / lengths[1], beta=0.3
        ),
    }.items():
        seen = []
        stage = Stage(1, len(tiny_pairs), 1e-4, extra={"beta": 0.3, "loss_type": [loss_type]})
        callbacks = [LogCallback(seen.append)]
        preference(copy.deepcopy(model), tokenizer, tiny_pairs, stage, seed=0, callbacks=callbacks, reference=reference)
        assert seen[0]["loss"] == pytest.approx(by_hand.mean().item(), rel=tolerance.gram), loss_type


def test_bad_input_gets_one_clear_error():
    with pytest.raises(InputError, match=r"Unknown objective 'dppo'\. Did you mean 'dpo'.*Known: cpo, dpo"):
        objective("dppo")
    with pytest.raises(InputError, match="no argument 'betta'. Did you mean 'beta'"):
        objective("dpo")(-1.0, -2.0, betta=1.0)
    with pytest.raises(InputError, match="beta = -1, expected a positive number"):
        objective("dpo")(-1.0, -2.0, beta=-1)
    with pytest.raises(InputError, match="the response is empty"):
        objective("simpo")(-1.0, -2.0, len_chosen=0)


def test_an_unknown_name_lists_them_all():
    with pytest.raises(InputError) as error:
        objective("zzz")
    assert all(name in str(error.value) for name in OBJECTIVES)
    assert D_CHOSEN.name == "d_chosen"
