"""What the cases run on instead of the real thing: a one-layer GPT-2, tiny data sets, and what a long run leaves."""

import copy
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock


@cache
def kept() -> Path:
    """A folder for what all cases share."""
    return Path(os.environ["GENTANGLE_FUZZ"])


@cache
def policy_of_words() -> tuple[Any, Any]:
    import torch

    from gentangle.alignment.policy import small_gpt2, train_tokenizer

    torch.set_num_threads(1)
    words = "the sentiment of text is positive negative based on content and tone a good bad film day".split()
    tokenizer = train_tokenizer([" " + " ".join(words)] * 3, vocab_size=400)
    return small_gpt2(tokenizer, layers=1, width=16, heads=2, positions=64, seed=0), tokenizer


def unpacked(*_: Any, **__: Any) -> Any:
    """A model as transformers reads it of a GGUF file."""
    model = copy.deepcopy(policy_of_words()[0])
    model.config.quantization_config = {}
    return model


@cache
def saved_policy() -> Path:
    for part in policy_of_words():
        part.save_pretrained(kept() / "policy")
    return kept() / "policy"


@cache
def image_root() -> Path:
    import numpy as np
    from PIL import Image

    for number, (domain, label, ending) in enumerate(
        (d, k, e) for d in "abc" for k in ("cat", "dog") for e in ("png", "jpg", "png", "png", "png")
    ):
        path = kept() / "images" / "PACS" / domain / label / f"{number}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    for name in ("VLCS", "office_home", "terra_incognita", "domain_net"):
        (kept() / "images" / name).symlink_to("PACS")
    return kept() / "images"


@cache
def wilds_root() -> Path:
    from gentangle.matching.wilds_data import SETS, import_wilds
    from gentangle.matching.wilds_fixtures import make_fixture

    import_wilds()
    root = kept() / "wilds"
    for name in SETS:
        make_fixture(name, root)
    return root


class _Trainer:
    """In place of Fish's training on WILDS: leaves what a run leaves."""

    def __init__(self, recipe: Any, dataset: Any, run: Any, *_: Any) -> None:
        self.recipe, self.dataset, self.run = recipe, dataset, run

    def train(self, _: Any) -> bool:
        return True

    def evaluate_all(self) -> None:
        (self.run.path / "table.txt").write_text("a table\n")
        (self.run.path / "evaluation.json").write_text("{}")


class ReadingTrainer(_Trainer):
    """And reads the domains, and some inputs of every split, before."""

    def train(self, _: Any) -> bool:
        from gentangle.matching.wilds_data import domains

        domains(self.recipe.dataset, self.dataset)
        for split in self.dataset.split_dict:
            subset = self.dataset.get_subset(split)
            for row in range(min(3, len(subset))):
                subset[row]
        return True


#: What stand-ins take the place of, by name, for the cases that need the real thing.
REAL: dict[str, Any] = {}
OF_MATCHING = ("environments_of", "run_algorithm")


def _left_by_run(recipe: Any, form: str, seed: int, *, run: Any, device: str) -> None:
    (run.path / "model").mkdir()


def _left_by_algorithm(variant: Any, seed: int, left_out: Any = (), *, run: Any, root: Any = None) -> None:
    run.add({"seed": seed, "left_out": list(left_out), "step": variant.training.steps})


def _two_domains(data: Any, seed: int, left_out: Any = (), root: Any = None) -> Any:
    import torch

    from gentangle.matching.environments import leave_out

    x, y = torch.zeros(10, 3, 8, 8), torch.tensor([0, 1] * 5)
    parts = {name: (x, y) for name in ("a", "b", "c")}
    return leave_out(parts, [name for name in left_out if name in parts][:1], 2, seed)


@contextmanager
def stand_ins() -> Iterator[None]:
    """The command line with stand-ins for its long work."""
    from gentangle import provenance
    from gentangle.matching import wilds_run

    REAL.update({name: getattr(wilds_run, name) for name in ("load_wilds", "tables_hash")})
    targets = [
        (wilds_run, "load_wilds", lambda *_: None),
        (wilds_run, "tables_hash", lambda _: "0"),
        (wilds_run, "_Trainer", _Trainer),
        (provenance, "_version", cache(provenance._version)),  # a tenth of a second a run
    ]
    with ExitStack() as stack:
        for target, name, value in targets if find_spec("wilds") else [*targets, *_for_other_kinds()]:
            stack.enter_context(mock.patch.object(target, name, value))
        yield


def _for_other_kinds() -> list[tuple[Any, str, Any]]:
    from gentangle.alignment import hub_run, policy, recipe_runs
    from gentangle.display import training_plots
    from gentangle.matching import experiment as matching

    REAL.update({name: getattr(matching, name) for name in OF_MATCHING} | {"load_policy": policy.load_policy})
    stages = SimpleNamespace(fine_tuned=lambda: "", prefer=lambda start, stop: None)
    return [
        (policy, "load_policy", lambda *_: policy_of_words()),
        (recipe_runs, "run_preference", _left_by_run),
        (recipe_runs, "make_base", lambda recipe, folder: folder.mkdir()),
        (training_plots, "draw_run", lambda folder: None),
        (hub_run, "_Stages", lambda *_: stages),
        (matching, "environments_of", _two_domains),
        (matching, "run_algorithm", _left_by_algorithm),
    ]
