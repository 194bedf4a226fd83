"""The Gram matrix of tokens against the slow oracle."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gentangle.errors import InputError
from gentangle.gradients.oracle import inner_products, jacobian, whole
from gentangle.gradients.refusal import EngineRefusal
from gentangle.gradients.token_gram import token_gram
from gentangle.profiles import profile
from tests.gradients.models import language_model, response_tokens

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


@pytest.mark.parametrize(("tied", "name"), [(True, "llama"), (False, "llama"), (True, "gpt2")])
def test_a_wide_head_goes_a_few_tokens_at_a_time(tied, name, monkeypatch):
    from gentangle.gradients import factors
    from gentangle.gradients import token_gram as module

    for of in (factors, module):
        monkeypatch.setattr(of, "WIDE", 40)
    monkeypatch.setattr(module, "AT_ONCE", 3)
    torch.manual_seed(0)
    model, scalars = language_model(name, tied=tied).double(), response_tokens(2, 9)
    assert relative(module.token_gram(model, scalars), oracle(model, scalars)) < EXACT


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
