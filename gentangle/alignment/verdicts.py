"""What the tweets experiment's records say about the claims, by rules written beforehand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gentangle.alignment.objectives import objective
from gentangle.alignment.records import rows_of

Record = Mapping[str, Any]

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
    norms = np.sqrt(np.array(look["chosen_norm_sq"]) * np.array(look["rejected_norm_sq"]))
    return float(np.median(np.array(look["inner_product"]) / norms))


def run_verdicts(records: Mapping[str, Sequence[Record]]) -> dict[str, tuple[str, str]]:
    """Status and measured figure of each claim that a recipe's records decide, by the claim's id."""
    return verdicts(records) if "one-token" in records else objectives_verdicts(records)


def verdicts(records: Mapping[str, Sequence[Record]]) -> dict[str, tuple[str, str]]:
    """Status and measured figure of each claim that the runs of several forms decide.

    A claim holds where every seed shows it. It is then ``reproduced in part``, never more: these are
    runs of one small model.

    Args:
        records: for each form its records, one a seed.
    """
    one = [held_out(record) for record in records["one-token"]]
    long = [held_out(record) for record in records["long-suffix"]]
    one_holds = all(run.chosen > 0 > run.rejected and run.cosine < 0 for run in one)
    long_holds = all(run.chosen < 0 and run.rejected < 0 and run.cosine > run.first_cosine for run in long)
    return {
        "one-token-run": (_status(one_holds), _measured(one)),
        "long-suffix-run": (_status(long_holds), _measured(long)),
    }


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


def objectives_verdicts(records: Mapping[str, Sequence[Record]]) -> dict[str, tuple[str, str]]:
    """Whether d_w/d_l at the start explains the order in which objectives treat chosen: rank correlation, by seed.

    ``reproduced in part`` where it is at least 0.5 in every seed. Left out is an objective whose slopes begin negative
    (DiscoPOP's): its ratio says nothing of a fall.
    """
    ratios = {name: ratio for name, ratio in start_ratios(records).items() if name != "discopop"}
    seeds = zip(*(records[name] for name in ratios), strict=True)
    ranks = [_rank_correlation(list(ratios.values()), [held_out(run).chosen for run in runs]) for runs in seeds]
    return {
        "objectives-differ": (
            _status(min(ranks) >= 0.5),
            f"rank correlation of d_w/d_l at the start with the change of held-out chosen, {len(ratios)} objectives: "
            + ", ".join(f"{rank:+.2f}" for rank in ranks)
            + f" in {len(ranks)} seeds",
        )
    }


def _rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def _status(holds: bool) -> str:
    return "reproduced in part" if holds else "differs"


def _measured(runs: Sequence[HeldOut]) -> str:
    mean = {name: np.mean([getattr(run, name) for run in runs]) for name in HeldOut.__dataclass_fields__}
    return (
        f"mean chosen {mean['chosen']:+.2f}, rejected {mean['rejected']:+.2f} nats; chosen fell for "
        f"{mean['share_falling']:.0%} of the pairs; median cosine {mean['first_cosine']:+.2f} at first, "
        f"{mean['cosine']:+.2f} at last; {len(runs)} seeds"
    )
