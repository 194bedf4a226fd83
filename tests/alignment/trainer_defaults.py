"""What the tests of TRL trainers share: settings of a short run on the CPU, and pairs as a data set of messages."""

ROLES = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}


def defaults(pairs, folder):
    """One step on all pairs at once, nothing saved and nothing reported; for DPOConfig, CPOConfig and their like."""
    return {
        "output_dir": str(folder),
        "max_steps": 1,
        "per_device_train_batch_size": len(pairs),
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }


def messages(pairs):
    """The pairs as a data set whose texts are messages."""
    from datasets import Dataset

    return Dataset.from_list(
        [{side: [{"role": role, "content": getattr(p, side)}] for side, role in ROLES.items()} for p in pairs]
    )
