"""A fixture's tables by the csv module alone: the labels and groups of a split, and labels swapped."""

import csv

import numpy as np

from gentangle.matching.wilds_data import SETS
from gentangle.matching.wilds_fixtures import COUNTRIES, FMOW_CATEGORIES, IDENTITIES

#: File, column of the label, column of the domain.
COLUMNS = {
    "camelyon17": ("metadata.csv", "tumor", "center"),
    "civilcomments": ("all_data_with_identities.csv", "toxicity", "male"),
    "fmow": ("rgb_metadata.csv", "category", "country_code"),
    "iwildcam": ("metadata.csv", "y", "location_remapped"),
    "poverty": ("dhs_metadata.csv", "wealthpooled", "country"),
    "amazon": ("reviews.csv", "overall", "reviewerID"),
}
#: WILDS' 62 categories are in alphabetic order; these are the fixture's.
FMOW_LABELS = {"airport": 0, "dam": 12, "zoo": 61}
#: Countries of fold A, as WILDS' paper lists them.
FOLD_A = {
    "val": "benin burkina_faso guinea sierra_leone tanzania".split(),
    "test": "angola cote_d_ivoire ethiopia mali rwanda".split(),
}


def truth(name, root, split):
    """Group of each row, and the labels as an array."""
    folder = root / f"{name}_v{SETS[name].version}"

    def rows(file):
        with (folder / file).open(newline="", encoding="utf-8") as source:
            return list(csv.DictReader(source))

    if name == "camelyon17":
        found = [r for r in rows("metadata.csv") if r["center"] == {"val": "1", "test": "2"}[split]]
        return [r["slide"] for r in found], np.array([int(r["tumor"]) for r in found])
    if name == "civilcomments":
        found = [r for r in rows("all_data_with_identities.csv") if r["split"] == split]
        groups = [[float(r[identity]) >= 0.5 for identity in IDENTITIES] for r in found]
        return groups, np.array([int(float(r["toxicity"]) >= 0.5) for r in found])
    if name == "fmow":
        years = {"val": range(2013, 2016), "test": range(2016, 2018)}[split]
        found = [r for r in rows("rgb_metadata.csv") if r["split"] == split and int(r["timestamp"][:4]) in years]
        regions = dict(COUNTRIES)
        return [regions[r["country_code"]] for r in found], np.array([FMOW_LABELS[r["category"]] for r in found])
    if name == "iwildcam":
        found = [r for r in rows("metadata.csv") if r["split"] == split]
        return [r["location_remapped"] for r in found], np.array([int(r["y"]) for r in found])
    if name == "poverty":
        found = [r for r in rows("dhs_metadata.csv") if r["country"] in FOLD_A[split]]
        return [r["urban"] for r in found], np.array([float(r["wealthpooled"]) for r in found])
    code = {"val": "1", "test": "3"}[split]
    found = [r for r, s in zip(rows("reviews.csv"), rows("splits/user.csv"), strict=True) if s["split"] == code]
    return [r["reviewerID"] for r in found], np.array([int(float(r["overall"])) - 1 for r in found])


def edit(folder, file, change):
    """Rewrite a table after ``change(rows)``."""
    with (folder / file).open(newline="") as source:
        reader = csv.DictReader(source)
        rows, columns = list(reader), reader.fieldnames
    change(rows)
    numbers = {"overall", "reviewYear"}
    rows = [{key: float(value) if key in numbers else value for key, value in row.items()} for row in rows]
    with (folder / file).open("w", newline="") as target:
        writer = csv.DictWriter(target, columns, quoting=csv.QUOTE_NONNUMERIC if file == "reviews.csv" else 0)
        writer.writeheader()
        writer.writerows(rows)


#: What a label becomes, in a circle of the fixture's labels; wealth changes its sign.
_NEXT = {
    "camelyon17": lambda label: str(1 - int(label)),
    "civilcomments": lambda label: f"{1 - float(label):.1f}",
    "fmow": lambda label: FMOW_CATEGORIES[(FMOW_CATEGORIES.index(label) + 1) % 3],
    "iwildcam": lambda label: str((int(label) + 1) % 3),
    "poverty": lambda label: str(-float(label)),
    "amazon": lambda label: str(float(label) % 5 + 1),
}


def swap_training_labels(name, folder):
    """Give every label that is trained on to another; ``test``, and ``val``, are left as they are."""
    file, label, _ = COLUMNS[name]
    seen = []
    if name == "amazon":
        seen = [split == "0" for split in (folder / "splits/user.csv").read_text().splitlines()[1:]]

    def change(rows):
        for number, row in enumerate(rows):
            trained = seen[number] if seen else _is_trained_on(name, row)
            row[label] = _NEXT[name](row[label]) if trained else row[label]

    edit(folder, file, change)


def _is_trained_on(name, row):
    if name == "camelyon17":
        return row["center"] in "034"
    if name == "poverty":
        return row["country"] not in FOLD_A["val"] + FOLD_A["test"]
    return row["split"] == "train"
