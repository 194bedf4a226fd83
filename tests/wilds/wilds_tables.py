"""Labels and groups of a split, read from a fixture's tables with the csv module alone."""

import csv

import numpy as np

from gentangle.matching.wilds_data import SETS
from gentangle.matching.wilds_fixtures import COUNTRIES, IDENTITIES

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
