"""The papers' recipes, a few steps of each, timed on this GPU: ``bench_papers_step.py [RECIPE...]``.

Models of the recipes' shapes with random weights, and rows of full length: neither time nor memory depends on what they
hold. Otherwise as :mod:`gentangle.alignment.hub_run` trains: TRL's trainer, PEFT's adapters, this package's callback,
one process. The first step is left out. Two more are read by the callback, and the second of them is forecast too.
Written to ``results/papers_step.json``, where recipes that are not given stay as they are. Without a GPU: nothing.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from expect_scale import CONFIGS
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig

from gentangle.alignment import training
from gentangle.alignment.callback import EntanglementCallback
from gentangle.alignment.objective_trainer import trainer_and_settings
from gentangle.alignment.objectives import objective
from gentangle.alignment.recipes import HubRecipe, load_recipe
from gentangle.alignment.scale import GB, adapter, bare_model, max_length, own_reference, step_operations
from gentangle.atomic import write_json
from gentangle.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes" / "papers"
TOKENIZER = ROOT / "recipes" / "tweets_base"
RESULT = ROOT / "results" / "papers_step.json"
STEPS = 9
READ_EVERY = 4  # steps 1, 5 and 9; every second of these is forecast too: 1 and 9
HEAD = [
    "Recipe, one process",
    "A plain step, the whole stage",
    "TFLOP/s",
    "A step that is read, read and forecast, in plain steps",
    "GB at the peak of a plain step, of a forecast",
]


class Clock(TrainerCallback):
    """Seconds of each step from its first micro-batch to the end of the update, and the peak memory up to each."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.peaks: list[int] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        wait()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        wait()
        self.seconds.append(time.perf_counter() - self.started)
        self.peaks.append(torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def random_model(config: Any, dtype: str, device: str) -> Any:
    """A causal language model of the config's shape with random weights, made on the device."""
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))


def long_rows(recipe: HubRecipe, config: Any) -> list[dict[str, str]]:
    """Pairs that fill a row to the last token: a short question and two long answers, which TRL cuts."""
    pairs = STEPS * recipe.preference.batch_size * recipe.preference.extra.get("gradient_accumulation_steps", 1)
    long = max_length(recipe.preference, config)
    return [
        {"prompt": "what is it?", "chosen": " good day" * long, "rejected": " bad day" * long} for _ in range(pairs)
    ]


def measure(recipe: HubRecipe, device: str) -> dict[str, Any]:
    """Steps of the recipe's preference stage, timed."""
    config = CONFIGS[recipe.model]
    dtype = recipe.dtype if recipe.lora.rank else "float32"  # as the run's own loading does
    model, tokenizer = random_model(config, dtype, device), AutoTokenizer.from_pretrained(TOKENIZER)
    more: dict[str, Any] = {"peft_config": adapter(model, recipe.lora)} if recipe.lora.rank else {}
    if own_reference(recipe):
        more["ref_model"] = random_model(config, dtype, device).eval().requires_grad_(False)
    trainer, settings = trainer_and_settings(objective(recipe.objective), recipe.preference.extra)
    extra = {"bf16": recipe.dtype == "bfloat16"} | settings
    stage = replace(recipe.preference, steps=STEPS, extra=extra)
    clock, read = Clock(), EntanglementCallback(every_n_steps=READ_EVERY, forecast_every=2)
    rows = long_rows(recipe, config)
    training.run_stage(
        trainer, DPOConfig, model, tokenizer, rows, stage, seed=recipe.seed, callbacks=[clock, read], **more
    )
    plain = [i for i in range(1, STEPS) if i % READ_EVERY]
    seconds = statistics.median(clock.seconds[i] for i in plain)
    operations = step_operations(bare_model(config, recipe.lora), config, recipe)
    return {
        "seconds_of_steps": clock.seconds,
        "seconds": seconds,
        "read_ratio": clock.seconds[READ_EVERY] / seconds,
        "forecast_ratio": clock.seconds[2 * READ_EVERY] / seconds,
        "flops": operations / seconds,
        "hours": seconds * recipe.preference.steps / 3600,
        "gigabytes": max(clock.peaks[i] for i in plain) / GB,
        "gigabytes_read": clock.peaks[READ_EVERY] / GB,
        "gigabytes_forecast": clock.peaks[2 * READ_EVERY] / GB,
    }


def record(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What is written: each recipe's figures, and the table's rows."""
    rows = [
        (
            name,
            f"{one['seconds']:.2g} s, {one['hours']:.2g} h",
            f"{one['flops'] / 1e12:.0f}",
            f"{one['read_ratio']:.1f}, {one['forecast_ratio']:.1f}",
            f"{one['gigabytes']:.0f}, {one['gigabytes_forecast']:.0f}",
        )
        for name, one in sorted(recipes.items())
    ]
    return {"head": HEAD, "ratios": rows, "recipes": recipes}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=sorted(path.stem for path in RECIPES.glob("*.yaml")))
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("bench_papers_step: torch sees no GPU here, and nothing is measured.")
        return
    made = provenance(seed=0, data=None, device="cuda")
    for name in given.recipes:
        recipe = replace(load_recipe(RECIPES / f"{name}.yaml"), processes=1)
        found = measure(recipe, "cuda") | {"date": made["date"], "device": made["device"]}
        known = json.loads(RESULT.read_text())["recipes"] if RESULT.exists() else {}
        write_json(RESULT, {"provenance": made} | record(known | {name: found}))
        print(name, {key: round(value, 3) for key, value in found.items() if isinstance(value, float)}, flush=True)


if __name__ == "__main__":
    main()
