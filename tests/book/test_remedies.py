"""The how-to's runs: the script at toy size, and what its page says of the committed records."""

import json
from pathlib import Path

import numpy as np
import pytest

from gentangle.alignment.policy import small_gpt2
from gentangle.settings import read_yaml

ROOT = Path(__file__).parents[2]
RECORDS = {p.stem: json.loads(p.read_text()) for p in sorted((ROOT / "results" / "remedies").glob("*.json"))}
SETTINGS = read_yaml(ROOT / "book" / "howto_remedies.yaml")


@pytest.fixture
def script(load_script):
    return load_script("book/howto_remedies.py")


@pytest.mark.training
def test_a_run_at_toy_size(script, corpus, tiny_policy, tmp_path):
    from gentangle.alignment.training import quiet

    tokenizer = tiny_policy[1]
    small_gpt2(tokenizer, layers=1, width=16, heads=2, positions=512, seed=0).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    lora = SETTINGS["lora"] | {"r": 2}
    base = SETTINGS["base"] | {"max_steps": 2}
    toy = SETTINGS | {"held_out": 4, "lora": lora, "base": base, "supervised": {"max_steps": 1, "learning_rate": 1e-3}}
    with quiet():
        policy = script.fine_tuned(toy, tmp_path / "tuned", tmp_path / "model")
        found = script.run(toy, "likelihood", 0, policy)
    assert [row["step"] for row in found["log"]] == [1, 2]
    assert all("entanglement/intended" in row and "rewards/chosen" in row for row in found["log"])
    assert found["log"][0]["entanglement/measured_chosen"] == pytest.approx(
        found["log"][0]["entanglement/step_chosen"], rel=0.1, abs=0.05
    )
    assert np.shape(found["held_out"]["after"]) == (2, 4)
    json.dumps(found, allow_nan=False)


def test_both_kinds_of_request_are_asked_equally_often_and_answered_by_ratings(script, corpus):
    pairs = script.review_pairs()
    rating = {text.text: text.rating for text in corpus["film"]}
    assert abs(sum(r == script.REQUESTS[1] for r, _, _ in pairs) - len(pairs) / 2) <= 1
    for request, chosen, rejected in pairs:
        sign = 1 if request == script.REQUESTS[1] else -1
        assert rating[chosen] * sign >= script.STRONG
        assert rating[rejected] * sign <= -script.STRONG


def change(name):
    records = [r for stem, r in RECORDS.items() if r["change"] == name]
    assert records, f"no record of {name}"
    return np.mean([np.subtract(r["held_out"]["after"], r["held_out"]["before"]).mean(1) for r in records], axis=0)


@pytest.mark.parametrize("name", sorted(SETTINGS["changes"]))
def test_every_change_of_the_recipe_has_a_record_with_its_settings(name):
    records = [r for r in RECORDS.values() if r["change"] == name]
    assert records
    for record in records:
        assert record["settings"] == SETTINGS["base"] | (SETTINGS["changes"][name] or {})
        assert len(record["log"]) == SETTINGS["base"]["max_steps"]


def test_what_the_page_says_of_the_run_itself():
    """Both fall on held-out pairs, the margin grows, and at every step each pair's own step is the intended one."""
    chosen, rejected = change("base")
    assert rejected < chosen < 0
    for record in RECORDS.values():
        assert np.mean([row["entanglement/intended"] for row in record["log"]]) > 0.95
        assert abs(record["log"][0]["entanglement/cosine"]) < 0.1
        followed = [row["entanglement/measured_chosen"] for row in record["log"] if "entanglement/step_chosen" in row]
        assert len(followed) >= 5
        assert np.mean(np.array(followed) > 0) >= 0.8


def test_what_the_page_says_of_the_likelihood_term():
    assert change("likelihood")[0] > change("base")[0]


@pytest.mark.parametrize("name", ["larger-beta", "lower-rate"])
def test_what_the_page_says_of_beta_and_rate(name):
    (chosen, rejected), base = change(name), change("base")
    assert base[0] < chosen < 0
    assert base[1] < rejected < chosen
