"""How much of the scatter of minibatch gradients is the domains': ``python benchmarks/between_domains.py``.

ERM of a recipe is run, and stopped at a few steps. There each domain's gradient over all of its training examples is
taken, and the scatter of its minibatches about it. Beside it the same for the examples dealt into random groups, whose
share is what a finite number of examples leaves. Written to ``results/between_domains.json``, one thread, seed 0.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gentangle.atomic import write_json
from gentangle.matching.domains import domain_gram, domains_of, gradient_at
from gentangle.matching.environments import Draws, Environments, as_floats, random_groups
from gentangle.matching.experiment import environments_of, make_algorithm
from gentangle.matching.recipes import load_matching_recipe
from gentangle.provenance import provenance
from gentangle.runs import rounded

ROOT = Path(__file__).resolve().parents[1]
#: Name of the row: recipe, variant of ERM, and the domains left out.
SETS: Mapping[str, tuple[str, str, Sequence[str]]] = {
    "text": ("text", "erm-slow", ["newspaper"]),
    "rotated digits": ("rotated_digits", "erm-slow", ["0 degrees"]),
    "coloured digits, 10 and 20 %": ("colored_digits", "erm-slow", ["90%"]),
    "coloured digits, 10 and 90 %": ("colored_digits", "erm-slow", ["20%"]),
}
SEED = 0
BATCH, BATCHES = 32, 60


def scatter(algorithm: Any, environments: Environments) -> dict[str, float]:
    """Loss, squared mean gradient, V, minibatch noise and the domains' share of the scatter of two minibatches."""
    whole = {name: (as_floats(x), y) for name, (x, y) in environments.train.items()}
    domains = domains_of(algorithm.model, algorithm.loss, whole)
    matrix = domain_gram(algorithm.model, domains)
    count, steep = len(matrix), matrix.mean()
    between = np.trace(matrix) / count - steep
    generator = torch.Generator().manual_seed(SEED)
    draws = Draws(environments.train, BATCH, generator)
    noise = []
    for number in range(max(BATCHES, count)):
        name = list(whole)[number % count]
        _, full = gradient_at(algorithm.model, domains, name)
        _, part = gradient_at(
            algorithm.model,
            domains_of(algorithm.model, algorithm.loss, {name: draws.minibatch(name), "": draws.minibatch(name)}),
            name,
        )
        noise.append(sum(((a - b) ** 2).sum().item() for a, b in zip(part, full, strict=True)))
    own = between * count / (count - 1)
    return {
        "domains": count,
        "loss": float(np.mean([float(loss(algorithm.model).detach()) for loss in domains.values()])),
        "steep": steep,
        "between": between,
        "noise": float(np.mean(noise)),
        "share": own / (own + float(np.mean(noise))),
    }


def measured(recipe_name: str, variant_name: str, left_out: Sequence[str]) -> list[dict[str, Any]]:
    """The readings at the start, a quarter of the way and the end of ERM."""
    variant = load_matching_recipe(ROOT / "recipes" / f"{recipe_name}.yaml").variants()[variant_name]
    environments = environments_of(variant.data, SEED, left_out)
    algorithm = make_algorithm(variant, environments, SEED)
    training = variant.training
    draws = Draws(
        environments.train, training.batch_size, torch.Generator().manual_seed(SEED), training.domains_per_step
    )
    groups, rows = random_groups(environments, SEED), []
    for step in range(training.steps + 1):
        if step in (0, training.steps // 4, training.steps):
            found = scatter(algorithm, environments)
            rows.append({"step": step, **found, "groups_share": scatter(algorithm, groups)["share"]})
        algorithm.update(draws.draw())
    return rows


def main() -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    found = {}
    for name, setting in SETS.items():
        found[name] = measured(*setting)
        for row in found[name]:
            print(name, {key: f"{value:.3g}" for key, value in row.items()}, flush=True)
    made = provenance(seed=SEED, data=None)
    write_json(ROOT / "results" / "between_domains.json", {"provenance": made, "sets": rounded(found)})


if __name__ == "__main__":
    main()
