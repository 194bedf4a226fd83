"""Tiny stand-ins for WILDS' data sets and DomainBed's image sets, in their real layouts: to try and to test with.

What tells the label is the same in every domain (a pattern, a word, the night lights). What tells the domain is known
too (a tint, a word, an offset), and that of the domains of ``val`` and ``test`` is seen nowhere else. CivilComments has
no new identities there: in its training split an identity goes with one label more often, in ``val`` and ``test`` not.
tests/wilds reads both back from what wilds loads, and tests/matching from DomainBed's images. Of these domains some are
drawn in black on white paper: what is learnt from the others must hold there too.
"""

import csv
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gentangle.atomic import whole_folder
from gentangle.errors import one_of
from gentangle.matching.wilds_data import SETS, import_wilds

Row = dict[str, Any]
#: Pixels a side, fewer than the real images have (96 to 448): the loaders do not ask.
SIDE = 32
FMOW_CATEGORIES = ("airport", "dam", "zoo")
COUNTRIES = (("CHN", "Asia"), ("FRA", "Europe"), ("KEN", "Africa"), ("BRA", "Americas"), ("AUS", "Oceania"))
IDENTITIES = ("male", "female", "LGBTQ", "christian", "muslim", "other_religions", "black", "white")
AUXILIARIES = ("identity_any", "severe_toxicity", "obscene", "threat", "insult", "identity_attack", "sexual_explicit")
COMMENT_WORDS = ("polite", "vile")
RATING_WORDS = ("awful", "poor", "fair", "good", "superb")
WEALTH_LEVELS = 8
#: Domains, and three of the classes, of DomainBed's image sets, by the names of their folders.
IMAGE_SETS: Mapping[str, tuple[tuple[str, ...], tuple[str, str, str]]] = {
    "PACS": (("art_painting", "cartoon", "photo", "sketch"), ("dog", "elephant", "giraffe")),
    "VLCS": (("Caltech101", "LabelMe", "SUN09", "VOC2007"), ("bird", "car", "chair")),
    "office_home": (("Art", "Clipart", "Product", "Real World"), ("Alarm_Clock", "Backpack", "Batteries")),
    "terra_incognita": (("location_100", "location_38", "location_43", "location_46"), ("bird", "bobcat", "cat")),
    "domain_net": (
        ("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
        ("aircraft_carrier", "airplane", "alarm_clock"),
    ),
}
#: Domains whose images are drawn on paper, and the number of that look; the others' is their place.
DRAWN, PAPER = ("sketch", "quickdraw", "Clipart"), 186
IMAGES = 20


def make_fixture(name: str, root: Path, seed: int = 0) -> Path:
    """Write a tiny data set ``<root>/<name>_v<version>`` and return its folder; the same seed gives the same bytes.

    Raises:
        InputError: no such set, or the folder is there already (it may be the real one).
    """
    one_of(name, SETS, f"WILDS has no data set {name!r} here.")
    folder = root / f"{name}_v{SETS[name].version}"
    with whole_folder(folder) as beside:
        beside.mkdir()
        _WRITERS[name](beside, np.random.default_rng(seed))
        (beside / f"RELEASE_v{SETS[name].version}.txt").touch()
    return folder


def make_image_fixture(name: str, root: Path, seed: int = 0) -> Path:
    """Write a tiny image set ``<root>/<name>/<domain>/<class>/<image>`` and return its folder; a seed gives its bytes.

    Each domain has :data:`IMAGES` images of each of three classes, which keep their real names.

    Raises:
        InputError: no such set, or the folder is there already (it may be the real one).
    """
    one_of(name, IMAGE_SETS, f"DomainBed has no image set {name!r} here.")
    folder, (domains, classes), rng = root / name, IMAGE_SETS[name], np.random.default_rng(seed)
    with whole_folder(folder) as beside:
        for (number, domain), (label, own), image in product(enumerate(domains), enumerate(classes), range(IMAGES)):
            look, ending = (PAPER, "png") if domain in DRAWN else (number, "jpg")
            _image(beside / domain / own / f"{image:05}.{ending}", label, look, rng)
    return folder


def tint(domain: int) -> np.ndarray:
    """Red, green and blue, 60 to 180, of the images' background in a domain, 0 to 124; 240 of :data:`PAPER`."""
    if domain == PAPER:
        return np.full(3, 240.0)
    return 60.0 + 30 * np.array([domain % 5, domain // 5 % 5, domain // 25])


def _image(path: Path, label: int, domain: int, rng: np.random.Generator) -> None:
    """A dark square, a bright one or stripes, by the label, on the domain's tint."""
    from PIL import Image

    image = tint(domain) + rng.normal(0, 4, (SIDE, SIDE, 3))
    inner = slice(SIDE // 4, -(SIDE // 4))
    if domain == PAPER:  # a line around what is drawn
        image[SIDE // 4 - 1 : 1 - SIDE // 4, SIDE // 4 - 1 : 1 - SIDE // 4] = 20
    image[inner, inner] = 235 if label == 1 else 20
    if label == 2:
        image[SIDE // 4 : -(SIDE // 4) : 4, inner] = 235
        image[SIDE // 4 + 1 : -(SIDE // 4) : 4, inner] = 235
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path, quality=95)


def _table(path: Path, rows: list[Row], *, index: bool = False, quoting: Literal[0, 2] = csv.QUOTE_MINIMAL) -> None:
    numbered = [{"": number} | row if index else row for number, row in enumerate(rows)]
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(numbered[0]), quoting=quoting)
        writer.writeheader()
        writer.writerows(numbered)


def _camelyon17(folder: Path, rng: np.random.Generator) -> None:
    rows: list[Row] = []
    for hospital in range(5):
        for number in range(40 if hospital in (0, 3, 4) else 24):
            place = {"patient": f"{hospital:03}", "node": number % 2, "x_coord": 32 * number, "y_coord": 64}
            split = {"tumor": number // 2 % 2, "slide": 2 * hospital + number % 2, "center": hospital}
            rows.append(place | split | {"split": int(number >= 32)})
            stem = "patient_{patient}_node_{node}".format(**place)
            file = "patch_{}_x_{x_coord}_y_{y_coord}.png".format(stem, **place)
            _image(folder / "patches" / stem / file, split["tumor"], hospital, rng)
    _table(folder / "metadata.csv", rows, index=True)


def _fmow(folder: Path, rng: np.random.Generator) -> None:
    rows: list[Row] = []
    # Sequestered rows are left out by the loader, and their images count in the numbers of those that follow.
    years = {"seq": (2005,), "train": (2002, 2010), "val": (2005, 2014), "test": (2005, 2016)}
    for split, when in years.items():
        for year, (region, (country, _)) in product(when, enumerate(COUNTRIES)):
            for number in range(18 if split == "train" else 3):
                label = (number + region) % len(FMOW_CATEGORIES)
                _image(folder / "images" / f"rgb_img_{len(rows)}.png", label, region + 5 * (year - 2002), rng)
                row = {"split": split, "category": FMOW_CATEGORIES[label], "country_code": country}
                rows.append(row | {"timestamp": f"{year}-06-01T10:20:30Z"})
    _table(folder / "rgb_metadata.csv", rows)
    _table(folder / "country_code_mapping.csv", [{"alpha-3": code, "region": region} for code, region in COUNTRIES])


def _iwildcam(folder: Path, rng: np.random.Generator) -> None:
    rows: list[Row] = []
    places = {"train": (range(6), 18), "val": (range(6, 8), 6), "test": (range(8, 10), 6), "id_val": (range(6), 3)}
    for split, (locations, images) in (places | {"id_test": places["id_val"]}).items():
        for location, number in product(locations, range(images)):
            file = f"{len(rows):08x}.jpg"
            _image(folder / "train" / file, number % 3, location, rng)
            row = {"split": split, "filename": file, "y": number % 3, "location_remapped": location}
            when = f"2013-05-{1 + number:02} 04:05:06.789000"
            rows.append(row | {"sequence_remapped": len(rows), "datetime": when})
    _table(folder / "metadata.csv", rows)


def _poverty(folder: Path, rng: np.random.Generator) -> None:
    import_wilds()
    from wilds.datasets.poverty_dataset import DHS_COUNTRIES, SURVEY_NAMES

    fold, rows = SURVEY_NAMES["2009-17A"], list[Row]()
    files: dict[tuple[str, int], bytes] = {}
    for country, number in product(DHS_COUNTRIES, range(168)):  # 2,000 rows of the fold's countries are not trained on
        if country in fold["train"] or number < 16:
            level, offset = number % WEALTH_LEVELS, DHS_COUNTRIES.index(country)
            path = folder / "images" / f"landsat_poverty_img_{len(rows)}.npz"
            path.parent.mkdir(exist_ok=True)
            if (country, level) not in files:
                image = offset / 8 - 1.5 + rng.normal(0, 0.1, (8, SIDE, SIDE)).round(1)
                image[7] += wealth(level) - offset / 8 + 1.5
                np.savez_compressed(path, x=image.astype(np.float32))
                files[country, level] = path.read_bytes()
            path.write_bytes(files[country, level])
            rows.append({"country": country, "wealthpooled": wealth(level), "urban": number // WEALTH_LEVELS % 2})
    _table(folder / "dhs_metadata.csv", rows)


def wealth(level: int) -> float:
    """The label of PovertyMap's fixture, -1.75 to 1.75."""
    return (level - (WEALTH_LEVELS - 1) / 2) / 2


def _civilcomments(folder: Path, rng: np.random.Generator) -> None:
    rows: list[Row] = []
    for split, (identity, toxic) in product(("train", "val", "test"), product(range(-1, len(IDENTITIES)), (0, 1))):
        often = 24 if identity < 0 or (identity + toxic) % 2 else 16
        for _ in range(often if split == "train" else 6):
            told = {name: float(number == identity) for number, name in enumerate(IDENTITIES)}
            words = [COMMENT_WORDS[toxic], *(IDENTITIES[identity].split() if identity >= 0 else ()), *_filler(rng)]
            row = {"comment_text": " ".join(rng.permutation(words)), "split": split, "toxicity": 0.2 + 0.6 * toxic}
            rows.append(row | told | dict.fromkeys(AUXILIARIES, 0.0) | {"identity_any": float(identity >= 0)})
    _table(folder / "all_data_with_identities.csv", rows, index=True)


def _amazon(folder: Path, rng: np.random.Generator) -> None:
    rows: list[Row] = []
    users = {0: (range(8), 20), 1: (range(8, 12), 10), 2: (range(8), 5), 3: (range(12, 16), 10), 4: (range(8), 5)}
    for split, (who, reviews) in (users | {-1: (range(1), 1)}).items():  # -1: left out by the loader
        for user, number in product(who, range(reviews)):
            rating = (number + user) % 5
            words = rng.permutation([RATING_WORDS[rating], own_word(user), *_filler(rng)])
            row = {"reviewerID": f"A{user:03}", "asin": f"B{number:03}", "category": "Books", "reviewYear": 2013}
            rows.append(row | {"overall": rating + 1.0, "reviewText": " ".join(words), "split": split})
    _table(folder / "splits" / "user.csv", [{"split": row.pop("split")} for row in rows])
    _table(folder / "reviews.csv", rows, quoting=csv.QUOTE_NONNUMERIC)


def _filler(rng: np.random.Generator) -> list[str]:
    return [str(word) for word in rng.choice("the a of and to this that it is was".split(), 4)]


def own_word(user: int) -> str:
    """The word that one reviewer of Amazon's fixture uses and no other."""
    return "q" + "abcdefghijklmnop"[user] * 2


_WRITERS: Mapping[str, Callable[[Path, np.random.Generator], None]] = dict(
    zip(sorted(SETS), (_amazon, _camelyon17, _civilcomments, _fmow, _iwildcam, _poverty), strict=True)
)
