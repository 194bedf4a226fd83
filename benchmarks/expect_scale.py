"""What the papers' recipes are expected to take: ``expect_scale.py [--device NAME] [--utilisation U] [--write]``.

Nothing is run. Memory and operations are computed from the shapes of the models (:mod:`gentangle.alignment.scale`);
hours follow from a speed, which is assumed: a device's stated FLOP/s times a utilisation. What was measured stands
beside it: the plain step of ``results/gram_step.json``, its own FLOP/s and its memory against the formula's.
Written to ``results/scale.json``; with ``--write`` also into each recipe's line ``expects``.
"""

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench_gram_step import SMOLLM2
from transformers import AutoConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, MistralConfig

from gentangle.alignment.recipes import HubData, HubRecipe, Lora, Stage, load_recipe
from gentangle.alignment.scale import GB, bare_model, memory, step_operations
from gentangle.atomic import write_atomic, write_json
from gentangle.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "results" / "scale.json"
RECIPES = sorted((ROOT / "recipes" / "papers").glob("*.yaml"))
#: Shapes of the models that the recipes name, as their makers publish them.
CONFIGS = {
    "gpt2": GPT2Config(),
    "EleutherAI/pythia-1.4b": GPTNeoXConfig(
        vocab_size=50304, hidden_size=2048, num_hidden_layers=24, num_attention_heads=16, intermediate_size=8192
    ),
    "meta-llama/Meta-Llama-3-8B": LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=14336,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    ),
    "mistralai/Mistral-7B-v0.1": MistralConfig(tie_word_embeddings=False),
}
#: Stated FLOP/s of dense products on one device, by the recipe's dtype, as its maker publishes them.
DEVICES = {
    "H100 SXM": {"bfloat16": 989e12, "float32": 67e12},
    "A100 80GB": {"bfloat16": 312e12, "float32": 19.5e12},
}
UTILISATION = 0.4  # an assumption, not a measurement


def expected(recipe: HubRecipe, config: AutoConfig, speed: float) -> dict[str, float]:
    """GB a process at the peak, operations of a process in a step, seconds of a step and hours of them all."""
    model = bare_model(config, recipe.lora)
    operations = step_operations(model, config, recipe)
    seconds = operations / speed
    gigabytes = sum(memory(model, config, recipe).values()) / GB
    return {
        "gigabytes": gigabytes,
        "operations": operations,
        "seconds": seconds,
        "hours": seconds * recipe.preference.steps / 3600,
    }


def measured() -> dict[str, float]:
    """The plain step of the benchmark, 4 pairs of 64 tokens: what it reached, and the formula's memory over its own.

    It has no reference pass and keeps whole logits, forward and backward: they are taken out and put in here.
    """
    given = json.loads((ROOT / "results" / "gram_step.json").read_text())
    stage = Stage(steps=1, batch_size=4, learning_rate=0.0, extra={"max_length": 64})
    recipe = HubRecipe("step", "SmolLM2", HubData(""), "dpo", stage, lora=Lora())
    model = bare_model(SMOLLM2, recipe.lora)
    parts = memory(model, SMOLLM2, recipe)
    logits = 4 * 8 * 64 * SMOLLM2.vocab_size * 4  # logits, their log-softmax, and both gradients
    formula = parts["weights"] + parts["training"] + parts["activations"] + logits
    seconds = statistics.median(given["seconds"]["diagnosed_step_64"]["plain"])
    return {
        "flops": 6 / 8 * step_operations(model, SMOLLM2, recipe) / seconds,
        "memory_ratio": formula / given["memory_bytes"]["plain"],
    }


def brief(found: dict[str, float]) -> str:
    """Memory, a step's time and the whole stage's, to two figures."""
    seconds = found["hours"] * 3600
    whole = f"{found['hours']:.2g} h" if seconds >= 3600 else f"{max(seconds / 60, 1):.0f} min"
    return f"{found['gigabytes']:.0f} GB a process, {found['seconds']:.2g} s a preference step, {whole} for all of them"


def record(device: str, utilisation: float) -> dict[str, Any]:
    """Everything that is written: what each recipe is expected to take, and what was measured."""
    found = {}
    for recipe in map(load_recipe, RECIPES):
        speed = DEVICES[device][recipe.dtype] * utilisation
        found[recipe.name] = expected(recipe, CONFIGS[recipe.model], speed)
    assumed = f"one {device} a process at {utilisation:.0%} of its stated FLOP/s, which is an assumption"
    rows = [(f"{name}, not run", brief(one)) for name, one in found.items()]
    one = measured()
    rows += [
        ("measured here: a plain step of SmolLM2's shape", f"{one['flops'] / 1e9:.0f} GFLOP/s"),
        ("its memory by the formula, over the measured", f"{one['memory_ratio']:.2f}"),
    ]
    sentences = {
        name: f"not run; computed for rows of full length: {brief(one)} on {assumed}" for name, one in found.items()
    }
    return {
        "head": ["Run", "Expected"],
        "ratios": rows,
        "assumed": assumed,
        "expected": found,
        "measured": one,
        "sentences": sentences,
    }


def write_expects(sentences: Mapping[str, str]) -> None:
    """Write each recipe's line ``expects`` anew."""
    for path in RECIPES:
        lines = [line for line in path.read_text().splitlines() if not line.startswith("expects:")]
        write_atomic(path, "\n".join([*lines, f"expects: {json.dumps(sentences[path.stem])}", ""]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=DEVICES, default="H100 SXM")
    parser.add_argument("--utilisation", type=float, default=UTILISATION, help="share of the stated FLOP/s")
    parser.add_argument("--write", action="store_true", help="write the recipes' lines `expects` anew")
    given = parser.parse_args()
    found = record(given.device, given.utilisation)
    write_json(RESULT, {"provenance": provenance(seed=None, data=None)} | found)
    if given.write:
        write_expects(found["sentences"])
    for name, value in found["ratios"]:
        print(f"{name:<50} {value}")


if __name__ == "__main__":
    main()
