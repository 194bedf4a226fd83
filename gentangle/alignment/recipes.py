"""Recipes: the YAML files that say, before a seed is run, everything that a long run does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
        extra: more settings of TRL's config by name, and the objective's hyperparameters (``beta``, ...).
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
    """Fine-tuning, then preference training, for every form (or every objective) and every seed.

    Attributes:
        objectives: where there are some, each is trained on the one form, in place of ``objective``.
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
    objectives: Sequence[str] = field(default_factory=tuple)
    tried: Sequence[str] = field(default_factory=tuple)

    def variants(self) -> "dict[str, tuple[PreferenceRecipe, str]]":
        """What the recipe compares, by name: for each objective, or else each form, its own recipe and the form."""
        if self.objectives:
            return {name: (replace(self, objective=name, objectives=()), self.forms[0]) for name in self.objectives}
        return {form: (self, form) for form in self.forms}

    def runs(self) -> list[tuple[str, int]]:
        """Every (variant, seed) of the recipe, seeds outermost: each seed is whole before the next begins."""
        return [(variant, seed) for seed, variant in product(self.seeds, self.variants())]


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
        for name in (recipe.objective, *recipe.objectives):
            objective(name)
        if "loss_type" in recipe.preference.extra:
            raise InputError(
                f"{where}: preference: loss_type is given, but the objective names the loss: leave it out."
            )
        if recipe.objectives and len(recipe.forms) != 1:
            raise InputError(f"{where}: objectives are compared on one form, got {len(recipe.forms)} forms.")
        for form in recipe.forms:
            if form not in FORMS:
                raise InputError(f"{where}: unknown form {form!r}. {nearest(str(form), FORMS)}")
    return recipe
