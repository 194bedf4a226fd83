"""The names by which pages refer to equations and figures."""

import re

from gentangle.errors import InputError


def checked_label(name: str) -> str:
    """The name itself.

    Raises:
        InputError: it holds anything but small letters, digits and hyphens.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise InputError(f"{name!r} is no label: use small letters, digits and hyphens, as in eq-first-order.")
    return name
