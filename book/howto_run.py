"""The how-to's second example, executed by tests/book/test_howto.py."""

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from gentangle import rated_texts
from gentangle.alignment.callback import EntanglementCallback
from gentangle.alignment.forecasts import FORECASTS, agreement
from gentangle.alignment.policy import fresh_copy, load_policy
from gentangle.alignment.preference import sentiment_pairs, split_opinions

model, tokenizer = load_policy("recipes/tweets_base")
reference = fresh_copy(model).eval()
tweets, _, _ = split_opinions(rated_texts.load("tweets"), held_out=500)
pairs = [vars(pair) for pair in sentiment_pairs(tweets[:64], "long-suffix", [])]

config = DPOConfig(
    output_dir="run",
    max_steps=20,
    per_device_train_batch_size=4,
    learning_rate=2e-5,
    bf16=False,
    gradient_checkpointing=False,
    save_strategy="no",
    report_to=[],
    logging_steps=5,
    use_cpu=True,
)
trainer = DPOTrainer(
    model=model,
    ref_model=reference,
    args=config,
    train_dataset=Dataset.from_list(pairs),
    processing_class=tokenizer,
)
rows = []
EntanglementCallback(every_n_steps=5, forecast_every=1, seen=rows.append).attach(trainer)
trainer.train()

last = [entry for entry in trainer.state.log_history if "entanglement/cosine" in entry][-1]
for name in ("intended", "both_down", "own_rejected", "other_rejected", "optimizer"):
    print(f"{name}: {last['entanglement/' + name]:+.3f}")
for name in FORECASTS:
    found = agreement(rows, name, 1e-3, "chosen")
    print(f"{name}: sign of chosen right in {found.signs:.0%} of {found.cases} changes")
