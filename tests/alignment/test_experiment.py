"""The whole experiment at toy size: killed at any step and started again it ends with the same weights."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from safetensors.torch import load_file

from gentangle import rated_texts
from gentangle.alignment import training
from gentangle.alignment.policy import fresh_copy
from gentangle.alignment.recipes import Stage
from gentangle.alignment.records import load_record, rows_of

pytestmark = pytest.mark.training

STEPS, SAVE_EVERY = 14, 5


@pytest.fixture(scope="module")
def toy(tmp_path_factory, tiny_policy, corpus):
    """Folder with a toy recipe and a base policy whose tokenizer knows the tweets' letters."""
    from gentangle.alignment.policy import small_gpt2, train_tokenizer

    folder = tmp_path_factory.mktemp("toy")
    tokenizer = train_tokenizer(
        [t.text + " The sentiment of the text is positive negative" for t in corpus["tweets"]], 600
    )
    small_gpt2(tokenizer, layers=1, width=16, heads=2, positions=256, seed=0).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    recipe = {
        "kind": "preference",
        "name": "toy",
        "base": str(folder / "base"),
        "held_out": 40,
        "forms": ["short-suffix"],
        "seeds": [3],
        "objective": "dpo",
        "supervised": {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, "save_every": 2},
        "preference": {"steps": STEPS, "batch_size": 2, "learning_rate": 1e-3, "save_every": SAVE_EVERY},
        "measure": {"forecast_every": 3, "track_every": 4, "tracked_pairs": 4, "gram_pairs": 2},
    }
    (folder / "toy.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def start(toy, cache, *more):
    """The command in a process of its own, with a cache that holds the rated texts and nothing else."""
    cache.mkdir(exist_ok=True)
    if not (cache / "rated_texts").exists():
        (cache / "rated_texts").symlink_to(rated_texts.folder())
    command = [sys.executable, "-m", "gentangle.cli", "train", "--recipe", str(toy / "toy.yaml"), *more]
    return subprocess.Popen(
        command,
        env=os.environ | {"GENTANGLE_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def whole(toy):
    """The run as it is without a kill."""
    process = start(toy, toy / "whole", "--results", str(toy / "results"))
    finish(process)
    return toy / "whole" / "runs" / "toy" / "short-suffix-seed3"


def test_a_run_keeps_config_provenance_and_metrics(whole, toy):
    config = json.loads((whole / "config.json").read_text())
    provenance = json.loads((whole / "provenance.json").read_text())
    assert config["form"] == "short-suffix"
    assert {"command", "seed", "package_sha256", "data_sha256", "versions", "device", "date"} <= set(provenance)
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows_of(rows, "log")] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows_of(rows, "forecast")] == [1, 4, 7, 10, 13]
    assert [row["step"] for row in rows_of(rows, "track", "held_out")] == [0, 4, 8, 12, STEPS]
    assert {"rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected"} <= set(rows_of(rows, "log")[0])
    looks = [(row["stage"], row["group"]) for row in rows_of(rows, "stage")]
    assert looks == [(s, g) for s in ("base", "supervised", "preference") for g in ("train", "held_out")]
    assert (whole / "figures" / "paths.png").read_bytes().startswith(b"\x89PNG")
    record = load_record(toy / "results", "toy", "short-suffix", 3)
    assert len(record["rows"]) == len(rows)
    assert 0 < record["minutes"] < 10


@pytest.mark.parametrize("step", [2, SAVE_EVERY + 2])
def test_killed_and_started_again_it_ends_the_same(whole, toy, tmp_path, step):
    """SIGKILL after a step that no checkpoint holds, before the first and after it; the same bytes must come out."""
    process = start(toy, tmp_path)
    metrics = tmp_path / "runs" / "toy" / "short-suffix-seed3" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while f'"step": {step}' not in (metrics.read_text() if metrics.exists() else ""):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (metrics.parent / "model").exists()
    finish(start(toy, tmp_path))
    ours, expected = (load_file(folder / "model" / "model.safetensors") for folder in (metrics.parent, whole))
    assert ours.keys() == expected.keys()
    assert all(ours[name].equal(expected[name]) for name in expected)
    assert metrics.read_text() == (whole / "metrics.jsonl").read_text()


@pytest.mark.parametrize("lora", [{}, {"r": 2, "target_modules": ["c_attn"]}], ids=["full", "lora"])
def test_started_again_after_its_last_checkpoint_it_takes_no_step_more(tiny_policy, tiny_pairs, tmp_path, lora):
    """Killed between the last step and what is measured after it: the weights are the checkpoint's."""
    stage = Stage(steps=4, batch_size=2, learning_rate=1e-2, save_every=2)
    ends, steps = [], []
    for _ in range(2):
        seen = []
        watcher = training.LogCallback(seen.append)
        trainer = training.preference(
            fresh_copy(tiny_policy[0]),
            tiny_policy[1],
            tiny_pairs,
            stage,
            seed=0,
            folder=tmp_path / "run",
            callbacks=[watcher],
            lora=lora,
        )
        steps.append([row["step"] for row in seen])
        ends.append({name: p.detach().clone() for name, p in trainer.model.named_parameters()})
    assert steps == [[1, 2, 3, 4], []]
    assert all(ends[0][name].equal(ends[1][name]) for name in ends[0])


def test_a_fine_tuned_policy_that_another_process_makes_is_left_to_it(whole, toy, tmp_path):
    """The folder beside the runs, which several of them begin with; whole, it needs no lock."""
    import fcntl

    beside = tmp_path / "runs" / "toy" / "supervised-short-suffix-seed3"
    beside.mkdir(parents=True)
    with (beside / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = start(toy, tmp_path)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 2
        assert err.count("supervised-short-suffix-seed3 is being made by another process: wait for it") == 1
        assert "Traceback" not in err
        assert sorted(path.name for path in beside.iterdir()) == ["config.json", "lock"]
        shutil.copytree(whole.parent / beside.name / "model", beside / "model")
        shutil.copy(whole.parent / beside.name / "metrics.jsonl", beside)
        finish(start(toy, tmp_path))


def test_a_whole_run_is_not_made_again_and_another_recipe_is_refused(whole, toy):
    before = (whole / "model" / "model.safetensors").stat().st_mtime_ns
    assert "run whole in" in finish(start(toy, toy / "whole"))
    assert (whole / "model" / "model.safetensors").stat().st_mtime_ns == before
    other = yaml.safe_load((toy / "toy.yaml").read_text()) | {"held_out": 41}
    (toy / "other").mkdir()
    (toy / "other" / "toy.yaml").write_text(yaml.safe_dump(other))
    process = start(toy / "other", toy / "whole")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "holds a run of another recipe" in err
    assert "Traceback" not in err
