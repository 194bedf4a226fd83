"""`gentangle rank`: CHES against its definition, the edit distance, and the order of a file's pairs."""

import json

import numpy as np
import pytest
import torch

from gentangle import cli
from gentangle.alignment.policy import collate, small_gpt2
from gentangle.alignment.preference import Pair
from gentangle.alignment.proxies import RANKINGS, ches, edit_distance

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_ches_is_of_the_last_layers_states_that_predict_the_response(tiny_policy):
    tokenizer = tiny_policy[1]
    model = small_gpt2(tokenizer, layers=2, width=16, heads=2, positions=64, seed=0)
    pairs = [Pair("a film The sentiment is", " positive", " negative based on"), Pair("the day is", " good", " bad")]
    expected = []
    for pair in pairs:
        sums = []
        for response in (pair.chosen, pair.rejected):
            prompt, whole = (
                tokenizer(t, return_tensors="pt")["input_ids"] for t in (pair.prompt, pair.prompt + response)
            )
            with torch.no_grad():
                states = model.transformer(whole).last_hidden_state[0].double()
            sums.append(states[prompt.shape[1] - 1 : -1].sum(0))
        expected.append(float(sums[0] @ sums[1] - sums[0] @ sums[0]))
    np.testing.assert_allclose(ches(model, collate(tokenizer, pairs)), expected, rtol=1e-4, atol=1e-4)


def test_ches_is_0_for_one_token_after_one_prompt(tiny_policy):
    """Both are predicted from one state: the proxy cannot see what the exact figure does."""
    model, tokenizer = tiny_policy
    assert ches(model, collate(tokenizer, [Pair("the day is", " good", " bad")])) == pytest.approx([0], abs=1e-6)


@pytest.mark.parametrize(
    ("one", "other", "distance"), [([1, 2, 3], [1, 2, 3], 0), ([1, 2, 3, 4], [1, 9, 3], 0.5), ([1], [2, 3], 1)]
)
def test_edit_distance(one, other, distance):
    assert edit_distance(one, other) == distance


@pytest.fixture
def given(tiny_policy, tiny_pairs, tmp_path):
    for part in tiny_policy:
        part.save_pretrained(tmp_path / "model")
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(vars(p)) + "\n" for p in [*tiny_pairs, Pair("a day is", " good", " bad tone")]))
    return ["--model", str(tmp_path / "model"), "--pairs", str(path), "--json", str(tmp_path / "out.json")]


@pytest.mark.parametrize("by", RANKINGS)
def test_the_command_prints_the_pairs_in_order(by, given, tmp_path, capsys):
    assert cli.main(["rank", *given, "--by", by, "--top", "3"]) == 0
    entries = json.loads((tmp_path / "out.json").read_text())["pairs"]
    assert [e["line"] for e in entries] == [1, 2, 3, 4, 5]
    assert all(e["entanglement"] == e["inner_product"] - e["chosen_norm_sq"] for e in entries)
    expected = sorted(entries, key=lambda e: (-1 if RANKINGS[by] else 1) * e[by])[:3]
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    first = printed.index(["line", "entanglement", "ches", "edit-distance", "case"]) + 1
    assert [int(row[0]) for row in printed[first : first + 3]] == [e["line"] for e in expected]


def test_the_commands_choices_are_the_rankings():
    assert tuple(RANKINGS) == cli.RANKINGS


def test_a_top_of_nothing_is_refused(given, capsys):
    assert cli.main(["rank", *given, "--top", "0"]) == 2
    assert "--top is 0, expected at least 1" in capsys.readouterr().err
