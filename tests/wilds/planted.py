"""What the fixtures planted, read back from what wilds loads."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from gentangle.matching.wilds_data import SETS
from gentangle.matching.wilds_fixtures import (
    COMMENT_WORDS,
    COUNTRIES,
    FMOW_CATEGORIES,
    IDENTITIES,
    RATING_WORDS,
    SIDE,
    WEALTH_LEVELS,
    own_word,
    wealth,
)


def planted(name: str, dataset: Any) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Of each row of a loaded fixture: label in the input, label in the table, domain in the input, and in the table.

    A column that was swapped makes two of them differ.
    """
    fields = [dataset.metadata_fields.index(field) for field in SETS[name].domain or IDENTITIES]
    for number, y in enumerate(dataset.y_array.flatten().tolist()):
        label, domain = _READERS[name](dataset.get_input(number))
        told = [int(value) for value in dataset.metadata_array[number, fields]]
        yield label, y, domain, _code(name, dataset, told)


def _code(name: str, dataset: Any, told: list[int]) -> Any:
    """The domain as the input tells it."""
    if name == "fmow":
        regions = [region for _, region in COUNTRIES]
        return regions.index(dataset.metadata_map["region"][told[0]]) + 5 * told[1]
    if name == "amazon":
        return own_word(int(dataset.metadata_map["user"][told[0]].removeprefix("A")))
    return {IDENTITIES[i] for i, yes in enumerate(told) if yes} if name == "civilcomments" else told[0]


def _read_image(image: Any) -> tuple[int, int]:
    pixels = np.asarray(image, dtype=float)
    inner = pixels[SIDE // 4 : -(SIDE // 4), SIDE // 4 : -(SIDE // 4)]
    digits = ((pixels[:2].mean(axis=(0, 1)) - 60) / 30).round().astype(int)
    return 2 if inner.std() > 60 else int(inner.mean() > 128), int(digits @ [1, 5, 25])


def _read_fmow(image: Any) -> tuple[int, int]:
    from wilds.datasets.fmow_dataset import categories

    label, domain = _read_image(image)
    return categories.index(FMOW_CATEGORIES[label]), domain


def _read_poverty(image: Any) -> tuple[float, int]:
    level = 2 * image[7].mean() + (WEALTH_LEVELS - 1) / 2
    return wealth(round(float(level))), round(float(8 * (image[0].mean() + 1.5)))


def _read_comment(text: str) -> tuple[int, set[str]]:
    words = text.split()
    return int(COMMENT_WORDS[1] in words), {word for word in words if word in IDENTITIES}


def _read_review(text: str) -> tuple[int, str]:
    words = text.split()
    return next(RATING_WORDS.index(w) for w in words if w in RATING_WORDS), next(w for w in words if w[0] == "q")


_READERS: Mapping[str, Callable[[Any], tuple[Any, Any]]] = {
    "camelyon17": _read_image,
    "civilcomments": _read_comment,
    "fmow": _read_fmow,
    "iwildcam": _read_image,
    "poverty": _read_poverty,
    "amazon": _read_review,
}
