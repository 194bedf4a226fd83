"""Recipes of kind ``matching`` and their runs: what is refused, and that a run that was killed goes on."""

import json

import pytest
import yaml

from gentangle.cache import cache_dir
from gentangle.cli import main
from gentangle.errors import InputError
from gentangle.matching import experiment
from gentangle.matching.experiment import environments_of, make_matching_runs, run_algorithm
from gentangle.matching.recipes import load_matching_recipe
from gentangle.runs import RunDirectory

SMALL = {
    "kind": "matching",
    "name": "small",
    "data": {"set": "cdsprites", "domains": 3, "examples": 10, "side": 16},
    "training": {"steps": 6, "batch_size": 4, "learning_rate": 0.01, "look_every": 2, "width": 4},
    "algorithms": {"erm": {}, "fish": {"eps": 0.5, "warm_start": 2}, "dro": {"algorithm": "group-dro", "step": 0.1}},
    "seeds": [0, 1],
    "settings": {"all": {}, "two": {"domains_per_step": 2, "side": 8}},
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENTANGLE_CACHE", str(tmp_path / "cache"))


def recipe(tmp_path, **changes):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes, sort_keys=False))
    return load_matching_recipe(path)


def test_every_algorithm_is_made_in_every_setting(tmp_path):
    variants = recipe(tmp_path).variants()
    assert list(variants) == ["erm-all", "fish-all", "dro-all", "erm-two", "fish-two", "dro-two"]
    assert variants["fish-two"].training.domains_per_step == 2
    assert variants["fish-two"].training.warm_start == 2
    assert variants["fish-two"].data == {"set": "cdsprites", "domains": 3, "examples": 10, "side": 8}
    assert variants["dro-all"].algorithm == "group-dro"
    assert variants["dro-all"].settings == {"step": 0.1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithms": {"fihs": {}}}, "unknown algorithm 'fihs'.*fish"),
        ({"algorithms": {}}, "algorithms is empty"),
        ({"seeds": []}, "seeds is empty"),
        ({"data": {"set": "cdsprite"}}, "unknown set 'cdsprite'.*cdsprites"),
        ({"training": SMALL["training"] | {"optimizer": "adm"}}, "unknown optimizer 'adm'.*adam"),
        ({"training": SMALL["training"] | {"sampling": "sizes"}}, "unknown sampling 'sizes'.*size"),
        ({"algorithms": {"erm": {"steps": "many"}}}, "small: erm: steps is 'many', expected int"),
        ({"seed": [0]}, "unknown key 'seed'"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        recipe(tmp_path, **changes)


def test_hyperparameters_and_data_settings_that_do_not_fit_are_refused(tmp_path):
    made = recipe(tmp_path, algorithms={"fish": {"gamma": 1}}, settings={})
    with pytest.raises(InputError, match="fish does not take these hyperparameters .*gamma"):
        make_matching_runs(made)
    assert not (cache_dir() / "runs" / made.name).exists()  # nothing stands in the way of the mended recipe
    with pytest.raises(InputError, match="The set cdsprites does not take these settings"):
        environments_of({"set": "cdsprites", "domain": 3}, seed=0)


@pytest.mark.parametrize("algorithm", ["erm", "fish", "dro"])
def test_a_run_that_was_killed_ends_with_the_same_rows(tmp_path, monkeypatch, algorithm):
    variant = recipe(tmp_path).variants()[f"{algorithm}-two"]
    whole = RunDirectory(tmp_path / "whole", {})
    run_algorithm(variant, 0, run=whole)

    class Killed(Exception):
        pass

    def dying(checkpoint, at):
        def checkpoint_or_die(run, key, step, *rest):
            if step == at:
                raise Killed  # the row is there, its checkpoint is not
            checkpoint(run, key, step, *rest)

        return checkpoint_or_die

    killed = RunDirectory(tmp_path / "killed", {})
    plain = experiment._checkpoint
    for at in (2, 4, 6):
        monkeypatch.setattr(experiment, "_checkpoint", dying(plain, at))
        with pytest.raises(Killed):
            run_algorithm(variant, 0, run=killed)
    monkeypatch.setattr(experiment, "_checkpoint", plain)
    run_algorithm(variant, 0, run=killed)
    assert killed.metrics.read_bytes() == whole.metrics.read_bytes()
    assert [row["step"] for row in whole.rows()] == [2, 4, 6]


def test_the_beginning_of_a_run_comes_out_the_same(tmp_path):
    variant = recipe(tmp_path).variants()["fish-all"]
    assert run_algorithm(variant, 0, steps=4) == run_algorithm(variant, 0)[:2]


def test_a_command_makes_runs_and_records_and_does_not_make_them_again(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(SMALL | {"settings": {}}, sort_keys=False))
    command = ["train", "--recipe", str(tmp_path / "recipe.yaml"), "--results", str(tmp_path / "results")]
    assert main(command) == 0
    record = json.loads((tmp_path / "results/small/fish.json").read_text())
    assert [(row["seed"], row["step"]) for row in record["rows"]] == [(s, t) for s in (0, 1) for t in (2, 4, 6)]
    row = record["rows"][-1]
    assert {"loss", "gip", "cosine", "domain_gip", "domain_cosine", "validation", "test"} <= row.keys()
    assert set(row["validation"]) == {"0", "1", "2"}
    assert record["config"]["settings"] == {"eps": 0.5}
    kept = (tmp_path / "cache/runs/small/fish/metrics.jsonl").stat().st_mtime_ns
    assert main(command) == 0
    assert (tmp_path / "cache/runs/small/fish/metrics.jsonl").stat().st_mtime_ns == kept
    assert main([*command, "--form", "fsh"]) == 2
    assert "has no variant 'fsh', it has erm, fish, dro" in capsys.readouterr().err
    changed = SMALL | {"settings": {}, "data": SMALL["data"] | {"side": 8}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
    assert main(command) == 2
    assert "holds a run of another recipe" in capsys.readouterr().err


def test_domains_are_left_out_one_after_the_other(tmp_path):
    digits = {"data": {"set": "colored-digits"}, "algorithms": {"erm": {}}, "settings": {}, "seeds": [0]}
    digits |= {"training": SMALL["training"] | {"steps": 2}}
    with pytest.raises(InputError, match="1 domain to learn from"):
        make_matching_runs(recipe(tmp_path, **digits, left_out=[["90%"], ["10%", "90%"]]))  # the second leaves but one
    assert not (tmp_path / "cache/runs/small").exists()
    make_matching_runs(recipe(tmp_path, **digits, left_out=[["90%"]]))
    (folder,) = (tmp_path / "cache/runs/small").iterdir()
    (row,) = RunDirectory(folder, json.loads((folder / "config.json").read_text())).rows()
    assert set(row["test"]) == {"90%"}
    assert set(row["validation"]) == {"10%", "20%", "90%"}


def test_random_groups_are_learnt_from_and_the_true_domains_looked_at(tmp_path):
    variant = recipe(tmp_path, algorithms={"erm": {"random_groups": True}}, settings={}).variants()["erm"]
    (row, *_) = run_algorithm(variant, 0, steps=2)
    assert set(row["validation"]) == {"0", "1", "2"}
