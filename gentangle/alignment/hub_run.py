"""A pretrained model trained on preference pairs by name, in as many processes as ``accelerate launch`` started."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError
from transformers import AutoConfig
from trl import DPOConfig, SFTConfig, SFTTrainer
from trl.data_utils import is_conversational, maybe_extract_prompt

from gentangle.alignment import training
from gentangle.alignment.callback import EntanglementCallback
from gentangle.alignment.objective_trainer import trainer_and_settings
from gentangle.alignment.objectives import objective
from gentangle.alignment.policy import PLAIN_TEMPLATE, load_policy, save_policy
from gentangle.alignment.preference import sentiment_pairs, split_opinions
from gentangle.alignment.recipes import HubData, HubRecipe, Stage
from gentangle.alignment.scale import adapter, check_memory, own_reference
from gentangle.errors import InputError, first_line, nothing_at
from gentangle.provenance import provenance
from gentangle.rated_texts import load
from gentangle.runs import RunDirectory
from gentangle.settings import parse_json

TWEETS = "tweets:"
#: Opinionated tweets that no run trains on, as in recipes/tweets.yaml.
HELD_OUT = 500
#: What a recipe says for its reader: a run is the same run without it.
NO_SETTING = ("expects", "memory_check")


def run_hub(recipe: HubRecipe, path: Path, *, overwrite: bool = False, stop_after: int | None = None) -> Path:
    """Make the run of a recipe in the directory ``path``; started again it goes on, and a whole run is left alone.

    Every process trains; the first alone writes the directory. Its rows are those of its own part of each batch.

    Args:
        recipe: as :func:`gentangle.alignment.recipes.load_recipe` gives it.
        path: directory of the run.
        overwrite: begin anew where a run is there already.
        stop_after: stop after so many steps of the preference stage's schedule.

    Raises:
        InputError: another number of processes, no room, an unknown layer, no pairs, a directory of another recipe.
            Of several processes the first alone says so.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    try:
        _run(recipe, path, overwrite, stop_after, state)
    except InputError:
        if state.is_main_process:
            raise
        raise SystemExit(2) from None
    return path


def _run(recipe: HubRecipe, path: Path, overwrite: bool, stop_after: int | None, state: PartialState) -> None:
    check_machine(recipe, state)
    with training.quiet():
        pairs, dropped = load_pairs(recipe.data)
    config = {key: value for key, value in asdict(recipe).items() if key not in NO_SETTING}
    config["data_sha256"] = data_hash(pairs)
    if state.is_main_process:
        print(f"{len(pairs)} pairs of {recipe.data.source}; dropped, since both responses are one: {dropped}")
        run = RunDirectory(path, config, overwrite=overwrite)
        run.write_provenance(provenance(seed=recipe.seed, data=config["data_sha256"], device=state.device.type))
    with run.alone() if state.is_main_process else nullcontext():
        if state.is_main_process:
            _go_on(run, {"kind": "data", "pairs": len(pairs), "identical_dropped": dropped})
        state.wait_for_everyone()
        whole = path / "model"
        if not whole.exists():
            stages = _Stages(recipe, RunDirectory(path, config), pairs, state)
            stages.prefer(stages.fine_tuned(), stop_after)
    if state.is_main_process:
        print(f"run {'whole' if whole.exists() else 'stopped'} in {path}")


def _go_on(run: RunDirectory, about: dict[str, Any]) -> None:
    """Remove what a kill left half-written: checkpoints without a mark, and rows after the last whole one."""
    training.last_step(run.path / "supervised")
    reached = training.last_step(run.path / "preference")
    whole = (run.path / "model").exists()
    run.put([about, *(row for row in run.rows() if row["kind"] != "data" and (whole or row["step"] <= reached))])


def check_machine(recipe: HubRecipe, state: PartialState) -> None:
    """Refuse what cannot work, from the model's config alone.

    Raises:
        InputError: another number of processes, no such model, an unknown layer, or no room.
    """
    if state.num_processes != recipe.processes:
        raise InputError(
            f"{recipe.name} is meant for {recipe.processes} processes, here are {state.num_processes}: start it by "
            f"accelerate launch --multi_gpu --num_processes {recipe.processes} -m gentangle.cli train."
        )
    try:
        config = AutoConfig.from_pretrained(recipe.model)
    except Exception as error:  # of a broken file transformers raises whatever its reader does
        raise nothing_at("model", recipe.model, "a folder", error) from error
    if recipe.memory_check:
        with training.quiet():
            check_memory(recipe, config, state.device, 1 if state.device.type == "cuda" else state.num_processes)


def load_pairs(data: HubData) -> tuple[Any, int]:
    """The pairs as a data set with ``prompt``, ``chosen``, ``rejected``, and how many identical ones were dropped.

    Raises:
        InputError: no such data, a column is missing, no pair differs, or TRL cannot read them as pairs.
    """
    try:
        return _pairs(data)
    except InputError:
        raise
    except Exception as error:  # datasets, pyarrow and TRL raise by what they stumble over
        raise InputError(
            f"{data.source} holds no pairs that TRL can read ({first_line(error)}): try diagnose on it."
        ) from error


def _pairs(data: HubData) -> tuple[Any, int]:
    found = _read(data)
    for column in ("chosen", "rejected"):
        if column not in found.column_names:
            have = ", ".join(found.column_names)
            raise InputError(f"{data.source} has no column {column!r}, it has {have}: TRL needs chosen and rejected.")
    kept = found.select_columns([c for c in ("prompt", "chosen", "rejected") if c in found.column_names])
    different = kept.filter(lambda chosen, rejected: chosen != rejected, input_columns=["chosen", "rejected"])
    if not len(different):
        raise InputError(f"{data.source}: of {len(kept)} pairs none has two different responses.")
    return different.map(maybe_extract_prompt), len(kept) - len(different)


def _read(data: HubData) -> Any:
    if data.source.startswith(TWEETS):
        texts, _, neutral = split_opinions(load("tweets"), HELD_OUT)
        pairs = sentiment_pairs(texts, data.source.removeprefix(TWEETS), neutral)
        return Dataset.from_list(training.conversations(pairs))
    try:
        if data.source.endswith((".jsonl", ".json")):
            _check_rows(data.source)
            return Dataset.from_json(data.source)
        return load_dataset(data.source, data.config or None, split=data.split)
    except InputError:
        raise
    except (OSError, ValueError, DatasetGenerationError) as error:
        raise nothing_at("data", data.source, f"a JSONL file, {TWEETS}FORM", error) from error


def _check_rows(path: str) -> None:
    """Refuse a line that is no object: over a null, and what is nested by the thousand, pyarrow ends the process."""
    text = Path(path).read_text(encoding="utf-8-sig")
    lines = [text] if text.lstrip().startswith("[") else text.split("\n")
    for number, line in enumerate(lines, 1):
        try:
            given = parse_json(line) if line.strip() else {}
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}.") from error
        rows = given if lines[0] is text and isinstance(given, list) else [given]
        if wrong := next((type(row).__name__ for row in rows if not isinstance(row, Mapping)), None):
            raise InputError(f"{path}, line {number}: {wrong}, expected an object with chosen and rejected.")


def data_hash(pairs: Any) -> str:
    """SHA-256 over the pairs, in order."""
    digest = hashlib.sha256()
    for row in pairs:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


@dataclass(frozen=True)
class _Stages:
    """The stages of a run in one of its processes."""

    recipe: HubRecipe
    run: RunDirectory
    pairs: Any
    state: PartialState

    def fine_tuned(self) -> str:
        """Name or folder of the model that preference training begins from."""
        stage, folder = self.recipe.supervised, self.run.path / "supervised"
        if not stage.steps:
            return self.recipe.model
        if not (folder / "model").exists():
            rows = self.pairs.remove_columns("rejected").rename_column("chosen", "completion")
            model, tokenizer = self.train(SFTTrainer, SFTConfig, self.recipe.model, rows, stage, folder=folder)
            self.save(model.merge_and_unload() if self.recipe.lora.rank else model, tokenizer, folder / "model")
        return str(folder / "model")

    def prefer(self, start: str, stop_after: int | None) -> None:
        """Train by TRL's trainer of the objective, watched by the callback; the end is kept, not a stop before it."""
        clear_device_cache(garbage_collection=True)  # of the stage before
        recipe = self.recipe
        trainer, settings = trainer_and_settings(objective(recipe.objective), recipe.preference.extra)
        stage, folder = replace(recipe.preference, extra=settings), self.run.path / "preference"
        more: dict[str, Any] = {"folder": folder, "callbacks": self.watchers(), "stop_after": stop_after}
        if own_reference(recipe):
            more["ref_model"] = self.load(start)[0].eval().requires_grad_(False)
        trained = self.train(trainer, DPOConfig, start, self.pairs, stage, **more)
        if stop_after is None:
            self.save(*trained, self.run.path / "model")

    def watchers(self) -> list[Any]:
        """What makes the rows. Every process reads its own part of a batch; the first alone keeps what it read."""

        def seen(row: dict[str, Any]) -> None:
            if self.state.is_main_process:
                self.run.add(row)

        every, forecast = self.recipe.read_every, self.recipe.forecast_every
        callback = EntanglementCallback(every_n_steps=every, forecast_every=forecast, seen=seen)
        return [callback, training.LogCallback(seen)]

    def train(self, trainer: Any, config: Any, start: str, rows: Any, stage: Stage, **more: Any) -> tuple[Any, Any]:
        """Model, in its adapters where it has some, and tokenizer after a stage; ``more`` as of ``run_stage``."""
        recipe, (model, tokenizer) = self.recipe, self.load(start)
        if recipe.lora.rank:
            more["peft_config"] = adapter(model, recipe.lora)
        stage = replace(stage, extra={"bf16": recipe.dtype == "bfloat16"} | stage.extra)
        given = (model, tokenizer, rows, stage)
        return training.run_stage(trainer, config, *given, seed=recipe.seed, **more).model, tokenizer

    def load(self, name: str) -> tuple[Any, Any]:
        """Model on the process's device, and tokenizer; a conversation needs a template that says who speaks."""
        recipe = self.recipe
        # Steps of 5e-6 are lost in bfloat16's rounding: only weights that no step moves are kept in it.
        with training.quiet():
            model, tokenizer = load_policy(name, recipe.dtype if recipe.lora.rank else "float32")
        if recipe.chat_template:
            tokenizer.chat_template = recipe.chat_template
        elif tokenizer.chat_template == PLAIN_TEMPLATE and is_conversational(self.pairs[0]):
            raise InputError(
                f"{recipe.data.source} holds conversations, and {name} has no template for them: give chat_template."
            )
        return model.to(self.state.device), tokenizer

    def save(self, model: Any, tokenizer: Any, folder: Path) -> None:
        """Keep the model, or its adapters alone where it is in them; the other processes wait."""
        if self.state.is_main_process:
            save_policy(model, tokenizer, folder)
        self.state.wait_for_everyone()
