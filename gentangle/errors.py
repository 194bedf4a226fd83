"""What a user's mistake raises: one sentence with what was given, what was expected, what to do."""

import difflib
from collections.abc import Iterable


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


def nearest(given: str, known: Iterable[str]) -> str:
    """Sentence that lists the ``known`` names and, where one is close to ``given``, names it first."""
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(names)}."
