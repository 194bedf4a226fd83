"""Long runs made from a recipe: each in a directory of the cache, its reduced record in a folder of records."""

from dataclasses import asdict
from pathlib import Path

import torch
from tqdm.auto import tqdm

from gentangle.alignment.experiment import make_base, run_config, run_preference
from gentangle.alignment.recipes import BaseRecipe, HubRecipe, PreferenceRecipe, Recipe
from gentangle.cache import cache_dir
from gentangle.errors import InputError
from gentangle.profiles import profile
from gentangle.provenance import provenance
from gentangle.rated_texts import corpus_hash
from gentangle.runs import RunDirectory, write_record
from gentangle.settings import only


def make_runs(
    recipe: Recipe,
    *,
    only_form: str | None = None,
    only_seed: int | None = None,
    results: Path | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Every run of a recipe, each in a directory of the cache; runs that are whole are not made again.

    Args:
        recipe: a base policy (saved where ``recipes/tweets.yaml`` looks for it), preference runs, or a hub run.
        only_form, only_seed: of a preference recipe, only these; a form, or an objective where it compares those.
        results: folder for the reduced records.
        overwrite: begin anew where a run is there already.

    Returns:
        The runs' directories.

    Raises:
        InputError: a form or seed that the recipe does not have; a directory of another recipe.
    """
    root = cache_dir() / "runs" / recipe.name
    if isinstance(recipe, HubRecipe):
        return [_make_hub_run(recipe, root, only_form, only_seed, results, overwrite)]
    torch.set_num_threads(profile().threads)
    if isinstance(recipe, BaseRecipe):
        run = RunDirectory(root, asdict(recipe), overwrite=overwrite)
        run.write_provenance(provenance(seed=recipe.seed, data=corpus_hash()))
        with run.alone():
            if not (run.path / "model").exists():
                make_base(recipe, run.path / "model")
        print(f"base policy in {run.path / 'model'}")
        return [run.path]
    return [
        _make_run(recipe, variant, seed, root, results, overwrite)
        for variant, seed in tqdm(_wanted(recipe, only_form, only_seed), unit="run", disable=None)
    ]


def _make_hub_run(
    recipe: HubRecipe, root: Path, form: str | None, seed: int | None, results: Path | None, overwrite: bool
) -> Path:
    from gentangle.alignment.hub_run import run_hub

    for name, value in (("form", form), ("seed", seed), ("results", results)):
        if value is not None:
            raise InputError(f"--{name} is given, but {recipe.name} is one run, with its rows in {root}: leave it out.")
    return run_hub(recipe, root, overwrite=overwrite)


def _wanted(recipe: PreferenceRecipe, variant: str | None, seed: int | None) -> list[tuple[str, int]]:
    kind = "change" if recipe.changes else "objective" if recipe.objectives else "form"
    variants = only(recipe.name, kind, variant, recipe.variants())
    seeds = only(recipe.name, "seed", seed, recipe.seeds)
    return [(v, s) for v, s in recipe.runs() if v in variants and s in seeds]


def _make_run(
    whole: PreferenceRecipe, variant: str, seed: int, root: Path, results: Path | None, overwrite: bool
) -> Path:
    device, (recipe, form) = profile().device, whole.variants()[variant]
    run = RunDirectory(root / f"{variant}-seed{seed}", run_config(recipe, form, seed), overwrite=overwrite)
    run.write_provenance(provenance(seed=seed, data=run.config["data_sha256"], device=device))
    with run.alone():
        if not (run.path / "model").exists():
            run_preference(recipe, form, seed, run=run, device=device)
    print(f"run whole in {run.path}")
    if results:
        write_record(results / recipe.name / f"{variant}-seed{seed}.json", run.record(minutes=run.minutes))
    return run.path
