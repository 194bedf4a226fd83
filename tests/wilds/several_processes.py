"""Run by test_wilds_processes.py in processes of its own: the small run on CivilComments, without dropout."""

import sys
from dataclasses import replace
from pathlib import Path

from gentangle.matching.wilds_run import load_wilds_recipe, run_wilds

RECIPE = Path(__file__).parents[2] / "recipes" / "wilds_civilcomments.yaml"


def run(root, path, processes):
    """Make the run: its minibatches have a multiple of two rows."""
    recipe = load_wilds_recipe(RECIPE, small=True)
    model = recipe.model | {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    recipe = replace(recipe, model=model, processes=processes, pretrain_steps=20, look_every=5)
    return run_wilds(recipe, Path(root), path=Path(path))


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
