"""The tweets experiment: a base policy, fine-tuning on one form, preference training, and what is measured."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gentangle import smollm2
from gentangle.alignment import review_pairs, training
from gentangle.alignment.callback import EntanglementCallback
from gentangle.alignment.policy import (
    PLAIN_TEMPLATE,
    collate,
    fresh_copy,
    load_policy,
    response_log_probs,
    save_policy,
    small_gpt2,
    to_device,
    train_tokenizer,
)
from gentangle.alignment.preference import Pair, sentiment_pairs, split_opinions
from gentangle.alignment.recipes import BaseRecipe, Measure, PreferenceRecipe
from gentangle.alignment.stages import part_grams, suffix_look, token_look
from gentangle.alignment.tracking import TrackingCallback, look
from gentangle.profiles import profile
from gentangle.rated_texts import OPINION_THRESHOLD, RatedText, corpus_hash, load
from gentangle.runs import RunDirectory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Rows = list[dict[str, Any]]

#: Kinds of rows that speak of the policy between the stages, and of no step.
AT_STAGES = ("accuracy", "stage", "masks")
#: At most so many pairs of each group have their token heatmap taken between the stages, and half of ``gram_pairs``.
HEATMAPS = 4


def make_base(recipe: BaseRecipe, folder: Path) -> None:
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
    save_policy(model, tokenizer, folder)
    shutil.rmtree(work)


def preference_data(recipe: PreferenceRecipe, form: str) -> tuple[list[Pair], list[Pair], list[RatedText]]:
    """Training pairs, held-out pairs, and the held-out tweets they were made of (none in the forms of sentences)."""
    if form in review_pairs.FORMS:  # what the policy writes itself is drawn later, once it is fine-tuned on these
        pairs = review_pairs.human_pairs()
        return pairs[recipe.held_out :], pairs[: recipe.held_out], []
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
        form: of :data:`gentangle.alignment.preference.FORMS` or :data:`gentangle.alignment.review_pairs.FORMS`.
        seed: of the order of the data in both stages, and of what the policy writes.
        run: keeps checkpoints and metrics; a killed run goes on. What it fine-tunes stands beside it, for others too.
        stop_after: only the first so many preference steps of the same schedule.
        device: ``cpu`` or ``cuda``.

    Returns:
        Rows of the kinds ``log`` (TRL's own metrics), ``track``, ``forecast``, of a trainer with token masks ``masks``,
        and with ``run`` ``accuracy`` and ``stage`` (see :mod:`gentangle.alignment.stages`).

    Raises:
        InputError: another process makes the fine-tuned policy.
    """
    torch.set_num_threads(profile().threads)  # the same thread count, the same numbers
    train, held_out, texts = preference_data(recipe, form)
    model, tokenizer, rows = _fine_tuned(recipe, form, train, held_out, texts, seed, run, device)
    if form == "sampled":
        wanted = min(len(train), recipe.preference.steps * recipe.preference.batch_size)
        train, held_out = (
            review_pairs.sampled_pairs(model, tokenizer, pairs, seed) for pairs in (train[:wanted], held_out)
        )
        if run:
            _at_stage(rows.append, "sampled", recipe, model, tokenizer, train, held_out)
    folder = run.path / "preference" if run else None
    if run and folder:
        reached = training.last_step(folder)  # 0: it begins anew, first look and all
        rows += [row for row in run.rows() if row["kind"] not in AT_STAGES and row["step"] <= reached > 0]
        run.put(rows)

    def seen(row: dict[str, Any]) -> None:
        rows.append(row)
        if run:
            run.add(row)

    trainer = training.preference(
        model,
        tokenizer,
        train,
        recipe.preference,
        seed=seed,
        folder=folder,
        callbacks=_watchers(recipe, tokenizer, train, held_out, seen),
        stop_after=stop_after,
        reference=None if recipe.lora else fresh_copy(model).eval().requires_grad_(False),
        objective_name=recipe.objective,
        remedy=recipe.remedy,
        lora=recipe.lora,
    )
    if hasattr(trainer, "token_masks"):
        seen({"kind": "masks", "masks": {tokenizer.decode([v]): mu for v, mu in trainer.token_masks().items()}})
    if run and stop_after is None:
        _at_stage(seen, "preference", recipe, trainer.model, tokenizer, train, held_out)
    if run and folder:
        save_policy(trainer.model, tokenizer, run.path / "model")
        shutil.rmtree(folder)
    return rows


def _watchers(
    recipe: PreferenceRecipe, tokenizer: Any, train: Sequence[Pair], held_out: Sequence[Pair], seen: Any
) -> list[Any]:
    """A run's callbacks; no forecasts under token masks, whose margin is no function of the two log-probabilities."""
    m = recipe.measure
    groups = {"train": train[: m.tracked_pairs], "held_out": held_out[: m.tracked_pairs]}
    tracking = [TrackingCallback(tokenizer, groups, m.gram_pairs, m.track_every, seen), training.LogCallback(seen)]
    if recipe.remedy == "token-masks":
        return tracking
    watched = collate(tokenizer, held_out[: m.gram_pairs])
    return [
        EntanglementCallback(every_n_steps=m.forecast_every, forecast_every=1, seen=seen, held_out=watched),
        *tracking,
    ]


def at_size(recipe: PreferenceRecipe, *, sft_steps: int, tracked_pairs: int, gram_pairs: int) -> PreferenceRecipe:
    """The recipe with a profile's sizes in place of its own."""
    measure = Measure(recipe.measure.forecast_every, recipe.measure.track_every, tracked_pairs, gram_pairs)
    return replace(recipe, supervised=replace(recipe.supervised, steps=sft_steps), measure=measure)


def accuracy(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", pairs: Sequence[Pair], batch_size: int = 64
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
    """All that decides a run's numbers, as its directory keeps it; what the recipe leaves empty is not in it."""
    compared = ("forms", "seeds", "objectives", "changes", "tried")
    settings = {key: value for key, value in asdict(recipe).items() if key not in compared and value not in ("", {})}
    return settings | {"form": form, "seed": seed, "data_sha256": corpus_hash(_domains(form))}


def _domains(form: str) -> list[str]:
    return list(review_pairs.SOURCES) if form in review_pairs.FORMS else ["tweets"]


def _fine_tuned(
    recipe: PreferenceRecipe,
    form: str,
    train: Sequence[Pair],
    held_out: Sequence[Pair],
    texts: Sequence[RatedText],
    seed: int,
    run: RunDirectory | None,
    device: str,
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase, Rows]":
    """The policy after fine-tuning and the rows measured on the way; made once for all runs that begin with it."""
    with _fine_tuned_beside(run, recipe, form, seed) as kept:
        if kept and (kept.path / "model").exists():
            with training.quiet():
                model, tokenizer = load_policy(kept.path / "model")
            return model.to(device), tokenizer, kept.rows()
        with training.quiet():
            model, tokenizer = load_policy(None if recipe.base == smollm2.NAME else recipe.base)
        tokenizer.chat_template = PLAIN_TEMPLATE  # the question is a text to go on with, whatever the model was taught
        model = model.to(device)
        rows: Rows = []
        measured = (recipe, model, tokenizer, train, held_out)
        if kept:
            _at_stage(rows.append, "base", *measured)
        training.supervised(
            model, tokenizer, train, recipe.supervised, seed=seed, folder=kept.path / "supervised" if kept else None
        )
        if kept:
            _at_stage(rows.append, "supervised", *measured)
            if texts:
                next(row for row in reversed(rows) if row["kind"] == "accuracy")["majority"] = majority(texts)
            kept.put(rows)
            save_policy(model, tokenizer, kept.path / "model")
            shutil.rmtree(kept.path / "supervised")
        return fresh_copy(model), tokenizer, rows


@contextmanager
def _fine_tuned_beside(
    run: RunDirectory | None, recipe: PreferenceRecipe, form: str, seed: int
) -> Iterator[RunDirectory | None]:
    """Where the runs' fine-tuned policy is kept, held against other processes until it is whole."""
    if run is None:
        yield None
        return
    form = "human" if form == "sampled" else form
    config = run_config(recipe, form, seed)
    decides = ("base", "held_out", "supervised", "measure", "form", "seed", "data_sha256")
    kept = RunDirectory(run.path.parent / f"supervised-{form}-seed{seed}", {name: config[name] for name in decides})
    with nullcontext() if (kept.path / "model").exists() else kept.alone():
        yield kept


def _at_stage(
    seen: Any,
    stage: str,
    recipe: PreferenceRecipe,
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    train: Sequence[Pair],
    held_out: Sequence[Pair],
) -> None:
    """Rows ``accuracy`` and, for both groups of tracked pairs, ``stage``: a look, the suffix's figures, the parts."""
    m, model = recipe.measure, model.eval()
    seen({"kind": "accuracy", "stage": stage, "held_out": accuracy(model, tokenizer, held_out)})
    for group, pairs in (("train", train), ("held_out", held_out)):
        batch = collate(tokenizer, list(pairs)[: m.tracked_pairs])
        some = collate(tokenizer, list(pairs)[: m.gram_pairs])
        found = look(model, batch, m.gram_pairs) | suffix_look(model, batch) | {"parts": part_grams(model, some)}
        found |= token_look(model, tokenizer, list(pairs)[: min(HEATMAPS, m.gram_pairs // 2)])
        seen({"kind": "stage", "stage": stage, "group": group} | found)
