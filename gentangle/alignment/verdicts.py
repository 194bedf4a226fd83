"""What the records of runs say about the claims, by rules written beforehand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gentangle.alignment.bridge import bridge_verdicts
from gentangle.alignment.objectives import objective
from gentangle.alignment.records import look_cosines, rows_of
from gentangle.verdict import Record, Verdict, in_part

#: Tokens of either response in the form ``long-suffix``, by the committed policy's tokenizer.
LONG_SUFFIX = 12.0


@dataclass(frozen=True)
class HeldOut:
    """A run's held-out pairs at its end against its beginning: changes in nats, and the last median cosine."""

    chosen: float
    rejected: float
    cosine: float
    share_falling: float
    first_cosine: float


def held_out(record: Record) -> HeldOut:
    """Mean changes of log pi_w and log pi_l over a run, and the share of pairs whose log pi_w ended lower."""
    looks = rows_of(record["rows"], "track", "held_out")
    chosen, rejected = (np.array(looks[-1][s]) - np.array(looks[0][s]) for s in ("chosen", "rejected"))
    return HeldOut(
        chosen=float(np.mean(chosen)),
        rejected=float(np.mean(rejected)),
        cosine=median_cosine(looks[-1]),
        share_falling=float(np.mean(chosen < 0)),
        first_cosine=median_cosine(looks[0]),
    )


def median_cosine(look: Mapping[str, Any]) -> float:
    """Median cosine of the tracked pairs' gradients at one look."""
    return float(np.median(look_cosines(look)))


def run_verdicts(name: str, records: Mapping[str, Sequence[Record]]) -> dict[str, Verdict]:
    """Status and measured figure of each claim that the records of the recipe called ``name`` decide, by claim's id.

    A claim holds where every seed shows it. It is then ``reproduced in part``, never more: each recipe is of one model.
    """
    return _DECIDED_BY[name](records)


def verdicts(records: Mapping[str, Sequence[Record]], ending: str = "") -> dict[str, Verdict]:
    """What the runs of the four forms decide, from their records, one a seed, by form; ``ending`` is of claims' ids."""
    runs = {form: [held_out(record) for record in seeds] for form, seeds in records.items()}
    one, short, long = (runs[form] for form in ("one-token", "short-suffix", "long-suffix"))
    one_holds = all(run.chosen > 0 > run.rejected and run.cosine < 0 for run in one)
    long_holds = all(run.chosen < 0 and run.rejected < 0 and run.cosine > run.first_cosine for run in long)
    between = all(
        a.chosen > b.chosen > c.chosen and a.cosine < b.cosine < c.cosine
        for a, b, c in zip(one, short, long, strict=True)
    )
    found = {
        "one-token-run": (in_part(one_holds), _measured(one)),
        "long-suffix-run": (in_part(long_holds), _measured(long)),
        "short-suffix-between": (in_part(between), _measured(short)),
        "suffix-order-run": suffix_order(records["long-suffix"]),
        "token-heatmap": heatmap_signs(records),
    }
    return {name + ending: verdict for name, verdict in found.items()}


def suffix_order(records: Sequence[Record]) -> Verdict:
    r"""Whether the pairs whose suffix is more predictable after chosen are those whose chosen falls more.

    Rank correlation, over held-out pairs, of :math:`\log(\epsilon'/\epsilon)` after fine-tuning with the change of
    chosen over the run; the theorem has it negative. It holds where every seed's is at most -0.3.
    """
    ranks = []
    for record in records:
        start = stage(record, "supervised", "held_out")
        order = np.log(start["miss_rejected"]) - np.log(start["miss_chosen"])
        ranks.append(_rank_correlation(order, chosen_changes(record)))
    found = f"rank correlation of log(eps'/eps) with the change of held-out chosen: {_listed(ranks)}"
    return in_part(max(ranks) <= -0.3), f"{found} in {_seeds(len(ranks))}"


def heatmap_signs(records: Mapping[str, Sequence[Record]]) -> Verdict:
    """Whether contrast tokens have negative cosines and shared ones positive: both for nine in ten, fine-tuned."""
    looks = [stage(r, "supervised", "held_out") for form in records for r in records[form]]
    contrast = np.concatenate([look["contrast_cosine"] for look in looks])
    shared = np.concatenate([values for look in looks for values in look["shared_cosine"]])
    below, above = np.mean(contrast < 0), np.mean(shared > 0)
    measured = (
        f"contrast tokens negative for {below:.0%} of {len(contrast)} pairs, shared tokens positive for {above:.0%}"
    )
    return in_part(
        bool(min(below, above) >= 0.9)
    ), f"{measured} of {len(shared)}, {'four' if len(records) == 4 else len(records)} forms after fine-tuning"


def mitigations_verdicts(records: Mapping[str, Sequence[Record]]) -> dict[str, Verdict]:
    """What the two mitigations do to the held-out pairs of a run in which DPO's chosen falls.

    Normalised gradients: chosen rises and rejected falls in every seed, as they promise. Token masks promise less: in
    every seed chosen ends higher than DPO's, and rejected falls.
    """
    runs = {name: [held_out(record) for record in records[name]] for name in ("plain", "normalised", "token-masks")}
    normalised = all(run.chosen > 0 > run.rejected for run in runs["normalised"])
    pairs = zip(runs["token-masks"], runs["plain"], strict=True)
    masked = all(run.chosen > plain.chosen and run.rejected < 0 for run, plain in pairs)
    beside = f"; DPO beside it: {_measured(runs['plain'])}"
    return {
        "normalised-run": (in_part(normalised), _measured(runs["normalised"]) + beside),
        "token-masks-run": (in_part(masked), _measured(runs["token-masks"]) + beside),
    }


def reviews_verdicts(records: Mapping[str, Sequence[Record]]) -> dict[str, Verdict]:
    """What a pretrained model's runs on whole sentences decide, in every seed.

    ``sentences-together``: the means of held-out chosen and rejected move to the same side, with all parameters and
    with an adapter of rank 16. ``lora-rank``: at the first look the median cosine over all pairs whose Gram matrix is
    taken differs by at most 0.1 between ranks 2, 16 and 64. ``on-policy``: it is lower for the policy's own sentences
    than for people's, all parameters trained.
    """
    moved = [held_out(record) for name in ("full", "lora-16") for record in records[name]]
    first = {name: [first_cosine(record) for record in of] for name, of in records.items()}
    ranks = list(zip(*(first[f"lora-{rank}"] for rank in (2, 16, 64)), strict=True))
    own = [a < b for a, b in zip(first["full-sampled"], first["full"], strict=True)]
    shown = {name: _listed(values) for name, values in first.items()}
    return {
        "sentences-together": (
            in_part(all(run.chosen * run.rejected > 0 for run in moved)),
            f"all parameters: {_measured(moved[: len(moved) // 2])}; rank 16: {_measured(moved[len(moved) // 2 :])}",
        ),
        "lora-rank": (
            in_part(all(max(seed) - min(seed) <= 0.1 for seed in ranks)),
            "first median cosine, a figure a seed: "
            + "; ".join(f"rank {rank} {shown[f'lora-{rank}']}" for rank in (2, 16, 64)),
        ),
        "on-policy": (
            in_part(all(own)),
            f"first median cosine, a figure a seed: its own {shown['full-sampled']}; people's {shown['full']}",
        ),
    }


def first_cosine(record: Record) -> float:
    """Median cosine at the first look, over the training and the held-out pairs whose Gram matrices are taken."""
    first = [look for look in rows_of(record["rows"], "track") if look["step"] == 0]
    parts = ("chosen_norm_sq", "rejected_norm_sq", "inner_product")
    return median_cosine({part: [value for look in first for value in look[part]] for part in parts})


def stage(record: Record, name: str, group: str) -> Mapping[str, Any]:
    """A group's look after the stage ``name``: ``base``, ``supervised``, ``sampled`` or ``preference``."""
    return next(row for row in rows_of(record["rows"], "stage", group) if row["stage"] == name)


def chosen_changes(record: Record, group: str = "held_out") -> np.ndarray:
    """Change of log pi_w of each tracked pair over the run, in nats; shape (P,)."""
    looks = rows_of(record["rows"], "track", group)
    return np.array(looks[-1]["chosen"]) - np.array(looks[0]["chosen"])


def start_ratios(records: Mapping[str, Sequence[Record]]) -> dict[str, float]:
    r"""Median :math:`d_w/d_l` of the held-out pairs before the first step, by objective; infinite where d_l is 0.

    The policy is then the reference. DPOP is read a thousandth of a nat below it: there it is as soon as chosen falls.
    """
    found = {}
    for name, (first, *_) in records.items():
        look = rows_of(first["rows"], "track", "held_out")[0]
        chosen, rejected = np.array(look["chosen"]), np.array(look["rejected"])
        given = {"ref_chosen": chosen, "ref_rejected": rejected, "len_chosen": LONG_SUFFIX, "len_rejected": LONG_SUFFIX}
        d_w, d_l = objective(name).slopes(chosen - 1e-3 * (name == "dpop"), rejected, **given)
        with np.errstate(divide="ignore", invalid="ignore"):
            found[name] = float(np.median(np.where(d_l == 0, np.inf, d_w / d_l)))
    return found


def objectives_verdicts(records: Mapping[str, Sequence[Record]]) -> dict[str, Verdict]:
    """Whether d_w/d_l at the start explains the order in which objectives treat chosen: rank correlation, by seed.

    ``reproduced in part`` where it is at least 0.5 in every seed. Left out is an objective whose slopes begin negative
    (DiscoPOP's): its ratio says nothing of a fall.
    """
    ratios = {name: ratio for name, ratio in start_ratios(records).items() if name != "discopop"}
    seeds = zip(*(records[name] for name in ratios), strict=True)
    ranks = [_rank_correlation(list(ratios.values()), [held_out(run).chosen for run in runs]) for runs in seeds]
    return {
        "objectives-differ": (
            in_part(min(ranks) >= 0.5),
            f"rank correlation of d_w/d_l at the start with the change of held-out chosen, {len(ratios)} objectives: "
            + _listed(ranks)
            + f" in {_seeds(len(ranks))}",
        )
    }


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count > 1)}"


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:+.2f}" for number in numbers)


def _rank_correlation(first: Any, second: Any) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def _measured(runs: Sequence[HeldOut]) -> str:
    mean = {name: np.mean([getattr(run, name) for run in runs]) for name in HeldOut.__dataclass_fields__}
    return (
        f"mean chosen {mean['chosen']:+.2f}, rejected {mean['rejected']:+.2f} nats; chosen fell for "
        f"{mean['share_falling']:.0%} of the pairs; median cosine {mean['first_cosine']:+.2f} at first, "
        f"{mean['cosine']:+.2f} at last; {_seeds(len(runs))}"
    )


_DECIDED_BY: Mapping[str, Callable[[Mapping[str, Sequence[Record]]], dict[str, Verdict]]] = {
    "tweets": verdicts,
    "tweets_smollm2": partial(verdicts, ending="-pretrained"),
    "tweets_smollm2_paper": partial(verdicts, ending="-schedule"),
    "objectives": objectives_verdicts,
    "mitigations": mitigations_verdicts,
    "reviews": reviews_verdicts,
    "bridge": bridge_verdicts,
}
