"""Language modelling, supervised fine-tuning and preference training, all by TRL's trainers.

Here are only the settings, the checkpoint that survives a kill, and silence: TRL does the training.
"""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from gentangle.alignment.objectives import objective
from gentangle.alignment.policy import fresh_copy
from gentangle.alignment.preference import Pair
from gentangle.alignment.recipes import Stage
from gentangle.errors import InputError, closest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

COMPLETE = "complete"


def language_model(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], stage: Stage, **run: Any
) -> None:
    """Train ``model`` in place to predict ``texts``; ``run`` as in :func:`preference`."""
    _supervised(model, tokenizer, [{"text": text} for text in texts], stage, **run)


def supervised(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", pairs: Sequence[Pair], stage: Stage, **run: Any
) -> None:
    """Fine-tune ``model`` in place on the chosen responses (loss on the response's tokens only)."""
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in conversations(pairs)]
    _supervised(model, tokenizer, rows, stage, **run)


def preference(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    pairs: Sequence[Pair],
    stage: Stage,
    *,
    seed: int,
    folder: Path | None = None,
    callbacks: "Sequence[TrainerCallback]" = (),
    stop_after: int | None = None,
    reference: "PreTrainedModel | None" = None,
    objective_name: str = "dpo",
    remedy: str = "",
    lora: dict[str, Any] | None = None,
) -> Any:
    """Train ``model`` in place on preference pairs by TRL's DPOTrainer, and return the trainer.

    Args:
        stage: ``extra`` may hold the objective's hyperparameters (``beta``, ...) and any setting of DPOConfig.
        objective_name: key of :data:`gentangle.OBJECTIVES`, see
            :func:`gentangle.alignment.objective_trainer.trainer_and_settings`.
        seed: of the data order; dropout is off.
        folder: where checkpoints go; a run killed at any step goes on from the last complete one
            and ends with the same weights. Without it nothing is saved.
        stop_after: stop after so many steps of the schedule, which itself stays as long as ``stage`` says.
        reference: the frozen reference; without it ``model`` as it is given. (Left to itself TRL 1.16
            loads the reference anew from the folder or name that ``model`` was loaded from: after
            fine-tuning in memory that is the policy *before* fine-tuning.)
        remedy: a trainer of :mod:`gentangle.alignment.remedy_trainers` in place of the objective's.
        lora: settings of PEFT's LoraConfig. An adapter is put around ``model``, and it alone is trained: the trainer's
            ``model``. The reference is the model without it.
    """
    from trl import DPOConfig

    from gentangle.alignment.objective_trainer import trainer_and_settings

    if remedy:
        from gentangle.alignment.remedy_trainers import remedy_trainer

        trainer, settings = remedy_trainer(remedy, stage.extra)
    else:
        trainer, settings = trainer_and_settings(objective(objective_name), stage.extra)
    stage = replace(stage, extra=settings)
    more: dict[str, Any]
    if lora:
        from peft import LoraConfig

        more = {"peft_config": LoraConfig(task_type="CAUSAL_LM", **lora)}
    else:
        more = {"ref_model": reference if reference is not None else fresh_copy(model).requires_grad_(False)}
    more |= {"seed": seed, "folder": folder, "callbacks": callbacks, "stop_after": stop_after}
    return run_stage(trainer, DPOConfig, model, tokenizer, conversations(pairs), stage, **more)


def _supervised(model: Any, tokenizer: Any, rows: list[dict[str, Any]], stage: Stage, **run: Any) -> None:
    from trl import SFTConfig, SFTTrainer

    run_stage(SFTTrainer, SFTConfig, model, tokenizer, rows, stage, **run)


def conversations(pairs: Sequence[Pair]) -> list[dict[str, list[dict[str, str]]]]:
    """Pairs as messages: TRL ends plain texts, and not those, by a token that would be one more of the response."""
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return [
        {column: [{"role": role, "content": getattr(pair, column)}] for column, role in roles.items()} for pair in pairs
    ]


def run_stage(
    trainer_class: Any,
    config_class: Any,
    model: Any,
    tokenizer: Any,
    rows: Any,
    stage: Stage,
    *,
    seed: int,
    folder: Path | None = None,
    callbacks: "Sequence[TrainerCallback]" = (),
    stop_after: int | None = None,
    **more: Any,
) -> Any:
    """Train by the class of TRL; ``stage.extra`` has the last word on a setting. Returns the trainer.

    ``seed``, ``folder``, ``callbacks`` and ``stop_after`` as in :func:`preference`; ``more`` goes to the class.
    """
    with quiet(), tempfile.TemporaryDirectory() as temporary:
        from datasets import Dataset
        from transformers import PrinterCallback

        resume = _last_complete(folder) if folder else None
        settings = dict(
            output_dir=str(folder or temporary),
            max_steps=stage.steps,
            per_device_train_batch_size=stage.batch_size,
            learning_rate=stage.learning_rate,
            lr_scheduler_type=stage.schedule,
            warmup_steps=stage.warmup_steps,
            seed=seed,
            data_seed=seed,
            bf16=False,
            gradient_checkpointing=False,  # changes no number; the models here are small
            save_strategy="steps" if folder else "no",
            save_steps=stage.save_every,
            save_total_limit=2,
            logging_steps=1,
            report_to=[],
            disable_tqdm=not os.isatty(2),
            use_cpu=model.device.type == "cpu",
        )
        trainer = trainer_class(
            model=model,
            args=config_class(**settings | _known(config_class, stage.extra)),
            train_dataset=Dataset.from_list(rows) if isinstance(rows, list) else rows,
            processing_class=tokenizer,
            callbacks=[*callbacks, *_own_callbacks(stop_after)],
            **more,
        )
        trainer.remove_callback(PrinterCallback)
        if resume and last_step(resume.parent) >= stage.steps:
            trainer._load_from_checkpoint(str(resume))  # the loop looks whether it is at its end only after a step more
        else:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        return trainer


def _known(config_class: Any, extra: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import fields

    names = [f.name for f in fields(config_class)]
    for name in extra:
        if name not in names:
            raise InputError(f"{config_class.__name__} of TRL has no setting {name!r}. {closest(name, names)}".strip())
    return extra


class LogCallback(TrainerCallback):
    """Hands TRL's own metrics (``rewards/chosen``, ``logps/chosen``, ...) on, a row a step."""

    NAMES = ("loss", "grad_norm", "learning_rate", "rewards/", "logps/", "masks/", "remedy/")

    def __init__(self, seen: Any) -> None:
        self.seen = seen

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the numbers of a step, not the summary at the end."""
        if "loss" in logs:
            metrics = {key: float(value) for key, value in logs.items() if key.startswith(self.NAMES)}
            self.seen({"kind": "log", "step": state.global_step} | metrics)


def _own_callbacks(stop_after: int | None) -> list[TrainerCallback]:
    from accelerate import PartialState

    class MarkComplete(TrainerCallback):
        """Marks a checkpoint after its last file is written: one killed half-way has no mark."""

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            PartialState().wait_for_everyone()  # each process writes its own part
            if state.is_world_process_zero:
                (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()

    class StopAfter(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if stop_after is not None and state.global_step >= stop_after:
                control.should_training_stop = True

    return [MarkComplete(), StopAfter()]


def _last_complete(folder: Path) -> Path | None:
    """The newest checkpoint that was written whole; half-written ones are removed."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in checkpoints:
        if not (path / COMPLETE).exists():
            shutil.rmtree(path)
    whole = [path for path in checkpoints if path.exists()]
    return whole[-1] if whole else None


def last_step(folder: Path) -> int:
    """Step of the newest complete checkpoint in ``folder``, 0 where there is none."""
    newest = _last_complete(folder)
    return int(newest.name.split("-")[1]) if newest else 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No notices or warnings of the training libraries while it is entered, and no bars of theirs from then on.

    What matters is in the metrics.
    """
    import warnings

    import datasets
    import transformers

    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    loggers = [logging.getLogger(name) for name in ("trl", "accelerate", "datasets", "torch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # an error is raised too, and then told in a line
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
