"""What the Gram matrix adds to a training step, side by side in one run: ``bench_gram_step.py [NAME...]``.

A model of SmolLM2-135M's shape with random weights (timings do not depend on them), 4 pairs unless a name says
otherwise. The plain step is a DPO step on precomputed reference log-probabilities: forward, backward, AdamW. With the
reference's forward pass in it, as TRL has by default, every ratio would be smaller. Written to
``results/gram_step.json``: medians, ratios of medians, and the ratios of neighbouring steps, which noise spreads.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from peak_memory import peak_memory
from transformers import LlamaConfig, LlamaForCausalLM

from gentangle.atomic import write_json
from gentangle.gradients import parameter_step, snapshot
from gentangle.gradients.capture import Capture
from gentangle.gradients.preconditioner import adam_preconditioner
from gentangle.gradients.token_gram import token_gram
from gentangle.profiles import profile
from gentangle.provenance import provenance

RESULT = Path(__file__).resolve().parents[1] / "results" / "gram_step.json"
REPEATS = 9
SMOLLM2 = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
)
#: Name -> (what is timed, tokens a response with its prompt, pairs, what it is compared with, target).
CASES = {
    "diagnosed_step_64": ("pairs", 64, 4, "plain", 1.15),
    "batch_gram_64": ("batch", 64, 4, "plain", 1.35),
    "normalised_update_64": ("normalised", 64, 4, "plain", 1.25),
    "step_forecast_64": ("forecast", 64, 4, "plain", 0.5),
    "adam_forecast_64": ("adam", 64, 4, "plain", 6.0),
    "diagnosed_step_256": ("pairs", 256, 4, "plain", 1.25),
    "paper_way_speedup": ("paper", 64, 8, "pairs", 5.0),
    "token_gram_40_speedup": ("tokens", 64, 1, "token_backwards", 3.0),
}
MEMORY_TARGET = 1.2
TOKENS = 40  # of each response, at the end of the row
EVERY = 8  # one backward a token is timed on every eighth token, and counted for all
TOKEN_MEMORY_TARGET = 0.1


class Steps:
    """One model and one batch, and the ways to take a step on it."""

    def __init__(self, length: int, pairs: int) -> None:
        torch.manual_seed(0)
        self.model = LlamaForCausalLM(SMOLLM2)
        self.pairs = pairs
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-7)
        self.ids = torch.randint(0, SMOLLM2.vocab_size, (2 * pairs, length))
        self.answered = (torch.arange(length) >= length // 2).float().expand(2 * pairs, -1)
        self.reference = torch.zeros(2 * pairs)

    def log_probs(self, rows: slice = slice(None)) -> torch.Tensor:
        """Log-probabilities of the second half of each row."""
        ids = self.ids[rows]
        logits = self.model(input_ids=ids, use_cache=False).logits[:, :-1]
        tokens = logits.gather(-1, ids[:, 1:, None]).squeeze(-1) - logits.logsumexp(-1)
        return (tokens * self.answered[rows, 1:]).sum(-1)

    def loss(self) -> torch.Tensor:
        """DPO's loss of the batch, chosen rows first."""
        ratios = self.log_probs() - self.reference
        return -torch.nn.functional.logsigmoid(0.1 * (ratios[: self.pairs] - ratios[self.pairs :])).mean()

    def step(self) -> None:
        """Let the optimizer step on what ``.grad`` holds."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def plain(self) -> float:
        started = time.perf_counter()
        self.loss().backward()
        self.step()
        return time.perf_counter() - started

    def pairs_gram(self, offsets: tuple[int, ...] | None = None) -> float:
        started = time.perf_counter()
        with Capture(self.model, offsets=offsets or (0, self.pairs)) as seen:
            self.loss().backward()
        sum(seen.gram_by_parameter().values())
        self.step()
        return time.perf_counter() - started

    def batch_gram(self) -> float:
        return self.pairs_gram(tuple(range(2 * self.pairs)))

    def normalised(self) -> float:
        """Gradients of both responses divided by their norms; autograd's own weight gradients are not taken."""
        started = time.perf_counter()
        with Capture(self.model, offsets=(0,), keep=True) as seen:
            torch.autograd.grad(self.loss(), seen.edges)
        norms = np.sqrt(np.diag(sum(seen.gram_by_parameter().values())))
        parameters = dict(self.model.named_parameters())
        for name, update in seen.combination(1 / norms).items():
            parameters[name].grad = update
        self.step()
        return time.perf_counter() - started

    def forecast(self) -> float:
        """What <g_i, theta_after - theta_before> of all rows adds to a step whose Gram matrix is taken."""
        before = snapshot(self.model)
        with Capture(self.model, offsets=(0, self.pairs), keep=True) as seen:
            self.loss().backward()
        self.step()
        started = time.perf_counter()
        seen.changes(parameter_step(before, {name: p.detach() for name, p in self.model.named_parameters()}))
        return time.perf_counter() - started

    def adam(self) -> float:
        """What the Gram matrix of all rows under Adam's diagonal adds to the same step."""
        with Capture(self.model, offsets=(0, self.pairs), keep=True) as seen:
            self.loss().backward()
        self.step()
        started = time.perf_counter()
        seen.gram_under(adam_preconditioner(self.optimizer, self.model))
        return time.perf_counter() - started

    def token_log_probs(self, _: torch.nn.Module | None = None) -> torch.Tensor:
        """Log-probabilities of the last TOKENS tokens of each row, token by token."""
        logits = self.model(input_ids=self.ids, use_cache=False).logits[:, -TOKENS - 1 : -1]
        return logits.gather(-1, self.ids[:, -TOKENS:, None]).squeeze(-1) - logits.logsumexp(-1)

    def tokens(self) -> float:
        started = time.perf_counter()
        token_gram(self.model, self.token_log_probs)
        return time.perf_counter() - started

    def token_backwards(self) -> float:
        """One forward pass and one backward pass a token, of which none is kept and no product is taken."""
        started = time.perf_counter()
        values = self.token_log_probs().flatten()
        forward = time.perf_counter() - started
        for value in values[::EVERY]:
            torch.autograd.grad(value, list(self.model.parameters()), retain_graph=True)
        return forward + EVERY * (time.perf_counter() - started - forward)

    def paper(self) -> float:
        """The paper's way: two forward and two backward passes a pair, one row at a time, gradients compared."""
        started = time.perf_counter()
        for i in range(self.pairs):
            sides = []
            for row in (i, i + self.pairs):
                self.log_probs(slice(row, row + 1)).sum().backward()
                sides.append([p.grad.clone() for p in self.model.parameters()])
                self.optimizer.zero_grad()
            for one, other in ((0, 0), (1, 1), (0, 1)):
                sum(float((a * b).sum()) for a, b in zip(sides[one], sides[other], strict=True))
        return time.perf_counter() - started


WAYS: dict[str, Callable[[Steps], float]] = {
    "plain": Steps.plain,
    "pairs": Steps.pairs_gram,
    "batch": Steps.batch_gram,
    "normalised": Steps.normalised,
    "forecast": Steps.forecast,
    "adam": Steps.adam,
    "paper": Steps.paper,
    "tokens": Steps.tokens,
    "token_backwards": Steps.token_backwards,
}


def measure(way: str, length: int, pairs: int, against: str) -> dict[str, object]:
    """Seconds of both ways, taken in turn, after a warm-up of each."""
    steps = Steps(length, pairs)
    ways = list(dict.fromkeys([way, against] if way == "tokens" else [way, against, "plain"]))
    for name in ways:
        WAYS[name](steps)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS if way not in ("paper", "tokens") else 7):
        for name in ways:
            seconds[name].append(WAYS[name](steps))
    return {name: [round(s, 4) for s in values] for name, values in seconds.items()}


def ratio_of(way: str, against: str, seconds: dict[str, list[float]]) -> float:
    """Ratio of medians; for the paper's way, of what it adds to a plain step to what diagnosis adds."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    if way == "paper":
        return median["paper"] / (median["pairs"] - median["plain"])
    if way == "tokens":
        return median[against] / median[way]
    return median[way] / median[against]


def memory_of(way: str, pairs: int = 4, times: int = 3) -> int:
    """Largest resident memory of a process that takes a few steps, in bytes."""
    call = f"[b.WAYS[{way!r}](s) for _ in range({times})]"
    return peak_memory(f"import bench_gram_step as b; s = b.Steps(64, {pairs}); {call}")


def main(names: list[str]) -> None:
    """Measure the cases named, or all, and add them to what the result already holds."""
    torch.set_num_threads(profile().threads)
    kept = json.loads(RESULT.read_text()) if RESULT.exists() else {"ratios": {}, "targets": {}, "seconds": {}}
    for name in names or [*CASES, "diagnosed_memory_64", "token_gram_40_memory"]:
        if name == "token_gram_40_memory":
            bare, used = memory_of("tokens", 1, 0), memory_of("tokens", 1, 1)
            kept_gradients = 2 * TOKENS * sum(p.numel() for p in Steps(64, 1).model.parameters()) * 4
            ratio, target = (used - bare) / kept_gradients, TOKEN_MEMORY_TARGET
            kept["token_memory_bytes"] = {"bare": bare, "used": used, "kept_gradients": kept_gradients}
        elif name == "diagnosed_memory_64":
            plain, diagnosed = memory_of("plain"), memory_of("pairs")
            ratio, target = diagnosed / plain, MEMORY_TARGET
            kept["seconds"].pop(name, None)
            kept["memory_bytes"] = {"plain": plain, "pairs": diagnosed}
        else:
            way, length, pairs, against, target = CASES[name]
            seconds = measure(way, length, pairs, against)
            ratio = ratio_of(way, against, seconds)
            kept["seconds"][name] = seconds
        kept["ratios"][name], kept["targets"][name] = round(ratio, 3), target
        print(f"{name:24} {ratio:6.3f}  (target {target:g})", flush=True)
    kept["provenance"] = provenance(seed=0, data=None)
    write_json(RESULT, kept)


if __name__ == "__main__":
    main(sys.argv[1:])
