"""What is looked at between the stages of a run, against the package's own slow ways."""

from functools import partial

import numpy as np
import pytest

from gentangle import pair_gram
from gentangle.alignment.policy import collate, response_log_probs, response_token_log_probs
from gentangle.alignment.preference import Pair
from gentangle.alignment.stages import KINDS, SUFFIX_FIGURES, part_grams, suffix_look
from gentangle.gradients.oracle import inner_products, jacobian

pytestmark = pytest.mark.training


def test_layers_and_kinds_each_add_up_to_the_whole(tiny_policy, tiny_pairs, tolerance):
    model, tokenizer = tiny_policy
    batch = collate(tokenizer, tiny_pairs)
    parts = {name: np.array(rows) for name, rows in part_grams(model, batch).items()}
    whole = pair_gram(model, partial(response_log_probs, batch=batch), method="oracle")[:, [0, 0, 1], [0, 1, 1]]
    assert set(parts) == {"layer 0", "no layer", *KINDS}
    for names in (("layer 0", "no layer"), KINDS):
        np.testing.assert_allclose(sum(parts[name] for name in names), whole, rtol=tolerance.gram)


def test_the_head_s_own_figures(tiny_policy, tiny_pairs, tolerance):
    """Slack and norm in the head are what autograd finds for that weight, the embedding's part of it left out."""
    import torch

    model, tokenizer = tiny_policy
    batch = collate(tokenizer, tiny_pairs)
    found = suffix_look(model, batch)
    with torch.no_grad():
        out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
    head = torch.nn.Linear(*reversed(model.lm_head.weight.shape), bias=False)
    head.weight.data.copy_(model.lm_head.weight.data)

    def log_probs(m):
        logs = m(out.hidden_states[-1][:, :-1]).log_softmax(-1)
        tokens = logs.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
        return (tokens * batch["completion_mask"][:, 1:]).sum(-1)

    (gram,) = inner_products(jacobian(head, log_probs)).values()
    for p in range(len(tiny_pairs)):
        other = p + len(tiny_pairs)
        np.testing.assert_allclose(found["head_norm_sq"][p], gram[p, p], rtol=tolerance.gram)
        slack = gram[p, p] - gram[p, other]
        np.testing.assert_allclose(found["head_slack"][p], slack, rtol=0, atol=tolerance.gram * gram[p, p])


def test_predictability_is_one_minus_the_tokens_probability(tiny_policy, tiny_pairs, tolerance):
    model, tokenizer = tiny_policy
    batch = collate(tokenizer, tiny_pairs)
    found = suffix_look(model, batch)
    logs = response_token_log_probs(model, batch)
    for p, row in enumerate(logs):
        suffix = row[row != 0][1:].exp()
        side, pair = ("chosen", p) if p < len(tiny_pairs) else ("rejected", p - len(tiny_pairs))
        assert found[f"miss_{side}"][pair] == pytest.approx(1 - suffix.mean().item(), abs=tolerance.log_prob)


def test_responses_that_share_no_suffix_have_no_figures(tiny_policy):
    model, tokenizer = tiny_policy
    pairs = [
        Pair("a good film The sentiment is", " positive", " negative"),
        Pair("a good film The sentiment is", " positive and good", " negative and bad"),
    ]
    found = suffix_look(model, collate(tokenizer, pairs))
    assert all(found[name] == [None, None] for name in SUFFIX_FIGURES)
    assert all(0 < mass <= 1 for mass in found["argmax_mass"])
