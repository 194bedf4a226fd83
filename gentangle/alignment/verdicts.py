"""What the records of the tweets experiment say about the paper's claims, decided by rules written beforehand."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gentangle.alignment.records import rows_of

Record = Mapping[str, Any]


def held_out_change(record: Record) -> tuple[float, float, float]:
    """Change of mean log pi_w and log pi_l over a run, held-out pairs, in nats; last median cosine."""
    looks = rows_of(record["rows"], "track", "held_out")
    chosen, rejected = (float(np.mean(looks[-1][s]) - np.mean(looks[0][s])) for s in ("chosen", "rejected"))
    return chosen, rejected, median_cosine(looks[-1])


def median_cosine(look: Mapping[str, Any]) -> float:
    """Median cosine of the tracked pairs' gradients at one look."""
    norms = np.sqrt(np.array(look["chosen_norm_sq"]) * np.array(look["rejected_norm_sq"]))
    return float(np.median(np.array(look["inner_product"]) / norms))


def verdicts(records: Mapping[str, Sequence[Record]]) -> dict[str, tuple[str, str]]:
    """Status and measured figure of each claim that the runs decide, by the claim's id.

    A claim holds where every seed shows it. It is then ``reproduced in part``, never more: these are
    runs of one small model.

    Args:
        records: for each form its records, one a seed.
    """
    one = [held_out_change(record) for record in records["one-token"]]
    long = [held_out_change(record) for record in records["long-suffix"]]
    first = [median_cosine(rows_of(record["rows"], "track", "held_out")[0]) for record in records["long-suffix"]]
    one_holds = all(chosen > 0 > rejected and cosine < 0 for chosen, rejected, cosine in one)
    long_holds = all(c < 0 and r < 0 and cos > start for (c, r, cos), start in zip(long, first, strict=True))
    return {
        "one-token-run": (_status(one_holds), _measured(one)),
        "long-suffix-run": (_status(long_holds), _measured(long) + f"; it began at {np.mean(first):+.2f}"),
    }


def _status(holds: bool) -> str:
    return "reproduced in part" if holds else "differs"


def _measured(changes: Sequence[tuple[float, float, float]]) -> str:
    chosen, rejected, cosine = np.mean(changes, axis=0)
    return f"chosen {chosen:+.2f}, rejected {rejected:+.2f} nats, cosine {cosine:+.2f}, mean of {len(changes)} seeds"
