"""The how-to's second example, executed by tests/book/test_howto.py."""

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from gentangle import objective, rated_texts
from gentangle.alignment.forecasts import FORECASTS, ForecastCallback, agreement
from gentangle.alignment.policy import fresh_copy, load_policy
from gentangle.alignment.preference import sentiment_pairs, split_opinions

model, tokenizer = load_policy("recipes/tweets_base")
reference = fresh_copy(model).eval()
tweets, _, _ = split_opinions(rated_texts.load("tweets"), held_out=500)
pairs = [vars(pair) for pair in sentiment_pairs(tweets[:64], "long-suffix", [])]

rows = []
watch = ForecastCallback(objective("dpo"), {"beta": 0.1}, reference, 5, rows.append)
config = DPOConfig(
    output_dir="run",
    max_steps=20,
    per_device_train_batch_size=4,
    learning_rate=2e-5,
    bf16=False,
    gradient_checkpointing=False,
    save_strategy="no",
    report_to=[],
    use_cpu=True,
)
DPOTrainer(
    model=model,
    ref_model=reference,
    args=config,
    train_dataset=Dataset.from_list(pairs),
    processing_class=tokenizer,
    callbacks=[watch],
).train()
for name in FORECASTS:
    found = agreement(rows, name, 1e-3, "chosen")
    print(f"{name}: sign of chosen right in {found.signs:.0%} of {found.cases} changes")
