"""The tweets experiment: a base policy, fine-tuning on one form, preference training, and what is measured."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gentangle.alignment import training
from gentangle.alignment.callback import EntanglementCallback
from gentangle.alignment.policy import (
    collate,
    fresh_copy,
    load_policy,
    response_log_probs,
    small_gpt2,
    to_device,
    train_tokenizer,
)
from gentangle.alignment.preference import OPINION_THRESHOLD, Pair, sentiment_pairs, split_opinions
from gentangle.alignment.recipes import BaseRecipe, Measure, PreferenceRecipe
from gentangle.alignment.tracking import TrackingCallback
from gentangle.profiles import profile
from gentangle.rated_texts import RatedText, corpus_hash, load
from gentangle.runs import RunDirectory

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

Rows = list[dict[str, Any]]


def make_base(recipe: BaseRecipe, folder: Path) -> Rows:
    """Train the base policy and save it to ``folder``: model.safetensors, tokenizer and config.

    Its language stage reads every text of the recipe's domains and the training tweets without
    their ratings; its supervised stage asks the question about the opinionated texts of those
    domains. Of the tweets it sees no rating, and of the held-out ones not even the text.
    """
    texts = [t for domain in recipe.domains for t in load(domain)]
    tweets, _, _ = split_opinions(load("tweets"), recipe.held_out)
    short = [t for t in texts if len(t.text.split()) <= recipe.max_words]
    lines = [t.text for t in [*short, *tweets] if len(t.text.split()) <= recipe.max_words]
    asked = sentiment_pairs([t for t in short if abs(t.rating) > OPINION_THRESHOLD], "one-token", [])
    # The tokenizer also reads the questions, so that each sentiment word is one token.
    tokenizer = train_tokenizer([*lines, *(pair.prompt + pair.chosen for pair in asked)], recipe.model.vocab_size)
    shape = {name: value for name, value in asdict(recipe.model).items() if name != "vocab_size"}
    model = small_gpt2(tokenizer, **shape, seed=recipe.seed)
    work = folder.with_name(folder.name + ".work")
    training.language_model(model, tokenizer, lines, recipe.language, seed=recipe.seed, folder=work / "language")
    training.supervised(model, tokenizer, asked, recipe.supervised, seed=recipe.seed, folder=work / "supervised")
    _save(model, tokenizer, folder)
    shutil.rmtree(work)
    return []


def preference_data(recipe: PreferenceRecipe, form: str) -> tuple[list[Pair], list[Pair], list[RatedText]]:
    """Training pairs, held-out pairs, and the held-out texts they were made of."""
    train, held_out, neutral = split_opinions(load("tweets"), recipe.held_out)
    middle = len(neutral) * len(held_out) // (len(train) + len(held_out))  # no continuation serves both groups
    pairs = sentiment_pairs(train, form, neutral[middle:], seed=0)
    return pairs, sentiment_pairs(held_out, form, neutral[:middle], seed=1), held_out


def run_preference(
    recipe: PreferenceRecipe,
    form: str,
    seed: int,
    *,
    run: RunDirectory | None = None,
    stop_after: int | None = None,
    device: str = "cpu",
) -> Rows:
    """Fine-tune the base on a form, train it on the pairs, and return every measured row.

    Args:
        recipe: settings; ``recipe.measure`` says what is measured and when.
        form: a key of :data:`gentangle.alignment.preference.FORMS`.
        seed: of the order of the data in both stages.
        run: keeps checkpoints and metrics, so that a killed run goes on where it was.
        stop_after: only the first so many preference steps of the same schedule.
        device: ``cpu`` or ``cuda``.

    Returns:
        Rows of the kinds ``accuracy``, ``log`` (TRL's own metrics), ``track`` and ``forecast``.
    """
    torch.set_num_threads(profile().threads)  # the same thread count, the same numbers
    train, held_out, texts = preference_data(recipe, form)
    rows: Rows = run.rows() if run else []

    def seen(row: dict[str, Any]) -> None:
        rows.append(row)
        if run:
            run.add(row)

    model, tokenizer = _fine_tuned(recipe, train, held_out, texts, seed, run, device, seen)
    reference = fresh_copy(model).eval().requires_grad_(False)
    folder = run.path / "preference" if run else None
    if run and folder:
        reached = training.last_step(folder)
        run.keep(lambda row: row["kind"] == "accuracy" or row["step"] <= reached)
        rows[:] = run.rows()
    m = recipe.measure
    groups = {"train": train[: m.tracked_pairs], "held_out": held_out[: m.tracked_pairs]}
    callbacks = [
        EntanglementCallback(every_n_steps=m.forecast_every, forecast_every=1, seen=seen),
        TrackingCallback(tokenizer, groups, m.gram_pairs, m.track_every, seen),
        training.LogCallback(seen),
    ]
    training.preference(
        model,
        tokenizer,
        train,
        recipe.preference,
        seed=seed,
        folder=folder,
        callbacks=callbacks,
        stop_after=stop_after,
        reference=reference,
        objective_name=recipe.objective,
    )
    if run:
        _save(model, tokenizer, run.path / "model")
    return rows


def at_size(recipe: PreferenceRecipe, *, sft_steps: int, tracked_pairs: int, gram_pairs: int) -> PreferenceRecipe:
    """The recipe with a profile's sizes; at the cpu profile's they are the recipe's own."""
    measure = Measure(recipe.measure.forecast_every, recipe.measure.track_every, tracked_pairs, gram_pairs)
    return replace(recipe, supervised=replace(recipe.supervised, steps=sft_steps), measure=measure)


def accuracy(
    model: "GPT2LMHeadModel", tokenizer: "PreTrainedTokenizerFast", pairs: Sequence[Pair], batch_size: int = 64
) -> float:
    """Share of pairs whose chosen response is the likelier one."""
    right = 0
    for start in range(0, len(pairs), batch_size):
        batch = to_device(collate(tokenizer, pairs[start : start + batch_size]), model.device)
        with torch.no_grad():
            chosen, rejected = response_log_probs(model, batch).chunk(2)
        right += int((chosen > rejected).sum())
    return right / len(pairs)


def majority(texts: Sequence[RatedText]) -> float:
    """Accuracy of always giving the commoner sentiment."""
    positive = sum(text.rating > 0 for text in texts) / len(texts)
    return max(positive, 1 - positive)


def run_config(recipe: PreferenceRecipe, form: str, seed: int) -> dict[str, Any]:
    """All that decides a run's numbers, as its directory keeps it."""
    settings = {
        key: value for key, value in asdict(recipe).items() if key not in ("forms", "seeds", "objectives", "tried")
    }
    return settings | {"form": form, "seed": seed, "data_sha256": corpus_hash(["tweets"])}


def _fine_tuned(
    recipe: PreferenceRecipe,
    train: Sequence[Pair],
    held_out: Sequence[Pair],
    texts: Sequence[RatedText],
    seed: int,
    run: RunDirectory | None,
    device: str,
    seen: Any,
) -> "tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]":
    done = run.path / "supervised" / "model" if run else None
    if done and done.exists():
        model, tokenizer = load_policy(done)
        return model.to(device), tokenizer
    if run:
        run.keep(lambda row: False)
    model, tokenizer = load_policy(recipe.base)
    model = model.to(device)
    seen({"kind": "accuracy", "stage": "base", "held_out": accuracy(model, tokenizer, held_out)})
    folder = run.path / "supervised" if run else None
    training.supervised(model, tokenizer, train, recipe.supervised, seed=seed, folder=folder)
    figures = {"held_out": accuracy(model, tokenizer, held_out), "majority": majority(texts)}
    seen({"kind": "accuracy", "stage": "supervised"} | figures)
    if done:
        _save(model, tokenizer, done)
    return fresh_copy(model), tokenizer


def _save(model: "GPT2LMHeadModel", tokenizer: "PreTrainedTokenizerFast", folder: Path) -> None:
    """Save beside, then rename: a folder that exists is whole."""
    beside = folder.with_name(folder.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(beside, folder)
