"""Recipes of kind ``matching``: what a comparison of algorithms over domains does, fixed before a seed is run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from gentangle.errors import InputError, one_of
from gentangle.matching import algorithms
from gentangle.matching.networks import NETWORKS
from gentangle.settings import at_least_1, build, check_name, not_empty, read_yaml

ALGORITHMS: Mapping[str, type[algorithms.Algorithm]] = {
    "erm": algorithms.ERM,
    "idgm": algorithms.IDGM,
    "fish": algorithms.Fish,
    "reptile": algorithms.Reptile,
    "smooth-fish": algorithms.SmoothFish,
    "irm": algorithms.IRM,
    "vrex": algorithms.VREx,
    "group-dro": algorithms.GroupDRO,
}
SETS = ("cdsprites", "rotated-digits", "colored-digits", "text", "images")
OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


@dataclass(frozen=True)
class Training:
    """How a model is trained on its domains.

    Attributes:
        steps: updates; one of Fish's takes as many steps of the inner optimizer as it visits domains.
        batch_size: examples of each domain in an update.
        optimizer: ``adam`` or ``sgd``: Fish's and Reptile's inner one, the others' own.
        learning_rate: its rate.
        domains_per_step: how many an update visits; 0 for all.
        sampling: of these domains, ``uniform`` or by ``size``.
        warm_start: the first so many updates are ERM's, with an optimizer of their own.
        width: channels of the network's first layer.
        norm: BatchNorm in the network.
        random_groups: deal the examples out anew at random before anything: the ablation of domains.
        look_every: updates from one look (accuracies, exact GIP) to the next; one is taken at the end too.
    """

    steps: int
    batch_size: int
    learning_rate: float
    look_every: int
    optimizer: str = "adam"
    domains_per_step: int = 0
    sampling: str = "uniform"
    warm_start: int = 0
    width: int = 16
    norm: bool = False
    random_groups: bool = False


@dataclass(frozen=True)
class MatchingRecipe:
    """Every algorithm in every setting, for every seed and every set of domains left out.

    ``training`` has the settings of all; an algorithm or a setting may change them.

    Attributes:
        data: ``set`` (one of :data:`SETS`) and what its function takes besides the seed; of ``images`` also ``network``
            (of :data:`gentangle.matching.networks.NETWORKS`, ``small`` where none is named) and its ``weights``.
        algorithms: by a name of the reader's choice: ``algorithm`` (of :data:`ALGORITHMS`; else the name is one), its
            hyperparameters, and what it changes of ``training``.
        seeds: of the data, the weights and the draws.
        settings: by name, what each changes of ``data`` and ``training``; one without changes where there are none.
        left_out: sets of domains that are trained without; empty where the data brings its own test domain.
        tried: settings that were tried on other seeds and given up, each with its reason.
        small: what a small run, for a fixture, changes of ``data`` and ``training``; in place of ``settings``.
        expects: what to expect of the run; nothing reads it.

    Raises:
        InputError: an algorithm or setting that does not exist, or two that do not go together.
    """

    name: str
    data: dict[str, Any]
    training: Training
    algorithms: dict[str, dict[str, Any]]
    seeds: Sequence[int]
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: Sequence[Sequence[str]] = ((),)
    tried: Sequence[str] = field(default_factory=tuple)
    small: dict[str, Any] = field(default_factory=dict)
    expects: str = ""

    def variants(self) -> "dict[str, Variant]":
        """Each algorithm in each setting, by name: ``fish``, or ``fish-N5`` where settings have names."""
        found = {}
        for setting, changes in (self.settings or {"": {}}).items():
            for name, own in self.algorithms.items():
                found[f"{name}-{setting}" if setting else name] = self._variant(name, own, changes)
        return found

    def _variant(self, name: str, own: Mapping[str, Any], changes: Mapping[str, Any]) -> "Variant":
        names = Training.__dataclass_fields__
        training = {key: value for key, value in {**changes, **own}.items() if key in names}
        data = {key: value for key, value in changes.items() if key not in names}
        settings = {key: value for key, value in own.items() if key not in {"algorithm", *names}}
        where = f"{self.name}: {name}"
        algorithm = str(own.get("algorithm", name))
        one_of(algorithm, ALGORITHMS, f"{where}: unknown algorithm {algorithm!r}.")
        build(Training, {**vars(self.training), **training}, where)
        return Variant(algorithm, settings, {**self.data, **data}, replace(self.training, **training))


@dataclass(frozen=True)
class Variant:
    """One algorithm in one setting."""

    algorithm: str
    settings: dict[str, Any]
    data: dict[str, Any]
    training: Training


def load_matching_recipe(path: str | Path, *, small: bool = False) -> MatchingRecipe:
    """The recipe in a YAML file of kind ``matching``, or its small run.

    Raises:
        InputError: no such file, not YAML, a missing or misspelt key, an unknown algorithm, set, optimizer or way of
            sampling, no algorithm or seed, or no small run.
    """
    given = {key: value for key, value in read_yaml(path).items() if key != "kind"}
    if small:
        if not given.get("small"):
            raise InputError(f"{path} has no small run: it is made without --small.")
        given |= {"name": f"{given.get('name')}-small", "settings": {"": given["small"]}}
    recipe: MatchingRecipe = build(MatchingRecipe, given, str(path))
    not_empty(recipe, ("algorithms", "seeds", "left_out"), str(path))
    for name, variant in recipe.variants().items():
        check_name(recipe.name, str(path))
        check_name(name, str(path))
        at_least_1(variant.training, ("steps", "batch_size", "look_every", "width"), f"{path}: {name}")
        for value, known, what in (
            (variant.data.get("set"), SETS, "set"),
            (variant.training.optimizer, OPTIMIZERS, "optimizer"),
            (variant.training.sampling, ("uniform", "size"), "sampling"),
            (variant.data.get("network", "small"), NETWORKS, "network"),
        ):
            one_of(str(value), known, f"{path}: unknown {what} {value!r}.")
    return recipe
