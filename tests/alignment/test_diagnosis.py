"""`gentangle diagnose`: a file of pairs against the oracle, and one clear error for every line that is no pair."""

import json

import numpy as np
import pytest
import torch

from gentangle import InputError, cli, first_order_changes, objective, pair_gram
from gentangle.alignment.diagnosis import Summary, diagnose, example_of
from gentangle.alignment.policy import collate, load_policy, response_log_probs
from gentangle.alignment.preference import Pair

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def policy_folder(tiny_policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    for part in tiny_policy:
        part.save_pretrained(folder)
    return folder


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture
def pairs_file(tiny_pairs, tmp_path):
    return write(tmp_path / "pairs.jsonl", [vars(pair) for pair in tiny_pairs])


def test_each_entry_is_the_oracles(tiny_policy, tiny_pairs, pairs_file, tolerance):
    model, tokenizer = tiny_policy
    entries = list(diagnose(model, tokenizer, pairs_file, objective("dpo"), batch_size=3))
    assert [entry["line"] for entry in entries] == [1, 2, 3, 4]
    ended = [Pair(p.prompt, p.chosen + tokenizer.eos_token, p.rejected + tokenizer.eos_token) for p in tiny_pairs]
    batch = collate(tokenizer, ended)
    gram = pair_gram(model, lambda m: response_log_probs(m, batch), method="oracle")
    for name, (i, j) in {"chosen_norm_sq": (0, 0), "rejected_norm_sq": (1, 1), "inner_product": (0, 1)}.items():
        np.testing.assert_allclose([e[name] for e in entries], gram[:, i, j], rtol=1e-3)
    assert all(e["d_chosen"] == pytest.approx(0.05) for e in entries)  # beta sigma(0)
    changes = first_order_changes(gram, 0.05, 0.05)
    found = np.array([[e["predicted_chosen"], e["predicted_rejected"]] for e in entries])
    np.testing.assert_allclose(found, changes, rtol=1e-2, atol=1e-3)
    json.dumps(entries, allow_nan=False)


def test_without_the_end_of_text_token_it_is_another_scalar(tiny_policy, pairs_file):
    model, tokenizer = tiny_policy
    with_end, without = (
        next(diagnose(model, tokenizer, pairs_file, objective("dpo"), end_of_text=end)) for end in (True, False)
    )
    assert with_end["logp_chosen"] < without["logp_chosen"]


def test_a_reference_of_its_own_changes_the_slopes_and_no_gradient(tiny_policy, pairs_file, policy_folder):
    model, tokenizer = tiny_policy
    reference, _ = load_policy(policy_folder)
    with torch.no_grad():
        reference.lm_head.weight.mul_(2)
    own = next(diagnose(model, tokenizer, pairs_file, objective("dpo"), hyperparameters={"beta": 1.0}))
    other = next(
        diagnose(model, tokenizer, pairs_file, objective("dpo"), hyperparameters={"beta": 1.0}, reference=reference)
    )
    assert own["d_chosen"] == pytest.approx(0.5)
    assert other["d_chosen"] != pytest.approx(0.5, abs=1e-4)
    assert own["inner_product"] == pytest.approx(other["inner_product"], rel=1e-6)


def test_conversations_are_rendered_by_the_chat_template(tiny_policy):
    tokenizer = tiny_policy[1]
    messages = {
        "prompt": [{"role": "user", "content": "a good film The sentiment is"}],
        "chosen": [{"role": "assistant", "content": " positive"}],
        "rejected": [{"role": "assistant", "content": " negative"}],
    }
    plain = {"prompt": "a good film The sentiment is", "chosen": " positive", "rejected": " negative"}
    conversation = example_of(json.dumps(messages), tokenizer, 64)
    assert conversation == example_of(json.dumps(plain), tokenizer, 64, end_of_text=False)


PAIR = {"prompt": "a good film", "chosen": " positive", "rejected": " negative"}
NO_PAIRS = {
    "not JSON": ('{"prompt": ', r"line 2: not JSON"),
    "a list": ("[1, 2]", "line 2: list, expected an object"),
    "a missing column": ({"prompt": "x", "chosen": " good"}, "line 2: the column 'rejected' is missing"),
    "a number": (PAIR | {"chosen": 3}, "line 2: prompt, chosen and rejected are not all texts"),
    "mixed kinds": (PAIR | {"chosen": [{"role": "assistant", "content": " x"}]}, "not all lists of messages"),
    "chosen equal to rejected": (PAIR | {"rejected": " positive"}, "line 2: chosen equals rejected"),
    "a response that merges into the prompt": (
        PAIR | {"prompt": "a good fil", "chosen": "m"},
        "does not begin on a token",
    ),
    "longer than the context": (PAIR | {"prompt": "a good film " * 40}, "the model's context holds 64"),
}


@pytest.mark.parametrize("name", NO_PAIRS)
def test_a_line_that_is_no_pair_is_named_or_skipped(name, tiny_policy, tmp_path):
    row, message = NO_PAIRS[name]
    file = write(tmp_path / "p.jsonl", [PAIR, row, PAIR])
    with pytest.raises(InputError, match=message):
        list(diagnose(*tiny_policy, file, objective("dpo")))
    summary = Summary()
    entries = list(diagnose(*tiny_policy, file, objective("dpo"), skip_invalid=True, summary=summary))
    assert [entry["line"] for entry in entries] == [1, 3]
    assert summary.skipped == 1


def test_an_empty_response_without_the_end_of_text_token(tiny_policy):
    with pytest.raises(InputError, match="chosen response .* is empty"):
        example_of(json.dumps(PAIR | {"chosen": ""}), tiny_policy[1], 64, end_of_text=False)


def test_a_model_with_nan_weights_is_told_with_the_line(policy_folder, pairs_file):
    model, tokenizer = load_policy(policy_folder)
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    with pytest.raises(InputError, match="Line 1: the log-probabilities are NaN"):
        list(diagnose(model, tokenizer, pairs_file, objective("dpo")))


def test_the_summary_counts_and_names_the_worst(tiny_policy, pairs_file):
    summary = Summary()
    entries = list(diagnose(*tiny_policy, pairs_file, objective("dpo"), summary=summary))
    assert sum(summary.cases.values()) == 4
    assert "4 pairs, 0 skipped" in str(summary)
    falling = [entry["line"] for entry in entries if entry["predicted_chosen"] < 0]
    assert all(f"line {line} " in str(summary) for line in falling)
    assert str(Summary(skipped=2)) == "no pair was read (2 skipped)"


@pytest.mark.training
def test_the_command_prints_a_summary_and_writes_every_pair(policy_folder, pairs_file, tmp_path, capsys):
    out = tmp_path / "out.json"
    command = ["diagnose", "--model", str(policy_folder), "--pairs", str(pairs_file), "--json", str(out), "--beta", "1"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "reference: the model itself" in printed
    assert "4 pairs, 0 skipped" in printed
    written = json.loads(out.read_text())
    assert written["objective"] == "dpo"
    assert [pair["line"] for pair in written["pairs"]] == [1, 2, 3, 4]
    assert written["pairs"][0]["d_chosen"] == pytest.approx(0.5)
    assert {"case", "cosine", "predicted_chosen", "predicted_rejected"} <= set(written["pairs"][0])


@pytest.mark.training
def test_a_bad_line_leaves_the_last_output_alone(policy_folder, tmp_path, capsys):
    out = tmp_path / "out.json"
    out.write_text("the last good one")
    file = write(tmp_path / "p.jsonl", [PAIR, PAIR, "{"])
    command = ["diagnose", "--model", str(policy_folder), "--pairs", str(file), "--json", str(out), "--batch-size", "1"]
    assert cli.main(command) == 2
    assert "line 3: not JSON" in capsys.readouterr().err
    assert out.read_text() == "the last good one"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--objective", "dppo"], "Did you mean 'dpo'"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--model", "./nothing-here"], "No model at './nothing-here'"),
        (["--pairs", "absent.jsonl"], "Cannot read absent.jsonl"),
        (["--chat-template", "absent.jinja"], "Cannot read absent.jinja"),
    ],
)
def test_bad_use_gets_one_line(more, message, policy_folder, pairs_file, capsys):
    command = ["diagnose", "--model", str(policy_folder), "--pairs", str(pairs_file), *more]
    assert cli.main(command) == 2
    assert message in capsys.readouterr().err
