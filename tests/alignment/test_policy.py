"""Log-probabilities of responses, tokenisation at the boundary, and loading."""

import pytest
import torch

from gentangle import InputError
from gentangle.alignment.policy import collate, fresh_copy, load_policy, response_log_probs
from gentangle.alignment.preference import Pair
from gentangle.alignment.recipes import Stage
from gentangle.alignment.training import supervised


def test_log_probabilities_are_the_sum_over_the_responses_tokens(tiny_policy, tiny_pairs, tolerance):
    """Against a loop over tokens that uses neither the mask nor padding."""
    model, tokenizer = tiny_policy
    found = response_log_probs(model, collate(tokenizer, tiny_pairs))
    responses = [(p.prompt, p.chosen) for p in tiny_pairs] + [(p.prompt, p.rejected) for p in tiny_pairs]
    for value, (prompt, response) in zip(found, responses, strict=True):
        ids, start = tokenizer(prompt + response)["input_ids"], len(tokenizer(prompt)["input_ids"])
        probabilities = model(input_ids=torch.tensor([ids])).logits[0].softmax(-1)
        by_hand = sum(probabilities[t - 1, ids[t]].log() for t in range(start, len(ids)))
        assert value.item() == pytest.approx(by_hand.item(), abs=tolerance.log_prob)


def test_each_row_alone_is_the_same_row_of_the_batch(tiny_policy, tiny_pairs, tolerance):
    """Padding changes nothing."""
    model, tokenizer = tiny_policy
    batch = collate(tokenizer, [*tiny_pairs, Pair("the tone", " good", " bad day bad")])
    lengths = batch["attention_mask"].sum(1).tolist()
    alone = [
        response_log_probs(model, {key: t[i : i + 1, :length] for key, t in batch.items()})
        for i, length in enumerate(lengths)
    ]
    together = response_log_probs(model, batch)
    torch.testing.assert_close(together, torch.cat(alone), atol=tolerance.log_prob, rtol=0)


def test_the_boundary_of_prompt_and_response_is_a_tokens(tiny_policy):
    _, tokenizer = tiny_policy
    with pytest.raises(InputError, match="does not begin on a token of its own"):
        collate(tokenizer, [Pair("the senti", "ment", "mental")])


def test_a_model_that_is_not_there_gets_one_clear_error(tmp_path):
    with pytest.raises(InputError, match="give a folder, or a hub name"):
        load_policy(tmp_path / "nothing")


def test_a_fresh_copy_keeps_its_weights_when_the_trained_original_moves(tiny_policy, tiny_pairs):
    """TRL patches the instance it trains; the reference must not follow it."""
    model, tokenizer = fresh_copy(tiny_policy[0]), tiny_policy[1]
    supervised(model, tokenizer, tiny_pairs, Stage(1, 4, 1e-3), seed=0)
    batch, reference = collate(tokenizer, tiny_pairs), fresh_copy(model)
    before = response_log_probs(reference, batch)
    torch.testing.assert_close(before, response_log_probs(model, batch))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0)
    assert torch.equal(response_log_probs(reference, batch), before)
    assert not torch.allclose(response_log_probs(model, batch), before)


def test_a_saved_policy_loads_as_it_was(tiny_policy, tiny_pairs, tmp_path):
    model, tokenizer = tiny_policy
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, its_tokenizer = load_policy(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    before, after = (
        response_log_probs(m, collate(t, tiny_pairs)) for m, t in ((model, tokenizer), (again, its_tokenizer))
    )
    torch.testing.assert_close(before, after, rtol=0, atol=0)
