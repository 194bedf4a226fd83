"""Recipes: the YAML files that say, before a seed is run, everything that a long run does."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from gentangle.alignment import review_pairs
from gentangle.alignment.objectives import objective
from gentangle.alignment.preference import FORMS
from gentangle.errors import InputError, one_of
from gentangle.settings import at_least_1, build, check_name, not_empty, read_yaml


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
    """Fine-tuning, then preference training, for every form (or objective, or change) and every seed.

    Attributes:
        base: folder of a policy, a hub name, or ``SmolLM2-135M-Instruct`` for the one in the cache.
        remedy: a trainer of :mod:`gentangle.alignment.remedy_trainers` in place of TRL's own.
        lora: settings of PEFT's LoraConfig; the adapter is then all that preference training trains.
        objectives: where there are some, each is trained on the one form, in place of ``objective``.
        changes: where there are some, each is the recipe with a few of its settings changed: ``form``, ``objective``,
            ``remedy``, ``lora``, ``steps``, ``learning_rate``, and by name what else ``preference.extra`` may hold.
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
    remedy: str = ""
    lora: dict[str, Any] = field(default_factory=dict)
    objectives: Sequence[str] = field(default_factory=tuple)
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    tried: Sequence[str] = field(default_factory=tuple)

    def variants(self) -> "dict[str, tuple[PreferenceRecipe, str]]":
        """What the recipe compares, by name: for each change, objective, or else form, its own recipe and the form."""
        if self.changes:
            return {
                name: (self._changed(change), change.get("form", self.forms[0]))
                for name, change in self.changes.items()
            }
        if self.objectives:
            return {name: (replace(self, objective=name, objectives=()), self.forms[0]) for name in self.objectives}
        return {form: (self, form) for form in self.forms}

    def _changed(self, change: Mapping[str, Any]) -> "PreferenceRecipe":
        own = {name: change[name] for name in ("objective", "remedy", "lora") if name in change}
        stage = {name: change[name] for name in ("steps", "learning_rate") if name in change}
        extra = {name: value for name, value in change.items() if name not in {"form", *own, *stage}}
        stage["extra"] = self.preference.extra | extra
        return replace(self, preference=replace(self.preference, **stage), changes={}, **own)

    def runs(self) -> list[tuple[str, int]]:
        """Every (variant, seed) of the recipe, seeds outermost: each seed is whole before the next begins."""
        return [(variant, seed) for seed, variant in product(self.seeds, self.variants())]


@dataclass(frozen=True)
class Lora:
    """PEFT's low-rank adapters on the linear layers called ``targets``; at rank 0 the whole model is trained."""

    rank: int = 0
    alpha: int = 16
    dropout: float = 0.0
    targets: Sequence[str] = ()


@dataclass(frozen=True)
class HubData:
    """Preference pairs, with columns as TRL has them: ``prompt`` (or in the responses), ``chosen``, ``rejected``.

    Attributes:
        source: hub name, a JSONL file, or ``tweets:FORM`` for the package's own pairs.
        config, split: of a data set on the hub; ``train[:1000]`` are the first so many pairs.
    """

    source: str
    config: str = ""
    split: str = "train"


@dataclass(frozen=True)
class HubRecipe:
    """One run of a pretrained model on a data set by name, in one process or several.

    Attributes:
        model: hub name or folder.
        preference, supervised: a process's own batch size; accumulation, ``max_length`` and so on are in ``extra``.
            Without ``supervised`` the model is trained on the pairs as it is.
        processes: how many the batch is meant for; another number is refused.
        dtype: of the arithmetic. Weights that are trained are kept in float32 beside it.
        chat_template: for conversations, where the tokenizer brings none.
        read_every, forecast_every: strides of the callback, as in ``EntanglementCallback``.
        memory_check: refuse, before anything is loaded, what the device has no room for.
        expects: hours and memory, for the reader; ``benchmarks/expect_scale.py`` writes it.
    """

    name: str
    model: str
    data: HubData
    objective: str
    preference: Stage
    supervised: Stage = field(default_factory=lambda: Stage(steps=0, batch_size=1, learning_rate=0.0))
    lora: Lora = field(default_factory=Lora)
    seed: int = 0
    processes: int = 1
    dtype: str = "float32"
    chat_template: str = ""
    read_every: int = 10
    forecast_every: int = 5
    memory_check: bool = True
    expects: str = ""


Recipe = BaseRecipe | PreferenceRecipe | HubRecipe
_KINDS: dict[str, type] = {"base": BaseRecipe, "preference": PreferenceRecipe, "hub": HubRecipe}


def load_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML file; its ``kind`` is ``base``, ``preference`` or ``hub``.

    Raises:
        InputError: no such file, not YAML, a missing or misspelt key (the nearest one is named), a
            value of the wrong type, an unknown form or objective.
    """
    return recipe_from(read_yaml(path), str(path))


def recipe_from(given: Mapping[str, Any], where: str) -> Recipe:
    """The recipe in a mapping, as :func:`load_recipe` reads it; ``where`` names it in messages."""
    kind = given.get("kind")
    one_of(str(kind), _KINDS, f"{where}: kind is {kind!r}.")
    recipe: Recipe = build(_KINDS[str(kind)], {k: v for k, v in given.items() if k != "kind"}, where)
    check_name(recipe.name, where)
    if isinstance(recipe, BaseRecipe):
        at_least_1(recipe.model, ("vocab_size", "layers", "width", "heads", "positions"), f"{where}: model")
        if recipe.model.width % recipe.model.heads:
            raise InputError(
                f"{where}: model: width is {recipe.model.width}, expected a multiple of the {recipe.model.heads} heads."
            )
    if isinstance(recipe, PreferenceRecipe):
        strides = ("forecast_every", "track_every", "tracked_pairs", "gram_pairs")
        at_least_1(recipe.measure, strides, f"{where}: measure")
        at_least_1(recipe.preference, ("steps", "batch_size", "save_every"), f"{where}: preference")
        for name in (recipe.objective, *recipe.objectives):
            objective(name)
        not_empty(recipe, ("forms", "seeds"), where)
        for name, (changed, form) in recipe.variants().items():
            check_name(name, where)
            build(PreferenceRecipe, asdict(changed), f"{where}: changes: {name}" if recipe.changes else where)
            objective(changed.objective)
            one_of(form, (*FORMS, *review_pairs.FORMS), f"{where}: unknown form {form!r}.")
        _no_loss_type(recipe.preference, where)
        if recipe.objectives and len(recipe.forms) != 1:
            raise InputError(f"{where}: objectives are compared on one form, got {len(recipe.forms)} forms.")
    if isinstance(recipe, HubRecipe):
        _check_hub(recipe, where)
    return recipe


def _check_hub(recipe: HubRecipe, where: str) -> None:
    objective(recipe.objective)
    _no_loss_type(recipe.preference, where)
    if recipe.dtype not in ("float32", "bfloat16"):
        raise InputError(f"{where}: dtype is {recipe.dtype!r}, expected float32 or bfloat16.")
    if recipe.lora.rank and not recipe.lora.targets:
        raise InputError(f"{where}: lora has no targets: name the layers, as in targets: [q_proj, k_proj, v_proj].")
    at_least_1(recipe, ("read_every", "forecast_every", "processes"), where)
    at_least_1(recipe.preference, ("steps", "batch_size", "save_every"), f"{where}: preference")


def _no_loss_type(stage: Stage, where: str) -> None:
    if "loss_type" in stage.extra:
        raise InputError(f"{where}: preference: loss_type is given, but the objective names the loss: leave it out.")
