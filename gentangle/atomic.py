"""Files that are either whole or absent: write beside the target, then rename over it."""

import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from gentangle.errors import InputError


@contextmanager
def atomic_text(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """A text file to write into piece by piece; it replaces ``path`` when all went well, and is removed when not.

    Raises:
        InputError: something that is no file is there, or a folder of the path is a file.
    """
    with _replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", write_through=True)
        yield text
        text.detach()


@contextmanager
def _replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    target = Path(path)
    if target.exists() and not target.is_file():  # a folder; or a device, which the rename would put an end to
        raise InputError(f"{target} is there and is no file: give the name of a file to write.")
    new = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"Cannot write {target}: {error.filename} is no folder.") from error
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name[:40]}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes 0600; these files are meant to be read
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        for folder in new:
            with suppress(OSError):  # another file is in it by now
                folder.rmdir()
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill beside ``path``; it becomes ``path`` when all went well, and is removed when not.

    Raises:
        InputError: ``path`` is there already.
    """
    if path.exists():
        raise InputError(f"{path} is there already: give another folder, or remove it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as temporary:
        yield (beside := Path(temporary) / path.name)
        os.rename(beside, path)


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write ``content`` to ``path`` so that a reader, or a crash, never meets half a file.

    The text goes to a temporary file in the same folder, is flushed to disk, and is renamed over
    ``path`` (atomic on POSIX). Missing parent folders are made. Returns the path.
    Raises as :func:`atomic_text`.
    """
    with _replacing(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
    return Path(path)


def as_json(value: Any) -> str:
    """``value`` as sorted, indented JSON; NaN and infinity are refused."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write ``value`` by :func:`as_json` and :func:`write_atomic`."""
    return write_atomic(path, as_json(value))
