"""The small run of each recipe, end to end: what it learns, what it writes, and that a kill changes nothing."""

import json
import math
import shutil
from ast import literal_eval
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.metrics import f1_score
from wilds_tables import swap_training_labels, truth

from gentangle import InputError
from gentangle.matching import wilds_run
from gentangle.matching.algorithms import Fish
from gentangle.matching.wilds_data import SETS, load_wilds
from gentangle.matching.wilds_run import load_wilds_recipe, run_wilds, submission_name

#: What a guess gets on the fixture: the commonest label's share; no correlation.
CHANCE = {"camelyon17": 1 / 2, "civilcomments": 1 / 2, "fmow": 1 / 3, "iwildcam": 1 / 3, "poverty": 0, "amazon": 1 / 5}


def predictions(path, name, split):
    """As WILDS' own evaluation script reads a submitted file: one literal a line."""
    lines = (path / "predictions" / submission_name(name, split, 0)).read_text().splitlines()
    return np.array([literal_eval(line) for line in lines])


def by(keys, values):
    """Mean of the values of each key."""
    found = defaultdict(list)
    for key, value in zip(keys, values, strict=True):
        found[key].append(value)
    return {key: np.mean(value) for key, value in found.items()}


def recomputed(name, rows, y, predicted):
    """The leaderboard's metrics from the tables on disk, without wilds."""
    right = predicted == y
    if name == "camelyon17":
        return {"acc_avg": right.mean()}
    if name == "civilcomments":
        cells = [(row == 1) & (y == label) for row in np.array(rows).T for label in (0, 1)]
        return {"acc_wg": min(right[cell].mean() for cell in cells), "acc_avg": right.mean()}
    if name == "fmow":
        return {"acc_worst_region": min(by(rows, right).values()), "acc_avg": right.mean()}
    if name == "iwildcam":
        return {"F1-macro_all": f1_score(y, predicted, average="macro", labels=np.unique(y)), "acc_avg": right.mean()}
    if name == "poverty":
        urban = np.array(rows)
        r = [pearsonr(predicted[urban == place], y[urban == place])[0] for place in ("0", "1")]
        return {"r_wg": min(r), "r_all": pearsonr(predicted, y)[0]}
    return {"10th_percentile_acc": np.percentile(list(by(rows, right).values()), 10), "acc_avg": right.mean()}


@pytest.mark.claims(
    "fish-wilds",
    "wilds-camelyon17",
    "wilds-civilcomments",
    "wilds-fmow",
    "wilds-iwildcam",
    "wilds-poverty",
    "wilds-amazon",
)
@pytest.mark.training
@pytest.mark.parametrize("name", SETS)
def test_a_small_run_end_to_end(name, whole_run, wilds_root):
    path = whole_run(name)
    found = json.loads((path / "evaluation.json").read_text())
    table = (path / "table.txt").read_text()
    for split in ("val", "test"):
        rows, y = truth(name, wilds_root, split)
        expected = recomputed(name, rows, y, predictions(path, name, split))
        assert tuple(expected) == SETS[name].metrics
        for metric, value in expected.items():
            assert math.isclose(found[split][metric], value, rel_tol=1e-5), (split, metric)
            assert f"{value:.3f}" in table
        average = expected[SETS[name].metrics[-1]]
        noise = 0 if name == "poverty" else math.sqrt(CHANCE[name] * (1 - CHANCE[name]) / len(y))
        assert average > max(CHANCE[name] + 3 * noise, 0.5)
    phases = [json.loads(line)["phase"] for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert phases[0] == "erm"
    assert phases[-1] == "fish"


#: What is enough to learn swapped labels, where the small run is longer than it need be.
FEWER = {
    "camelyon17": {"epochs": 1},
    "fmow": {"pretrain_steps": 10},
    "iwildcam": {"pretrain_steps": 20, "learning_rate": 1e-3},
    "poverty": {"epochs": 1, "pretrain_steps": 30},
}


@pytest.mark.training
@pytest.mark.parametrize("name", SETS)
def test_labels_that_are_swapped_in_training_are_learnt_wrong(name, wilds_root, tmp_path, small_recipe):
    folder = shutil.copytree(wilds_root / f"{name}_v{SETS[name].version}", tmp_path / f"{name}_v{SETS[name].version}")
    swap_training_labels(name, folder)
    path = run_wilds(small_recipe(name, keep="last", **FEWER.get(name, {})), tmp_path, path=tmp_path / "run")
    found = json.loads((path / "evaluation.json").read_text())["test"]
    assert found[SETS[name].metrics[-1]] < CHANCE[name]


@pytest.fixture
def short(small_recipe):
    """A run of seconds that is looked at often."""
    return small_recipe("civilcomments", pretrain_steps=12, look_every=4)


@pytest.mark.training
def test_killed_and_resumed_it_ends_with_the_same_bytes(short, wilds_root, tmp_path, capsys):
    whole = run_wilds(short, wilds_root, path=tmp_path / "whole")
    said = capsys.readouterr().out
    assert "random weights, nothing pretrained; tokenizer made of this data" in said
    assert (whole / "table.txt").read_text() in said
    for stop in (8, 12, 16):
        path = run_wilds(short, wilds_root, path=tmp_path / "parts", stop_after=stop)
        assert not (path / "evaluation.json").exists()
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "fish", "step": 20}\n{"phase": "fi')  # written after the checkpoint, and cut short
    run_wilds(short, wilds_root, path=path)
    files = ["evaluation.json", "table.txt", "metrics.jsonl", *(f"predictions/{p.name}" for p in path.glob("*/*.csv"))]
    assert len(files) == 5
    for file in files:
        assert (path / file).read_bytes() == (whole / file).read_bytes(), file
    ends = [torch.load(folder / "checkpoint.pt")["fish"]["model"] for folder in (path, whole)]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[1])


@pytest.mark.training
def test_a_whole_run_is_left_alone_and_another_recipe_refused(whole_run, wilds_root, small_recipe, capsys):
    path, recipe = whole_run("amazon"), small_recipe("amazon")
    before = (path / "checkpoint.pt").stat().st_mtime_ns
    run_wilds(recipe, wilds_root, path=path)
    assert (path / "checkpoint.pt").stat().st_mtime_ns == before
    assert "10th_percentile_acc" in capsys.readouterr().out
    for other, seed in ((replace(recipe, meta_lr=0.5), 0), (recipe, 1)):
        with pytest.raises(InputError, match="a run of another recipe"):
            run_wilds(other, wilds_root, path=path, seed=seed)
    with pytest.raises(InputError, match="is meant for 2 processes, here are 1"):
        run_wilds(replace(recipe, processes=2), wilds_root, path=path)


@pytest.mark.training
@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_model_that_is_evaluated_is_the_one_to_keep(keep, short, wilds_root, tmp_path):
    # A rate so high that the accuracies go up and down.
    recipe = replace(short, keep=keep, learning_rate=0.02, epochs=2, look_every=1)
    path = run_wilds(recipe, wilds_root, path=tmp_path / "run")
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    values = [row["val"]["acc_wg"] for row in rows if row["phase"] == "fish"]
    kept = json.loads((path / "evaluation.json").read_text())["val"]["acc_wg"]
    assert max(values) != values[-1]
    assert kept == (max(values) if keep == "best" else values[-1])


@pytest.mark.training
def test_the_authors_eps_and_the_wilds_names(wilds_root, small_recipe, tmp_path, monkeypatch):
    recipe = small_recipe("amazon", pretrain_steps=0, epochs=1, domains_per_step=4, meta_lr=0.6)
    assert recipe.eps == 0.15
    made = []
    monkeypatch.setattr(wilds_run, "Fish", lambda *args, **given: made.append(given) or Fish(*args, **given))
    path = run_wilds(recipe, wilds_root, path=tmp_path / "run", seed=3)
    assert made == [{"seed": 3, "eps": 0.15}]
    assert {file.name for file in (path / "predictions").iterdir()} == {
        f"amazon_split:{split}_seed:3_epoch:best_pred.csv" for split in ("val", "id_val", "test", "id_test")
    }
    assert submission_name("poverty", "test", 3) == "poverty_split:test_fold:D_epoch:best_pred.csv"
    assert {json.loads(line)["phase"] for line in (path / "metrics.jsonl").read_text().splitlines()} == {"fish"}


def test_a_recipe_of_another_kind_or_set_is_refused(tmp_path, wilds_root, small_recipe):
    file = tmp_path / "recipe.yaml"
    file.write_text("kind: matching\nname: sprites\n")
    with pytest.raises(InputError, match="of kind 'matching', expected wilds"):
        load_wilds_recipe(file)
    file.write_text(
        "{kind: wilds, name: x, dataset: camelyon, optimizer: sgd, learning_rate: 0.1, batch_size: 2, "
        "pretrain_steps: 0, epochs: 1, meta_lr: 0.1, domains_per_step: 2}"
    )
    with pytest.raises(InputError, match="unknown dataset 'camelyon'. Did you mean 'camelyon17'"):
        load_wilds_recipe(file)
    with pytest.raises(InputError, match=r"poverty_v1\.1 has no rows to train on"):  # the fixture has fold A alone
        run_wilds(small_recipe("poverty"), wilds_root, path=tmp_path / "run", seed=1)
    with pytest.raises(InputError, match=r"There is no fmow_v1.1 in .*, which holds no data set of WILDS"):
        run_wilds(small_recipe("fmow"), tmp_path, path=tmp_path / "run")
    assert load_wilds(small_recipe("amazon").dataset, wilds_root).n_classes == 5
