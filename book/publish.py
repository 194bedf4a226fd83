"""Make the copies of the chapters that Colab and Binder open: ``publish.py --wheel dist/gentangle-*.whl --out DIR``.

DIR is the whole of the branch that the book's launch links lead to: the chapters, each with a first cell that fetches
and installs what it needs; the wheel, and what to install beside it; the recipes and records that chapters read; and
what Binder builds its image from. The chapters in notebooks/ have no such cell and are only read.
"""

import argparse
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

import nbformat
import yaml
from _ext.launch_links import BRANCH, VARIABLE, checked_address, repository_address
from nbformat.v4 import new_code_cell
from packaging.requirements import Requirement

from gentangle.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements" / "cpu.txt"
#: What chapters read, by paths from their own folder, and the licences of what is copied.
READ = ("recipes", "results", "LICENSE", "LICENSE-TEXT")
#: Packages that chapters use and the wheel asks for only as a part of the extra `book`, most of which builds pages.
USED = {"scikit-learn", "torchjd"}
START = "binder/start"
#: On Colab a notebook is opened alone: what stands beside it is fetched first. On Binder all of this is there.
INSTALL = """\
# This cell was put in when the book was published. It fetches and installs what the chapter needs, once.
import importlib.util
import os
import subprocess
import sys

if not os.path.isdir("../recipes"):
    if not os.path.isdir("{folder}"):
        branch = ["--quiet", "--depth=1", "{branch}"]
        subprocess.run(["git", "clone", *branch, "{address}", "{folder}"], check=True)
    os.chdir("{notebooks}")
if importlib.util.find_spec("gentangle") is None:
    print("Installing gentangle and what it needs: a few minutes, once.", flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "-r", "requirements.txt"], cwd="..", check=True)
    subprocess.run([sys.executable, "-m", "gentangle.cli", "fetch"], check=True)
    importlib.invalidate_caches()
"""
POST_BUILD = """\
#!/bin/bash
# When Binder makes the image. First torch, by a command of its own; then the versions that the book was made with.
set -eu
python -m pip install --no-cache-dir {torch}
python -m pip install --no-cache-dir -c binder/constraints.txt -r requirements.txt
python -m gentangle.cli fetch
"""
START_SCRIPT = """\
#!/bin/bash
# Each time that Binder starts: it lends 2 GB of memory, which the smoke profile keeps within. Its processors are
# shared, and a thread that spins while it waits takes them from the others.
export GENTANGLE_PROFILE=smoke OMP_WAIT_POLICY=PASSIVE
exec "$@"
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the copies; 2 where what was given cannot be used."""
    parser = argparse.ArgumentParser(prog="publish.py", description="Make the chapters' copies for Colab and Binder.")
    parser.add_argument("--wheel", type=Path, required=True, help="the built package")
    parser.add_argument("--out", type=Path, required=True, help="folder to make, or to make anew")
    parser.add_argument("--address", help=f"repository; default: {VARIABLE}, else url of book/_config.yml")
    parser.add_argument("--torch", help="what pip is given on Binder to get torch; default: the locked version")
    given = parser.parse_args(arguments)
    try:
        address = chosen_address(given.address)
        count = publish(address, given.wheel, given.out, given.torch or locked("torch"))
    except InputError as error:
        print(f"publish.py: {error}", file=sys.stderr)
        return 2
    print(f"{count} chapters for the branch {BRANCH} of {address} are in {given.out}")
    return 0


def chosen_address(given: str | None) -> str:
    """The address given, else that of the setting.

    Raises:
        InputError: there is none, or it is no repository's.
    """
    if given is None:
        settings = yaml.safe_load((ROOT / "book" / "_config.yml").read_text("utf-8"))
        address = repository_address(settings["repository"]["url"] or "")
    else:
        address = checked_address(given)
    if not address:
        raise InputError(
            "The repository has no address, so no copy could install itself: "
            f"set `repository: {{url: ...}}` in book/_config.yml, or {VARIABLE}."
        )
    return address


def publish(address: str, wheel: Path, out: Path, torch: str) -> int:
    """Make ``out`` whole, or leave it as it was; the number of chapters.

    Raises:
        InputError: no wheel of gentangle, or ``out`` holds something else than what was made before.
    """
    if not (wheel.is_file() and re.fullmatch(r"gentangle-[\w.+-]+\.whl", wheel.name)):
        raise InputError(f"{wheel} is no wheel of gentangle: `make publish` builds one.")
    out = out.resolve()
    if out.exists() and not (out / START).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds something else: give a new folder, or one that publish.py made.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".publish-") as temporary:
        made = Path(temporary) / "made"
        count = write_branch(made, address, wheel, torch)
        before = Path(temporary) / "before"
        if out.exists():
            out.rename(before)
        try:
            made.rename(out)
        except OSError:
            if before.exists():
                before.rename(out)
            raise
    return count


def write_branch(folder: Path, address: str, wheel: Path, torch: str) -> int:
    """Write every file of the branch into a new folder; the number of chapters."""
    (folder / "binder").mkdir(parents=True)
    for name in READ:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    shutil.copy(wheel, folder)
    (folder / "requirements.txt").write_text("\n".join([f"./{wheel.name}[trl]", *used_requirements()]) + "\n", "utf-8")
    write_binder(folder / "binder", torch)
    (folder / "notebooks").mkdir()
    chapters = sorted((ROOT / "notebooks").glob("*.ipynb"))
    for chapter in chapters:
        (folder / "notebooks" / chapter.name).write_text(with_install_cell(chapter, address), "utf-8")
    return len(chapters)


def write_binder(folder: Path, torch: str) -> None:
    """Binder's own files: a Python that the lock is for, what it installs, and the profile."""
    (folder / "runtime.txt").write_text("python-3.11\n", "utf-8")
    shutil.copy(LOCK, folder / "constraints.txt")
    for name, text in {"postBuild": POST_BUILD.format(torch=torch), "start": START_SCRIPT}.items():
        (folder / name).write_text(text, "utf-8")
        (folder / name).chmod(0o755)


def with_install_cell(chapter: Path, address: str) -> str:
    """A chapter, its stored outputs with it, after the cell that installs."""
    notebook = nbformat.reads(chapter.read_text("utf-8"), as_version=4)
    notebook.cells.insert(0, new_code_cell(install_cell(address), id="install"))
    nbformat.validate(notebook)
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def install_cell(address: str) -> str:
    """Text of the cell. The folder that it makes is none that Python could import in the place of the package."""
    folder = f"{address.rpartition('/')[2]}-{BRANCH}"
    return INSTALL.format(
        address=address, branch=f"--branch={BRANCH}", folder=folder, notebooks=f"{folder}/notebooks"
    ).rstrip("\n")


def used_requirements() -> list[str]:
    """The lines of pyproject.toml's extra `book` that chapters use."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [line for line in project["optional-dependencies"]["book"] if Requirement(line).name in USED]


def locked(name: str) -> str:
    """The line of the lock for a package.

    Raises:
        InputError: the lock has none.
    """
    for line in LOCK.read_text("utf-8").splitlines():
        if line.startswith(f"{name}=="):
            return line
    raise InputError(f"{LOCK} has no line for {name}: `make lock` writes it anew.")


if __name__ == "__main__":
    sys.exit(main())
