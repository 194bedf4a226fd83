"""Memory of a step at the papers' scale, counted tensor by tensor where nothing is run: ``count_memory.py``.

The recipes' models, TRL's head, PEFT's adapters and this package's capture go through two micro-batches on tensors that
have a shape and no content (torch's FakeTensorMode), and every storage that lives is counted, rounded to 512 bytes as a
GPU's allocator does. On a GPU kernels fold TRL's tiles of logits where they lie; what stands in for them here would
take memory, so it is left out. Beside the count stand the formula that refuses a run (:mod:`gentangle.alignment.scale`)
and the peaks that ``results/papers_step.json`` has measured. Not counted: the step that the optimizer takes, and what a
forecast does after the backward pass. Written to ``results/memory_count.json``.
"""

import json
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from expect_scale import CONFIGS
from peft import get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM
from trl.kernels import chunked_logprob
from trl.trainer.utils import add_fused_lm_head, disable_dropout_in_model

from gentangle.alignment import training
from gentangle.alignment.callback import causal_model
from gentangle.alignment.recipes import HubRecipe, load_recipe
from gentangle.alignment.scale import GB, adapter, bare_model, max_length, memory, own_reference
from gentangle.atomic import write_json
from gentangle.gradients import capture as capturing
from gentangle.gradients import factors, fused_head
from gentangle.gradients.capture import Capture
from gentangle.gradients.fused_head import FusedHead
from gentangle.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes" / "papers"
MEASURED = ROOT / "results" / "papers_step.json"
RESULT = ROOT / "results" / "memory_count.json"
#: What TRL's DPOTrainer asks its head for.
HEAD_OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")
BLOCK = 512  # bytes to which a GPU's allocator rounds
#: What of a step the callback does; ``wide`` is a forecast whose factors are kept in float32, as they once were.
READINGS = ("plain", "read", "forecast", "wide")
HEAD = [
    "Recipe, one process",
    "A plain step, GB: counted, by the formula",
    "Factors of a forecast, GB: now, in float32",
    "A plain step beside the latter, GB: counted, measured",
    "A step that is read, that is forecast, GB: counted",
]


class Living(TorchDispatchMode):
    """Bytes of the storages that operations made and that still live, and the most there were at once."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self._seen:
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, -(-storage.nbytes() // BLOCK) * BLOCK

        def gone() -> None:
            self._seen.discard(key)
            self.now -= size

        self._seen.add(key)
        weakref.finalize(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def of_shape(model: Any) -> Any:
    """A model from the meta device on the CPU's device type; trained weights in float32, as PEFT and autocast want."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None and id(p) not in made:
                kind = torch.float32 if p.requires_grad else p.dtype
                made[id(p)] = torch.nn.Parameter(torch.empty(p.shape, dtype=kind), requires_grad=p.requires_grad)
            module._parameters[name] = made[id(p)] if p is not None else None
        for name, b in module._buffers.items():
            module._buffers[name] = None if b is None else torch.empty(b.shape, dtype=b.dtype)
    return model


def on_meta(recipe: HubRecipe, config: Any) -> Any:
    """The recipe's model with TRL's head inside PEFT's adapters, shapes alone; dropout off, as TRL trains."""
    kind = recipe.dtype if recipe.lora.rank else "float32"
    with torch.device("meta"), training.quiet():
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, kind))
        add_fused_lm_head(model, outputs=HEAD_OUTPUTS)
        if recipe.lora.rank:
            model = get_peft_model(model, adapter(model, recipe.lora))
    disable_dropout_in_model(model)
    return model


@contextmanager
def without_contents(wide: bool) -> Iterator[None]:
    """Instead of what looks into a tensor: TRL's tiles are folded where they lie, rows are full, all tokens differ."""
    with ExitStack() as stack:
        for name in ("_forward_tile", "_backward_tile", "_addmm_fp32"):
            stack.enter_context(mock.patch.object(chunked_logprob, name, fold_in_place))
        for module in (factors, fused_head):
            stack.enter_context(mock.patch.object(module, "used_first", all_positions))
        stack.enter_context(mock.patch.object(factors, "_same", one_storage))
        if wide:
            stack.enter_context(mock.patch.object(capturing, "with_numbers", lambda factor, change: factor))
        stack.enter_context(mock.patch.object(torch.Tensor, "unique", lambda index: index))
        yield


def fold_in_place(*_: Any, **__: Any) -> None:
    """No memory. (A Mock would hold what it was given.)"""


def one_storage(one: torch.Tensor, other: torch.Tensor) -> bool:
    storages = [tensor.untyped_storage()._cdata for tensor in (one, other)]
    return storages[0] == storages[1] and one.shape == other.shape and one.stride() == other.stride()


def all_positions(used: torch.Tensor) -> torch.Tensor:
    return torch.arange(used.shape[1]).expand(used.shape)


def count(recipe: HubRecipe, config: Any, reading: str = "plain") -> dict[str, float]:
    """GB of a process: weights and AdamW's moments, the most that two micro-batches add, and what is kept at their end.

    Args:
        reading: of ``READINGS``.
    """
    policy, stage = on_meta(recipe, config), recipe.preference
    reference = on_meta(recipe, config).requires_grad_(False) if own_reference(recipe) else None
    with FakeTensorMode(), without_contents(reading == "wide"), ExitStack() as hooks:
        policy = of_shape(policy).train()
        standing = [*policy.parameters(), *policy.buffers()]
        if reference is not None:
            reference = of_shape(reference).eval()
            standing += [*reference.parameters(), *reference.buffers()]
        if stage.extra.get("gradient_checkpointing"):
            causal_model(policy).gradient_checkpointing_enable({"use_reentrant": False})
            policy.enable_input_require_grads()
        ids = torch.zeros(2 * stage.batch_size, max_length(stage, config), dtype=torch.long)
        capture, kept = None, 0
        with Living([*standing, ids]) as living:
            for _ in range(2):  # where gradients are accumulated, the second has the first one's beside it
                if reading != "plain":
                    capture = hooks.enter_context(Capture(policy, keep=reading != "read"))
                    hooks.enter_context(FusedHead(capture, causal_model(policy)))
                forward_and_backward(policy, reference, ids, recipe.dtype == "bfloat16")
                hooks.close()
                kept = living.now
                capture = None
                kept -= living.now
                if stage.extra.get("gradient_accumulation_steps", 1) == 1:
                    policy.zero_grad()
        trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
        weights = sum(p.numel() * p.element_size() for p in standing)
    return {"standing": (weights + 8 * trained) / GB, "step": living.peak / GB, "kept": kept / GB}


def forward_and_backward(policy: Any, reference: Any, ids: torch.Tensor, narrow: bool) -> None:
    """DPO's loss of a batch as TRL computes it, under autocast where ``narrow``."""
    given = {"input_ids": ids, "labels": ids, "use_cache": False, "fused_lm_head": True}
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        s = policy(**given).log_probs.sum(1)
        with torch.no_grad(), policy.disable_adapter() if reference is None else nullcontext():
            s_reference = (policy if reference is None else reference)(**given).log_probs.sum(1)
        chosen, rejected = (s - s_reference).chunk(2)
    (-torch.nn.functional.logsigmoid(chosen - rejected).mean()).backward()


def counted(recipe: HubRecipe) -> dict[str, float]:
    """A recipe's counts by what is read, and the formula's GB for its preference stage."""
    config = CONFIGS[recipe.model]
    found = {reading: count(recipe, config, reading) for reading in READINGS}
    alone = replace(recipe, supervised=replace(recipe.supervised, steps=0))
    parts = memory(bare_model(config, recipe.lora), config, alone)
    diagnosis = parts.pop("diagnosis")
    return {
        **{reading: found[reading]["standing"] + found[reading]["step"] for reading in READINGS[:3]},
        "kept": found["forecast"]["kept"],
        "kept_wide": found["wide"]["kept"],
        "formula": sum(parts.values()) / GB,
        "formula_forecast": (sum(parts.values()) + diagnosis) / GB,
    }


def record(recipes: Mapping[str, Mapping[str, float]], measured: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What is written: each recipe's figures, and the table's rows."""
    rows = [
        (
            name,
            f"{one['plain']:.1f}, {one['formula']:.1f}",
            f"{one['kept']:.1f}, {one['kept_wide']:.1f}",
            f"{one['plain'] + one['kept_wide']:.1f}, "
            + (f"{measured[name]['gigabytes']:.1f}" if name in measured else "not measured"),
            f"{one['read']:.1f}, {one['forecast']:.1f}",
        )
        for name, one in sorted(recipes.items())
    ]
    return {"head": HEAD, "ratios": rows, "recipes": recipes}


def main() -> None:
    found = {}
    for path in sorted(RECIPES.glob("*.yaml")):
        found[path.stem] = counted(replace(load_recipe(path), processes=1))
        print(path.stem, {name: round(value, 2) for name, value in found[path.stem].items()}, flush=True)
    written = record(found, json.loads(MEASURED.read_text())["recipes"])
    write_json(RESULT, {"provenance": provenance(seed=None, data=None)} | written)


if __name__ == "__main__":
    main()
