"""Diagnosis of a file of preference pairs: each pair's Gram matrix, what one SGD step on it would do, and its case."""

import heapq
import json
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gentangle.alignment.conditions import case, cosine, first_order_changes
from gentangle.alignment.objectives import Objective
from gentangle.alignment.policy import pad_together, response_log_probs, to_device, tokenise
from gentangle.alignment.preference import Pair
from gentangle.alignment.proxies import rankings
from gentangle.errors import InputError
from gentangle.gradients.gram import pair_gram
from gentangle.settings import parse_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMNS = ("prompt", "chosen", "rejected")
WORST = 5


@dataclass
class Summary:
    """What is kept of a file while it streams by: counts, cosines, and the pairs whose chosen response falls most."""

    cases: Counter[str] = field(default_factory=Counter)
    cosines: "array[float]" = field(default_factory=lambda: array("d"))
    worst: list[tuple[float, int]] = field(default_factory=list)
    skipped: int = 0

    def add(self, entry: Mapping[str, Any]) -> None:
        """Count one pair."""
        self.cases[entry["case"]] += 1
        self.cosines.append(entry["cosine"])
        heapq.heappush(self.worst, (-entry["predicted_chosen"], entry["line"]))
        if len(self.worst) > WORST:
            heapq.heappop(self.worst)

    def __str__(self) -> str:
        total = sum(self.cases.values())
        if not total:
            return f"no pair was read ({self.skipped} skipped)"
        lines = [f"{total} pairs, {self.skipped} skipped; median cosine {np.median(self.cosines):+.2f}"]
        lines += [f"  {name:<26} {n:>7}  {n / total:6.1%}" for name, n in self.cases.most_common()]
        fall = [(change, line) for change, line in sorted(self.worst, reverse=True) if change > 0]
        if fall:
            lines.append("chosen falls most, per unit step of SGD on the pair alone:")
            lines += [f"  line {line:<8} {-change:+.3g} nats" for change, line in fall]
        return "\n".join(lines)


def diagnose(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    path: Path,
    objective: Objective,
    *,
    reference: Any = None,
    hyperparameters: Mapping[str, float] | None = None,
    end_of_text: bool = True,
    batch_size: int = 4,
    skip_invalid: bool = False,
    summary: Summary | None = None,
    proxies: bool = False,
) -> Iterator[dict[str, Any]]:
    """An entry for each pair of a JSONL file, in the file's order, while it is read.

    Args:
        model: a causal language model of transformers, or a PEFT model around one.
        tokenizer: its tokenizer.
        path: lines of JSON with ``prompt``, ``chosen``, ``rejected``: texts, or lists of messages.
        objective: whose slopes d_w and d_l are used.
        reference: the frozen reference model; left out, a PEFT model with its adapter off, else the model itself (the
            start of training).
        hyperparameters: of the objective, by name.
        end_of_text: whether the end-of-text token ends a plain response, as in TRL.
        batch_size: pairs in one forward pass.
        skip_invalid: pass over lines that are no pair; ``summary`` counts them.
        summary: filled along the way.
        proxies: also what pairs are ranked by, see :mod:`gentangle.alignment.proxies`.

    Yields:
        ``line``, ``chosen_norm_sq``, ``rejected_norm_sq``, ``inner_product``, ``cosine``, ``d_chosen``, ``d_rejected``,
        ``predicted_chosen``, ``predicted_rejected`` (first-order change in nats per unit step of SGD on this pair
        alone), ``case``, ``logp_chosen``, ``logp_rejected``; with ``proxies`` also ``entanglement``
        (:math:`\\langle w,l\\rangle - \\lVert w\\rVert^2`), ``ches`` and ``edit-distance``.

    Raises:
        InputError: a line that is no pair, with its number, unless ``skip_invalid``; log-probabilities that
            are not finite.
    """
    summary = summary if summary is not None else Summary()
    context = context_of(model)
    pairs = examples(path, tokenizer, context, end_of_text, skip_invalid=skip_invalid, summary=summary)
    while batch := list(islice(pairs, batch_size)):
        for entry in _entries(model, tokenizer, batch, objective, reference, hyperparameters or {}, proxies):
            summary.add(entry)
            yield entry


def example_of(
    text: str, tokenizer: "PreTrainedTokenizerBase", context: int, *, end_of_text: bool = True
) -> dict[str, list[int]]:
    """Token ids of the pair on one line: ``prompt_ids``, ``chosen_ids``, ``rejected_ids``.

    Raises:
        InputError: not JSON, a missing column, a column of another type, chosen equal to rejected, a response without a
            token, a pair longer than the context.
    """
    given = parse_json(text)
    if not isinstance(given, Mapping):
        raise InputError(f"{type(given).__name__}, expected an object with the columns {', '.join(COLUMNS)}")
    missing = [name for name in COLUMNS if name not in given]
    if missing:
        raise InputError(f"the column {missing[0]!r} is missing, expected {', '.join(COLUMNS)}")
    values = [given[name] for name in COLUMNS]
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{error.object[error.start]!r} is half of a surrogate pair and no letter") from error
    if all(isinstance(value, str) for value in values):
        end = tokenizer.eos_token or "" if end_of_text else ""
        pair = Pair(values[0], *(text if text.endswith(end) else text + end for text in values[1:]))
    elif all(_is_conversation(value) for value in values):
        pair = rendered(tokenizer, *values)
    else:
        raise InputError("prompt, chosen and rejected are not all texts, and not all lists of messages (role, content)")
    return fitting(tokenise(tokenizer, pair), context)


def fitting(example: dict[str, list[int]], context: int) -> dict[str, list[int]]:
    """The tokenised pair, if the model can hold it.

    Raises:
        InputError: prompt and response have more tokens than ``context``, or the prompt has none to predict from.
    """
    longest = len(example["prompt_ids"]) + max(len(example["chosen_ids"]), len(example["rejected_ids"]))
    if longest > context:
        raise InputError(f"{longest} tokens, the model's context holds {context}: shorten the pair")
    if not example["prompt_ids"]:
        raise InputError("the prompt is empty, and its last token predicts the first of each response: give a prompt")
    return example


def examples(
    path: Path,
    tokenizer: "PreTrainedTokenizerBase",
    context: int,
    end_of_text: bool,
    *,
    only: int | None = None,
    skip_invalid: bool = False,
    summary: Summary | None = None,
) -> Iterator[tuple[int, dict[str, list[int]]]]:
    """Number and tokenised pair of each line of a JSONL file that is not blank, or of the line ``only``.

    Raises:
        InputError: a line that is no pair, with its number, unless ``skip_invalid``; ``summary`` counts those.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip() or only not in (None, number):
                    continue
                try:
                    yield number, example_of(_decoded(line), tokenizer, context, end_of_text=end_of_text)
                except InputError as error:
                    if not skip_invalid:
                        hint = " Mend it, or pass over such lines with --skip-invalid." if only is None else ""
                        raise InputError(f"{path}, line {number}: {str(error).rstrip('.')}.{hint}") from error
                    if summary:
                        summary.skipped += 1
    except OSError as error:
        raise InputError(f"Cannot read {path} ({error.strerror}): give a JSONL file.") from error


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 (byte {error.start})") from error


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, Mapping) and isinstance(m.get("role"), str) and "content" in m for m in value)
    )


def rendered(tokenizer: "PreTrainedTokenizerBase", prompt: list[Any], chosen: list[Any], rejected: list[Any]) -> Pair:
    """Conversations as texts by the tokenizer's chat template, the prompt up to where the answer begins.

    Raises:
        InputError: the template fails, or changes the prompt once an answer follows.
    """
    try:
        start = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        whole = [tokenizer.apply_chat_template([*prompt, *answer], tokenize=False) for answer in (chosen, rejected)]
    except Exception as error:  # a template is a program: it can fail by any of them
        raise InputError(f"the chat template does not take it ({type(error).__name__}: {error})") from error
    if not all(text.startswith(start) for text in whole):
        raise InputError("the chat template changes the prompt once an answer follows: give another --chat-template")
    return Pair(start, *(text[len(start) :] for text in whole))


def context_of(model: Any) -> int:
    """Positions that the model can hold."""
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2**31)


def _entries(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    batch: Sequence[tuple[int, dict[str, list[int]]]],
    objective: Objective,
    reference: Any,
    hyperparameters: Mapping[str, float],
    proxies: bool,
) -> list[dict[str, Any]]:
    lines = [number for number, _ in batch]
    rows = to_device(pad_together(tokenizer, [example for _, example in batch]), next(model.parameters()).device)
    with torch.no_grad():
        policy = response_log_probs(model, rows).double()
    broken = [n for n, pair in zip(lines, policy.view(2, -1).T.isfinite().tolist(), strict=True) if not all(pair)]
    if broken:
        raise InputError(f"Line {broken[0]}: the log-probabilities are NaN or infinite: check the model's weights.")
    given = _reference_log_probs(model, reference, rows, policy)
    lengths = rows["completion_mask"].sum(-1).double()
    names = ("ref_chosen", "ref_rejected", "len_chosen", "len_rejected")
    arguments = dict(
        zip(names, (*given.cpu().numpy().reshape(2, -1), *lengths.cpu().numpy().reshape(2, -1)), strict=True)
    )
    chosen, rejected = policy.cpu().numpy().reshape(2, -1)
    gram = pair_gram(model, partial(response_log_probs, batch=rows))
    with np.errstate(all="ignore"):
        d_chosen, d_rejected = objective.slopes(chosen, rejected, **arguments, **hyperparameters)
        changes = first_order_changes(gram, d_chosen, d_rejected)
    slopes = np.broadcast_to(np.stack([d_chosen, d_rejected], axis=-1), changes.shape)
    if not (finite := np.isfinite(changes) & np.isfinite(slopes)).all():
        raise InputError(
            f"Line {lines[int(np.argmin(finite.all(-1)))]}: the slopes of {objective.name}, or the changes by them, "
            "are not finite: give another beta."
        )
    columns = {
        "line": lines,
        "chosen_norm_sq": gram[:, 0, 0],
        "rejected_norm_sq": gram[:, 1, 1],
        "inner_product": gram[:, 0, 1],
        "cosine": np.nan_to_num(cosine(gram)),
        "d_chosen": np.broadcast_to(d_chosen, len(lines)),
        "d_rejected": np.broadcast_to(d_rejected, len(lines)),
        "predicted_chosen": changes[:, 0],
        "predicted_rejected": changes[:, 1],
        "case": case(changes),
        "logp_chosen": chosen,
        "logp_rejected": rejected,
    }
    if proxies:
        columns |= {"entanglement": gram[:, 0, 1] - gram[:, 0, 0]}
        columns |= rankings(model, rows, [example for _, example in batch])
    return [
        {name: value.item() if hasattr(value, "item") else value for name, value in zip(columns, row, strict=True)}
        for row in zip(*columns.values(), strict=True)
    ]


def _reference_log_probs(
    model: Any, reference: Any, rows: Mapping[str, torch.Tensor], policy: torch.Tensor
) -> torch.Tensor:
    with torch.no_grad():
        if reference is not None:
            return response_log_probs(reference, rows).double()
        if hasattr(model, "disable_adapter"):
            with model.disable_adapter():
                return response_log_probs(model, rows).double()
    return policy
