"""What a run takes, from shapes alone: memory before a weight is loaded, arithmetic, and hours at a given speed."""

from typing import Any

import torch
from torch import nn

from gentangle.alignment.objectives import objective
from gentangle.alignment.recipes import HubRecipe, Lora, Stage
from gentangle.errors import InputError, nearest

GB = 1e9
#: TRL's own, where a stage says nothing.
MAX_LENGTH = 1024


def adapter(model: nn.Module, lora: Lora) -> Any:
    """PEFT's settings of a recipe's adapters.

    Raises:
        InputError: the model has no linear layer of one of the names.
    """
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    layers = ((name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D))
    known = {name.rpartition(".")[2]: m for name, m in layers}
    for name in lora.targets:
        if name not in known:
            raise InputError(f"lora: no linear layer of the model is called {name!r}. {nearest(name, known)}")
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        fan_in_fan_out=isinstance(known[lora.targets[0]], Conv1D),
        task_type="CAUSAL_LM",
    )


def bare_model(config: Any, lora: Lora) -> Any:
    """The model of a transformers config on the meta device, shapes without weights, inside its adapters."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        return get_peft_model(model, adapter(model, lora)) if lora.rank else model


def own_reference(recipe: HubRecipe) -> bool:
    """Whether the reference is a model beside the policy, and not the policy without its adapters."""
    return not recipe.lora.rank or not objective(recipe.objective).trl.startswith("dpo:")


def memory(model: nn.Module, config: Any, recipe: HubRecipe) -> dict[str, float]:
    r"""Bytes that one process needs at its peak, by part: an estimate.

    Counted tensor by tensor, a plain step of the papers' recipes takes 0.93 to 1.01 times what all but the last part
    say (results/memory_count.json).

    With :math:`N_t` parameters trained and :math:`N_f` frozen, :math:`b` bytes a number (2 in bfloat16, else 4), L
    layers of width d and inner width f, a vocabulary of V, and S tokens in a batch's rows, each as long as the stage
    allows:

    - ``weights``: :math:`4 N_t + b N_f`, and under autocast the trained ones' copies, :math:`2 N_t`;
    - ``training``: :math:`12 N_t`, gradients and AdamW's two moments, and :math:`4 N_t` more for the buckets in which
      several processes average gradients;
    - ``reference``: the weights once more, none where it is the policy without its adapters;
    - ``activations``: :math:`b S L (8 d + 6 f)`; with gradient checkpointing :math:`b S (L d + 8 d + 6 f)`. Logits
      count for nothing: TRL takes them in tiles;
    - ``diagnosis``: of the steps that the callback forecasts: :math:`b S` times both sides of every trained matrix; of
      one over the vocabulary, in float32, :math:`4 S (V + d)`; and :math:`12 N_t`, the weights before the step, their
      step and Adam's preconditioner.

    Args:
        model: as :func:`bare_model` gives it.
        config: its transformers config.
        recipe: the larger of its stages decides about activations.

    Source: activations after Korthikanti et al., arXiv 2205.05198, without attention's own matrix; 6 f where it has
    4 f, since an activation function keeps several of its steps.
    """
    width, half = 2 if recipe.dtype == "bfloat16" else 4, recipe.dtype == "bfloat16"
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters()) - trained
    weights = 4 * trained + width * frozen + (2 * trained if half else 0)
    reference = (width * frozen or 4 * trained) if own_reference(recipe) else 0
    matrices = [p.shape for p in model.parameters() if p.requires_grad and p.dim() == 2]
    over_vocabulary = [shape for shape in matrices if config.vocab_size in shape]
    sides = width * sum(sum(shape) for shape in matrices if shape not in over_vocabulary)
    sides += 4 * sum(next(iter(over_vocabulary), ()))
    tokens = 2 * recipe.preference.batch_size * max_length(recipe.preference, config)
    return {
        "weights": weights,
        "training": (12 if recipe.processes == 1 else 16) * trained,
        "reference": reference,
        "activations": width * max(_kept(config, recipe.preference, 2), _kept(config, recipe.supervised, 1)),
        "diagnosis": tokens * sides + 12 * trained,
    }


def max_length(stage: Stage, config: Any) -> int:
    """Tokens that a row of the stage may have."""
    return int(min(stage.extra.get("max_length") or MAX_LENGTH, config.max_position_embeddings))


def _kept(config: Any, stage: Stage, rows: int) -> int:
    """Numbers that a forward pass keeps for the backward pass."""
    d, layers = config.hidden_size, config.num_hidden_layers
    layer = 8 * d + 6 * (getattr(config, "intermediate_size", None) or 4 * d)
    whole = layers * d + layer if stage.extra.get("gradient_checkpointing") else layers * layer
    return (rows * stage.batch_size * max_length(stage, config) * whole) if stage.steps else 0


def step_operations(model: nn.Module, config: Any, recipe: HubRecipe) -> float:
    r"""Floating-point operations of a process in one preference step whose rows have all their full length.

    For N parameters that multiply (no embedding that is only looked up) and S tokens: the forward pass 2 N S, the
    backward pass 4 N S, or 2 N S where adapters alone are trained; the reference 2 N S; recomputing what gradient
    checkpointing drops, 2 N S. Attention's products of positions and the callback's own are left out, a few
    percent each at these sizes.
    """
    multiplied = sum(p.numel() for p in model.parameters())
    if not config.tie_word_embeddings:
        multiplied -= config.vocab_size * config.hidden_size
    stage = recipe.preference
    passes = 2 + (2 if recipe.lora.rank else 4) + 2 + (2 if stage.extra.get("gradient_checkpointing") else 0)
    pairs = stage.batch_size * stage.extra.get("gradient_accumulation_steps", 1)
    return float(passes * multiplied * 2 * pairs * max_length(stage, config))


def check_memory(recipe: HubRecipe, config: Any, device: torch.device, sharing: int = 1) -> None:
    """Refuse a run that the device has no room for.

    Args:
        sharing: how many processes share the device's memory.

    Raises:
        InputError: it needs more than is free, with the numbers.
    """
    parts = memory(bare_model(config, recipe.lora), config, recipe)
    needed, free = sum(parts.values()), free_bytes(device) / sharing
    if needed > free:
        by_part = ", ".join(f"{name} {size / GB:.3g}" for name, size in parts.items())
        raise InputError(
            f"{recipe.name} needs about {needed / GB:.3g} GB a process ({by_part}); this device has {free / GB:.3g} GB "
            "free for each. Use lora, gradient_checkpointing, a smaller batch_size; or memory_check: false."
        )


def free_bytes(device: torch.device) -> float:
    """Memory that is free on a GPU, or available to programs on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    import psutil  # accelerate brings it

    return float(psutil.virtual_memory().available)
