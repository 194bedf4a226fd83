"""The slopes of a loss that takes log-probabilities from the logits itself, read off the logits' gradient."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from gentangle import gram
from gentangle.gradients.capture import Capture
from gentangle.gradients.logits_head import LogitsHead

sys.path.insert(0, str(Path(__file__).parent))

from models import VOCABULARY, language_model

IDS = torch.randint(2, VOCABULARY, (4, 9), generator=torch.Generator().manual_seed(0))
#: Positions whose label belongs to the response: not the first ones, and not as many in each row.
RESPONSE = (torch.arange(8) >= 3) & (torch.arange(8) < torch.tensor([[8], [6], [5], [4]]))
SLOPES = torch.tensor([-0.5, 0.3, -2.0, 1.0])


def tokens(logits, ids=IDS):
    return logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]


def responses(model):
    return (tokens(model(input_ids=IDS, use_cache=False).logits) * RESPONSE).sum(-1)


def watched(model, loss, **call):
    """The head after a forward and a backward pass of a loss of the logits, and what else was captured."""
    call = call or {"input_ids": IDS}
    with Capture(model) as seen, LogitsHead(seen, model) as head:
        loss(model(**call, use_cache=False).logits).backward()
    return head, seen


def slopes_of(loss, dtype=torch.float32):
    return watched(language_model("gpt2").to(dtype), loss)[0].slopes


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_slopes_log_probabilities_and_the_scaled_matrix(name, tolerance):
    model = language_model(name)
    expected, values = gram(model, responses, method="oracle"), responses(model).detach()
    head, seen = watched(model, lambda logits: (tokens(logits) * RESPONSE).sum(-1) @ SLOPES)
    torch.testing.assert_close(head.slopes, SLOPES, rtol=1e-4, atol=0)
    torch.testing.assert_close(head.log_probs, values, rtol=0, atol=tolerance.log_prob)
    found = sum(seen.gram_by_parameter().values()) / np.outer(SLOPES, SLOPES)
    assert np.abs(found - expected).max() <= tolerance.gram * np.abs(expected).max()


def test_a_mean_over_tokens_is_part_of_the_slope():
    found = slopes_of(lambda logits: -((tokens(logits) * RESPONSE).sum(-1) / RESPONSE.sum(-1)).sum())
    torch.testing.assert_close(found, -1 / RESPONSE.sum(-1), rtol=1e-4, atol=0)


def test_the_ids_may_be_given_by_position():
    model = language_model("gpt2")
    with Capture(model) as seen, LogitsHead(seen, model) as head:
        tokens(model(IDS, use_cache=False).logits).sum().backward()
    torch.testing.assert_close(head.slopes, torch.ones(4), rtol=1e-4, atol=0)


def test_a_row_without_a_gradient_has_slope_0_and_no_log_probability():
    weights = SLOPES * torch.tensor([1, 0, 1, 1])
    head, _ = watched(language_model("gpt2"), lambda logits: (tokens(logits) * RESPONSE).sum(-1) @ weights)
    assert head.slopes[1] == 0
    assert head.log_probs.isnan().tolist() == [False, True, False, False]


def test_a_row_whose_tokens_have_different_slopes_has_none():
    uneven = torch.ones(4, 8)
    uneven[2, 4] = 1.01
    found = slopes_of(lambda logits: (tokens(logits) * RESPONSE * uneven).sum())
    assert found.isnan().tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    "more",
    [
        lambda logits: logits[1, 4].square().sum(),
        lambda logits: logits[1, 4].log_softmax(-1)[:2].sum(),
        lambda logits: logits[1, 4].logsumexp(-1),
        lambda logits: logits[1, 4].gather(-1, IDS[1, 5:6]).sum(),  # of the label's logit alone
        lambda logits: logits[1, 4, 0] - logits[1, 4, 1],  # the sum over other tokens stays
    ],
    ids=["squares", "other tokens", "normaliser", "the label's logit", "two other tokens"],
)
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_a_loss_of_more_than_the_labels_log_probability_has_no_slope(more, scale):
    """A hundredth of the response's own gradient is enough to be seen, however small both are."""
    found = slopes_of(lambda logits: scale * ((tokens(logits) * RESPONSE).sum() + 0.01 * more(logits)))
    assert found.isnan().tolist() == [False, True, False, False]


def test_a_gradient_in_bfloat16_is_read_within_its_rounding():
    found = slopes_of(lambda logits: (tokens(logits.float()) * RESPONSE).sum(-1) @ SLOPES, torch.bfloat16)
    torch.testing.assert_close(found, SLOPES, rtol=1e-2, atol=0)


class Counting(nn.Module):
    """After every token it is sure of the next number: the label's probability rounds to 1."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, VOCABULARY)
        with torch.no_grad():
            self.table.weight += 40 * torch.eye(VOCABULARY).roll(1, dims=1)

    def forward(self, input_ids, use_cache):
        return SimpleNamespace(logits=self.table(input_ids))


def test_where_the_model_is_sure_the_slope_is_read_off_the_other_tokens():
    """At the label 1 - p is 0 in float32; the others' probabilities still have all their digits."""
    torch.manual_seed(0)
    ids = torch.arange(9).repeat(4, 1) + torch.tensor([[2], [5], [9], [20]])
    model = Counting()
    head, _ = watched(model, lambda logits: (tokens(logits, ids) * RESPONSE).sum(-1) @ SLOPES, input_ids=ids)
    assert (tokens(model(ids, False).logits, ids).exp() == 1).all()
    torch.testing.assert_close(head.slopes, SLOPES, rtol=1e-4, atol=0)


def test_other_logits_of_the_same_batch_are_read_at_the_same_responses(tolerance):
    head, _ = watched(language_model("gpt2"), lambda logits: (tokens(logits) * RESPONSE).sum(-1) @ SLOPES)
    logits = torch.randn(4, 9, VOCABULARY, generator=torch.Generator().manual_seed(1))
    expected = (tokens(logits) * RESPONSE).sum(-1)
    torch.testing.assert_close(head.log_probs_of(logits), expected, rtol=0, atol=tolerance.log_prob)
