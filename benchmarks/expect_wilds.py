"""What Fish on WILDS is expected to take on a GPU: ``PYTHONPATH=.venv/wilds python benchmarks/expect_wilds.py``.

Nothing is trained. Operations of an example are counted by torch's own counter while each default model, without
weights, goes forwards and backwards; hours follow from a speed, which is assumed. They go to
``results/wilds_cost.json``.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from gentangle.atomic import write_json
from gentangle.matching.wilds_data import SETS, import_wilds
from gentangle.matching.wilds_models import RANDOM, make_network
from gentangle.matching.wilds_run import WildsRecipe, load_wilds_recipe
from gentangle.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
DEVICE = "H100 SXM"
#: Examples of ``train`` and of ``val``, as WILDS publishes them (arXiv 2012.07421); PovertyMap's are those of fold A.
EXAMPLES = {
    "amazon": (245_502, 100_050),
    "camelyon17": (302_436, 34_904),
    "civilcomments": (269_038, 45_180),
    "fmow": (76_863, 19_915),
    "iwildcam": (129_809, 14_961),
    "poverty": (9_797, 3_909),
}
#: Labels, and the side of an image where the recipe does not resize it.
OUTPUTS = {"amazon": 5, "camelyon17": 2, "civilcomments": 2, "fmow": 62, "iwildcam": 182, "poverty": 1}
SIDES = {"fmow": 224, "poverty": 224}


def operations(recipe: WildsRecipe) -> tuple[float, float]:
    """Operations of one example: in training, forwards and backwards, and in evaluation, forwards alone."""
    name = recipe.dataset
    model = make_network(SETS[name].network, OUTPUTS[name], weights=RANDOM, seed=0, config={}).eval()
    side, channels = recipe.image_size or SIDES.get(name, 0), 8 if name == "poverty" else 3
    x = torch.ones(1, recipe.tokens, 2, dtype=torch.long) if recipe.tokens else torch.zeros(1, channels, side, side)
    with FlopCounterMode(display=False) as forwards, torch.no_grad():
        model(x)
    with FlopCounterMode(display=False) as both:
        model(x).sum().backward()
    return float(both.get_total_flops()), float(forwards.get_total_flops())


def expected(recipe: WildsRecipe, speed: float) -> Mapping[str, float]:
    """Examples trained on and evaluated, at most, operations of each, and hours.

    An epoch of Fish shows each example once at most: it ends when most domains have come to their last minibatch.
    """
    trained, evaluated = operations(recipe)
    rows, val = EXAMPLES[recipe.dataset]
    looks = recipe.epochs + (recipe.pretrain_steps > 0)
    if recipe.look_every:
        looks = (recipe.pretrain_steps + recipe.epochs * rows // recipe.batch_size) // recipe.look_every
    shown = recipe.pretrain_steps * recipe.batch_size + recipe.epochs * rows
    total = shown * trained + looks * val * evaluated
    return {
        "trained": shown,
        "evaluated": looks * val,
        "train_gflop": trained / 1e9,
        "eval_gflop": evaluated / 1e9,
        "hours": total / speed / 3600,
    }


def main() -> None:
    """Count, print and write."""
    import_wilds()  # before transformers looks for torchvision
    from expect_scale import DEVICES, UTILISATION

    speed = DEVICES[DEVICE]["float32"] * UTILISATION
    found = {}
    for name in sorted(SETS):
        found[name] = expected(load_wilds_recipe(ROOT / "recipes" / f"wilds_{name}.yaml"), speed)
        print(f"{name:14} {found[name]['train_gflop']:7.1f} GFLOP an example, {found[name]['hours']:7.1f} hours")
    write_json(
        ROOT / "results" / "wilds_cost.json",
        {
            "assumed": f"one {DEVICE} at {UTILISATION:.0%} of its stated float32 FLOP/s, which is an assumption",
            "expected": found,
            "provenance": {**provenance(seed=None, data=None), "command": "python benchmarks/expect_wilds.py"},
        },
    )


if __name__ == "__main__":
    main()
