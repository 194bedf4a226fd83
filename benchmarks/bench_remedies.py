"""What each remedy adds to a training step, side by side in one run: ``bench_remedies.py [--rounds N] [--write]``.

A step is TRL's own: the policy's and the reference's forward pass, the backward pass, AdamW, at 8 pairs of 48 tokens.
Two GPT-2 models: the book's base policy, and one of 4 layers and width 384. Rounds of all trainers are interleaved; a
ratio is that of medians. With ``--write`` it goes to ``results/remedy_steps.json``.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from gentangle.alignment.policy import fresh_copy, load_policy, small_gpt2
from gentangle.alignment.remedy_trainers import REMEDY_TRAINERS
from gentangle.alignment.training import quiet
from gentangle.atomic import write_json
from gentangle.profiles import profile
from gentangle.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "results" / "remedy_steps.json"
ROUNDS = 15
PAIRS, LENGTH = 8, 48
WAYS: dict[str, Any] = {"plain": DPOTrainer, **REMEDY_TRAINERS}


def policies() -> tuple[dict[str, Any], Any]:
    """Models by name, and the tokenizer of them all."""
    base, tokenizer = load_policy(ROOT / "recipes" / "tweets_base")
    middle = small_gpt2(tokenizer, layers=4, width=384, heads=6, positions=128, seed=0)
    return {"3 layers x 192": base, "4 layers x 384": middle}, tokenizer


def batch(vocabulary: int) -> dict[str, torch.Tensor]:
    """Random tokens, the second half of each row a response."""
    ids = torch.randint(0, vocabulary, (2 * PAIRS, LENGTH), generator=torch.Generator().manual_seed(0))
    answered = (torch.arange(LENGTH) >= LENGTH // 2).long().expand_as(ids)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": answered}


def stepper(make: Any, model: Any, tokenizer: Any, folder: str) -> Callable[[], float]:
    """A function that takes one step of a trainer and gives its seconds."""
    rows = [{"prompt": "a film", "chosen": " good", "rejected": " bad"}]
    config = DPOConfig(folder, bf16=False, gradient_checkpointing=False, report_to=[], learning_rate=1e-6, use_cpu=True)
    trainer = make(
        model=fresh_copy(model),
        ref_model=fresh_copy(model).eval(),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    inputs = batch(len(tokenizer))

    def step() -> float:
        started = time.perf_counter()
        trainer.training_step(trainer.model, inputs)
        trainer.optimizer.step()
        trainer.model.zero_grad()
        return time.perf_counter() - started

    return step


def measure(model: Any, tokenizer: Any, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way's steps, taken in turn after two of each that do not count."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        steps = {name: stepper(make, model, tokenizer, folder) for name, make in WAYS.items()}
        taken = [{name: round(step(), 5) for name, step in steps.items()} for _ in range(rounds + 2)]
    return {name: [seconds[name] for seconds in taken[2:]] for name in WAYS}


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Medians over that of the plain step."""
    plain = statistics.median(seconds["plain"])
    return {name: round(statistics.median(found) / plain, 3) for name, found in seconds.items()}


def main(rounds: int, write: bool) -> None:
    """Measure both models, print, and write where asked to."""
    torch.set_num_threads(profile().threads)
    models, tokenizer = policies()
    seconds: dict[str, dict[str, list[float]]] = {}
    for size, model in models.items():
        seconds[size] = measure(model, tokenizer, rounds)
        for name, ratio in ratios(seconds[size]).items():
            print(f"{size:16} {name:12} {ratio:6.3f}", flush=True)
    if write:
        found = {size: ratios(measured) for size, measured in seconds.items()}
        write_json(RESULT, {"ratios": found, "seconds": seconds, "provenance": provenance(seed=0, data=None)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    main(given.rounds, given.write)
