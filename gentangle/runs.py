"""One directory a long run: config.json, provenance.json, metrics.jsonl, and the record made of them."""

import io
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gentangle.atomic import write_atomic, write_json
from gentangle.errors import InputError, first_line

RECORD_LIMIT = 200_000
LOCK = "lock"


class RunDirectory:
    """Directory of a run that can be killed at any time and started again.

    Args:
        path: the directory.
        config: everything that decides the run's numbers; kept as config.json.
        overwrite: remove what an earlier run left there.

    Raises:
        InputError: the directory holds a run of another config; or it is to be overwritten while another process makes
            its run, or holds files and no run.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.path = path
        kept = path / "config.json"
        if overwrite and path.exists() and any(path.iterdir()):
            if not kept.exists():
                raise InputError(f"{path} holds files, and no run (no config.json): give another directory.")
            with self.alone():
                # The config last: a directory that was cleared in part is still a run's.
                for left in sorted(path.iterdir(), key=lambda left: left == kept):
                    if left.is_dir() and not left.is_symlink():
                        shutil.rmtree(left)
                    elif left.name != LOCK:  # removed, it would no longer be the file that the next process locks
                        left.unlink()
        if kept.exists() and self.config != json.loads(json.dumps(config)):
            raise InputError(
                f"{path} holds a run of another recipe: give --overwrite to replace it, or rename the recipe."
            )
        if not kept.exists():
            write_json(kept, config)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the directory against a second process while a run is made; the lock goes with the process that dies.

        Raises:
            InputError: another process makes this run.
        """
        import fcntl  # not on Windows, where only the long runs then fail

        with (self.path / LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(f"{self.path} is being made by another process: wait for it, or stop it.") from error
            yield

    def write_provenance(self, provenance: Mapping[str, Any]) -> None:
        """Keep the provenance of the run's start."""
        if not (self.path / "provenance.json").exists():
            write_json(self.path / "provenance.json", provenance)

    @property
    def provenance(self) -> dict[str, Any]:
        """What :meth:`write_provenance` kept."""
        return dict(json.loads((self.path / "provenance.json").read_text()))

    @property
    def config(self) -> dict[str, Any]:
        """Everything that decides the run's numbers."""
        try:
            return dict(json.loads((self.path / "config.json").read_text()))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{self.path / 'config.json'} is no config of a run ({error}): remove {self.path}."
            ) from error

    @property
    def minutes(self) -> float:
        """Minutes from the directory's first file to its model's being whole; a pause between two starts is in them."""
        return ((self.path / "model").stat().st_mtime - (self.path / "config.json").stat().st_mtime) / 60

    def keep(self, state: Any) -> None:
        """Keep all that decides what comes next as checkpoint.pt; the last one stays until this one is whole."""
        import torch

        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self.path / "checkpoint.pt", buffer.getvalue())

    def kept(self) -> Any:
        """What :meth:`keep` kept last, on the CPU; None where there is nothing. Weights and numbers alone are read.

        Raises:
            InputError: the file is no checkpoint.
        """
        import torch

        path = self.path / "checkpoint.pt"
        try:
            return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None
        except Exception as error:  # torch raises by what it stumbles over
            raise InputError(f"{path} is no checkpoint of a run ({first_line(error)}): remove {self.path}.") from error

    @property
    def metrics(self) -> Path:
        """The run's metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; :meth:`put` mends a line that a kill cut short."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """Every whole row."""
        if not self.metrics.exists():
            return []
        rows = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break  # the last line of a killed run
        return rows

    def record(self, **more: Any) -> dict[str, Any]:
        """What of the run goes into the repository: provenance, settings, every measured row, and ``more``."""
        return {"provenance": self.provenance, "config": self.config, "rows": self.rows()} | more

    def put(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the metrics by ``rows``, at once: before a run goes on, by those up to its checkpoint."""
        write_atomic(self.metrics, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read_record(path: Path) -> dict[str, Any]:
    """What :func:`write_record` wrote.

    Raises:
        InputError: there is none; the message says how it is made.
    """
    if not path.exists():
        raise InputError(f"{path} is missing: `make experiments` makes the records.")
    return dict(json.loads(path.read_text()))


def write_record(path: Path, record: Mapping[str, Any]) -> Path:
    """Write a run's reduced record: floats to five significant digits, at most ``RECORD_LIMIT`` bytes.

    Raises:
        InputError: the record is larger; reduce what it holds.
    """
    text = json.dumps(rounded(record), sort_keys=True, allow_nan=False, separators=(",", ":")) + "\n"
    if len(text) > RECORD_LIMIT:
        raise InputError(
            f"The record {path.name} has {len(text)} bytes, at most {RECORD_LIMIT} are kept in the repository."
        )
    return write_atomic(path, text)


def rounded(value: Any, digits: int = 5) -> Any:
    """``value`` with every float to ``digits`` significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    return value
