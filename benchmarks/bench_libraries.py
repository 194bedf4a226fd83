"""The Gram matrix of 8 rows beside other libraries, in one run; ``refuses`` where a library does.

Each way computes the same (8, 8) matrix, checked against the oracle. Ratios are to one plain forward and backward pass.
Written to ``results/libraries.json``.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from gentangle.atomic import write_json
from gentangle.gradients import gram
from gentangle.gradients.engine import engine_gram
from gentangle.gradients.oracle import whole
from gentangle.profiles import profile
from gentangle.provenance import provenance

RESULT = Path(__file__).resolve().parents[1] / "results" / "libraries.json"
ROWS, LENGTH, REPEATS = 8, 64, 7


class Conv(nn.Module):
    """A small network of images, with nothing in it that couples rows."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2), nn.ReLU(), nn.Flatten()]
        self.layers = nn.Sequential(*layers, nn.Linear(64 * 14 * 14, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def language_model(name: str) -> nn.Module:
    """A model of transformers of 4 layers and width 192, random weights, attention in eager mode."""
    if name == "GPT-2":
        shape = {"n_embd": 192, "n_layer": 4, "n_head": 4, "n_positions": LENGTH}
        drop = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=4000, bos_token_id=0, eos_token_id=0, attn_implementation="eager", **shape, **drop)
        )
    shape = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=4000, bos_token_id=0, eos_token_id=0, attn_implementation="eager", **shape)
    )


def problem(name: str) -> tuple[nn.Module, torch.Tensor, Callable[[nn.Module, torch.Tensor], torch.Tensor]]:
    """Model, inputs, and the scalars of its rows."""
    torch.manual_seed(0)
    if name == "conv net":
        return Conv(), torch.randn(ROWS, 3, 32, 32), lambda m, x: m(x).log_softmax(-1)[:, 0]

    def log_probs(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        return (logits.gather(-1, ids[:, 1:, None]).squeeze(-1) - logits.logsumexp(-1)).sum(-1)

    return language_model(name).eval(), torch.randint(0, 4000, (ROWS, LENGTH)), log_probs


def by_plain(model, inputs, scalars):
    """One forward and one backward pass, no Gram matrix."""
    torch.autograd.grad(scalars(model, inputs).sum(), list(model.parameters()))
    return None


def by_gentangle(model, inputs, scalars):
    return whole(engine_gram(model, lambda m: scalars(m, inputs), verify=False))


def by_gentangle_checked(model, inputs, scalars):
    return gram(model, lambda m: scalars(m, inputs), method="engine")


def by_torchjd(model, inputs, scalars):
    from torchjd.autogram import Engine

    engine = Engine(model, batch_dim=0)
    try:
        return engine.compute_gramian(scalars(model, inputs)).detach().numpy()
    finally:
        for module in model.modules():
            module._forward_hooks.clear()


def by_opacus(model, inputs, scalars):
    from opacus import GradSampleModule

    wrapped = GradSampleModule(model.train(), loss_reduction="sum")  # it watches in training mode alone
    try:
        scalars(wrapped, inputs).sum().backward()
        rows = torch.cat([p.grad_sample.flatten(1) for p in wrapped.parameters()], 1)
        return (rows.double() @ rows.double().T).numpy()
    finally:
        wrapped.to_standard_module()
        model.zero_grad()


def by_vmap(model, inputs, scalars):
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    class Called(nn.Module):
        def forward(self, *args, **kwargs):
            return torch.func.functional_call(model, self.given, args, kwargs)

    def of_row(given, row):
        called = Called()
        called.given = given
        return scalars(called, row[None])[0]

    found = torch.func.vmap(torch.func.grad(of_row), in_dims=(None, 0))(parameters, inputs)
    rows = torch.cat([g.flatten(1) for g in found.values()], 1)
    return (rows.double() @ rows.double().T).numpy()


WAYS = {
    "gentangle": by_gentangle,
    "gentangle, checked": by_gentangle_checked,
    "TorchJD autogram": by_torchjd,
    "Opacus per-sample": by_opacus,
    "vmap(grad)": by_vmap,
}


def verdict(way, name: str) -> str | None:
    """None where the way gives the oracle's matrix; else why there is no ratio."""
    model, inputs, scalars = problem(name)
    expected = gram(model, lambda m: scalars(m, inputs), method="oracle")
    try:
        found = way(model, inputs, scalars)
    except Exception as error:  # whatever it raises is its refusal
        return f"refuses: {type(error).__name__}: {' '.join(str(error).split())[:90]}"
    off = np.abs(found - expected).max() / np.abs(expected).max()
    return None if off < profile().tolerance.gram else f"differs from the oracle by {off:.1g} (relative)"


def ratios(name: str) -> dict[str, float | str]:
    """Each way's ratio to a plain pass on one model, or why there is none."""
    found: dict[str, float | str] = {}
    usable = {"plain": by_plain}
    for way, call in WAYS.items():
        said = verdict(call, name)
        if said:
            found[f"{way}, {name}"] = said
        else:
            usable[way] = call
    problems = {way: problem(name) for way in usable}
    seconds: dict[str, list[float]] = {way: [] for way in usable}
    for turn in range(REPEATS + 1):
        for way, call in usable.items():
            started = time.perf_counter()
            call(*problems[way])
            if turn:
                seconds[way].append(time.perf_counter() - started)
    plain = statistics.median(seconds.pop("plain"))
    return found | {f"{way}, {name}": round(statistics.median(s) / plain, 2) for way, s in seconds.items()}


def main() -> None:
    """Measure every way on every model."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(profile().threads)
    found: dict[str, float | str] = {}
    for name in ("conv net", "GPT-2", "Llama"):
        found |= ratios(name)
    for name, ratio in found.items():
        print(f"{name:32} {ratio}")
    order = sorted(found, key=lambda n: ([n.endswith(m) for m in ("conv net", "GPT-2", "Llama")].index(True), n))
    made = provenance(seed=0, data=None)
    made["versions"] |= {name: version(name) for name in ("torchjd", "opacus")}
    write_json(RESULT, {"ratios": [[name, found[name]] for name in order], "provenance": made})


if __name__ == "__main__":
    main()
