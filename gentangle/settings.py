"""YAML into frozen dataclasses, with one clear error for every key or value that does not fit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from gentangle.errors import InputError, nearest


def read_yaml(path: str | Path) -> Mapping[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: no such file, not UTF-8, not YAML, or no mapping.
    """
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path} ({error}): give a YAML file in UTF-8.") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, Mapping):
        raise InputError(f"{path} holds {type(given).__name__}, expected keys and values.")
    return given


def build(kind: type, given: Any, where: str) -> Any:
    """An instance of the dataclass ``kind`` from a mapping; fields that are dataclasses are built in turn.

    Raises:
        InputError: a misspelt or missing key (the nearest one is named) or a value of the wrong type;
            ``where`` says in which file and part.
    """
    if not isinstance(given, Mapping):
        raise InputError(f"{where} holds {given!r}, expected keys and values.")
    known = {f.name: f for f in fields(kind)}
    for key in given:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}. {nearest(str(key), known)}")
    for name, f in known.items():
        if name not in given and f.default is MISSING and f.default_factory is MISSING:
            raise InputError(f"{where}: the key {name!r} is missing.")
    hints = get_type_hints(kind)
    return kind(**{key: _typed(value, hints[key], f"{where}: {key}") for key, value in given.items()})


def _typed(value: Any, expected: Any, where: str) -> Any:
    if is_dataclass(expected):
        return build(expected, value, where)  # type: ignore[arg-type]
    if expected in (int, float, str):
        accepted = (int, float) if expected is float else expected
        if not isinstance(value, accepted) or isinstance(value, bool):
            hint = " (YAML reads 5e-4 as text: write 5.0e-4)" if expected is float else ""
            raise InputError(f"{where} is {value!r}, expected {expected.__name__}{hint}.")
        if expected is not str and not 0 <= value < math.inf:
            raise InputError(f"{where} is {value}, expected a finite number that is not negative.")
    if get_origin(expected) is Sequence:
        if not isinstance(value, list):
            raise InputError(f"{where} is {value!r}, expected a list.")
        (item,) = get_args(expected)
        return [_typed(entry, item, f"{where}, item {number}") for number, entry in enumerate(value, 1)]
    return value
