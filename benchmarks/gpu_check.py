"""What a machine with a GPU is asked to confirm, by numpy, torch and gentangle.gradients: ``gpu_check.py``.

No network, no transformers, no TRL, no Jupyter: models and data are made here. The Gram engine is compared with the
slow oracle, and forecasts with what a step of DPO then changes, on a GPT-2 in small and pairs that share their suffix.
Written to ``results/gpu_check-DEVICE.json`` on CUDA.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package may not be installed there

from gentangle.atomic import write_json
from gentangle.gradients import gram, jacobian, parameter_step, sgd_forecast, snapshot, step_forecast
from gentangle.profiles import profile
from gentangle.provenance import provenance

RESULTS = Path(__file__).resolve().parents[1] / "results"
VOCABULARY, PROMPT, SUFFIX, PAIRS = 512, 12, 8, 6
BETA = 0.1
#: Relative error of the first-order forecasts of a step: one by SGD is as small as asked for, one by AdamW is not.
FORECAST_BOUNDS = {"SGD": (1e-3, 0.05), "AdamW": (1e-5, 0.05)}

Row = tuple[str, float, float]


class Block(nn.Module):
    """A block of GPT-2: attention, then the multilayer perceptron, each after a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        parts = self.attention(self.before(x)).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        heard = F.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(heard.transpose(1, 2).reshape(rows, length, width))
        return x + self.outer(F.gelu(self.inner(self.between(x))))


class SmallGPT2(nn.Module):
    """GPT-2's shape with a head tied to the embedding; token ids (rows, T) to log-probabilities of the next ones."""

    def __init__(self, width: int = 64, layers: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(64, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        return self.head(self.norm(self.blocks(self.tokens(ids) + self.positions(places)))).log_softmax(-1)


def linear_stack() -> nn.Module:
    """Linear layers with a norm, and one used twice."""
    shared = nn.Linear(32, 32)
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), shared, nn.LayerNorm(32), nn.Tanh(), shared, nn.Linear(32, 4))


def pairs_with_a_suffix(device: str) -> torch.Tensor:
    """Token ids of chosen rows, then as many rejected: a prompt, one token of its own, a suffix that both share."""
    made = torch.Generator().manual_seed(0)
    prompt, suffix = (torch.randint(2, VOCABULARY, (PAIRS, length), generator=made) for length in (PROMPT, SUFFIX))
    words = torch.arange(2).repeat_interleave(PAIRS)[:, None]
    return torch.cat([prompt.repeat(2, 1), words, suffix.repeat(2, 1)], dim=1).to(device)


def responses(ids: torch.Tensor) -> Callable[[nn.Module], torch.Tensor]:
    """Log-probabilities of the responses as a function of the model, (2P,), chosen first."""

    def scalars(model: nn.Module) -> torch.Tensor:
        tokens = model(ids)[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
        return tokens[:, PROMPT - 1 :].sum(-1)

    return scalars


def dpo(log_probs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """DPO's loss of the batch."""
    chosen, rejected = (BETA * (log_probs - reference)).chunk(2)
    return -F.logsigmoid(chosen - rejected).mean()


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def engine_rows(device: str) -> list[Row]:
    """The engine's Gram matrix against the oracle's, by model and precision."""
    tolerance, rows = profile().tolerance, []
    inputs = torch.randn(5, 7, 16, generator=torch.Generator().manual_seed(1))
    ids = pairs_with_a_suffix(device)
    for dtype, bound in ((torch.float64, tolerance.identity), (torch.float32, tolerance.gram)):
        given = inputs.to(device, dtype)
        cases = {
            "linear stack": (linear_stack(), lambda m, given=given: m(given).square().sum((1, 2))),
            "GPT-2 in small": (SmallGPT2(), responses(ids)),
        }
        for name, (model, scalars) in cases.items():
            model = model.to(device, dtype)
            matrices = [gram(model, scalars, method=method) for method in ("engine", "oracle")]
            rows.append((f"engine against oracle, {name}, {dtype}".replace("torch.", ""), relative(*matrices), bound))
    return rows


def forecast_rows(device: str) -> list[Row]:
    """One step of DPO by each optimizer: its first-order forecast against the measured change."""
    rows, ids = [], pairs_with_a_suffix(device)
    scalars = responses(ids)
    for name, (rate, bound) in FORECAST_BOUNDS.items():
        torch.manual_seed(0)
        model = SmallGPT2().to(device, torch.float64)
        before, log_probs = snapshot(model), scalars(model)
        gradients, matrix = jacobian(model, scalars), gram(model, scalars, method="engine")
        reference = log_probs.detach()
        (slopes,) = torch.autograd.grad(dpo(log_probs, reference), log_probs, retain_graph=True)
        kind = torch.optim.SGD if name == "SGD" else torch.optim.AdamW
        optimizer = kind(model.parameters(), lr=rate)
        dpo(log_probs, reference).backward()
        optimizer.step()
        forecast = step_forecast(gradients, parameter_step(before, snapshot(model)))
        measured = (scalars(model) - reference).detach().cpu().numpy()
        rows.append((f"forecast of a step of {name} against the measured change", relative(forecast, measured), bound))
        if name == "SGD":
            by_gram = sgd_forecast(matrix, slopes.cpu().numpy(), rate)
            rows.append(("forecast by the engine's Gram matrix against it", relative(by_gram, measured), bound))
    return rows


def check(device: str) -> tuple[list[Row], float]:
    """Every row, a name with what was found and its bound, and the seconds that they took."""
    torch.manual_seed(0)
    started = time.monotonic()
    return [*engine_rows(device), *forecast_rows(device)], time.monotonic() - started


def record(rows: list[Row]) -> dict[str, object]:
    """The rows, and the table that the book shows of them."""
    listed = [{"check": name, "found": found, "bound": bound} for name, found, bound in rows]
    table = [[name, f"{found:.1e}", f"{bound:.0e}"] for name, found, bound in rows]
    return {"rows": listed, "head": ["Relative error of", "Found", "Allowed"], "ratios": table}


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 0 where every row is within its bound, 1 where one is not, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    device = parser.parse_args(arguments).device
    if device == "cuda" and not torch.cuda.is_available():
        print("gpu_check: torch sees no GPU here; --device cpu runs the same checks on the CPU.", file=sys.stderr)
        return 2
    rows, seconds = check(device)
    for name, found, bound in rows:
        print(f"{'ok  ' if found <= bound else 'FAIL'} {found:9.2e} <= {bound:.0e}  {name}")
    print(f"{len(rows)} checks on {device} in {seconds:.1f} s")
    if device == "cuda":
        made = provenance(seed=0, data=None, device=device)
        named = made["device"].replace(" ", "-").replace("/", "-")
        write_json(RESULTS / f"gpu_check-{named}.json", {"provenance": made, "seconds": seconds} | record(rows))
    return int(any(not found <= bound for _, found, bound in rows))


if __name__ == "__main__":
    sys.exit(main())
