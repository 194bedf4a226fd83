"""Write requirements/cpu.txt and gpu.txt from the environment that runs this: `make lock` makes a clean one.

Left out are gentangle itself and the packages that belong to torch's CUDA build: its wheel names them
with exact versions of its own. Local versions (`+cpu`) are cut, so that either build of torch fits.
"""

import re
import subprocess
import sys
from pathlib import Path

from gentangle.atomic import write_atomic

_OF_CUDA = re.compile(r"(nvidia-|cuda-|triton\b)", re.IGNORECASE)
_HEADER = """\
# Every package of the book's environment, exact. Made by `make lock` in a clean environment (Python {python}, from
# pyproject.toml's bounds); never edited by hand. `make` installs torch by a command of its own, before these.
"""
_GPU = """\
# A machine with CUDA takes the same set: torch is the same version, and its CUDA wheel names the CUDA packages itself.
# Made by `make lock`. Untested: written on a machine without a GPU and without room to try that wheel.
-r cpu.txt
"""


def main() -> int:
    """Freeze, filter, and write both files; 1 where this is not Python 3.11."""
    if sys.version_info[:2] != (3, 11):
        print(f"make lock: the locks are for Python 3.11, this is {sys.version.split()[0]}; give PYTHON=python3.11.")
        return 1
    command = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    frozen = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    pins = [re.sub(r"\+[\w.]+$", "", line) for line in frozen if "==" in line and not _OF_CUDA.match(line)]
    folder = Path(__file__).parent
    write_atomic(folder / "cpu.txt", _HEADER.format(python="3.11") + "".join(f"{pin}\n" for pin in pins))
    write_atomic(folder / "gpu.txt", _GPU)
    print(f"{len(pins)} packages locked in {folder / 'cpu.txt'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
