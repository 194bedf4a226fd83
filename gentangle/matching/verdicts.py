"""What the records of the matching recipes say about the paper's claims, by rules written before the runs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gentangle.errors import InputError
from gentangle.matching.recipes import MatchingRecipe
from gentangle.matching.selection import select
from gentangle.runs import read_record
from gentangle.verdict import Record, Verdict, in_part


def load_matching_records(results: Path, recipe: MatchingRecipe) -> dict[str, Record]:
    """The record of every variant.

    Raises:
        InputError: one is missing; the message says how it is made.
    """
    return {name: read_record(results / recipe.name / f"{name}.json") for name in recipe.variants()}


def matching_verdicts(name: str, records: Mapping[str, Record]) -> dict[str, Verdict]:
    """Status and measured figure of each claim that the records of the recipe called ``name`` decide, by claim's id.

    ``reproduced in part`` is the most that runs of this size can show.
    """
    return _DECIDED_BY[name](records) if name in _DECIDED_BY else {}


def looks(record: Record) -> dict[int, list[Mapping[str, Any]]]:
    """A record's rows by seed, in order."""
    by_seed: dict[int, list[Mapping[str, Any]]] = {}
    for row in sorted(record["rows"], key=lambda row: row["step"]):
        by_seed.setdefault(row["seed"], []).append(row)
    return by_seed


def final_accuracies(record: Record) -> list[float]:
    """Accuracy on the test domain at the end, one a seed."""
    return [rows[-1]["test"]["test"] for rows in looks(record).values()]


def cdsprites_verdicts(records: Mapping[str, Record]) -> dict[str, Verdict]:
    """CdSprites-N at its end, seed by seed.

    ``cdsprites-fish``: at N 15 and 50 Fish is right for at least 90 % of the test and 10 points above ERM.
    ``cdsprites-erm``: ERM and Reptile stay within 10 points of chance at every N.
    ``random-groups``: at N 50 Fish on true domains is 5 points above Fish on random groups, which is within 5 of plain
    minibatches. ``gip-rises``: at N 15 the exact GIP ends higher than at the first look for Fish, and lower for ERM.
    """
    right = {name: final_accuracies(record) for name, record in records.items()}
    larger = ("N15", "N50")
    fish = all(
        f >= 0.9 and f >= e + 0.1 for n in larger for f, e in zip(right[f"fish-{n}"], right[f"erm-{n}"], strict=True)
    )
    chance = [a for name, values in right.items() if name.split("-")[0] in ("erm", "reptile") for a in values]
    groups = zip(*(right[f"{name}-N50"] for name in ("fish", "random-groups", "minibatches")), strict=True)
    changes = {
        name: [rows[-1]["domain_gip"] - rows[0]["domain_gip"] for rows in looks(records[f"{name}-N15"]).values()]
        for name in ("fish", "erm")
    }
    listed = ("fish", "erm", "minibatches", "random-groups", "reptile", "idgm")
    table = {n: "; ".join(f"{name} {np.mean(right[f'{name}-{n}']):.0%}" for name in listed) for n in larger}
    seeds = f"{len(right['fish-N15'])} seeds"
    return {
        "cdsprites-fish": (in_part(fish), f"test accuracy at N 15: {table['N15']}; at N 50: {table['N50']}; {seeds}"),
        "cdsprites-erm": (
            in_part(max(chance) <= 0.6),
            f"test accuracy of ERM and Reptile over all N and {seeds}: {min(chance):.0%} to {max(chance):.0%}",
        ),
        "random-groups": (
            in_part(all(f >= g + 0.05 and abs(g - m) <= 0.05 for f, g, m in groups)),
            f"test accuracy at N 50: {table['N50']}; {seeds}",
        ),
        "gip-rises": (
            in_part(min(changes["fish"]) > 0 > max(changes["erm"])),
            "change of the exact GIP from the first look to the last at N 15: "
            + "; ".join(f"{name} {', '.join(f'{c:+.2g}' for c in values)}" for name, values in changes.items()),
        ),
    }


def digits_verdicts(claim: str) -> Callable[[Mapping[str, Record]], dict[str, Verdict]]:
    """Whether Fish does as ERM within 2 points, chosen by the training domains: the published figures say so."""

    def verdict(records: Mapping[str, Record]) -> dict[str, Verdict]:
        found = {name: chosen_accuracies(records, name, "training") for name in ("fish", "erm")}
        fish, erm = (100 * np.mean([*values.values()]) for values in found.values())
        measured = f"mean over {len(found['fish'])} test domains: Fish {fish:.1f} %, ERM {erm:.1f} %"
        return {claim: (in_part(bool(abs(fish - erm) <= 2)), measured)}

    return verdict


def text_verdicts(records: Mapping[str, Record]) -> dict[str, Verdict]:
    """Four domains of text, seed by seed: means over the domain that is left out.

    ``text-fish``: chosen by the training domains, Fish is above ERM and above its own loop over random groups.
    ``text-gip``: at the end of the runs at one rate the exact GIP of Fish is above that of ERM.
    """
    chosen = {
        name: np.mean([*chosen_accuracies(records, name, "training").values()], axis=0)
        for name in ("fish", "erm", "random-groups")
    }
    gips = {name: single_domain_gips(records[f"{name}-slow"]) for name in ("fish", "erm")}
    first, last = (np.array([values[when] for values in gips.values()]) for when in (0, -1))
    seeds = f"{len(chosen['fish'])} seeds"
    accuracies = "; ".join(f"{name} {100 * values.mean():.1f} %" for name, values in chosen.items())
    return {
        "text-fish": (
            in_part(bool((chosen["fish"] > np.maximum(chosen["erm"], chosen["random-groups"])).all())),
            f"mean test accuracy: {accuracies}; {seeds}",
        ),
        "text-gip": (
            in_part(bool((last[0] > last[1]).all())),
            "exact GIP from the first look to the last: "
            + "; ".join(
                f"{name} {a.mean():+.3g} to {b.mean():+.3g}" for name, a, b in zip(gips, first, last, strict=True)
            )
            + f"; {seeds}",
        ),
    }


def single_domain_gips(record: Record) -> np.ndarray:
    """Exact GIP of the true training domains, shape (looks, seeds): means over the runs that left out one domain."""
    found = []
    for rows in looks(record).values():
        by_step: dict[int, list[float]] = {}
        for row in rows:
            if len(row["left_out"]) == 1:
                by_step.setdefault(row["step"], []).append(row["domain_gip"])
        found.append([np.mean(values) for values in by_step.values()])
    return np.array(found).T


def chosen_accuracies(records: Mapping[str, Record], algorithm: str, rule: str) -> dict[str, list[float]]:
    """Test accuracies by test domain, one a seed, of what a rule chooses among an algorithm's variants.

    Raises:
        InputError: no record is of the algorithm.
    """
    mine = {name: record for name, record in records.items() if name.rsplit("-", 1)[0] == algorithm}
    if not mine:
        raise InputError(f"No record is of {algorithm!r}: there are {', '.join(records)}.")
    by_seed = {name: looks(record) for name, record in mine.items()}
    first = next(iter(by_seed.values()))
    tested = sorted({row["left_out"][0] for rows in first.values() for row in rows if len(row["left_out"]) == 1})
    return {
        domain: [select({name: rows[seed] for name, rows in by_seed.items()}, domain, rule)[1] for seed in first]
        for domain in tested
    }


_DECIDED_BY: Mapping[str, Callable[[Mapping[str, Record]], dict[str, Verdict]]] = {
    "cdsprites": cdsprites_verdicts,
    "rotated_digits": digits_verdicts("rotated-digits"),
    "colored_digits": digits_verdicts("colored-digits"),
    "text": text_verdicts,
}
