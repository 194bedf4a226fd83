"""What an adapter sees of a gradient, and what pairs drawn from the policy have in the mean: chapter 11's theorems."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch

from gentangle import gram

WIDTHS = (6, 5, 4)


@pytest.fixture
def layers():
    """Two linear layers with a tanh between them, in float64."""
    torch.manual_seed(0)
    first, second = (torch.nn.Linear(i, o, dtype=torch.float64) for i, o in pairwise(WIDTHS))
    return torch.nn.Sequential(first, torch.nn.Tanh(), second)


def two_scalars(model):
    x = torch.linspace(-1, 1, 2 * WIDTHS[0], dtype=torch.float64).view(2, -1)
    return model(x).log_softmax(-1)[:, 1]


def weight_gradients(model):
    """The gradient of each scalar by each weight matrix, (W, L) for each matrix."""
    weights = [p for p in model.parameters() if p.ndim == 2]
    rows = [torch.autograd.grad(s, weights, retain_graph=True) for s in two_scalars(model)]
    return [tuple(g.numpy() for g in both) for both in zip(*rows, strict=True)]


@pytest.mark.parametrize("rank", [1, 3])
def test_a_fresh_adapter_s_gram_matrix(layers, tolerance, rank):
    """PEFT's own adapter, B = 0: the sum over matrices of s^2 tr(A L^T W A^T)."""
    from peft import LoraConfig, get_peft_model

    gradients = weight_gradients(layers)
    model = get_peft_model(layers, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["0", "2"])).double()
    a = [p.detach().numpy() for name, p in model.named_parameters() if "lora_A" in name]
    expected = sum(
        2.0**2 * np.array([[np.trace(first @ v.T @ u @ first.T) for v in both] for u in both])
        for first, both in zip(a, gradients, strict=True)
    )
    np.testing.assert_allclose(gram(model, two_scalars, method="oracle"), expected, rtol=tolerance.gram, atol=1e-14)


def test_peft_draws_the_first_factor_with_variance_a_third_of_one_over_its_inputs():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(500, 3))
    model = get_peft_model(layer, LoraConfig(r=64, target_modules=["0"]))
    (a,) = (p for name, p in model.named_parameters() if "lora_A" in name)
    assert a.var().item() == pytest.approx(1 / (3 * 500), rel=0.02)
    assert a.abs().max().item() <= 500**-0.5


@pytest.mark.parametrize("rank", [1, 8])
def test_rank_scales_the_expected_inner_product_and_narrows_its_spread(layers, rank):
    """Mean s^2 r var <W, L> within four standard errors; standard deviation at most s^2 var sqrt(2 r) |W| |L|."""
    rng, draws = np.random.default_rng(rank), 20_000
    for w, l in weight_gradients(layers):
        inputs = w.shape[1]
        a = rng.uniform(-(inputs**-0.5), inputs**-0.5, size=(draws, rank, inputs))
        found = 4 * np.einsum("nri,oi,oj,nrj->n", a, l, w, a, optimize=True)
        variance, inner = 1 / (3 * inputs), (w * l).sum()
        assert abs(found.mean() - 4 * rank * variance * inner) < 4 * found.std() / draws**0.5
        bound = 4 * variance * (2 * rank) ** 0.5 * np.linalg.norm(w) * np.linalg.norm(l)
        assert 0.2 * bound < found.std() < bound


def test_a_response_from_the_policy_has_mean_zero_inner_product_with_any_other():
    """Every response of at most two tokens, enumerated; a first token 0 ends it."""
    rng, tokens = np.random.default_rng(0), 4
    theta = torch.tensor(rng.normal(size=(tokens + 1, tokens)), requires_grad=True)
    responses = [(0,), *product(range(1, tokens), range(tokens))]

    def log_prob(response):
        logs = theta.log_softmax(-1)  # row 0: the first token; row 1 + a: what follows the token a
        return logs[0, response[0]] + (logs[1 + response[0], response[1]] if len(response) > 1 else 0)

    logs = [log_prob(response) for response in responses]
    p = np.exp([value.item() for value in logs])
    assert p.sum() == pytest.approx(1)
    g = np.stack([torch.autograd.grad(v, theta, retain_graph=True)[0].numpy().ravel() for v in logs])
    np.testing.assert_allclose(p @ g @ g.T, 0, atol=1e-12)
    uniform = np.full(len(p), 1 / len(p))
    assert np.abs(uniform @ g @ g.T).max() > 0.05  # drawn otherwise, it has not
