"""Policies, a small GPT-2 made here or any causal language model of transformers, and their log-probabilities."""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gentangle import smollm2
from gentangle.alignment.preference import Pair
from gentangle.errors import InputError, first_line, nothing_at

if TYPE_CHECKING:
    import torch
    from transformers import GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"

#: Messages joined as they are. TRL appends an end-of-text token to plain responses but not to
#: templated ones; with this template a one-token response is one token.
PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """Byte-level BPE trained on ``texts``, with one special token that ends and pads."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        texts, vocab_size=vocab_size, min_frequency=2, special_tokens=[END_OF_TEXT], show_progress=False
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
    tokenizer.chat_template = PLAIN_TEMPLATE
    return tokenizer


def small_gpt2(
    tokenizer: "PreTrainedTokenizerFast", *, layers: int, width: int, heads: int, positions: int, seed: int
) -> "GPT2LMHeadModel":
    """GPT-2 with random weights drawn from ``seed``; no dropout, so that a forecast and a step see one function."""
    from transformers import GPT2Config, GPT2LMHeadModel, set_seed

    set_seed(seed)
    end = tokenizer.eos_token_id
    shape = {"n_layer": layers, "n_embd": width, "n_head": heads, "n_positions": positions}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ends = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **shape, **no_dropout, **ends))


def load_policy(
    name: str | Path | None = None, dtype: str = "float32"
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Model (safetensors only) and tokenizer from a folder, or by name where a network is.

    Without a name: SmolLM2-135M-Instruct, from the package that :mod:`gentangle.smollm2` fetched.

    Raises:
        InputError: neither a folder with a model nor a name that could be fetched.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = smollm2.fetched() if name is None else name
    if str(name).startswith((".", "/")) and not Path(name).is_dir():  # a folder is meant: ask no hub for it
        raise nothing_at("model", str(name), "a folder")
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(name)
        ids, rows = max(tokenizer.get_vocab().values()), model.get_input_embeddings().num_embeddings
        tokenizer("a")  # what its settings do not let it do shows here
    except Exception as error:  # of a broken file transformers raises whatever the reader of that file does
        raise nothing_at("model", str(name), "a folder", error) from error
    if ids >= rows:
        raise InputError(f"The tokenizer at {str(name)!r} has the token {ids}, the model {rows}: they do not fit.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    return model, tokenizer


def save_policy(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save model (or adapter) and tokenizer beside, then rename: a folder that exists is whole, and is not replaced."""
    beside = folder.with_name(folder.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    os.rename(beside, folder)


def load_adapter(model: Any, folder: str | Path) -> Any:
    """A PEFT adapter around a model; only the adapter's parameters require a gradient.

    Raises:
        InputError: PEFT is not installed, or there is no adapter that fits.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise InputError("An adapter needs PEFT: pip install 'gentangle[trl]'.") from error
    try:
        return PeftModel.from_pretrained(model, folder, is_trainable=True)
    except Exception as error:  # as above, of PEFT
        raise InputError(f"No adapter for this model at {str(folder)!r} ({first_line(error)}).") from error


def fresh_copy(model: "PreTrainedModel") -> "PreTrainedModel":
    """A model of the same weights and class, without what a trainer has attached to ``model``.

    ``copy.deepcopy`` does not serve: TRL puts a forward of its own on the instance, and that of a
    deep copy still runs the weights of the original.
    """
    import torch

    with torch.random.fork_rng():  # the new model's initial weights are drawn and thrown away
        copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    return copy.to(model.device)


def collate(tokenizer: "PreTrainedTokenizerBase", pairs: Sequence[Pair]) -> "dict[str, torch.Tensor]":
    """A batch as TRL's trainer makes it: the chosen rows, then the rejected rows, padded on the right.

    Keys ``input_ids``, ``attention_mask`` and ``completion_mask`` (1 on the response's tokens), each (2P, T).

    Raises:
        InputError: a response whose text merges into the prompt's tokens or gives no token.
    """
    return pad_together(tokenizer, [tokenise(tokenizer, pair) for pair in pairs])


def tokenise(tokenizer: Any, pair: Pair) -> dict[str, list[int]]:
    """Token ids of a pair: ``prompt_ids``, ``chosen_ids``, ``rejected_ids``; raises as :func:`collate`."""
    return {
        "prompt_ids": tokenizer(pair.prompt, verbose=False)["input_ids"],  # of a long text an error tells
        "chosen_ids": _response_ids(tokenizer, pair.prompt, pair.chosen),
        "rejected_ids": _response_ids(tokenizer, pair.prompt, pair.rejected),
    }


def pad_together(tokenizer: Any, examples: "Sequence[Mapping[str, list[int]]]") -> "dict[str, torch.Tensor]":
    """Examples of :func:`tokenise` as one batch, as :func:`collate` gives it.

    Raises:
        InputError: the tokenizer has no token to pad with.
    """
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    if tokenizer.pad_token_id is None:
        raise InputError("The tokenizer has no pad token and no end-of-text token: set tokenizer.pad_token.")
    batch: dict[str, Any] = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)(list(examples))
    return batch


def _response_ids(tokenizer: Any, prompt: str, response: str) -> list[int]:
    start, whole = (tokenizer(text, verbose=False)["input_ids"] for text in (prompt, prompt + response))
    if whole[: len(start)] != start or len(whole) == len(start):
        raise InputError(
            f"The response {response[:40]!r} does not begin on a token of its own after the prompt: end the "
            "prompt before a space and begin the response with it."
        )
    return whole[len(start) :]


def response_log_probs(model: "torch.nn.Module", batch: "Mapping[str, torch.Tensor]") -> "torch.Tensor":
    r"""Log-probability of each row's response, :math:`\sum_t \log \pi(y_t \mid x, y_{<t})`, shape (rows,), in nats.

    Args:
        model: a causal language model of transformers.
        batch: as :func:`collate` makes it.
    """
    return response_token_log_probs(model, batch).sum(-1)


def response_token_log_probs(model: "torch.nn.Module", batch: "Mapping[str, torch.Tensor]") -> "torch.Tensor":
    """The summands of :func:`response_log_probs`, (rows, T - 1): 0 where the next token is no response's."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    log_probs = logits[:, :-1].float().log_softmax(-1)
    tokens = log_probs.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    return tokens * batch["completion_mask"][:, 1:]


def to_device(batch: "Mapping[str, torch.Tensor]", device: "str | torch.device") -> "dict[str, torch.Tensor]":
    """The batch with every tensor on ``device``."""
    return {key: tensor.to(device) for key, tensor in batch.items()}
