"""A DPO run of SmolLM2-135M with LoRA, and what one changed setting does to it: the how-to's measured rows.

``python book/howto_remedies.py RECIPE RESULTS`` makes the runs that RESULTS does not hold yet.
"""

import hashlib
import shutil
import sys
import tempfile
from itertools import starmap
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from gentangle import rated_texts
from gentangle.alignment.callback import EntanglementCallback
from gentangle.alignment.diagnosis import rendered
from gentangle.alignment.policy import collate, load_policy, response_log_probs
from gentangle.alignment.training import quiet
from gentangle.atomic import write_json
from gentangle.cache import cache_dir
from gentangle.profiles import profile
from gentangle.provenance import provenance
from gentangle.settings import read_yaml

REQUESTS = {
    1: "Write one sentence of a film review that praises.",
    -1: "Write one sentence of a film review that pans.",
}
STRONG = 2.0


def review_pairs(seed=0, words=24):
    """For each request a sentence that fits, as its 20 raters judged, against one that does not."""
    texts = [t for t in rated_texts.load("film") if abs(t.rating) >= STRONG and len(t.text.split()) <= words]
    order = np.random.default_rng(seed).permutation(len(texts))
    sides = {sign: [texts[i].text for i in order if texts[i].rating * sign > 0] for sign in REQUESTS}
    pairs = []
    for number, (good, bad) in enumerate(zip(sides[1], sides[-1], strict=False)):
        sign = 1 if number % 2 == 0 else -1
        pairs.append((REQUESTS[sign], *((good, bad) if sign == 1 else (bad, good))))
    return pairs


def messages(request, chosen, rejected):
    """A row of TRL's conversational preference data."""
    ask, answers = [{"role": "user", "content": request}], {"chosen": chosen, "rejected": rejected}
    return {"prompt": ask} | {k: [{"role": "assistant", "content": text}] for k, text in answers.items()}


def held_out_log_probs(model, batches):
    """Log-probabilities of held-out pairs, (2, P), chosen first."""
    with torch.no_grad():
        found = [response_log_probs(model, batch).view(2, -1) for batch in batches]
    return torch.cat(found, dim=1).double().numpy()


def split(settings):
    """Held-out pairs, and training pairs."""
    pairs = review_pairs()
    return pairs[: settings["held_out"]], pairs[settings["held_out"] :]


def common(settings, folder):
    """What both stages set in TRL's configuration."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": settings["batch_size"],
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "use_cpu": profile().device == "cpu",
    }


def fine_tuned(settings, folder, model=None):
    """The policy that every run starts from: fine-tuned on chosen answers by LoRA, merged, saved once."""
    if folder.exists():
        return folder
    model, tokenizer = load_policy(model)
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in starmap(messages, split(settings)[1])]
    with tempfile.TemporaryDirectory() as temporary:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(seed=0, data_seed=0, **settings["supervised"], **common(settings, temporary)),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=LoraConfig(task_type="CAUSAL_LM", **settings["lora"]),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        whole = Path(temporary) / "policy"
        trainer.model.merge_and_unload().save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(whole, folder)
    return folder


def run(settings, change, seed, policy):
    """One run: TRL's log, what the held-out pairs did, and two greedy answers."""
    changed = {**settings["base"], **settings["changes"][change]}
    model, tokenizer = load_policy(policy)
    held_out, training = split(settings)
    test = [rendered(tokenizer, **messages(*pair)) for pair in held_out]
    batches = [collate(tokenizer, test[i : i + 8]) for i in range(0, len(test), 8)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = DPOTrainer(
            model=model,
            args=DPOConfig(seed=seed, data_seed=seed, **changed, **common(settings, folder)),
            train_dataset=Dataset.from_list([messages(*pair) for pair in training]),
            processing_class=tokenizer,
            peft_config=LoraConfig(task_type="CAUSAL_LM", **settings["lora"]),
        )
        trainer.remove_callback(PrinterCallback)
        EntanglementCallback(forecast_every=settings["forecast_every"]).attach(trainer)
        before = held_out_log_probs(trainer.model, batches)
        trainer.train()
        after = held_out_log_probs(trainer.model.eval(), batches)
    return {
        "change": change,
        "settings": changed,
        "log": [{k: float(f"{float(v):.4g}") for k, v in row.items()} for row in trainer.state.log_history[:-1]],
        "held_out": {"before": np.round(before, 3).tolist(), "after": np.round(after, 3).tolist()},
        "tokens": [batch["completion_mask"].sum(1).view(2, -1).tolist() for batch in batches],
        "answers": {request: answer(trainer.model, tokenizer, request) for request in REQUESTS.values()},
        "provenance": provenance(seed=seed, data=rated_texts.corpus_hash(("film",))),
    }


def answer(model, tokenizer, request):
    """The model's greedy answer."""
    text = rendered(tokenizer, **messages(request, "a", "b")).prompt
    ids = tokenizer(text, return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=32, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def main(recipe, results):
    """Every run of the recipe, seeds outermost; those that RESULTS holds are left alone."""
    settings = read_yaml(recipe)
    torch.set_num_threads(profile().threads)
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:12]
    with quiet():
        policy = fine_tuned(settings, cache_dir() / "runs" / f"remedies-{digest}")
    for seed in settings["seeds"]:
        for change in settings["changes"]:
            path = Path(results) / f"{change}-{seed}.json"
            if not path.exists():
                with quiet():
                    write_json(path, run(settings, change, seed, policy))
                print(path, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
