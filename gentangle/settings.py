"""YAML into frozen dataclasses, with one clear error for every key or value that does not fit."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from gentangle.errors import InputError, one_of

#: Whole numbers are below it, so that each library below takes them; floats are below what float32 holds.
LARGEST = {int: 2**31, float: 1e38}


class _Loader(yaml.SafeLoader):
    """Safe, and without a key that stands twice and without aliases, of which ten lines can make gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "an alias is not taken: write the value out", mark)
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> Any:
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.composer.ComposerError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
            seen.add(str(key.value))
        return node


def read_text(path: str | Path, expected: str, encoding: str = "utf-8") -> str:
    """A file's text; ``expected`` says what to give where there is none."""
    try:
        return Path(path).read_text(encoding=encoding)
    except (OSError, ValueError) as error:  # no file, not in the encoding, or a name with a null in it
        raise InputError(f"Cannot read {path} ({error}): give {expected}.") from error


def load_yaml(path: str | Path) -> Any:
    """What a YAML file holds.

    Raises:
        InputError: no such file, not UTF-8, not YAML, a key twice, an alias, or nested too deeply.
    """
    text = read_text(path, "a YAML file in UTF-8")
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise InputError(f"{path} is not YAML that can be read: it is nested too deeply.") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:  # `!!int x`, the 32nd of May
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        InputError: it is none, is nested too deeply, or holds a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise InputError(f"not JSON ({error.msg}, {line}column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON that can be read ({error})") from error


def at_least_1(part: Any, names: Sequence[str], where: str) -> None:
    """Refuse a 0 where it makes no sense: of steps, sizes and strides."""
    for name in names:
        if getattr(part, name) < 1:
            raise InputError(f"{where}: {name} is {getattr(part, name)}, expected at least 1.")


def not_empty(recipe: Any, names: Sequence[str], where: str) -> None:
    """Refuse a list without an entry."""
    for name in names:
        if not getattr(recipe, name):
            raise InputError(f"{where}: {name} is empty, expected at least one.")


def check_name(name: str, where: str) -> None:
    """Refuse a name that cannot be a folder's: runs are kept, and overwritten, under it."""
    if not re.fullmatch(r"\w[\w.+-]{0,99}", name):
        raise InputError(
            f"{where}: the name {name!r} is to be a folder's: letters, digits, '_', '-', '+' and '.' alone."
        )


def read_yaml(path: str | Path) -> Mapping[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: no mapping, or as :func:`load_yaml`.
    """
    given = load_yaml(path)
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
        one_of(key, known, f"{where}: unknown key {key!r}.")
    for name, f in known.items():
        if name not in given and f.default is MISSING and f.default_factory is MISSING:
            raise InputError(f"{where}: the key {name!r} is missing.")
    hints = get_type_hints(kind)
    return kind(**{key: _typed(value, hints[key], f"{where}: {key}") for key, value in given.items()})


def only(recipe: str, what: str, value: Any, known: Iterable[Any]) -> list[Any]:
    """All that a recipe has of something, or the one ``value`` of it where one is asked for.

    Raises:
        InputError: it has no such value; the message lists those that it has.
    """
    known = list(known)
    if value is not None and value not in known:
        raise InputError(f"The recipe {recipe} has no {what} {value!r}, it has {', '.join(map(str, known))}.")
    return known if value is None else [value]


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
        if expected is not str and value >= LARGEST[expected]:
            raise InputError(f"{where} is {value}, expected less than {LARGEST[expected]!r}.")
    if expected is bool and not isinstance(value, bool):
        raise InputError(f"{where} is {value!r}, expected true or false.")
    if expected is Any:
        try:
            json.dumps(value, allow_nan=False, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise InputError(f"{where} is {value!r}, expected what JSON can hold ({error}).") from error
    if get_origin(expected) is dict:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise InputError(f"{where} is {value!r}, expected keys that are texts, and values.")
        return {key: _typed(entry, get_args(expected)[1], f"{where}: {key}") for key, entry in value.items()}
    if get_origin(expected) is Sequence:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where} is {value!r}, expected a list.")
        (item,) = get_args(expected)
        return [_typed(entry, item, f"{where}, item {number}") for number, entry in enumerate(value, 1)]
    return value
