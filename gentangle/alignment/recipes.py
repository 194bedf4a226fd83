"""Recipes: the YAML files that say, before a seed is run, everything that a long run does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from gentangle.alignment.objectives import objective
from gentangle.alignment.preference import FORMS
from gentangle.errors import InputError, nearest
from gentangle.settings import build, read_yaml


@dataclass(frozen=True)
class Stage:
    """Settings of one stage of training; all else is TRL's default (AdamW, clipping at norm 1).

    Attributes:
        steps: optimizer steps of the whole schedule.
        batch_size: examples, or pairs, a step.
        learning_rate: peak of the schedule.
        schedule: name of a transformers schedule; TRL's default is ``linear``.
        warmup_steps: steps of linear warm-up before it.
        save_every: a checkpoint after so many steps.
        extra: more settings of TRL's config by name (``beta``, ``loss_type``, ...).
    """

    steps: int
    batch_size: int
    learning_rate: float
    schedule: str = "linear"
    warmup_steps: int = 0
    save_every: int = 50
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """Shape of a GPT-2 made from scratch, with the size of its tokenizer's vocabulary."""

    vocab_size: int
    layers: int
    width: int
    heads: int
    positions: int


@dataclass(frozen=True)
class Measure:
    """What a preference run measures, and when: strides in optimizer steps, fixed beforehand.

    Attributes:
        forecast_every: the batch's forecasts and the measured changes.
        track_every: log-probabilities and Gram matrices of the tracked pairs.
        tracked_pairs: training pairs and held-out pairs whose log-probabilities are tracked.
        gram_pairs: the first so many of them whose Gram matrices are.
    """

    forecast_every: int
    track_every: int
    tracked_pairs: int
    gram_pairs: int


@dataclass(frozen=True)
class BaseRecipe:
    """A base policy: a language model of rated texts, then the question asked about some of them."""

    name: str
    seed: int
    model: Model
    domains: Sequence[str]
    held_out: int
    max_words: int
    language: Stage
    supervised: Stage


@dataclass(frozen=True)
class PreferenceRecipe:
    """Fine-tuning, then preference training, for every form and every seed.

    Attributes:
        tried: settings that were tried before the measured seeds and given up, each with its reason.
    """

    name: str
    base: str
    held_out: int
    forms: Sequence[str]
    seeds: Sequence[int]
    objective: str
    supervised: Stage
    preference: Stage
    measure: Measure
    tried: Sequence[str] = field(default_factory=tuple)

    def runs(self) -> list[tuple[str, int]]:
        """Every (form, seed) of the recipe, seeds outermost: each seed is whole before the next begins."""
        return [(form, seed) for seed, form in product(self.seeds, self.forms)]


_KINDS = {"base": BaseRecipe, "preference": PreferenceRecipe}


def load_recipe(path: str | Path) -> BaseRecipe | PreferenceRecipe:
    """The recipe in a YAML file; its ``kind`` is ``base`` or ``preference``.

    Raises:
        InputError: no such file, not YAML, a missing or misspelt key (the nearest one is named), a
            value of the wrong type, an unknown form or objective.
    """
    return recipe_from(read_yaml(path), str(path))


def recipe_from(given: Mapping[str, Any], where: str) -> BaseRecipe | PreferenceRecipe:
    """The recipe in a mapping, as :func:`load_recipe` reads it; ``where`` names it in messages."""
    kind = given.get("kind")
    if kind not in _KINDS:
        raise InputError(f"{where}: kind is {kind!r}. {nearest(str(kind), _KINDS)}")
    recipe: BaseRecipe | PreferenceRecipe = build(_KINDS[kind], {k: v for k, v in given.items() if k != "kind"}, where)
    if isinstance(recipe, PreferenceRecipe):
        objective(recipe.objective)
        loss_type = recipe.preference.extra.get("loss_type", "sigmoid")
        if (recipe.objective, loss_type) != ("dpo", "sigmoid"):
            raise InputError(
                f"{where}: objective {recipe.objective!r} with TRL's loss_type {loss_type!r}: forecasts and training "
                "must speak of one loss, and only 'dpo' with 'sigmoid' is known to be one."
            )
        for form in recipe.forms:
            if form not in FORMS:
                raise InputError(f"{where}: unknown form {form!r}. {nearest(str(form), FORMS)}")
    return recipe
