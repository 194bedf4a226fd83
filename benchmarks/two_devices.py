"""The tweets' runs on two devices, the same seeds: ``two_devices.py FOLDER``.

FOLDER holds records of ``recipes/tweets.yaml`` that another device made; ``results/tweets`` is what they are compared
with. TRL draws one order of the data from one seed, so rounding alone should tell the runs apart. Written to
``results/two_devices.json``.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gentangle.alignment.records import rows_of
from gentangle.atomic import write_json
from gentangle.provenance import provenance
from gentangle.runs import read_record

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "results" / "tweets"
RESULT = ROOT / "results" / "two_devices.json"
HEAD = ["Form", "Chosen: processor, GPU", "Rejected: processor, GPU", "Largest difference of a response", "Same case"]


def read(path: Path) -> dict[str, Any]:
    """The training pairs' looks of a record: log-probabilities (looks, 2P) in nats, chosen first, and cases."""
    given = read_record(path)
    looks = rows_of(given["rows"], "track", "train")
    log_probs = np.array([[*look["chosen"], *look["rejected"]] for look in looks])
    return {"log_probs": log_probs, "cases": np.array([look["case"] for look in looks]), "config": given["config"]}


def moved(log_probs: np.ndarray) -> list[float]:
    """Mean change of chosen and of rejected from the first look to the last, in nats."""
    return [float(x) for x in (log_probs[-1] - log_probs[0]).reshape(2, -1).mean(1)]


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Two records of one run: mean changes, the largest difference of any response at any look, equal cases."""
    here, there = read(one), read(other)
    if here["config"] != there["config"]:
        raise SystemExit(f"two_devices: {one} and {other} are records of other settings.")
    return {
        "moved": [moved(here["log_probs"]), moved(there["log_probs"])],
        "largest": float(np.abs(here["log_probs"] - there["log_probs"]).max()),
        "same_case": float((here["cases"] == there["cases"]).mean()),
    }


def table(runs: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The rows that the book shows, one a run."""
    rows = []
    for name, one in runs.items():
        chosen, rejected = ([f"{change:+.4f}" for change in side] for side in zip(*one["moved"], strict=True))
        row = [name, ", ".join(chosen), ", ".join(rejected), f"{one['largest']:.1g} nats", f"{one['same_case']:.1%}"]
        rows.append(row)
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="records that the other device made")
    paths = sorted(parser.parse_args(arguments).folder.glob("*.json"))
    found = {path.stem: compare(HERE / path.name, path) for path in paths}
    made = [read_record(path)["provenance"] for path in (HERE / paths[0].name, paths[0])]
    rows = table(found)
    now = provenance(seed=None, data=made[0]["data_sha256"])
    write_json(RESULT, {"provenance": now, "made": made, "runs": found, "head": HEAD, "ratios": rows})
    for row in rows:
        print(*row, sep="   ")


if __name__ == "__main__":
    main()
