"""Long runs of kind ``matching``: a model trained on some domains, looked at on the way, and the records of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from gentangle.cache import cache_dir
from gentangle.errors import InputError
from gentangle.matching import algorithms, cdsprites, digits, image_folders, text_domains
from gentangle.matching.domains import Domains, domain_gram, domains_of, mean_metrics
from gentangle.matching.environments import Draws, Environments, Examples, domain_accuracy, leave_out, random_groups
from gentangle.matching.gip import gip, mean_cosine
from gentangle.matching.networks import image_network, small_network
from gentangle.matching.recipes import ALGORITHMS, OPTIMIZERS, MatchingRecipe, Variant
from gentangle.provenance import provenance
from gentangle.runs import RunDirectory, write_record
from gentangle.settings import only

Rows = list[dict[str, Any]]
#: Sets whose domains can be left out, and how many classes each has.
_PARTS: Mapping[str, tuple[Callable[..., Mapping[str, Examples]], int]] = {
    "rotated-digits": (digits.rotated_digits, 10),
    "colored-digits": (digits.colored_digits, 2),
    "text": (text_domains.text_domains, 2),
}


def make_matching_runs(
    recipe: MatchingRecipe,
    *,
    only_variant: str | None = None,
    only_seed: int | None = None,
    results: Path | None = None,
    overwrite: bool = False,
    root: Path | None = None,
) -> list[Path]:
    """Every run of a recipe; each variant has a directory of the cache, which goes on where it was stopped.

    Args:
        only_variant, only_seed: only these.
        results: folder for the reduced records, one a variant that is whole.
        overwrite: begin anew where a run is there already.
        root: of a recipe of images the folder that holds theirs; a moved one is the same run, another's images are not.

    Raises:
        InputError: a variant or seed that the recipe does not have, settings that do not fit or an image that cannot be
            read (nothing is made then), a root that is missing or not needed, or a directory of another recipe or of
            other images.
    """
    variants = recipe.variants()
    names = only(recipe.name, "variant", only_variant, variants)
    seeds = only(recipe.name, "seed", only_seed, recipe.seeds)
    wanted = [(seed, name, tuple(out)) for seed, name, out in product(seeds, names, recipe.left_out)]
    configs = {name: _config(variants[name], root) for name in names}
    new = [name for name in names if overwrite or not _folder(recipe, name).exists()]
    # Before anything is made or replaced: settings that do not fit, and then the images, which take longer to read.
    for name, out in [*product(new, recipe.left_out[:1]), *product(new[:1], recipe.left_out)]:
        make_algorithm(variants[name], environments_of(variants[name].data, seeds[0], out, root), seeds[0])
    sets = {configs[name].get("data_sha256"): variants[name].data for name in new}
    for data in (data for data in sets.values() if data["set"] == "images"):
        image_folders.read_all(_images(data, root))
    folders = {}
    for seed, name, out in tqdm(wanted, unit="run", disable=None):
        run = RunDirectory(_folder(recipe, name), configs[name], overwrite=overwrite and name not in folders)
        folders[name] = run.path
        with run.alone():
            images = configs[name].get("data_sha256")
            run.write_provenance(provenance(seed=None, data=images, device=_device(variants[name])))
            _make_run(run, variants[name], seed, out, root)
    if results and only_seed is None:
        for name in names:
            run = RunDirectory(_folder(recipe, name), configs[name])
            write_record(results / recipe.name / f"{name}.json", run.record())
    return [*folders.values()]


def _folder(recipe: MatchingRecipe, variant: str) -> Path:
    return cache_dir() / "runs" / recipe.name / variant


def _config(variant: Variant, root: Path | None) -> dict[str, Any]:
    """Everything that decides a run's numbers: of images what they are, and not where."""
    if variant.data["set"] == "images":
        return asdict(variant) | {"data_sha256": image_folders.files_hash(_images(variant.data, root))}
    if root is not None:
        raise InputError(f"The set {variant.data['set']} takes no --root, which is for image folders: leave it out.")
    return asdict(variant)


def _device(variant: Variant) -> str:
    """A large network goes to the GPU where there is one; a small one stays, where its bytes are the same each time."""
    return "cuda" if _large(variant) and torch.cuda.is_available() else "cpu"


def _large(variant: Variant) -> bool:
    return bool(variant.data.get("network", "small") != "small")


def _make_run(run: RunDirectory, variant: Variant, seed: int, left_out: Sequence[str], root: Path | None) -> None:
    """The rows of one seed and one set of domains left out; nothing where they are whole already."""
    key = {"seed": seed, "left_out": list(left_out)}
    steps = variant.training.steps
    if any(row["step"] == steps and key.items() <= row.items() for row in run.rows()):
        return
    run_algorithm(variant, seed, left_out, run=run, root=root)


def environments_of(
    data: Mapping[str, Any], seed: int, left_out: Sequence[str] = (), root: Path | None = None
) -> Environments:
    """The data that a recipe names; ``root`` holds the folder of a set of images.

    Raises:
        InputError: it names settings that the set does not take, or domains to leave out that it does not have; of
            images also what :func:`gentangle.matching.image_folders.image_folders` refuses.
    """
    name, settings = data["set"], {key: value for key, value in data.items() if key != "set"}
    if name == "images":
        images = _images(data, root)
        return leave_out(images, left_out, 1 + max(int(y.max()) for _, y in images.values()), seed)
    try:
        if name == "cdsprites":
            return cdsprites.cdsprites(**settings, seed=seed)
        make, classes = _PARTS[name]
        parts = make(**settings, seed=seed)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise InputError(f"The set {name} does not take these settings ({error}).") from error
    return leave_out(parts, left_out, classes, seed)


def _images(data: Mapping[str, Any], root: Path | None) -> image_folders.ImageParts:
    settings = {key: value for key, value in data.items() if key not in ("set", "network", "weights")}
    try:
        return image_folders.image_folders(root, **settings)
    except TypeError as error:
        raise InputError(f"The set images does not take these settings ({error}).") from error


def make_algorithm(variant: Variant, environments: Environments, seed: int) -> algorithms.Algorithm:
    """The variant's algorithm over a fresh network, seeded.

    Raises:
        InputError: hyperparameters that the algorithm does not take, or without which it cannot be.
    """
    training = variant.training
    (x, _), *_ = environments.train.values()
    classes = environments.classes
    if _large(variant):
        weights = variant.data.get("weights", "random")
        model = image_network(variant.data["network"], classes, weights=weights, seed=seed).to(_device(variant))
    else:
        model = small_network(x.shape[1:], classes, width=training.width, seed=seed, norm=training.norm)
    optimizer = partial(OPTIMIZERS[training.optimizer], lr=training.learning_rate)
    try:
        return ALGORITHMS[variant.algorithm](
            model, torch.nn.functional.cross_entropy, optimizer, seed=seed, **variant.settings
        )
    except TypeError as error:
        raise InputError(f"{variant.algorithm} does not take these hyperparameters ({error}).") from error


def run_algorithm(
    variant: Variant,
    seed: int,
    left_out: Sequence[str] = (),
    *,
    steps: int = 0,
    run: RunDirectory | None = None,
    root: Path | None = None,
) -> Rows:
    """Train one variant on one seed's data, and look at it every ``look_every`` updates.

    A small network is trained in one thread on the CPU, to the same bytes each time; a larger one, which a recipe of
    images may name, on a GPU where there is one.

    A row has the number of the update; the means since the last look of the ``loss``, ``gip`` and ``cosine`` that the
    updates saw; the exact ``domain_gip`` and ``domain_cosine`` of the true training domains, on fixed minibatches;
    and the accuracies ``validation`` and ``test`` by domain. ``validation`` has a left-out domain's smaller part too.

    Args:
        left_out: domains that are trained without.
        steps: stop after so many updates, to look at the beginning of a run; 0 for all of them.
        run: where the rows go, and checkpoints from which it goes on.
        root: of images, see :func:`environments_of`.
    """
    with nullcontext() if _large(variant) else _one_thread():
        return _rows(variant, seed, left_out, steps, run, root)


@contextmanager
def _one_thread() -> Iterator[None]:
    """For networks so small that a second thread costs more than it does; and the bytes do not depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _rows(
    variant: Variant, seed: int, left_out: Sequence[str], steps: int, run: RunDirectory | None, root: Path | None
) -> Rows:
    environments, training = environments_of(variant.data, seed, left_out, root), variant.training
    algorithm = make_algorithm(variant, environments, seed)
    phases = [algorithm]
    if training.warm_start:
        phases = [make_algorithm(replace(variant, algorithm="erm", settings={}), environments, seed), algorithm]
    look = partial(_look, environments, _fixed(algorithm, environments, variant, seed))
    if training.random_groups:
        environments = random_groups(environments, seed)
    draws = _draws(environments, variant, seed)
    key, rows, since = {"seed": seed, "left_out": list(left_out)}, [], []
    done = _resume(run, key, phases, draws) if run else 0
    last = min(steps or training.steps, training.steps)
    for step in range(done + 1, last + 1):
        if step == training.warm_start + 1 and len(phases) > 1:
            algorithm.model.load_state_dict(phases[0].model.state_dict())
        updated = phases[0] if step <= training.warm_start else algorithm
        since.append(updated.update(draws.draw()))
        if step % training.look_every == 0 or step == last:
            rows.append({**key, "step": step, **mean_metrics(since), **look(updated)})
            since = []
            if run:
                run.add(rows[-1])
                _checkpoint(run, key, step, phases, draws)
    return rows


def _draws(environments: Environments, variant: Variant, seed: int) -> Draws:
    t, generator = variant.training, torch.Generator().manual_seed(seed)
    one_domain = variant.algorithm == "reptile"
    drawn = (t.batch_size, generator, t.domains_per_step, t.sampling, one_domain, _device(variant))
    return Draws(environments.train, *drawn)


def _fixed(algorithm: algorithms.Algorithm, environments: Environments, variant: Variant, seed: int) -> Domains:
    """A minibatch of each training domain that stays the same over a run."""
    draws = _draws(environments, variant, seed)
    return domains_of(algorithm.model, algorithm.loss, {name: draws.minibatch(name) for name in environments.train})


def _look(environments: Environments, fixed: Domains, algorithm: algorithms.Algorithm) -> dict[str, Any]:
    matrix = domain_gram(algorithm.model, fixed)
    parts = {"validation": environments.validation, "test": environments.test}
    device = next(algorithm.model.parameters()).device

    def predict(x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(algorithm.predict(x.to(device))).cpu()

    found: dict[str, Any] = {
        kind: {str(name): domain_accuracy(predict, examples) for name, examples in part.items()}
        for kind, part in parts.items()
    }
    return found | {
        "domain_gip": gip(matrix),
        "domain_cosine": mean_cosine(float(matrix.sum()), np.diag(matrix).tolist()),
    }


def _checkpoint(
    run: RunDirectory, key: Mapping[str, Any], step: int, phases: Sequence[algorithms.Algorithm], draws: Draws
) -> None:
    """All that decides what comes next, beside the rows that it goes with."""
    states = [phase.state_dict() for phase in phases]
    run.keep({"key": key, "step": step, "phases": states, "draws": draws.generator.get_state()})


def _resume(run: RunDirectory, key: Mapping[str, Any], phases: Sequence[algorithms.Algorithm], draws: Draws) -> int:
    """The update that the checkpoint was made after, 0 where there is none; rows beyond it are taken back."""
    step, saved = 0, run.kept()
    if saved and saved["key"] == key:
        step = saved["step"]
        for phase, state in zip(phases, saved["phases"], strict=True):
            phase.load_state_dict(state)
        draws.generator.set_state(saved["draws"])
    run.put([row for row in run.rows() if row["step"] <= step or not key.items() <= row.items()])
    return step
