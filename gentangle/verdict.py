"""What is said of a claim, and of what it is said: the types that both papers' verdicts share."""

from collections.abc import Mapping
from typing import Any

#: Status of a claim, and the measured figure.
Verdict = tuple[str, str]
#: A run's reduced record, as :func:`gentangle.runs.read_record` reads it.
Record = Mapping[str, Any]


def in_part(holds: bool) -> str:
    """The status of a claim of which no more than a part could be shown here: ``reproduced in part`` or ``differs``."""
    return "reproduced in part" if holds else "differs"
