"""Fish on a data set of WILDS as its authors ran it: ERM first, then Fish, the best model of ``val`` evaluated."""

import json
from collections.abc import Hashable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from gentangle.atomic import write_atomic, write_json
from gentangle.cache import cache_dir
from gentangle.errors import InputError, one_of
from gentangle.matching.algorithms import Fish
from gentangle.matching.domains import Domains, mean_metrics
from gentangle.matching.fish import fish_step
from gentangle.matching.recipes import OPTIMIZERS
from gentangle.matching.wilds_data import SETS, FishEpoch, Step, domains, load_wilds, passes, tables_hash, transform
from gentangle.matching.wilds_models import RANDOM, TRAIN, make_network, make_tokenizer
from gentangle.provenance import provenance
from gentangle.runs import RunDirectory, rounded, write_record
from gentangle.settings import at_least_1, build, check_name, read_yaml

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class WildsRecipe:
    """A run on one data set.

    Attributes:
        dataset: one of :data:`gentangle.matching.wilds_data.SETS`.
        optimizer: ``sgd`` with ``momentum`` or ``adam`` (AMSGrad, as the authors'): ERM's, and Fish's inner one.
        batch_size: rows of ERM's batch, and of each domain in a step of Fish; over all processes.
        pretrain_steps: of ERM.
        epochs: of Fish, see :class:`gentangle.matching.wilds_data.FishEpoch`.
        meta_lr: divided by ``domains_per_step`` it is Fish's eps.
        domains_per_step: drawn uniformly.
        look_every: steps from one evaluation on ``val`` to the next; 0 for the end of each epoch alone.
        keep: the model that is evaluated at the end is the ``best`` on ``val`` or the ``last``.
        image_size, tokens: of an input, see :func:`gentangle.matching.wilds_data.transform`.
        weights, tokenizer: to begin from, see :mod:`gentangle.matching.wilds_models`.
        model: what differs from DistilBERT's size, where its weights are random.
        processes: that train together.
        small: what differs in the small run, which the fixtures are for.
        expects: what to expect of the run; nothing reads it.
    """

    name: str
    dataset: str
    optimizer: str
    learning_rate: float
    batch_size: int
    pretrain_steps: int
    epochs: int
    meta_lr: float
    domains_per_step: int
    momentum: float = 0.0
    look_every: int = 0
    keep: str = "best"
    image_size: int = 0
    tokens: int = 0
    weights: str = RANDOM
    tokenizer: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    processes: int = 1
    small: dict[str, Any] = field(default_factory=dict)
    expects: str = ""

    @property
    def eps(self) -> float:
        """Of Fish, as the authors' code has it."""
        return self.meta_lr / self.domains_per_step


def load_wilds_recipe(path: str | Path, *, small: bool = False) -> WildsRecipe:
    """The recipe in a YAML file of kind ``wilds``, or its small run.

    Raises:
        InputError: no such file, not YAML, of another kind, a missing or misspelt key, or an unknown name in it.
    """
    given = dict(read_yaml(path))
    if (kind := given.pop("kind", None)) != "wilds":
        raise InputError(f"{path} is of kind {kind!r}, expected wilds: `gentangle train` makes the others.")
    recipe: WildsRecipe = build(WildsRecipe, given, str(path))
    if small:
        recipe = build(WildsRecipe, given | recipe.small | {"name": f"{recipe.name}-small"}, str(path))
    check_name(recipe.name, str(path))
    at_least_1(recipe, ("batch_size", "domains_per_step", "processes"), str(path))
    for value, known, what in (
        (recipe.dataset, SETS, "dataset"),
        (recipe.optimizer, OPTIMIZERS, "optimizer"),
        (recipe.keep, ("best", "last"), "keep"),
    ):
        one_of(value, known, f"{path}: unknown {what} {value!r}.")
    return recipe


def run_wilds(
    recipe: WildsRecipe,
    root: Path,
    *,
    seed: int = 0,
    path: Path | None = None,
    weights: str | None = None,
    tokenizer: str | None = None,
    workers: int = 0,
    overwrite: bool = False,
    results: Path | None = None,
    stop_after: int | None = None,
) -> Path:
    """Make a run in the directory ``path``; killed and started again it goes on, a whole one only prints its table.

    In as many processes as ``accelerate launch`` started: each has its share of every minibatch, and gradients are
    averaged, so the numbers are those of one process (BatchNorm and dropout excepted, which see the share alone).

    Args:
        root: folder that holds the data set's folder.
        seed: of the new layers, the draws and dropout; in PovertyMap it is the fold too, 0 for A to 4 for E.
        path: directory of the run, one of the cache where it is None.
        weights, tokenizer: instead of the recipe's.
        workers: processes that load inputs.
        overwrite: begin anew where a run is there already.
        results: folder for the reduced record ``<name>-seed<seed>.json``: looks, evaluation and provenance.
        stop_after: stop at the first evaluation after so many steps, over both phases.

    Returns:
        The directory: ``predictions/`` in WILDS' submission format, ``evaluation.json`` with all that the evaluator
        says, ``table.txt``, ``metrics.jsonl``.

    Raises:
        InputError: another number of processes, or what :func:`gentangle.matching.wilds_data.load_wilds`,
            :func:`gentangle.matching.wilds_models.make_network` and RunDirectory refuse.
    """
    from accelerate import Accelerator

    state = Accelerator(cpu=not torch.cuda.is_available())
    recipe = replace(recipe, weights=weights or recipe.weights, tokenizer=tokenizer or recipe.tokenizer)
    if state.num_processes != recipe.processes:
        raise InputError(
            f"{recipe.name} is meant for {recipe.processes} processes, here are {state.num_processes}: start it by "
            f"accelerate launch --num_processes {recipe.processes} -m gentangle.cli fish, or change the recipe."
        )
    dataset, path = (
        load_wilds(recipe.dataset, root, _fold(seed)),
        path or cache_dir() / "runs" / recipe.name / f"seed{seed}",
    )
    told = {key: value for key, value in asdict(recipe).items() if key not in ("small", "expects")}
    config = told | {"seed": seed, "data_sha256": tables_hash(dataset)}
    if state.is_main_process:
        made = provenance(seed=seed, data=config["data_sha256"], device=state.device.type)
        RunDirectory(path, config, overwrite=overwrite).write_provenance(made)
    state.wait_for_everyone()
    run = RunDirectory(path, config)
    with run.alone() if state.is_main_process else nullcontext():
        if not (path / "evaluation.json").exists():
            trainer = _Trainer(recipe, dataset, run, seed, workers, state)
            if not trainer.train(stop_after):
                state.print(f"run stopped in {path}")
                return path
            trainer.evaluate_all()
    if results and state.is_main_process:
        found = json.loads((path / "evaluation.json").read_text())
        write_record(results / "wilds" / f"{recipe.name}-seed{seed}.json", run.record(evaluation=found))
    state.print(f"{(path / 'table.txt').read_text()}run whole in {path}")
    return path


@dataclass
class _Trainer:
    """A run in one of its processes."""

    recipe: WildsRecipe
    dataset: Any
    run: RunDirectory
    seed: int
    workers: int
    accelerator: Any

    def __post_init__(self) -> None:
        recipe, dataset, state = self.recipe, self.dataset, self.accelerator
        network, outputs, config = SETS[recipe.dataset].network, int(dataset.n_classes or 1), dict(recipe.model)
        begin = f"{network}: {'random weights, nothing pretrained' if recipe.weights == RANDOM else recipe.weights}"
        tokenizer: Any = None
        if text := network == "distilbert":
            texts = (dataset.get_input(row) for row in dataset.get_subset("train").indices)
            tokenizer = make_tokenizer(recipe.tokenizer, texts)
            config["vocab_size"] = len(tokenizer)
            begin += f"; tokenizer {'made of this data' if recipe.tokenizer == TRAIN else recipe.tokenizer}"
        state.print(begin)
        self.transform = transform(recipe.dataset, tokenizer, image_size=recipe.image_size, tokens=recipe.tokens)
        model = make_network(network, outputs, weights=recipe.weights, seed=self.seed, config=config)
        self.network = state.prepare(model)
        self.bare = state.unwrap_model(self.network)
        self.loss = torch.nn.functional.cross_entropy if dataset.n_classes else torch.nn.functional.mse_loss
        # AMSGrad as the authors' code has it.
        own: Any = {"adam": {"amsgrad": True}, "sgd": {"momentum": recipe.momentum}}[recipe.optimizer]
        make: Any = partial(OPTIMIZERS[recipe.optimizer], lr=recipe.learning_rate, **own)
        self.fish = Fish(self.network, self.loss, make, seed=self.seed, eps=recipe.eps)
        self.erm = make(list(self.network.parameters()))
        least = recipe.processes * (1 if text else 2)  # BatchNorm needs two
        drawn = (recipe.batch_size, recipe.domains_per_step, least, recipe.processes)
        self.epochs = FishEpoch(domains(recipe.dataset, dataset), *drawn)
        self.round, self.step, self.total, self.best = 0, 0, 0, (float("-inf"), self.bare.state_dict())

    # Training: round 0 is ERM's, each one after it is an epoch of Fish's.

    def train(self, stop_after: int | None) -> bool:
        """Train, going on from the checkpoint; whether it came to the end."""
        self.resume()
        self.network.train()
        since, every = list[dict[str, float]](), self.recipe.look_every
        for minibatches, last in self.steps():
            # Dropout depends on the step alone, so that a run goes on with the same bytes.
            torch.manual_seed((self.seed << 32) + self.total * self.recipe.processes + self.accelerator.process_index)
            since.append(self.fish.update(minibatches) if self.round else self.erm_step(minibatches))
            if last or (every and self.step % every == 0):
                self.look(since)
                since = []
                if stop_after is not None and self.total >= stop_after:
                    return False
        return True

    def steps(self) -> Iterator[tuple[dict[Hashable, Batch], bool]]:
        """The minibatches of every step that is left, and whether it ends its round."""
        for number in range(self.round, self.recipe.epochs + 1):
            self.round = number
            if self.round == 1 and self.step == 0:  # Fish begins at ERM's best, and is compared with itself alone
                self.bare.load_state_dict(self.best[1])
                self.best = (float("-inf"), self.best[1])
            plan = self.plan()
            for minibatches in self.batches(plan[self.step :]):
                self.step, self.total = self.step + 1, self.total + 1
                yield minibatches, self.step == len(plan)
            self.step = 0

    def plan(self) -> list[Step]:
        """Rows of every minibatch of the round's steps."""
        if self.round:
            return self.epochs.steps(self.seed + 1000 * self.round)
        rows, size, count = len(self.dataset.get_subset("train")), self.recipe.batch_size, self.recipe.pretrain_steps
        return [{"all": batch} for batch in passes(rows, size, count, self.seed)]

    def batches(self, steps: list[Step]) -> Iterator[dict[Hashable, Batch]]:
        """This process's share (x, y) of each minibatch of each step."""
        state, subset = self.accelerator, self.dataset.get_subset("train", transform=self.transform)
        mine = [{n: rows[state.process_index :: state.num_processes] for n, rows in step.items()} for step in steps]
        rows = [torch.cat([*step.values()]).tolist() for step in mine]
        loader = DataLoader(subset, batch_sampler=rows, num_workers=self.workers, collate_fn=subset.collate)
        for step, (x, y, _) in zip(tqdm(mine, unit="step", disable=None), loader, strict=True):
            sizes = [len(rows) for rows in step.values()]
            xs, ys = x.to(state.device).split(sizes), y.to(state.device).split(sizes)
            yield {name: (xs[number], ys[number]) for number, name in enumerate(step)}

    def erm_step(self, minibatches: Mapping[Hashable, Batch]) -> dict[str, float]:
        """The optimizer's plain step: Fish on one domain all the way."""
        ((x, y),) = minibatches.values()
        domains: Domains = {"all": lambda model: self.loss(model(x), y)}
        return fish_step(self.network, domains, self.erm, eps=1.0, generator=None)

    def look(self, since: list[dict[str, float]]) -> None:
        """Evaluate on ``val``, keep the model where it is to be kept, write a row and a checkpoint."""
        found, _ = self.evaluate("val")
        metrics = SETS[self.recipe.dataset].metrics
        value = found[metrics[0]]
        if value > self.best[0] or self.recipe.keep == "last":
            self.best = (value, {key: tensor.clone() for key, tensor in self.bare.state_dict().items()})
        if self.accelerator.is_main_process:
            at = {"phase": "fish" if self.round else "erm", "step": self.total}
            self.run.add(rounded(at | mean_metrics(since) | {"val": {name: found[name] for name in metrics}}, 17))
            state = (self.round, self.step, self.total, self.best)  # all that decides what comes next
            self.run.keep({"at": state, "fish": self.fish.state_dict(), "erm": self.erm.state_dict()})
        self.accelerator.wait_for_everyone()
        self.network.train()

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one; rows beyond it are taken back."""
        if saved := self.run.kept():
            self.round, self.step, self.total, self.best = saved["at"]
            self.fish.load_state_dict(saved["fish"])
            self.erm.load_state_dict(saved["erm"])
        if self.accelerator.is_main_process:
            self.run.put([row for row in self.run.rows() if row["step"] <= self.total])
        self.accelerator.wait_for_everyone()

    # Evaluation, by wilds' loader and evaluator.

    def evaluate(self, split: str) -> tuple[dict[str, float], torch.Tensor]:
        """All that the evaluator says of a split, and the predictions: labels, or values of shape (n, 1)."""
        from wilds.common.data_loaders import get_eval_loader

        subset = self.dataset.get_subset(split, transform=self.transform)
        size = max(64, self.recipe.batch_size)
        loader = get_eval_loader("standard", subset, batch_size=size, num_workers=self.workers)
        self.network.eval()
        found: list[torch.Tensor] = []
        with torch.no_grad():
            for x, _, _ in self.accelerator.prepare(loader):
                output = self.network(x)
                predicted = output.argmax(dim=-1) if self.dataset.n_classes else output
                found.append(self.accelerator.gather_for_metrics(predicted).cpu())
        predictions = torch.cat(found)
        results, _ = self.dataset.eval(predictions, subset.y_array, subset.metadata_array)
        return {key: float(value) for key, value in results.items()}, predictions

    def evaluate_all(self) -> None:
        """Every split but ``train``, with the model that was kept: predictions, evaluation and table."""
        self.bare.load_state_dict(self.best[1])
        found = {}
        for split in self.dataset.split_dict:
            if split == "train":
                continue
            found[split], predictions = self.evaluate(split)
            if self.accelerator.is_main_process:
                file = self.run.path / "predictions" / submission_name(self.recipe.dataset, split, self.seed)
                write_atomic(file, "".join(f"{value}\n" for value in predictions.flatten().tolist()))
        if self.accelerator.is_main_process:
            table = results_table(found, SETS[self.recipe.dataset].metrics)
            write_atomic(self.run.path / "table.txt", f"{self.recipe.name}, seed {self.seed}\n{table}")
            write_json(self.run.path / "evaluation.json", rounded(found, 17))
        self.accelerator.wait_for_everyone()


def _fold(seed: int) -> str:
    # WILDS asks for the five folds; the published code names its files so, and trains on A each time.
    return "ABCDE"[seed % 5]


def submission_name(dataset: str, split: str, seed: int) -> str:
    """Name of a file of predictions, one a line in the split's order, as WILDS' leaderboard takes them."""
    replicate = f"fold:{_fold(seed)}" if dataset == "poverty" else f"seed:{seed}"
    return f"{dataset}_split:{split}_{replicate}_epoch:best_pred.csv"


def results_table(found: Mapping[str, Mapping[str, float]], metrics: tuple[str, ...]) -> str:
    """The leaderboard's metrics of every split, as text."""
    lines = [f"{'split':<8}" + "".join(f"{name:>21}" for name in metrics)]
    lines += [f"{split:<8}" + "".join(f"{row[name]:>21.3f}" for name in metrics) for split, row in found.items()]
    return "\n".join(lines) + "\n"
