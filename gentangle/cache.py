"""Where fetched data and long runs are kept: outside the repository, in one folder."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Folder named by ``GENTANGLE_CACHE``, else ``$XDG_CACHE_HOME/gentangle``, else ``~/.cache/gentangle``."""
    named = os.environ.get("GENTANGLE_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "gentangle"
