"""The six data sets of WILDS that the paper trains on: read by the ``wilds`` package, their domains by its grouper."""

import sys
import types
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gentangle.errors import InputError, one_of
from gentangle.matching.domain_sampling import draw_domains
from gentangle.matching.image_folders import MEAN, STD

#: Domain -> rows of the training split; in CivilComments a row may be in several.
Rows = Mapping[str, torch.Tensor]
#: Domain -> rows of its minibatch, in one step.
Step = dict[Hashable, torch.Tensor]


@dataclass(frozen=True)
class WildsSet:
    """What differs between the data sets.

    Attributes:
        version: of the folder ``<name>_v<version>``.
        files: that it must hold besides the inputs.
        domain: metadata fields whose combinations are the domains; empty where these are CivilComments' identities.
        metrics: of the leaderboard; the first one selects the model, on the split ``val``.
        network: default model, see :mod:`gentangle.matching.wilds_models`.
    """

    version: str
    files: tuple[str, ...]
    domain: tuple[str, ...]
    metrics: tuple[str, ...]
    network: str


SETS: Mapping[str, WildsSet] = {
    "camelyon17": WildsSet("1.0", ("metadata.csv",), ("hospital",), ("acc_avg",), "densenet121"),
    "civilcomments": WildsSet("1.0", ("all_data_with_identities.csv",), (), ("acc_wg", "acc_avg"), "distilbert"),
    "fmow": WildsSet(
        "1.1",
        ("rgb_metadata.csv", "country_code_mapping.csv"),
        ("region", "year"),
        ("acc_worst_region", "acc_avg"),
        "densenet121",
    ),
    "iwildcam": WildsSet("2.0", ("metadata.csv",), ("location",), ("F1-macro_all", "acc_avg"), "resnet50"),
    "poverty": WildsSet("1.1", ("dhs_metadata.csv",), ("country",), ("r_wg", "r_all"), "resnet18"),
    "amazon": WildsSet(
        "2.1", ("reviews.csv", "splits/user.csv"), ("user",), ("10th_percentile_acc", "acc_avg"), "distilbert"
    ),
}
_KEPT: list[torch.library.Library] = []


def import_wilds() -> types.ModuleType:
    """The ``wilds`` package, on a machine that cannot run the compiled parts beside it.

    Where torchvision was built for CUDA and torch was not, its two missing operators are declared, which nothing here
    calls; where torch_scatter is absent, the evaluators get the mean over groups in its place.

    Raises:
        InputError: wilds or torchvision is not installed.
    """
    if (found := find_spec("torchvision")) and not hasattr(torch.ops.torchvision, "nms"):
        try:
            for compiled in Path(str(found.origin)).parent.glob("_C*.so"):
                torch.ops.load_library(str(compiled))
        except OSError:
            _KEPT.append(torch.library.Library("torchvision", "DEF"))  # the declarations last as long as it
            for name in ("nms", "qnms"):
                _KEPT[-1].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    try:
        import torchvision  # noqa: F401
        import wilds
    except ImportError as error:
        raise InputError(
            f"WILDS needs a package that is not here ({error}): pip install --no-deps --target .venv/wilds "
            "-r requirements/wilds.txt, and PYTHONPATH=.venv/wilds."
        ) from error
    if "torch_scatter" not in sys.modules and find_spec("torch_scatter") is None:
        substitute = types.ModuleType("torch_scatter", "The one function of torch_scatter that wilds' metrics call.")
        substitute.scatter = group_means  # type: ignore[attr-defined]
        sys.modules["torch_scatter"] = substitute
    return wilds


def group_means(src: torch.Tensor, index: torch.Tensor, dim_size: int, reduce: str) -> torch.Tensor:
    """Mean of the values ``src``, shape (n,), in each of ``dim_size`` groups; 0 in an empty one.

    Raises:
        NotImplementedError: another reduction than the mean.
    """
    if reduce != "mean":
        raise NotImplementedError(f"group_means has no reduction {reduce!r}, it takes the mean.")
    sums = torch.zeros(dim_size, dtype=src.dtype).index_add_(0, index, src)
    return sums / torch.bincount(index, minlength=dim_size).clamp(min=1)


def load_wilds(name: str, root: Path, fold: str = "A") -> Any:
    """The data set ``name`` in the folder ``root``, as the ``wilds`` package reads it; nothing is downloaded.

    Args:
        fold: of PovertyMap's countries, A to E; the others have none.

    Raises:
        InputError: no such set, its folder or a file in it is missing or of another version (the file is named), wilds
            cannot read it, a label is out of range, or there is nothing to train on.
    """
    one_of(name, SETS, f"WILDS has no data set {name!r} here.")
    wilds, folder, more = import_wilds(), _folder(name, root), {"fold": fold} if name == "poverty" else {}
    import pandas

    try:
        # wilds 2.0 writes numbers into a column of text, which pandas 3's own type of text refuses.
        with warnings.catch_warnings(action="ignore"), pandas.option_context("future.infer_string", False):
            dataset = wilds.get_dataset(name, version=SETS[name].version, root_dir=str(root), **more)
        inputs = [*_inputs(name, dataset)]
        apart = ~np.isfinite(dataset.split_array.astype(float))
        if some := len(dataset.get_subset("train")):
            domains(name, dataset)
    except Exception as error:  # wilds looks for no mistake of a table, and stumbles over each in its own way
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"wilds cannot read {folder} ({reason}): a label, split or column is not {name}'s.") from error
    _check_labels(name, dataset)
    if apart.any():
        raise InputError(f"Row {int(apart.argmax())} of {folder} is in no split: unpack {name} anew.")
    if not some:
        raise InputError(f"{folder} has no rows to train on: PovertyMap needs over 2,000 in the fold's own countries.")
    if missing := next((path for path in inputs if not path.exists()), None):
        raise InputError(f"{missing} is missing, and the metadata names it: unpack {name} anew.")
    dataset.get_input = partial(_input, dataset)
    return dataset


def _input(dataset: Any, row: int) -> Any:
    try:
        return type(dataset).get_input(dataset, row)
    except Exception as error:  # of a broken file the readers raise whatever they meet
        raise InputError(f"Cannot read input {row} of {dataset.data_dir} ({error}): unpack it anew.") from error


def _folder(name: str, root: Path) -> Path:
    this, folder = SETS[name], root / f"{name}_v{SETS[name].version}"
    if not folder.is_dir():
        there = sorted(path.name for path in root.glob("*_v*")) if root.is_dir() else []
        raise InputError(
            f"There is no {folder.name} in {root}, which holds {', '.join(there) or 'no data set of WILDS'}: give the "
            f"folder that holds it, or try a small one, `gentangle wilds-fixture {name} {root}`."
        )
    for file in (f"RELEASE_v{this.version}.txt", *this.files):
        if not (folder / file).exists():
            other = ", ".join(path.name for path in folder.glob("RELEASE_*")) or "no RELEASE file"
            raise InputError(f"{folder / file} is missing ({other} is there): {name} {this.version} is read.")
    return folder


def _check_labels(name: str, dataset: Any) -> None:
    y, classes = dataset.y_array, dataset.n_classes
    wrong = ~torch.isfinite(y) if classes is None else (y < 0) | (y >= classes)
    if name == "civilcomments":  # wilds cuts the share of raters at a half, whatever it is
        y = torch.tensor(dataset._metadata_df["toxicity"].to_numpy(dtype=float))
        wrong = ~((y >= 0) & (y <= 1))
    if wrong.any():
        row = int(wrong.nonzero()[0, 0])
        known = "a finite number" if classes is None else f"one of its {classes} classes"
        raise InputError(f"Row {row} of {dataset.data_dir} has the label {float(y[row]):g}, expected {known}.")


def _inputs(name: str, dataset: Any) -> Iterator[Path]:
    folder = Path(dataset.data_dir)
    if name == "camelyon17":
        return (folder / file for file in dataset._input_array)
    if name == "iwildcam":
        return (folder / "train" / file for file in dataset._input_array)
    if name == "fmow":
        return (folder / "images" / f"rgb_img_{row}.png" for row in dataset.full_idxs)
    if name == "poverty":
        return (folder / "images" / f"landsat_poverty_img_{row}.npz" for row in range(len(dataset)))
    return iter(())


def tables_hash(dataset: Any) -> str:
    """SHA-256 over labels, metadata and splits: the inputs' files are not read for it."""
    digest = sha256()
    for part in (dataset.y_array, dataset.metadata_array, torch.tensor(dataset.split_array.astype("int64"))):
        digest.update(part.numpy().tobytes())
    return digest.hexdigest()


def domains(name: str, dataset: Any) -> Rows:
    """Rows of the split ``train`` by domain, named as wilds' grouper names them.

    In CivilComments a domain is an identity that the comment mentions, or ``none``, with one of the labels: the
    authors' 18 domains, which overlap, since a comment on two identities is in two.
    """
    from wilds.common.grouper import CombinatorialGrouper

    metadata, fields = dataset.get_subset("train").metadata_array, SETS[name].domain
    if fields:
        return _by_group(CombinatorialGrouper(dataset, list(fields)), metadata)
    identities = dataset._identity_vars
    mentioned = metadata[:, : len(identities)].any(dim=1)
    found = {f"y:{y}_none:1": (~mentioned & (metadata[:, -2] == y)).nonzero()[:, 0] for y in (0, 1)}
    for identity, grouper in zip(identities, dataset._eval_groupers, strict=True):
        groups = _by_group(grouper, metadata)
        found |= {group: rows for group, rows in groups.items() if f"{identity}:1" in group}
    return {group: rows for group, rows in found.items() if len(rows)}


def _by_group(grouper: Any, metadata: torch.Tensor) -> dict[str, torch.Tensor]:
    groups = grouper.metadata_to_group(metadata)
    return {grouper.group_field_str(g): (groups == g).nonzero()[:, 0] for g in groups.unique().tolist()}


def passes(rows: int, batch_size: int, count: int, seed: int) -> list[torch.Tensor]:
    """Rows of each of ``count`` batches, from passes over the data, each in a fresh order."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(rows, generator=generator) for _ in range(count * batch_size // rows + 1)]
    return list(torch.cat(orders).split(batch_size)[:count])


@dataclass(frozen=True)
class FishEpoch:
    """The minibatches of Fish's epochs, as the authors' code draws them.

    Each domain's rows are put in a fresh order and cut into minibatches. A step draws its domains, and takes the next
    minibatch of each; a domain that comes to its last one gives this again. The epoch is over when fewer domains than a
    step visits have more than one left.

    Args:
        batch_size: rows of a minibatch over all processes.
        per_step: domains that a step visits, drawn uniformly.
        least: rows below which a domain's last minibatch is left out, and with it a domain that has no other.
        processes: that share a minibatch; its rows are cut to a multiple.
    """

    rows: Rows
    batch_size: int
    per_step: int
    least: int = 2
    processes: int = 1

    def steps(self, seed: int) -> list[Step]:
        """Rows of each domain that a step visits, of every step of an epoch.

        Raises:
            InputError: fewer domains than a step visits have two minibatches: there is no step.
        """
        generator = torch.Generator().manual_seed(seed)
        batches: dict[Hashable, list[torch.Tensor]] = {n: self._cut(rows, generator) for n, rows in self.rows.items()}
        left = {name: len(cut) for name, cut in batches.items() if cut}
        steps = []
        while sum(count > 1 for count in left.values()) >= self.per_step:
            names = draw_domains(left, self.per_step, generator=generator)
            steps.append({name: batches[name][-left[name]] for name in names})
            left |= {name: max(1, left[name] - 1) for name in names}
        if not steps:
            raise InputError(
                f"{sum(count > 1 for count in left.values())} of {len(self.rows)} domains have two minibatches of "
                f"{self.batch_size}, and a step visits {self.per_step}: lower batch_size or domains_per_step."
            )
        return steps

    def _cut(self, rows: torch.Tensor, generator: torch.Generator) -> list[torch.Tensor]:
        cut = rows[torch.randperm(len(rows), generator=generator)].split(self.batch_size)
        even = [batch[: len(batch) // self.processes * self.processes] for batch in cut]
        return [batch for batch in even if len(batch) >= self.least]


#: What turns an input as wilds reads it into a tensor.
Transform = Callable[[Any], torch.Tensor]


def transform(name: str, tokenizer: Any, *, image_size: int, tokens: int) -> Transform | None:
    """The authors' treatment of the inputs, without random changes.

    Args:
        tokenizer: of the texts, which become (tokens, 2): ids, and the mask of what is no padding.
        image_size: images are resized to so many pixels a side, 0 for as they are; then ImageNet's mean and standard
            deviation are taken out. PovertyMap's images are normalised already.
        tokens: of each text, padded or cut.
    """
    if SETS[name].network == "distilbert":

        def encode(text: str) -> torch.Tensor:
            found = tokenizer(text, padding="max_length", truncation=True, max_length=tokens, return_tensors="pt")
            return torch.stack([found["input_ids"][0], found["attention_mask"][0]], dim=1)

        return encode
    if name == "poverty":
        return None
    from torchvision import transforms

    resize = [transforms.Resize((image_size, image_size))] if image_size else []
    normalise = transforms.Normalize(MEAN, STD)
    composed: Transform = transforms.Compose([*resize, transforms.ToTensor(), normalise])
    return composed
