"""Small models of several architectures with scalars of their batch rows, for tests of the Gram engine."""

from collections.abc import Callable

import torch
from torch import nn

Scalars = Callable[[nn.Module], torch.Tensor]
VOCABULARY = 40


def language_model(name: str, *, tied: bool = True, layers: int = 2, width: int = 16) -> nn.Module:
    """A transformers model with random weights; attention in eager mode, no dropout."""
    import transformers as hf

    shared = {"vocab_size": VOCABULARY, "tie_word_embeddings": tied, "bos_token_id": 0, "eos_token_id": 0}
    half = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2}
    configs = {
        "gpt2": lambda: hf.GPT2Config(n_positions=96, n_embd=width, n_layer=layers, n_head=2, **shared),
        "llama": lambda: hf.LlamaConfig(intermediate_size=24, num_key_value_heads=1, pad_token_id=0, **half, **shared),
        "gpt_neox": lambda: hf.GPTNeoXConfig(intermediate_size=24, **half, **shared),
        "opt": lambda: hf.OPTConfig(
            ffn_dim=24, word_embed_proj_dim=width, max_position_embeddings=96, pad_token_id=1, **half, **shared
        ),
        "qwen2": lambda: hf.Qwen2Config(intermediate_size=24, num_key_value_heads=1, **half, **shared),
    }
    return hf.AutoModelForCausalLM.from_config(configs[name]()).eval()


def responses(rows: int, length: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Scalars:
    """Log-probabilities of random responses after random prompts, padded on the right to one length."""
    of_tokens = response_tokens(rows, length, seed, dtype)
    return lambda model: of_tokens(model).sum(-1)


def response_tokens(rows: int, length: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Scalars:
    """The same, token by token, (rows, length - 1), zero where there is no response."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (rows, length), generator=rng)
    lengths = torch.randint(max(2, length // 2), length + 1, (rows, 1), generator=rng)
    mask = (torch.arange(length) < lengths).long()
    answered = mask * (torch.arange(length) >= lengths // 2)

    def scalars(model: nn.Module) -> torch.Tensor:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        tokens = logits.to(dtype).log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        return tokens * answered[:, 1:]

    return scalars


def convolutional() -> nn.Module:
    """Convolutions, group normalisation, and an activation in place."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.ReLU(inplace=True),
        nn.GroupNorm(2, 4),
        nn.Conv2d(4, 3, 3, stride=2, padding=1),
        nn.Flatten(),
        nn.Linear(27, 5),
    )


def images(rows: int, domains: int | None = None, seed: int = 0) -> Scalars:
    """A loss a random image, or the mean loss of each of several domains of neighbouring images."""
    pixels = torch.randn(rows, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    def scalars(model: nn.Module) -> torch.Tensor:
        losses = model(pixels).log_softmax(-1)[:, 0]
        return losses if domains is None else losses.reshape(domains, -1).mean(1)

    return scalars
