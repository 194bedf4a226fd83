"""The Gram matrix of tokens against the slow oracle."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gentangle.errors import InputError
from gentangle.gradients import factors
from gentangle.gradients import token_gram as module
from gentangle.gradients.oracle import inner_products, jacobian, whole
from gentangle.gradients.refusal import EngineRefusal
from gentangle.gradients.token_gram import token_gram
from gentangle.profiles import profile
from tests.gradients.models import VOCABULARY, language_model, response_tokens

EXACT = profile().tolerance.identity


def oracle(model, scalars):
    return whole(inner_products(jacobian(model, lambda m: scalars(m).flatten())))


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "opt", "qwen2"])
def test_as_the_oracle(name, tied):
    torch.manual_seed(0)
    model, scalars = language_model(name, tied=tied).double(), response_tokens(2, 9)
    assert relative(token_gram(model, scalars), oracle(model, scalars)) < EXACT


@settings(max_examples=10, deadline=None)
@given(rows=st.integers(1, 3), length=st.integers(2, 12), seed=st.integers(0, 9))
def test_any_shape(rows, length, seed):
    torch.manual_seed(seed)
    model, scalars = language_model("gpt2").double(), response_tokens(rows, length, seed)
    found = token_gram(model, scalars)
    assert found.shape == (rows * (length - 1),) * 2
    assert relative(found, oracle(model, scalars)) < EXACT


@pytest.mark.parametrize("at_once", [3, 4])
@pytest.mark.parametrize(("tied", "name"), [(True, "llama"), (False, "llama"), (True, "gpt2")])
def test_a_wide_head_goes_a_few_tokens_at_a_time(tied, name, at_once, monkeypatch):
    """And its inputs are not shared: no gradient of a whole row's logits is held for all tokens."""
    for of in (factors, module):
        monkeypatch.setattr(of, "WIDE", VOCABULARY)
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    grad, held, widths = torch.autograd.grad, {True: set(), False: set()}, set()

    def counted(outputs, inputs, cotangents=None, **settings):
        if settings.get("is_grads_batched"):
            held[any(tensor.shape[-1] >= VOCABULARY for tensor in inputs)].add(len(cotangents))
        return grad(outputs, inputs, cotangents, **settings)

    class Seen(module._Shared):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            widths.add(self.gradients.shape[-1])

    monkeypatch.setattr(torch.autograd, "grad", counted)
    monkeypatch.setattr(module, "_Shared", Seen)
    torch.manual_seed(0)
    model, scalars = language_model(name, tied=tied).double(), response_tokens(2, 9)
    found = token_gram(model, scalars)
    assert max(held[True]) == at_once
    assert held[False] == {8}
    assert max(widths) < VOCABULARY
    assert relative(found, oracle(model, scalars)) < EXACT


class Weighted(nn.Module):
    """No layer with a rule; it takes a number for all rows and one for each."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3, dtype=torch.float64) + 0.5)

    def forward(self, x, power, share):
        return (x * self.weight).abs() ** power * share[:, None, None]


def test_of_a_module_without_a_rule_what_has_rows_is_taken_row_by_row():
    torch.manual_seed(0)
    model, x = Weighted(), torch.randn(2, 4, 3, dtype=torch.float64)
    power, share = torch.tensor(1.5, dtype=torch.float64), torch.tensor([2.0, -1.0], dtype=torch.float64)

    def scalars(m):
        return m(x, power, share).sum(-1)

    assert relative(token_gram(model, scalars), oracle(model, scalars)) < EXACT


def test_float32_and_frozen_parameters():
    torch.manual_seed(0)
    model, scalars = language_model("llama"), response_tokens(2, 9, dtype=torch.float32)
    model.lm_head.weight.requires_grad_(False)
    assert relative(token_gram(model, scalars), oracle(model, scalars)) < profile().tolerance.gram


def test_tokens_add_up_to_the_response():
    """The Gram matrix of responses is the sum over their tokens' blocks."""
    torch.manual_seed(0)
    model, scalars = language_model("gpt2").double(), response_tokens(2, 9)
    blocks = token_gram(model, scalars).reshape(2, 8, 2, 8).sum((1, 3))
    assert relative(blocks, oracle(model, lambda m: scalars(m).sum(-1))) < EXACT


def test_rows_that_meet_are_refused():
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    with pytest.raises(EngineRefusal, match="rows of their own"):
        token_gram(model, lambda m: m(x)[..., 0] + m(x)[..., 1].flip(0))


def test_a_vector_is_no_matrix():
    model = nn.Linear(3, 2)
    with pytest.raises(InputError, match=r"expected finite numbers of shape \(R, T\)"):
        token_gram(model, lambda m: m(torch.ones(2, 3)).sum(-1))
