"""The largest resident memory of a process of its own, for the benchmarks beside this file."""

import subprocess
import sys
from pathlib import Path


def peak_memory(code: str) -> int:
    """Largest resident memory of a process that runs ``code`` in this folder, in bytes.

    Raises:
        RuntimeError: the code failed; the message is what it wrote to stderr.
    """
    code += "; from peak_memory import resident; print(resident())"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stdout)


def resident() -> int:
    """This process's largest resident memory so far, in bytes; getrusage would count its parent's at the fork."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) * 1024
