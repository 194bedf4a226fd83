"""The Gram matrix against closed forms, finite differences and torch.func, and its properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gentangle import InputError, gram, gram_by_parameter, pair_blocks
from gentangle.gradients import jacobian, parameter_step, sgd_forecast, snapshot, step_forecast


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double()


def test_gram_of_linear_scalars_is_the_gram_of_their_inputs(tolerance):
    inputs = torch.randn(4, 6, dtype=torch.float64)
    model = torch.nn.Linear(6, 1, bias=False).double()
    expected = (inputs @ inputs.T).numpy()
    np.testing.assert_allclose(gram(model, lambda m: m(inputs)[:, 0]), expected, rtol=tolerance.identity)


def test_gram_agrees_with_torch_func(tolerance):
    model, inputs = network(), torch.randn(4, 3, dtype=torch.float64)

    def scalar(parameters, x):
        return torch.func.functional_call(model, parameters, (x,)).sin().sum()

    parameters = dict(model.named_parameters())
    per_example = torch.func.vmap(torch.func.grad(scalar), in_dims=(None, 0))(parameters, inputs)
    rows = torch.cat([g.flatten(1) for g in per_example.values()], dim=1).detach()
    found = gram(model, lambda m: m(inputs).sin().sum(-1))
    np.testing.assert_allclose(found, (rows @ rows.T).numpy(), rtol=tolerance.identity)


def test_gram_predicts_a_small_step_by_finite_differences():
    model, inputs = network(), torch.randn(3, 3, dtype=torch.float64)

    def scalars(m):
        return m(inputs).square().sum(-1)

    slopes, eta = np.array([-1.0, 0.5, 2.0]), 1e-6
    predicted = sgd_forecast(gram(model, scalars), slopes, eta)
    before = scalars(model).detach()
    (scalars(model) @ torch.tensor(slopes)).backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= eta * p.grad
    measured = (scalars(model).detach() - before).numpy()
    np.testing.assert_allclose(predicted, measured, rtol=1e-4)


def test_a_list_of_scalars_gives_the_same_matrix_as_a_tensor(tolerance):
    model, inputs = network(), torch.randn(3, 3, dtype=torch.float64)
    together = gram(model, lambda m: m(inputs).sum(-1))
    apart = gram(model, lambda m: [m(x).sum() for x in inputs], method="oracle")
    np.testing.assert_allclose(together, apart, rtol=tolerance.identity)


def test_parameters_shares_add_up_and_a_frozen_one_has_none(tolerance):
    model, inputs = network(), torch.randn(3, 3, dtype=torch.float64)
    model[0].weight.requires_grad_(False)
    shares = gram_by_parameter(model, lambda m: m(inputs).sum(-1))
    assert set(shares) == {"0.bias", "2.weight", "2.bias"}
    whole = gram(model, lambda m: m(inputs).sum(-1))
    np.testing.assert_allclose(sum(shares.values()), whole, rtol=tolerance.identity)


def test_gram_leaves_grad_and_parameters_alone():
    model, inputs = network(), torch.randn(3, 3, dtype=torch.float64)
    before = snapshot(model)
    gram(model, lambda m: m(inputs).sum(-1))
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


@given(hnp.arrays(float, st.tuples(st.integers(1, 5), st.just(3)), elements=st.floats(-3, 3)))
@settings(max_examples=40, deadline=None)
def test_gram_is_symmetric_positive_semidefinite_and_permutes_with_its_scalars(inputs):
    model, x = network(1), torch.tensor(inputs)
    matrix = gram(model, lambda m: m(x).sum(-1))
    scale = max(np.trace(matrix), 1e-12)
    np.testing.assert_array_equal(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix).min() >= -1e-10 * scale
    order = np.random.default_rng(0).permutation(len(inputs))
    permuted = gram(model, lambda m: m(x[order]).sum(-1))
    np.testing.assert_allclose(permuted, matrix[np.ix_(order, order)], rtol=1e-9, atol=1e-12 * scale)
    assert (matrix**2 <= np.outer(np.diag(matrix), np.diag(matrix)) * (1 + 1e-9) + 1e-18).all()  # Cauchy-Schwarz


@given(st.floats(-4, 4), st.floats(-4, 4))
@settings(max_examples=20, deadline=None)
def test_gram_is_bilinear_in_the_scalars(a, b):
    model, x = network(2), torch.ones(2, 3, dtype=torch.float64) * torch.tensor([[1.0], [-0.5]])
    factors = torch.tensor([a, b], dtype=torch.float64)
    plain = gram(model, lambda m: m(x).sum(-1))
    scaled = gram(model, lambda m: factors * m(x).sum(-1))
    np.testing.assert_allclose(scaled, np.outer([a, b], [a, b]) * plain, rtol=1e-9, atol=1e-12)


def test_step_forecast_is_the_directional_derivative_whatever_optimizer_stepped():
    model, inputs = network(), torch.randn(3, 3, dtype=torch.float64)

    def scalars(m):
        return m(inputs).square().sum(-1)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    for _ in range(3):  # momentum and preconditioner are no longer SGD's
        gradients, before, values = jacobian(model, scalars), snapshot(model), scalars(model).detach()
        optimizer.zero_grad()
        scalars(model).prod().backward()
        optimizer.step()
        step = parameter_step(before, snapshot(model))
        measured = (scalars(model).detach() - values).numpy()
        np.testing.assert_allclose(step_forecast(gradients, step), measured, rtol=1e-3)


BAD_SCALARS = {
    "a matrix": (lambda m: m(torch.ones(2, 3).double()), "expected a tensor of shape"),
    "no tensor": (lambda m: 3.0, "gave float"),
    "detached": (lambda m: m(torch.ones(2, 3).double()).sum(-1).detach(), "do not depend on a parameter"),
    "not finite": (lambda m: m(torch.full((2, 3), torch.inf).double()).sum(-1).log(), "NaN or infinite"),
    "empty": (lambda m: m(torch.ones(0, 3).double()).sum(-1), "n >= 1"),
}


@pytest.mark.parametrize("name", BAD_SCALARS)
def test_bad_scalars_get_one_clear_error(name):
    scalars, message = BAD_SCALARS[name]
    with pytest.raises(InputError, match=message):
        gram(network(), scalars)


def test_a_frozen_model_and_an_unknown_method_get_one_clear_error():
    with pytest.raises(InputError, match="No parameter of Sequential requires a gradient"):
        gram(network().requires_grad_(False), lambda m: m(torch.ones(1, 3).double())[0])
    with pytest.raises(InputError, match="Did you mean 'oracle'"):
        gram(network(), lambda m: m(torch.ones(1, 3).double())[0], method="oracel")
    with pytest.raises(InputError, match=r"\(n, n\) and \(n,\)"):
        sgd_forecast(np.eye(2), np.ones(3), 1.0)


def test_snapshots_of_two_models_do_not_make_a_step():
    with pytest.raises(InputError, match="differ in their parameters"):
        parameter_step(snapshot(network()), snapshot(torch.nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("matrix", "slopes"), [(np.eye(2), np.ones(3)), (np.ones((2, 3)), np.ones(2)), (np.ones(2), np.ones(2))]
)
def test_a_matrix_and_slopes_that_do_not_fit_are_refused(matrix, slopes):
    with pytest.raises(InputError, match=r"\(n, n\) and \(n,\)"):
        sgd_forecast(matrix, slopes, 1.0)


@pytest.mark.parametrize("shape", [(4,), (4, 2), (3, 3), (2, 4, 4)])
def test_a_matrix_that_is_no_batch_of_pairs_is_refused(shape):
    with pytest.raises(InputError, match=r"it takes \(2P, 2P\)"):
        pair_blocks(np.ones(shape))


def test_parameters_on_several_devices_get_one_clear_error():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2, device="meta"))
    with pytest.raises(InputError, match=r"several devices \(cpu, meta\)"):
        gram(model, lambda m: m(torch.ones(1, 3))[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_steps_are_taken_in_float32_at_least(dtype):
    before, after = ({"w": torch.tensor([1.0, x], dtype=dtype)} for x in (1.0, 1.125))
    step = parameter_step(before, after)["w"]
    assert step.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert step.tolist() == [0, 0.125]
