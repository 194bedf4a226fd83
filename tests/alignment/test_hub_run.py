"""Runs at the papers' scale, by the same code at toy size: one process, two processes, stopped, killed and refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from gentangle import InputError
from gentangle.alignment.hub_run import HELD_OUT, load_pairs, run_hub
from gentangle.alignment.preference import split_opinions
from gentangle.alignment.recipes import HubData, HubRecipe, load_recipe, recipe_from
from gentangle.alignment.scale import bare_model, check_memory, memory, own_reference
from gentangle.alignment.training import quiet
from gentangle.cli import main
from gentangle.rated_texts import load

ROOT = Path(__file__).parents[2]
PAPERS = sorted((ROOT / "recipes" / "papers").glob("*.yaml"))
LORA = {"rank": 2, "alpha": 4, "dropout": 0.05, "targets": ["c_attn"]}
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@pytest.fixture
def toy(tiny_policy, tiny_pairs, tmp_path, monkeypatch):
    """A recipe as its file says it: a tiny model in a folder, eight pairs and an identical one in a file."""
    monkeypatch.setenv("GENTANGLE_CACHE", str(tmp_path / "cache"))
    for part in tiny_policy:
        part.save_pretrained(tmp_path / "policy")
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected, "score": 1} for p in tiny_pairs * 2]
    rows.append(rows[0] | {"rejected": rows[0]["chosen"]})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    extra = {"beta": 0.1, "max_length": 32}
    return {
        "kind": "hub",
        "name": "toy",
        "model": str(tmp_path / "policy"),
        "data": {"source": str(tmp_path / "pairs.jsonl")},
        "objective": "dpo",
        "lora": LORA,
        "supervised": {"steps": 2, "batch_size": 2, "learning_rate": 1e-3, "extra": {"max_length": 32}},
        "preference": {"steps": 4, "batch_size": 2, "learning_rate": 1e-2, "save_every": 2, "extra": extra},
        "read_every": 1,
        "forecast_every": 2,
    }


def written(toy, folder):
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(toy))
    return path


def command(path, processes, *more):
    launch = ["accelerate.commands.launch", "--num_processes", str(processes), "--main_process_port", "0"]
    launch += ["--multi_gpu"] if processes > 1 else []  # several processes, also on a CPU, where there is no GPU
    return [sys.executable, "-m", *launch, "-m", "gentangle.cli", "train", "--recipe", str(path), *more]


def environment():
    on_cpu = {"ACCELERATE_USE_CPU": "true", "ACCELERATE_TORCH_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | on_cpu | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def launched(path, processes, *more):
    return subprocess.run(
        command(path, processes, *more), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120
    )


def rows_of(folder, kind):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def weights(folder):
    return load_file(folder / "model" / "adapter_model.safetensors")


@pytest.mark.training
def test_a_recipe_is_run_once_and_a_stopped_one_goes_on(toy, tmp_path, capsys):
    assert main(["train", "--recipe", str(written(toy, tmp_path))]) == 0
    assert "8 pairs" in capsys.readouterr().out
    whole = tmp_path / "cache" / "runs" / "toy"
    assert rows_of(whole, "data") == [{"kind": "data", "pairs": 8, "identical_dropped": 1}]
    assert [row["step"] for row in rows_of(whole, "log")] == [1, 2, 3, 4]
    read = rows_of(whole, "forecast")
    assert [row["step"] for row in read] == [1, 2, 3, 4]
    assert ["measured" in row for row in read] == [True, False, True, False]
    assert (whole / "supervised" / "model" / "model.safetensors").exists()
    before = (whole / "metrics.jsonl").read_bytes()
    recipe = recipe_from(toy, "toy")
    run_hub(recipe, whole)
    assert (whole / "metrics.jsonl").read_bytes() == before, "a whole run is left alone"
    stopped = tmp_path / "stopped"
    run_hub(recipe, stopped, stop_after=2)
    assert not (stopped / "model").exists()
    run_hub(recipe, stopped)
    assert [row["step"] for row in rows_of(stopped, "log")] == [1, 2, 3, 4]
    for name, expected in weights(whole).items():
        torch.testing.assert_close(weights(stopped)[name], expected)
    changed = recipe_from(toy | {"seed": 1}, "toy")
    with pytest.raises(InputError, match="holds a run of another recipe: give --overwrite"):
        run_hub(changed, whole)
    run_hub(changed, whole, overwrite=True)
    assert json.loads((whole / "config.json").read_text())["seed"] == 1


@pytest.mark.training
def test_two_processes_one_directory_through_a_kill(toy, tmp_path):
    steps = toy["preference"] | {"steps": 12, "save_every": 4}
    given = toy | {"processes": 2, "preference": steps, "read_every": 4, "forecast_every": 1}
    given["supervised"] = toy["supervised"] | {"steps": 1}
    path, folder = written(given, tmp_path), tmp_path / "cache" / "runs" / "toy"
    with (tmp_path / "out").open("w") as out:
        running = subprocess.Popen(
            command(path, 2), cwd=ROOT, env=environment(), stdout=out, stderr=out, start_new_session=True
        )
        deadline = time.monotonic() + 90
        while not list(folder.glob("preference/checkpoint-*/complete")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert not (folder / "model").exists()
    done = launched(path, 2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("run whole in") == 1
    assert [row["step"] for row in rows_of(folder, "log")] == list(range(1, 13))
    read = rows_of(folder, "forecast")
    assert [row["step"] for row in read] == [1, 5, 9]
    for row in read:
        assert len(row["inner_product"]) == 2, "the first process's own pairs"
        np.testing.assert_allclose(row["forecast"]["step"], row["measured"], rtol=0.3, atol=0.02)
    assert weights(folder)
    done = launched(written(given | {"seed": 1}, tmp_path), 2)
    assert done.returncode != 0
    assert done.stderr.count("gentangle train: ") == 1
    assert "holds a run of another recipe" in done.stderr


def test_another_number_of_processes_is_refused(toy, tmp_path, capsys):
    assert main(["train", "--recipe", str(written(toy | {"processes": 2}, tmp_path))]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "meant for 2 processes, here are 1: start it by accelerate launch --multi_gpu --num_processes 2" in said


REFUSED = {
    "unknown layer": ({"lora": LORA | {"targets": ["c_atn"]}}, "is called 'c_atn'. Did you mean 'c_attn'"),
    "no model": ({"model": "./nowhere"}, "No model at './nowhere'"),
    "no data": ({"data": {"source": "nowhere.jsonl"}}, "No data at 'nowhere.jsonl'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run_is_refused_in_one_line(name, toy, tmp_path, capsys):
    change, message = REFUSED[name]
    assert main(["train", "--recipe", str(written(toy | change, tmp_path))]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "cache" / "runs" / "toy").exists(), "nothing is left behind"


@pytest.mark.parametrize("option", ["--seed=3", "--form=one-token", "--results=results"])
def test_options_of_other_recipes_are_refused(option, toy, tmp_path, capsys):
    assert main(["train", "--recipe", str(written(toy, tmp_path)), option]) == 2
    assert "toy is one run" in capsys.readouterr().err


def lines(folder, *rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return HubData(str(path))


def test_a_missing_column_is_named_beside_those_there_are(tmp_path):
    with pytest.raises(InputError, match="no column 'rejected', it has prompt, chosen, score"):
        load_pairs(lines(tmp_path, {"prompt": "a", "chosen": "b", "score": 1}))


def test_pairs_that_are_all_identical_are_refused(tmp_path):
    with pytest.raises(InputError, match="of 2 pairs none has two different responses"):
        load_pairs(lines(tmp_path, *[{"prompt": "a", "chosen": "b", "rejected": "b"}] * 2))


def test_an_implicit_prompt_is_taken_out_of_the_responses(tmp_path):
    asked = {"role": "user", "content": "Why?"}
    said = {side: [asked, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    pairs, _ = load_pairs(lines(tmp_path, said, said))
    assert pairs[0] == {"prompt": [asked]} | {side: said[side][1:] for side in said}


@pytest.mark.usefixtures("corpus")
def test_the_tweets_are_data_by_name():
    pairs, dropped = load_pairs(HubData("tweets:short-suffix"))
    assert (len(pairs), dropped) == (len(split_opinions(load("tweets"), HELD_OUT)[0]), 0)
    assert pairs[0]["chosen"][0]["content"].split()[1:] == ["sentiment"]
    with pytest.raises(InputError, match="Unknown form 'one-tokn'. Did you mean 'one-token'"):
        load_pairs(HubData("tweets:one-tokn"))


def test_conversations_need_a_template(toy, tmp_path):
    told = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    data = lines(tmp_path, {"prompt": [{"role": "user", "content": "Why?"}]} | told)
    given = toy | {"data": {"source": data.source}, "supervised": toy["supervised"] | {"steps": 0}}
    with pytest.raises(InputError, match="no template for them: give chat_template"):
        run_hub(recipe_from(given, "toy"), tmp_path / "run")
    one = given["preference"] | {"steps": 1, "batch_size": 1}
    run_hub(recipe_from(given | {"chat_template": TEMPLATE, "preference": one}, "toy"), tmp_path / "told")


@pytest.mark.claims("tldr-objectives")
@pytest.mark.training
@pytest.mark.parametrize("lora", [LORA, {}], ids=["adapters", "whole"])
def test_the_settings_of_the_papers_recipes_go_together(lora, toy, tmp_path):
    extra = {"gradient_accumulation_steps": 2, "gradient_checkpointing": True, "max_length": 32}
    given = toy | {"dtype": "bfloat16", "lora": lora, "supervised": toy["supervised"] | {"steps": 0}}
    given["preference"] = {"steps": 2, "batch_size": 2, "learning_rate": 1e-2, "extra": extra}
    run_hub(recipe_from(given, "toy"), tmp_path / "run")
    read = rows_of(tmp_path / "run", "forecast")
    assert [row["step"] for row in read] == [1, 1, 2, 2], "a micro-batch is a batch of its own"
    assert all(value is not None for row in read for value in row["forecast"]["pair"])
    kept = load_file(next((tmp_path / "run" / "model").glob("*model.safetensors")))
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}, "what is trained stays in float32"


@pytest.mark.training
def test_an_objective_of_our_own_keeps_a_reference_beside_the_adapters(toy, tmp_path):
    given = toy | {"objective": "simpo", "supervised": toy["supervised"] | {"steps": 0}}
    given["preference"] = {"steps": 1, "batch_size": 2, "learning_rate": 1e-3}
    recipe = recipe_from(given, "toy")
    assert own_reference(recipe)
    run_hub(recipe, tmp_path / "run")
    assert rows_of(tmp_path / "run", "log")


def gpt2_config(**change):
    from transformers import GPT2Config

    return GPT2Config(**change)


def test_memory_counts_what_is_trained(toy):
    from transformers import GPT2LMHeadModel

    config, recipe = gpt2_config(n_layer=2, n_embd=64, n_head=2), recipe_from(toy, "toy")
    count = sum(p.numel() for p in GPT2LMHeadModel(config).parameters())
    adapters = 2 * 2 * (64 + 3 * 64)
    parts = memory(bare_model(config, recipe.lora), config, recipe)
    assert parts["weights"] == 4 * (count + adapters)
    assert (parts["training"], parts["reference"]) == (12 * adapters, 0)
    whole = recipe_from({key: value for key, value in toy.items() if key != "lora"}, "toy")
    parts = memory(bare_model(config, whole.lora), config, whole)
    assert (parts["weights"], parts["training"], parts["reference"]) == (4 * count, 12 * count, 4 * count)


def test_no_room_is_refused_with_the_numbers(toy):
    config, recipe = gpt2_config(n_layer=96, n_embd=12288, n_head=96), recipe_from(toy, "toy")
    with pytest.raises(InputError, match=r"toy needs about \d+ GB a process \(weights 69\d.*this device has"):
        check_memory(recipe, config, torch.device("cpu"))


@pytest.mark.claims("tldr-runs")
@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_every_recipe_of_the_papers_loads(path):
    recipe = load_recipe(path)
    assert isinstance(recipe, HubRecipe)
    assert recipe.name == path.stem
    assert recipe.preference.steps >= 65
    assert own_reference(recipe) == (not recipe.lora.rank)


def test_what_the_papers_recipes_expect_is_computed(load_script):
    script = load_script("benchmarks/expect_scale.py")
    with quiet():
        found = script.record("H100 SXM", script.UTILISATION)
    committed = json.loads(script.RESULT.read_text())
    assert committed["ratios"] == json.loads(json.dumps(found["ratios"])), "python benchmarks/expect_scale.py --write"
    for path in PAPERS:
        assert load_recipe(path).expects == found["sentences"][path.stem]
        assert found["sentences"][path.stem].startswith("not run; ")
    assert 0.85 < found["measured"]["memory_ratio"] < 1.15


@pytest.mark.claims("assistant-runs")
@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_conversation_begins_with_its_prompt(path, tiny_policy):
    """Where it does not, TRL cuts the prompt's end off."""
    template = load_recipe(path).chat_template
    if not template:
        return
    asked = [{"role": "user", "content": "Why?"}]
    said = [*asked, {"role": "assistant", "content": "Because."}]
    tokenizer = tiny_policy[1]
    prompt = tokenizer.apply_chat_template(asked, chat_template=template, add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(said, chat_template=template, tokenize=False)
    assert whole.startswith(prompt)
    assert whole.removeprefix(prompt).removesuffix("<|endoftext|>").strip() == "Because."
    if path.stem != "gpt2-sentiment":
        assert whole == "\n\nHuman: Why?\n\nAssistant: Because.<|endoftext|>"


MISTAKES = {
    "dtype": ({"dtype": "float16"}, "dtype is 'float16', expected float32 or bfloat16"),
    "no targets": ({"lora": {"rank": 4}}, "lora has no targets"),
    "misspelt": ({"lora": LORA | {"rnk": 4}}, "lora: unknown key 'rnk'. Did you mean 'rank'"),
    "stride": ({"read_every": 0}, "read_every is 0, expected at least 1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_recipe_gets_one_clear_error(name, toy):
    change, message = MISTAKES[name]
    with pytest.raises(InputError) as error:
        recipe_from(toy | change, "toy.yaml")
    assert message in str(error.value)
