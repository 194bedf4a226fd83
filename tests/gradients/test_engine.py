"""The engine against the slow oracle: architectures, random shapes, uses of one parameter, and what it refuses."""

import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from gentangle import InputError, gram, gram_by_parameter, pair_blocks, pair_gram
from gentangle.gradients import factors, jacobian, step_forecast
from gentangle.gradients.capture import Capture
from gentangle.gradients.fused_head import FusedHead, common_slopes
from gentangle.gradients.rules import by_differentiation, rule_of

sys.path.insert(0, str(Path(__file__).parent))

from models import VOCABULARY, convolutional, images, language_model, responses

ARCHITECTURES = ("gpt2", "llama", "gpt_neox", "opt", "qwen2")


def assert_equal_to_the_oracle(model, scalars, relative):
    """Every entry, relative to the product of its two norms; and each parameter's share, to the norms of the whole."""
    expected = gram_by_parameter(model, scalars, method="oracle")
    found = gram_by_parameter(model, scalars, method="engine")
    norms = np.sqrt(np.diag(sum(expected.values())))
    scale = np.outer(norms, norms) + 1e-30
    assert list(found) == list(expected)
    for name in expected:
        assert np.abs(found[name] - expected[name]).max() <= relative * scale.max(), name
    assert (np.abs(sum(found.values()) - sum(expected.values())) / scale).max() <= relative


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_language_models_in_float64(name, tied, tolerance):
    model = language_model(name, tied=tied).double()
    assert_equal_to_the_oracle(model, responses(4, 12), tolerance.identity)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_language_models_in_float32(name, tolerance):
    assert_equal_to_the_oracle(language_model(name), responses(4, 12, dtype=torch.float32), tolerance.gram)


@given(rows=st.integers(1, 5), length=st.integers(2, 90), seed=st.integers(0, 99), name=st.sampled_from(ARCHITECTURES))
@settings(max_examples=15, deadline=None)
def test_random_shapes(rows, length, seed, name):
    """Rows longer than a piece, shorter than one, of no round length."""
    assert_equal_to_the_oracle(language_model(name, layers=1).double(), responses(rows, length, seed), 1e-10)


@pytest.mark.parametrize("pays", [True, False], ids=["contracted", "formed"])
def test_both_ways_to_multiply_are_exact(pays, tolerance, monkeypatch):
    monkeypatch.setattr(factors, "_contraction_is_cheaper", lambda factor, offsets: pays)
    assert_equal_to_the_oracle(language_model("llama").double(), responses(4, 70), tolerance.identity)


def test_a_convolutional_net_and_losses_of_domains(tolerance):
    model = convolutional().double()
    assert_equal_to_the_oracle(model, images(6), tolerance.identity)
    assert_equal_to_the_oracle(model, images(6, domains=3), tolerance.identity)


def test_a_module_used_twice(tolerance):
    shared, inputs = nn.Linear(5, 5), torch.randn(4, 7, 5, dtype=torch.float64)
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), shared).double()
    assert_equal_to_the_oracle(model, lambda m: m(inputs).square().sum((1, 2)), tolerance.identity)


def test_agrees_with_vmap_of_grad(tolerance):
    model, inputs = convolutional().double(), torch.randn(5, 2, 8, 8, dtype=torch.float64)
    model[1] = nn.ReLU()

    def scalar(parameters, x):
        return torch.func.functional_call(model, parameters, (x[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(scalar), in_dims=(None, 0))(dict(model.named_parameters()), inputs)
    rows = torch.cat([g.flatten(1) for g in each.values()], 1).detach().numpy()
    found = gram(model, lambda m: m(inputs).square().sum(-1), method="engine")
    np.testing.assert_allclose(found, rows @ rows.T, rtol=tolerance.identity)


def test_frozen_parameters_have_no_share_and_need_no_rule(tolerance):
    model = language_model("gpt2").double()
    for name, p in model.named_parameters():
        p.requires_grad_("mlp" in name)
    assert_equal_to_the_oracle(model, responses(4, 9), tolerance.identity)


def test_padding_of_an_embedding_has_no_gradient(tolerance):
    model = nn.Sequential(nn.Embedding(6, 3, padding_idx=0), nn.Flatten(), nn.Linear(12, 2)).double()
    tokens = torch.tensor([[0, 1, 2, 0], [3, 3, 0, 5]])
    assert_equal_to_the_oracle(model, lambda m: m(tokens).square().sum(-1), tolerance.identity)


@pytest.mark.parametrize("norm", [nn.LayerNorm(3, eps=0.5), nn.LayerNorm((4, 3), eps=0.5), LlamaRMSNorm(3, eps=0.5)])
def test_a_norm_keeps_its_epsilon(norm, tolerance):
    inputs = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    assert_equal_to_the_oracle(nn.Sequential(norm), lambda m: m(inputs).square().sum((1, 2)), tolerance.gram)


class Weighted(nn.Module):
    """No layer with a rule; it takes a number for all rows, one for each, and one by name."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(0)))

    def forward(self, x, power, share, *, scale):
        return (x * self.weight).abs() ** power * share[:, None] * scale[:, None]


@pytest.mark.parametrize("scalars", [4, 2])
def test_of_a_module_without_a_rule_what_has_rows_is_taken_row_by_row(scalars, tolerance):
    """Neighbouring rows count to one scalar."""
    model, share = Weighted().double(), torch.tensor([1.0, 2.0, -3.0, 0.5], dtype=torch.float64)
    args, kwargs = (ROWS, torch.tensor(1.5, dtype=torch.float64), share), {"scale": share + 1}
    b = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = by_differentiation(model, args, kwargs, b, scalars)["weight"].rows
    expected = jacobian(model, lambda m: (m(*args, **kwargs) * b).reshape(scalars, -1).sum(-1))["weight"]
    torch.testing.assert_close(found, expected, rtol=tolerance.identity, atol=tolerance.identity)


def test_a_number_for_all_rows_has_no_first_dimension(tolerance):
    model, share = Weighted().double(), torch.tensor([1.0, 2.0, -3.0, 0.5], dtype=torch.float64)
    power = torch.tensor(1.5, dtype=torch.float64)
    assert_equal_to_the_oracle(model, lambda m: m(ROWS, power, share, scale=share + 1).sum(1), tolerance.gram)


def test_a_layer_that_is_sharded_keeps_its_rule():
    """fully_shard makes a class of two bases; any other subclass may compute something else."""
    sharded = type("FSDPLinear", (type("FSDPModule", (), {}), nn.Linear), {})
    other = type("OtherLinear", (nn.Linear,), {})
    assert rule_of(sharded(3, 3)) is rule_of(nn.Linear(3, 3)) is not None
    assert rule_of(other(3, 3)) is None


def test_only_the_diagonals_asked_for(tolerance):
    model, scalars = language_model("llama").double(), responses(6, 12)
    whole = gram(model, scalars, method="oracle")
    with Capture(model, 6, offsets=(0, 3)) as seen:
        scalars(model).sum().backward()
    pairs = sum(seen.gram_by_parameter().values())
    wanted = np.abs(np.subtract.outer(range(6), range(6))) % 3 == 0
    np.testing.assert_allclose(pairs[wanted], whole[wanted], rtol=tolerance.identity)
    assert (pairs[~wanted] == 0).all()


@pytest.mark.parametrize("tied", [True, False])
def test_with_no_diagonal_asked_for_the_factors_alone_are_kept(tied, tolerance):
    """As the split step does, which needs a combination of gradients and no inner product."""
    model, scalars = language_model("gpt2", tied=tied).double(), responses(4, 10)
    with Capture(model, 4, offsets=(), keep=True) as seen:
        scalars(model).sum().backward()
    assert not np.any(list(seen.gram_by_parameter().values()))
    for name, part in seen.combination(np.ones(4)).items():
        torch.testing.assert_close(part, dict(model.named_parameters())[name].grad, rtol=1e-9, atol=tolerance.identity)


class Products(TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_larger_batch_takes_no_more_products_but_larger_ones(name):
    """A GPU launches each on its own: they may not be as many as the batch has rows or pairs of rows."""
    counts = []
    for rows in (8, 32):
        with Products() as products:
            gram(language_model(name, tied=False), responses(rows, 6, dtype=torch.float32), method="engine")
        counts.append(products.count)
    assert counts[0] == counts[1] > 0


def test_pairs_alone_are_the_pairs_of_the_whole(tolerance):
    model, scalars = language_model("llama").double(), responses(6, 12)
    expected = pair_blocks(gram(model, scalars, method="oracle"))
    for method in ("engine", "oracle"):
        np.testing.assert_allclose(pair_gram(model, scalars, method=method), expected, rtol=tolerance.identity)
    with pytest.raises(InputError, match="3 scalars are no pairs"):
        pair_gram(model, responses(3, 12))
    coupled = nn.Linear(3, 3).double()
    with pytest.raises(InputError, match="another one's rows"):
        pair_gram(coupled, lambda m: m(ROWS).square().sum(-1).log_softmax(0), method="engine")


def test_a_backward_pass_of_a_loss_gives_the_scaled_matrix_and_leaves_its_gradients_alone(tolerance):
    model, scalars = language_model("gpt2").double(), responses(4, 10)
    slopes = torch.tensor([-0.5, 0.25, 2.0, -1.0], dtype=torch.float64)
    (scalars(model) @ slopes).backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    with Capture(model, 4) as seen:
        (scalars(model) @ slopes).backward()
    expected = gram(model, scalars, method="oracle") * np.outer(slopes, slopes)
    np.testing.assert_allclose(sum(seen.gram_by_parameter().values()), expected, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(plain[name], p.grad) for name, p in model.named_parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_combination_and_the_changes_of_a_step_come_from_the_kept_factors(name):
    """Against the rows that the oracle forms, with tied embeddings among them."""
    model, scalars = language_model(name).double(), responses(4, 10)
    rows, weights = jacobian(model, scalars), np.array([0.5, -2.0, 0.1, 1.0])
    with Capture(model, keep=True) as seen:
        scalars(model).sum().backward()
    for parameter, update in seen.combination(weights).items():
        expected = torch.as_tensor(weights) @ rows[parameter]
        torch.testing.assert_close(
            update.flatten(), expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()) + 1e-12
        )
    step = {parameter: torch.randn_like(p) for parameter, p in model.named_parameters()}
    np.testing.assert_allclose(seen.changes(step), step_forecast(rows, step), rtol=1e-7)


class Widened(nn.Module):
    """As PEFT does with an adapter's input: float32, though autocast narrows it at once."""

    def forward(self, x):
        widened = x.float()
        self.seen = weakref.ref(widened)
        return widened


def test_an_input_is_held_no_wider_than_the_layer_saw_it():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), Widened(), nn.Linear(4, 2)), torch.randn(5, 3)
    with Capture(model) as seen:
        with torch.autocast("cpu", torch.bfloat16):
            scalars = model(x).sum(-1)
        assert model[1].seen() is None
        scalars.sum().backward()
    expected = gram(model, lambda m: m(x).sum(-1), method="oracle")
    found = sum(seen.gram_by_parameter().values())
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02 * expected.max())


@pytest.mark.parametrize("autocast", [True, False])
def test_factors_are_kept_in_the_precision_in_which_they_came(autocast):
    """Both sides of a product came in bfloat16: kept so they are half as large, and no bit is lost."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 2))
    x = (torch.arange(12) % 7).reshape(4, 3)
    with Capture(model, keep=True) as seen:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(x).sum()
        loss.backward()
    kinds = {side.dtype for name in ("1.weight", "3.weight") for f in seen._kept[name] for side in (f.left, f.right)}
    assert kinds == {torch.bfloat16 if autocast else torch.float32}
    whole = sum(seen.gram_by_parameter().values())
    ones = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    np.testing.assert_allclose(seen.gram_under(ones), whole, rtol=1e-5, atol=1e-6 * whole.max())
    np.testing.assert_allclose(seen.changes(seen.combination([1.0] * 4)).sum(), whole.sum(), rtol=1e-5)


def test_what_was_not_kept_cannot_be_asked_for():
    model, scalars = language_model("gpt2"), responses(2, 8, dtype=torch.float32)
    with Capture(model) as seen:
        scalars(model).sum().backward()
    with pytest.raises(InputError, match="keep=True"):
        seen.changes({})
    with pytest.raises(InputError, match="keep=True"):
        seen.combination([1.0, 1.0])


class TestFusedHead:
    """TRL's head, which calls no module: its share, and the slopes and log-probabilities read at it."""

    @pytest.mark.parametrize("head", ["tied", "untied", "with bias"])
    @pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
    def test_scaled_matrix_slopes_and_log_probabilities(self, name, head, tolerance):
        """Narrower than its rows are long; responses of several lengths, and a label that is token 0."""
        from trl.trainer.utils import add_fused_lm_head

        model, slopes = language_model(name, tied=head == "tied", width=8), torch.tensor([-0.5, 0.3, -2.0, 1.0])
        if head == "with bias":
            model.set_output_embeddings(nn.Linear(8, VOCABULARY))
        ids = torch.randint(2, VOCABULARY, (4, 12), generator=torch.Generator().manual_seed(0))
        ids[0, 7] = 0
        labels = ids.masked_fill(torch.arange(12) < torch.tensor([[5], [7], [5], [9]]), -100)

        def scalars(m):
            found = m(input_ids=ids, use_cache=False).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])
            return (found.squeeze(-1) * (labels[:, 1:] != -100)).sum(-1)

        expected, values = gram_by_parameter(model, scalars, method="oracle"), scalars(model).detach()
        add_fused_lm_head(model)
        with Capture(model) as seen, FusedHead(seen, model) as watched:
            output = model(input_ids=ids, use_cache=False, labels=labels, fused_lm_head=True)
            (output.log_probs.sum(1) @ slopes).backward()
        scale = np.abs(sum(expected.values())).max()
        for parameter, share in seen.gram_by_parameter().items():
            found = share / np.outer(slopes, slopes)
            assert np.abs(found - expected[parameter]).max() <= tolerance.gram * scale, parameter
        torch.testing.assert_close(watched.slopes, slopes)
        torch.testing.assert_close(watched.log_probs, values, atol=tolerance.log_prob, rtol=0)

    def test_a_row_with_several_slopes_has_none(self):
        from trl.trainer.utils import add_fused_lm_head

        model = language_model("gpt2")
        add_fused_lm_head(model)
        ids = torch.arange(2, 14).reshape(2, 6)
        with Capture(model) as seen, FusedHead(seen, model) as head:
            output = model(input_ids=ids, use_cache=False, labels=ids, fused_lm_head=True)
            (output.log_probs * torch.tensor([[1.0] * 5, [1.0, 2.0, 1.0, 1.0, 1.0]])).sum().backward()
        assert head.slopes[0] == 1
        assert head.slopes[1].isnan()

    @pytest.mark.parametrize(("name", "value"), [("final_logit_softcapping", 30.0), ("logit_scale", 2)])
    def test_a_head_that_squashes_or_scales_its_logits_is_refused(self, name, value):
        model = language_model("gpt2")
        setattr(model.config, name, value)
        with pytest.raises(InputError, match=f"{name} = {value}"), Capture(model) as seen:
            FusedHead(seen, model)

    def test_a_scale_of_1_changes_nothing(self):
        model = language_model("gpt2")
        model.config.logit_scale = 1.0
        with Capture(model) as seen:
            FusedHead(seen, model)


def test_the_one_slope_of_a_rows_tokens():
    """Up to rounding, relative to the slopes themselves; positions outside the mask have no say."""
    c = torch.tensor(
        [
            [3.0, 3.0, 9.0],
            [-3.0, -3.0, 9.0],
            [3.0, 3.00001, 9.0],
            [-3.0, -3.1, 9.0],
            [2e-6, 1e-6, 9.0],
            [0.0, 0.0, 9.0],
            [1.0, -1.0, 9.0],
        ]
    )
    found = common_slopes(c, torch.tensor([True, True, False]).expand(7, 3))
    torch.testing.assert_close(
        found, torch.tensor([3.0, -3.0, 3.000005, *[torch.nan] * 2, 0, torch.nan]), equal_nan=True
    )


def test_hooks_are_gone_afterwards():
    model, scalars = language_model("llama"), responses(2, 8, dtype=torch.float32)
    gram(model, scalars, method="engine")
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


class Shifted(nn.Module):
    """Uses a layer's weight without calling the layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(x) @ self.layer.weight


ROWS = torch.randn(4, 3, dtype=torch.float64)
REFUSED = {
    "BatchNorm in training mode": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)),
        lambda m: m(ROWS).square().sum(-1),
        "1 is a BatchNorm in training mode",
    ),
    "a scalar of all rows": (
        lambda: nn.Sequential(nn.Linear(3, 3)),
        lambda m: m(ROWS).square().sum(-1).log_softmax(0),
        "a scalar depends on another one's rows",
    ),
    "two scalars in each other's rows": (
        lambda: nn.Linear(3, 3),
        lambda m: m(ROWS[:2]).square().sum(-1).flip(0) + 0 * m(ROWS[:2])[:, 0],
        "a scalar depends on another one's rows",
    ),
    "calls of different batches": (
        lambda: nn.Linear(3, 3),
        lambda m: torch.stack([m(ROWS[:2]).square().sum(), m(ROWS[:1]).square().sum()]),
        "a scalar depends on another one's rows",
    ),
    "columns for rows": (
        lambda: nn.Linear(3, 4),
        lambda m: m(ROWS).square().sum(0),
        "a scalar depends on another one's rows",
    ),
    "a weight used without its layer": (Shifted, lambda m: m(ROWS).sum(-1), "outside its module's forward pass"),
    "rows that scalars do not share": (
        lambda: nn.Linear(3, 3),
        lambda m: m(ROWS)[0],
        "3 scalars do not share the 4 rows",
    ),
    "a tuple": (
        lambda: nn.LSTM(3, 2, batch_first=True),
        lambda m: m(ROWS[:, None])[0].sum((1, 2)),
        "expected a tensor",
    ),
    "an embedding that scales by frequency": (
        lambda: nn.Embedding(4, 2, scale_grad_by_freq=True),
        lambda m: m(torch.tensor([[0], [1]])).sum((1, 2)),
        "scale_grad_by_freq",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_take_is_refused_and_names_the_oracle(name):
    make, scalars, message = REFUSED[name]
    model = make().double()
    with pytest.raises(InputError, match=message) as refused:
        gram(model, scalars, method="engine")
    assert 'method="oracle"' in str(refused.value)
    assert not any(module._forward_hooks for module in model.modules())
    gram(model, scalars, method="oracle")


def test_auto_takes_the_oracles_way_aloud(tolerance):
    make, scalars, _ = REFUSED["a weight used without its layer"]
    model = make().double()
    with pytest.warns(UserWarning, match="oracle"):
        found = gram(model, scalars)
    np.testing.assert_allclose(found, gram(model, scalars, method="oracle"), rtol=tolerance.identity)
