"""Files of earlier commits, found by the hash of the package that a record names."""

import hashlib
import subprocess
from functools import cached_property
from pathlib import Path, PurePosixPath

from closure import PACKAGE


class History:
    """What git keeps of a repository."""

    def __init__(self, root: Path) -> None:
        self.root, self._texts = root, dict[str, str]()

    def _git(self, *arguments: str, given: str = "") -> bytes:
        return subprocess.run(["git", *arguments], cwd=self.root, input=given.encode(), stdout=-1, check=True).stdout

    def _blobs(self, commit: str, *folders: str) -> dict[str, str]:
        listed = self._git("ls-tree", "-r", commit, *folders).decode().splitlines()
        rows = (line.split("\t") for line in listed)
        return {path: about.split()[2] for about, path in rows if path.endswith((".py", ".ipynb", ".yaml"))}

    def tree(self, commit: str, *folders: str) -> dict[str, str]:
        """Texts below some folders as they were at a commit: code, notebooks, recipes."""
        blobs = self._blobs(commit, *folders)
        self._read({blob for blob in blobs.values() if blob not in self._texts})
        return {path: self._texts[blob] for path, blob in blobs.items()}

    def _read(self, blobs: set[str]) -> None:
        told, at = self._git("cat-file", "--batch", given="".join(f"{blob}\n" for blob in sorted(blobs))), 0
        while at < len(told):
            end = told.index(b"\n", at)
            blob, _, size = told[at:end].decode().split()
            self._texts[blob] = told[end + 1 : end + 1 + int(size)].decode()
            at = end + 2 + int(size)

    @cached_property
    def commits(self) -> dict[str, str]:
        """The first commit of each state of the package, by the hash that records name."""
        found = dict[str, str]()
        for commit in self._git("log", "--reverse", "--format=%H").decode().split():
            found.setdefault(package_sha256(self.tree(commit, PACKAGE)), commit)
        return found

    def last_change(self, *paths: str) -> str | None:
        """The commit that last changed one of the files; None where git does not know them."""
        return self._git("log", "-1", "--format=%H", "--", *paths).decode().strip() or None


def package_sha256(tree: dict[str, str]) -> str:
    """The hash that gentangle.provenance takes of the package, of a tree."""
    digest = hashlib.sha256()
    inside = {PurePosixPath(path).relative_to(PACKAGE): text for path, text in tree.items() if path.endswith(".py")}
    for path in sorted(inside):
        digest.update(str(path).encode() + b"\0" + inside[path].encode())
    return digest.hexdigest()
