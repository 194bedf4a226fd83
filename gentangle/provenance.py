"""Where a number came from: command, seed, code, data, versions, machine, date."""

import hashlib
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "trl", "numpy", "scipy", "sympy", "matplotlib")


@cache
def package_hash() -> str:
    """SHA-256 over the package's own source files: the code that made a number."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def processor() -> str:
    """Name of the processor as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def provenance(*, seed: int | None, data: str | None, device: str = "cpu") -> dict[str, Any]:
    """All that says where a result came from, ready for JSON; ``data`` is the data's hash."""
    from gentangle import __version__
    from gentangle.profiles import profile

    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seed": seed,
        "profile": profile().name,
        "gentangle": __version__,
        "package_sha256": package_hash(),
        "data_sha256": data,
        "versions": {"python": platform.python_version()} | {n: v for n in PACKAGES if (v := _version(n))},
        "device": _gpu_name() if device.startswith("cuda") else device,
        "processor": processor(),
        "cores": os.cpu_count(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpu_name() -> str:
    import torch

    return str(torch.cuda.get_device_name())
