"""The classes: gamma 0 is ERM, what is kept between loops, resuming, warm starts, and all-or-nothing updates."""

import io
import math
from functools import partial

import pytest
import torch
from small_domains import losses, minibatches, network, vector
from torch import nn

from gentangle import InputError
from gentangle.matching.algorithms import ERM, IDGM, Fish, Reptile, SmoothFish
from gentangle.matching.fish import fish_step

bce = nn.functional.binary_cross_entropy_with_logits
sgd, adam = partial(torch.optim.SGD, lr=0.1), partial(torch.optim.Adam, lr=0.01)
KINDS = {
    "erm": ERM,
    "idgm": partial(IDGM, gamma=0.1),
    "smooth_fish": partial(SmoothFish, alpha=0.1, gamma=0.5),
    "fish": partial(Fish, eps=0.3),
    "fish, loop's buffers": partial(Fish, eps=0.3, buffers="inner", track=False),
    "fish, moments reset": partial(Fish, eps=0.3, keep_state=False),
    "reptile": partial(Reptile, eps=0.3),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind, make=adam, seed=0, norm=True, loss=bce):
    return KINDS[kind](network(seed, norm), loss, make, seed=seed)


def run(algorithm, steps):
    return [algorithm.update(minibatches(step)) for step in steps]


def same(one, other):
    """Whether two algorithms hold the same bytes."""
    streams = [io.BytesIO(), io.BytesIO()]
    for stream, algorithm in zip(streams, (one, other), strict=True):
        torch.save(algorithm.state_dict(), stream)
    return streams[0].getvalue() == streams[1].getvalue()


@each_kind
def test_an_update_moves_the_model_and_tells_its_metrics(kind):
    algorithm = made(kind)
    before = vector(algorithm.model)
    metrics = algorithm.update(minibatches())
    assert not torch.equal(before, vector(algorithm.model))
    readings = set() if "buffers" in kind else {"gip", "cosine"}
    assert set(metrics) == {"loss", "loss/a", "loss/b", "loss/c"} | readings
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())
    assert metrics["loss"] == pytest.approx(sum(metrics[f"loss/{name}"] for name in "abc") / 3)
    assert all(p.grad is None for p in algorithm.model.parameters())


@pytest.mark.parametrize("kind", [partial(IDGM, gamma=0.0), partial(SmoothFish, gamma=0.0, alpha=0.1)])
def test_gamma_0_is_erm(kind):
    one, other = ERM(network(norm=True), bce, adam), kind(network(norm=True), bce, adam)
    assert run(one, range(4)) == [pytest.approx(row) for row in run(other, range(4))]
    torch.testing.assert_close(vector(one.model), vector(other.model), rtol=1e-8, atol=1e-10)


def test_erm_weighs_domains_alike_whatever_their_sizes():
    batches = {"small": minibatches(0, 1, 2)["a"], "large": minibatches(1, 1, 40)["a"]}
    model = network()
    expected = sum(bce(model(x), y) for x, y in batches.values()) / 2
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(expected, list(model.parameters()))])
    before, metrics = vector(model), ERM(model, bce, sgd).update(batches)
    assert metrics["loss"] == pytest.approx(expected.item())
    torch.testing.assert_close(vector(model), before - 0.1 * gradient, rtol=1e-10, atol=1e-13)


def test_the_class_is_its_pure_step_in_the_orders_of_its_seed():
    algorithm = Fish(network(), bce, sgd, eps=0.3, seed=7)
    other, generator = network(), torch.Generator().manual_seed(7)
    optimizer = sgd(other.parameters())
    for step in range(5):
        algorithm.update(minibatches(step))
        fish_step(other, losses(minibatches(step)), optimizer, eps=0.3, generator=generator)
    assert torch.equal(vector(algorithm.model), vector(other))


def test_without_permutation_the_seed_does_not_matter_and_with_it_does():
    def end(permute, **seed):
        algorithm = Fish(network(), bce, sgd, eps=1.0, permute=permute, **seed)
        run(algorithm, range(4))
        return vector(algorithm.model)

    assert torch.equal(end(False, seed=0), end(False, seed=1))
    assert not torch.equal(end(True, seed=0), end(True, seed=1))
    assert torch.equal(end(True, seed=1), end(True, seed=1))
    assert torch.equal(end(True), end(True, seed=0))


def test_moments_are_kept_or_forgotten_between_loops():
    steps = {}
    for keep in (True, False):
        algorithm = Fish(network(), bce, adam, eps=0.3, keep_state=keep)
        run(algorithm, range(2))
        steps[keep] = {int(state["step"]) for state in algorithm.optimizer.state.values()}
    assert steps == {True: {6}, False: {3}}


def test_names_orders_and_metadata_of_minibatches_are_free():
    batches = [(x, y, "metadata") for x, y in minibatches().values()]
    assert set(Fish(network(), bce, sgd, eps=0.3).update(batches)) >= {"loss/0", "loss/1", "loss/2"}


def test_reptile_is_fish_on_the_minibatches_of_one_domain():
    parts = [(x, y) for x, y in zip(*(t.chunk(3) for t in minibatches(0, 1, 12)["a"]), strict=True)]
    one, other = Reptile(network(), bce, sgd, eps=0.3), Fish(network(), bce, sgd, eps=0.3)
    assert one.update(parts) == other.update(parts)
    assert torch.equal(vector(one.model), vector(other.model))


@each_kind
def test_a_run_killed_and_resumed_ends_with_the_same_bytes(kind):
    whole, killed = made(kind), made(kind)
    rows, stream = run(whole, range(6)), io.BytesIO()
    run(killed, range(3))
    torch.save(killed.state_dict(), stream)
    resumed = made(kind, seed=5)
    stream.seek(0)
    resumed.load_state_dict(torch.load(stream, weights_only=True))
    assert run(resumed, range(3, 6)) == rows[3:]
    assert same(whole, resumed)


def test_a_state_is_a_copy_and_shares_nothing_with_what_loads_it():
    algorithm = made("fish")
    run(algorithm, range(2))
    state = algorithm.state_dict()
    moments = state["optimizer"]["state"][0]["exp_avg"].clone()
    other = made("fish")
    other.load_state_dict(state)
    run(algorithm, [2])
    run(other, [3])
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], moments)


def test_a_warm_start_is_the_models_state_and_another_algorithms_state_is_refused():
    erm, fish = made("erm"), made("fish", seed=3)
    run(erm, range(2))
    with pytest.raises(InputError, match=r"of ERM.*model.load_state_dict"):
        fish.load_state_dict(erm.state_dict())
    fish.model.load_state_dict(erm.model.state_dict())
    assert torch.equal(vector(fish.model), vector(erm.model))


def test_predict_is_in_evaluation_and_leaves_every_mode_and_buffer():
    algorithm = made("fish")
    algorithm.model[1].eval()
    buffers = [b.clone() for b in algorithm.model.buffers()]
    x = minibatches()["a"][0]
    found = algorithm.predict(x)
    assert not found.requires_grad
    assert [m.training for m in algorithm.model] == [True, False, True, True]
    assert all(torch.equal(a, b) for a, b in zip(buffers, algorithm.model.buffers(), strict=True))
    torch.testing.assert_close(found, algorithm.model.eval()(x).detach())


class Failing:
    """A loss that fails in its ``at``-th domain from now on, in one of several ways."""

    def __init__(self, how):
        self.how, self.marked = how, None

    def __call__(self, output, y):
        value = bce(output, y)
        if y is not self.marked:
            return value
        if isinstance(self.how, BaseException):
            raise self.how
        return self.how(value, output)


FAILURES = {
    "nan": (lambda value, _: value * math.nan, InputError, r"loss of domain 'b' is nan"),
    "inf": (lambda value, _: value + math.inf, InputError, r"loss of domain 'b' is inf"),
    "vector": (lambda _, output: output[:, 0], InputError, r"domain 'b' has shape \(6,\)"),
    "gradient": (lambda _, output: (output * 0).sum().sqrt(), InputError, r"gradient norm of domain 'b' is nan"),
    "label": (IndexError("Target 7 is out of bounds."), IndexError, r"Target 7"),
    "interrupt": (KeyboardInterrupt(), KeyboardInterrupt, None),
}


@each_kind
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_update_that_fails_changes_nothing_and_names_the_domain(kind, failure, seed):
    """In whichever place of the order the domain comes: the seeds differ in it."""
    if failure == "gradient" and "buffers" in kind:
        pytest.skip("a gradient that is not tracked is not looked at")
    how, error, said = FAILURES[failure]
    loss = Failing(how)
    algorithm, batches = made(kind, sgd, seed, loss=loss), minibatches(9)
    run(algorithm, range(2))
    before, loss.marked = algorithm.state_dict(), batches["b"][1]
    with pytest.raises(error, match=said) as caught:
        algorithm.update(batches)
    if error is IndexError:
        assert "domain 'b'" in caught.value.__notes__[0]
    after = algorithm.state_dict()
    assert all(torch.equal(after["model"][key], value) for key, value in before["model"].items())
    assert torch.equal(after["generator"], before["generator"])
    assert after["optimizer"] == before["optimizer"]


def test_a_label_out_of_range_leaves_the_parameters():
    model = nn.Sequential(nn.Linear(3, 2)).double()
    batches = {name: (x, y[:, 0].long()) for name, (x, y) in minibatches().items()}
    batches["c"][1][0] = 7
    algorithm = Fish(model, nn.functional.cross_entropy, sgd, eps=1.0, permute=False)
    before = vector(model)
    with pytest.raises(IndexError, match="out of bounds") as caught:
        algorithm.update(batches)
    assert "domain 'c'" in caught.value.__notes__[0]
    assert torch.equal(vector(model), before)


@each_kind
def test_bad_minibatches_get_one_clear_error_before_anything_moves(kind):
    algorithm = made(kind)
    before, whole = algorithm.state_dict(), minibatches()
    x, y = whole["b"]
    with pytest.raises(InputError, match="got 1 minibatch"):
        algorithm.update({"a": whole["a"]})
    with pytest.raises(InputError, match="domain 'b' is empty"):
        algorithm.update(whole | {"b": (x[:0], y[:0])})
    with pytest.raises(InputError, match="'b' has 1 example, and BatchNorm"):
        algorithm.update(whole | {"b": (x[:1], y[:1])})
    after = algorithm.state_dict()
    assert all(torch.equal(after["model"][key], value) for key, value in before["model"].items())
    algorithm.model[1].eval()
    algorithm.update(whole | {"b": (x[:1], y[:1])})


def test_a_frozen_model_gets_one_clear_error():
    with pytest.raises(InputError, match="unfreeze"):
        ERM(network().requires_grad_(False), bce, sgd)
