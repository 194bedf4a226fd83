"""The reduced records of runs, as the book reads them. They are made by :mod:`gentangle.alignment.recipe_runs`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gentangle.alignment.recipes import PreferenceRecipe, Recipe
from gentangle.errors import InputError
from gentangle.runs import read_record


def load_record(results: Path, name: str, variant: str, seed: int) -> dict[str, Any]:
    """The reduced record of one run of the recipe called ``name``.

    Raises:
        InputError: there is none; the message says how it is made.
    """
    return read_record(results / name / f"{variant}-seed{seed}.json")


def load_records(results: Path, recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """The reduced records of every seed of a preference recipe, by form, or by objective where it compares those.

    Raises:
        InputError: the recipe makes no records, or one is missing.
    """
    if not isinstance(recipe, PreferenceRecipe):
        raise InputError(f"The recipe {recipe.name} makes no records: only kind preference does.")
    return {v: [load_record(results, recipe.name, v, seed) for seed in recipe.seeds] for v in recipe.variants()}


def rows_of(rows: Sequence[Mapping[str, Any]], kind: str, group: str | None = None) -> list[Mapping[str, Any]]:
    """The rows of a kind, and of a group where one is named."""
    return [row for row in rows if row["kind"] == kind and group in (None, row.get("group"))]


def look_cosines(look: Mapping[str, Any]) -> np.ndarray:
    r"""Cosines :math:`\langle w,l\rangle/\lVert w\rVert\lVert l\rVert` of the pairs whose Gram matrices a look has.

    Args:
        look: a row, or several as one: ``inner_product``, ``chosen_norm_sq`` and ``rejected_norm_sq`` of one shape.
    """
    norms = np.sqrt(np.multiply(look["chosen_norm_sq"], look["rejected_norm_sq"]))
    return np.asarray(np.array(look["inner_product"]) / norms)
