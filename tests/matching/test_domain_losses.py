"""IRM, V-REx and group DRO against their objectives, differentiated by torch, and their limits."""

from functools import partial

import pytest
import torch
from torch.func import functional_call

from gentangle.matching.algorithms import ERM, IRM, GroupDRO, VREx
from gentangle.matching.erm import erm_gradient
from gentangle.matching.irm import irm_gradient
from gentangle.matching.weighted_losses import group_dro_weights, vrex_weights, weighted_gradient

from .small_domains import losses, minibatches, network

LOSS = torch.nn.functional.binary_cross_entropy_with_logits


def by_differentiation(model, batches, objective):
    """Gradient of objective(outputs by domain) by torch alone."""
    outputs = [(functional_call(model, dict(model.named_parameters()), (x,)), y) for x, y in batches.values()]
    return torch.autograd.grad(objective(outputs), list(model.parameters()))


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def irm_objective(outputs, penalty):
    total = 0.0
    for f, y in outputs:
        # d/dc of the binary cross-entropy of c f at 1: mean (sigmoid(f) - y) f
        slope = ((torch.sigmoid(f) - y) * f).mean()
        total = total + LOSS(f, y) + penalty * slope**2
    return total / len(outputs)


def vrex_objective(outputs, penalty):
    each = torch.stack([LOSS(f, y) for f, y in outputs])
    return each.mean() + penalty * each.var(unbiased=False)


@pytest.mark.parametrize("penalty", [0.0, 0.7, 30.0])
def test_irm_is_the_gradient_of_its_objective(penalty):
    model, batches = network(), minibatches()
    gradient, seen = irm_gradient(model, losses(batches), penalty=penalty)
    same(gradient, by_differentiation(model, batches, partial(irm_objective, penalty=penalty)))
    assert seen == pytest.approx(erm_gradient(model, losses(batches))[1])


@pytest.mark.parametrize("penalty", [0.0, 0.7, 30.0])
def test_vrex_is_the_gradient_of_its_objective(penalty):
    model, batches = network(), minibatches()
    gradient, seen = weighted_gradient(model, losses(batches), partial(vrex_weights, penalty=penalty))
    same(gradient, by_differentiation(model, batches, partial(vrex_objective, penalty=penalty)))
    assert seen == pytest.approx(erm_gradient(model, losses(batches))[1])


def test_equal_weights_are_erm():
    model, domains = network(), losses(minibatches())
    gradient, _ = weighted_gradient(model, domains, lambda losses: torch.full_like(losses, 1 / len(losses)))
    same(gradient, erm_gradient(model, domains)[0])


def test_a_far_lower_loss_gets_a_negative_weight_from_vrex():
    weights = vrex_weights(torch.tensor([0.0, 1.0, 1.0]), penalty=1.0)
    assert weights.tolist() == pytest.approx([(1 - 4 / 3) / 3, (1 + 2 / 3) / 3, (1 + 2 / 3) / 3])


def test_group_dro_weights_grow_with_the_loss_and_sum_to_one():
    start = torch.tensor([0.5, 0.3, 0.2]).log()
    after = group_dro_weights(start, torch.tensor([1.0, 2.0, 3.0]), 0.5).exp()
    expected = torch.tensor([0.5, 0.3, 0.2]) * torch.tensor([0.5, 1.0, 1.5]).exp()
    torch.testing.assert_close(after, expected / expected.sum())


@pytest.mark.parametrize(
    ("kind", "settings"), [(IRM, {"penalty": 0.0}), (VREx, {"penalty": 0.0}), (GroupDRO, {"step": 0.0})]
)
def test_each_is_erm_where_its_setting_is_0(kind, settings):
    sgd, batches = partial(torch.optim.SGD, lr=0.1), minibatches()
    plain, other = ERM(network(), LOSS, sgd), kind(network(), LOSS, sgd, **settings)
    for _ in range(3):
        plain.update(batches)
        other.update(batches)
    same([p.detach() for p in other.model.parameters()], [p.detach() for p in plain.model.parameters()])


def test_group_dro_keeps_weights_by_name_and_goes_on_from_its_state():
    sgd, batches = partial(torch.optim.SGD, lr=0.1), minibatches(count=3)
    first = GroupDRO(network(), LOSS, sgd, step=0.5)
    first.update(batches)
    assert sum(torch.tensor(list(first.log_weights.values())).exp()) == pytest.approx(1)
    again = GroupDRO(network(seed=1), LOSS, sgd, step=0.5)
    again.load_state_dict(first.state_dict())
    for algorithm in (first, again):
        algorithm.update({"c": batches["c"], "a": batches["a"]})
    assert first.log_weights == again.log_weights
    same([p.detach() for p in first.model.parameters()], [p.detach() for p in again.model.parameters()])


def test_a_domain_that_is_new_to_group_dro_begins_with_the_mean_of_the_others():
    algorithm, batches = GroupDRO(network(), LOSS, partial(torch.optim.SGD, lr=0.1), step=0.0), minibatches()
    algorithm.log_weights = {"a": -1.0, "b": -3.0}
    algorithm.update(batches)
    expected = torch.log_softmax(torch.tensor([-1.0, -3.0, -2.0]), 0)
    assert [algorithm.log_weights[name] for name in "abc"] == pytest.approx(expected.tolist())


def test_group_dro_keeps_its_weights_when_an_update_fails():
    algorithm = GroupDRO(network(), LOSS, partial(torch.optim.SGD, lr=0.1), step=0.5)
    algorithm.update(minibatches())
    kept, broken = dict(algorithm.log_weights), minibatches()
    broken["b"] = (broken["b"][0] * float("nan"), broken["b"][1])
    with pytest.raises(ValueError, match="domain 'b'"):
        algorithm.update(broken)
    assert algorithm.log_weights == kept
