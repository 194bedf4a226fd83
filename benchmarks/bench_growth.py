"""How the cost of the pairs' Gram matrix grows with tokens, pairs and width, beside a count of multiplications.

A Llama of 2 layers; one of the three is varied at a time. Written to ``results/gram_growth.json`` and drawn.
"""

import os
import statistics
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gentangle.atomic import write_json
from gentangle.display.figure import save_figure
from gentangle.gradients.capture import Capture
from gentangle.profiles import profile
from gentangle.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "results" / "gram_growth.json"
BASE = {"tokens": 64, "pairs": 4, "width": 256}
VARIED = {"tokens": (16, 32, 64, 128, 256, 512), "pairs": (1, 2, 4, 8, 16), "width": (64, 128, 256, 512)}
VOCABULARY, LAYERS, REPEATS = 2000, 2, 7


def model_of(width: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": width // 64}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, num_hidden_layers=LAYERS, bos_token_id=0, eos_token_id=0, **shape)
    )


def counted(tokens: int, pairs: int, width: int) -> float:
    """Multiplications of the products of positions over those of the pass, linear layers alone.

    A row with itself and a pair's two rows are 3 blocks a pair, of T^2 (L + M) each where contraction is the cheaper
    way and of L M (with T L M a row for forming) where forming is; a pass is 3 T L M a row.
    """
    shapes = [(width, width)] * 4 + [(2 * width, width)] * 3
    gram = sum(min(3 * tokens**2 * (l + m), 2 * tokens * l * m + 3 * l * m) for l, m in shapes)
    return gram / sum(2 * 3 * tokens * l * m for l, m in shapes)


def ratio(tokens: int, pairs: int, width: int) -> float:
    """Median time of a diagnosed pass over that of a plain one, taken in turn."""
    model = model_of(width)
    ids = torch.randint(0, VOCABULARY, (2 * pairs, tokens))

    def plain() -> None:
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        (logits.gather(-1, ids[:, 1:, None]).squeeze(-1) - logits.logsumexp(-1)).sum().backward()
        model.zero_grad()

    def diagnosed() -> None:
        with Capture(model, offsets=(0, pairs)) as seen:
            plain()
        seen.gram_by_parameter()

    seconds: dict[str, list[float]] = {"plain": [], "diagnosed": []}
    for turn in range(REPEATS + 1):
        for way in (plain, diagnosed):
            started = time.perf_counter()
            way()
            if turn:
                seconds[way.__name__].append(time.perf_counter() - started)
    return statistics.median(seconds["diagnosed"]) / statistics.median(seconds["plain"])


def draw(figure, found):
    axes = figure.subplots(1, len(found), sharey=True)
    for ax, (name, points) in zip(axes, found.items(), strict=True):
        ax.plot([p[name] for p in points], [p["ratio"] for p in points], "o-", label="measured")
        ax.plot([p[name] for p in points], [1 + p["counted"] for p in points], "s--", label="counted")
        ax.set(xscale="log", xlabel=name, xticks=[p[name] for p in points])
        ax.set_xticklabels([str(p[name]) for p in points])
        ax.minorticks_off()
    axes[0].set_ylabel("diagnosed pass / plain pass")
    axes[-1].legend()


def main() -> None:
    torch.set_num_threads(profile().threads)
    found = {}
    for name, values in VARIED.items():
        found[name] = []
        for value in values:
            given = BASE | {name: value}
            point = given | {"ratio": round(ratio(**given), 3), "counted": round(counted(**given), 3)}
            found[name].append(point)
            print(point, flush=True)
    made = provenance(seed=0, data=None)
    write_json(RESULT, {"growth": found, "base": BASE, "provenance": made})
    os.environ["GENTANGLE_FIGURES"] = str(ROOT / "book" / "figures")
    alt = "Cost of a diagnosed pass over a plain one against tokens, pairs and width, measured and counted."
    save_figure("gram-growth", lambda figure: draw(figure, found), alt=alt, seed=0, size=(9, 3.2), origin=made)


if __name__ == "__main__":
    main()
