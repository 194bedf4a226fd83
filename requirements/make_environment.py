"""Write environment.yml from pyproject.toml: the same bounds, and the reason that stands beside each."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("trl", "book", "test")
_ENTRY = re.compile(r'^\s*"(?P<bound>[^"]+)",\s*#\s*(?P<reason>.+?)\s*$', re.MULTILINE)
_HEADER = """\
# For conda users: the bounds of pyproject.toml, each with its reason. Made by requirements/make_environment.py
# (`make lock` runs it), never edited by hand:
#
#   conda env create -f environment.yml && conda activate gentangle && gentangle fetch
#
# A test installs the pip section in a fresh environment. Untested: conda's own solver, which was not at hand.
# Without CUDA, first install torch's CPU build into the environment; pip then keeps it.
name: gentangle
channels:
  - conda-forge
dependencies:
  - python=3.11  # the version that the book was made with
  - pip          # all else comes from wheels
  - pip:
"""


def requirements() -> list[tuple[str, str]]:
    """Every (bound, reason) of the dependencies and the extras, in pyproject.toml's order.

    Raises:
        ValueError: a bound has no reason beside it.
    """
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    bounds = [*project["dependencies"], *(b for extra in EXTRAS for b in project["optional-dependencies"][extra])]
    reasons = {entry["bound"]: entry["reason"] for entry in _ENTRY.finditer(text)}
    bare = [bound for bound in bounds if bound not in reasons]
    if bare:
        raise ValueError(f"pyproject.toml gives no reason for {', '.join(bare)}: write one as a comment beside it.")
    return [(bound, reasons[bound]) for bound in bounds]


def environment() -> str:
    """The text of environment.yml."""
    rows = requirements()
    width = max(len(bound) for bound, _ in rows)
    lines = [f"      - {bound:<{width}}  # {reason}" for bound, reason in rows]
    return _HEADER + "\n".join([*lines, f"      - {'-e .':<{width}}  # gentangle itself"]) + "\n"


def main() -> int:
    """Write environment.yml beside pyproject.toml."""
    (ROOT / "environment.yml").write_text(environment(), encoding="utf-8")
    print(f"environment.yml made of {len(requirements())} bounds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
