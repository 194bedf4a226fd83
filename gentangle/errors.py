"""What a user's mistake raises: one sentence with what was given, what was expected, what to do."""

import difflib
from collections.abc import Collection, Iterable
from typing import Any


class InputError(ValueError):
    """A mistake in what the user gave (a file, a name, a shape), told in one sentence.

    The command line prints it without a traceback and exits with status 2.
    """


def printable(text: str) -> str:
    """The text on one line: what does not print (a newline, a mark of direction, half a surrogate pair) as its escape.

    >>> printable("a\\nb")
    'a\\\\nb'
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def first_line(error: Exception) -> str:
    """What a library's error says first, and its type where it says nothing.

    >>> first_line(OSError("no room\\non the disk")), first_line(OSError())
    ('no room', 'OSError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def nothing_at(what: str, name: str, instead: str, error: Exception | None = None) -> InputError:
    """What to raise where a model or data were looked for in vain; ``error`` is what a library said of it."""
    reason = "" if error is None else f" ({first_line(error)})"
    return InputError(f"No {what} at {name!r}{reason}: give {instead}, or a hub name where a network is.")


def closest(given: str, names: Iterable[str]) -> str:
    """The question whether the one of ``names`` that is close to ``given`` was meant; empty where none is close."""
    close = difflib.get_close_matches(given, sorted(names), n=1)
    return f"Did you mean {close[0]!r}? " if close else ""


def nearest(given: str, known: Iterable[str]) -> str:
    """Sentence that lists the ``known`` names and, where one is close to ``given``, names it first."""
    names = sorted(known)
    return f"{closest(given, names)}Known: {', '.join(names)}."


def one_of(value: Any, known: Collection[str], message: str) -> None:
    """Refuse a value that is none of the known names.

    Raises:
        InputError: ``message``, then the known names, the nearest one first.

    >>> one_of("dpp", ("dpo", "ipo"), "Unknown objective 'dpp'.")
    Traceback (most recent call last):
    gentangle.errors.InputError: Unknown objective 'dpp'. Did you mean 'dpo'? Known: dpo, ipo.
    """
    if value not in known:
        raise InputError(f"{message} {nearest(str(value), known)}")
