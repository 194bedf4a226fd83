"""Spoilt inputs for the command line: ``fuzz.py [--cases N] [--seed S] [--kind KIND] [--only NUMBER]``.

A case ends in one of two ways. Status 0: nothing on stderr, and every file that was asked for is there and whole. Or
status 1 or 2: one printable line on stderr that names the command, and what stood in the folders stands there still,
byte for byte. A traceback, a warning, half a file, a file that nobody asked for, or 20 seconds without an end is a
fault.
"""

import argparse
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from kinds import KINDS, Case, missing
from stand_ins import stand_ins

from gentangle import cli

SECONDS = 20
FASTEST = "/dev/shm"  # memory, where there is such a place: a case writes a dozen files


class Hangs(BaseException):
    """Raised in a case that does not end."""


class Fault(AssertionError):
    """What a case did that none may."""


@contextmanager
def prepared() -> Iterator[Path]:
    """A scratch folder and the stand-ins, for any number of cases."""
    where = FASTEST if os.access(FASTEST, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as scratch, ExitStack() as stack:
        more = {"GENTANGLE_FUZZ": f"{scratch}/kept", "GENTANGLE_CACHE": f"{scratch}/case/cache", "HF_HUB_OFFLINE": "1"}
        before = {name: os.environ.get(name) for name in more}
        os.environ.update(more)
        try:
            (Path(scratch) / "kept").mkdir()
            stack.enter_context(stand_ins())
            yield Path(scratch)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def run_case(kind: str, seed: int, number: int, scratch: Path) -> str:
    """Try one case and return how it ended: ``taken`` or ``refused``.

    Raises:
        Fault: it broke the promise above.
    """
    folder = scratch / "case"
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("in", "out", "out/folder", "cache"):
        (folder / part).mkdir(parents=True)
    (folder / "out" / "file").write_text("a file, no folder")
    case = KINDS[kind][0](Random(f"{seed} {kind} {number}"), folder)
    before = _files(folder)
    status, err = _ended(case)
    after = _files(folder)
    if status == 0:
        if err:
            raise Fault(f"status 0, and on stderr:\n{err}")
        for path, whole in case.outs.items():
            whole(path.read_text(encoding="utf-8"))
    else:
        _one_line(case, status, err)
        changed = {name for name, _ in set(before.items()) ^ set(after.items())}
        for name in {name for name in changed if case.run and name.startswith(case.run)}:
            changed.remove(name)
            if name.endswith(".json"):
                json.loads(after[name])
        if changed:
            raise Fault(f"refused ({err.strip()}), and left behind or changed: {sorted(changed)}")
    new = [name for name in after if name not in before]
    if litter := [name for name in new if Path(name).name in ("PWNED", "up") or Path(name).name.startswith(".")]:
        raise Fault(f"files that nobody asked for: {litter}")
    return "refused" if status else "taken"


def _ended(case: Case) -> tuple[int, str]:
    err = io.StringIO()
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # strict, as a terminal's

    def late(*_: Any) -> None:
        raise Hangs

    with ExitStack() as stack:
        for patch in case.patches:
            stack.enter_context(patch)
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        stack.enter_context(_handlers_too(err))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always")
        for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", hidden)  # as Python does by itself
        old = signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            status = cli.main(case.arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise Fault(f"{type(error).__name__} from the command line:\n{traceback.format_exc()}") from error
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
    return status, err.getvalue()


@contextmanager
def _handlers_too(err: io.StringIO) -> Iterator[None]:
    """Also what log handlers and libraries in C write to the process's own stderr."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            err.write(file.read().decode("utf-8", "replace"))


def _one_line(case: Case, status: int, err: str) -> None:
    lines = err.splitlines()
    if status not in (1, 2) or len(lines) != 1 or not err.endswith("\n"):
        raise Fault(f"status {status} and {len(lines)} lines on stderr, expected one:\n{err}")
    if not lines[0].startswith(f"gentangle {case.arguments[0]}: ") or not lines[0].isprintable():
        raise Fault(f"an odd line on stderr: {lines[0]!r}")
    if not 40 <= len(lines[0]) <= 2000:
        raise Fault(f"a message of {len(lines[0])} characters: {lines[0][:300]}")


def _files(folder: Path) -> dict[str, Any]:
    """Every file and link below, with its bytes or target; what is in ``in`` is the case's own."""
    found: dict[str, Any] = {}
    for top in ("out", "cache"):
        for path in sorted((folder / top).rglob("*")):
            name = str(path.relative_to(folder))
            found[name] = os.readlink(path) if path.is_symlink() else "folder" if path.is_dir() else path.read_bytes()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases, print how they ended by kind, and stop at the first fault with the command that replays it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, action="append", help="only these")
    parser.add_argument("--only", type=int, help="only the case of this number, of one kind")
    parser.add_argument("--go-on", action="store_true", help="past faults, one of each kind of traceback's end")
    given = parser.parse_args(arguments)
    kinds = given.kind or list(KINDS)
    for kind in [kind for kind in kinds if missing(kind)]:
        print(f"{kind}: not tried, {missing(kind)}", flush=True)
        kinds.remove(kind)
    total = sum(KINDS[kind][1] for kind in kinds)
    faults, counts, started = Counter[str](), Counter[str](), time.monotonic()
    with prepared() as scratch:
        for kind in kinds:
            begun, ends = time.monotonic(), Counter[str]()
            numbers = range(max(1, round(given.cases * KINDS[kind][1] / total))) if given.only is None else [given.only]
            for number in numbers:
                try:
                    ends[run_case(kind, given.seed, number, scratch)] += 1
                except (Fault, AssertionError, OSError, ValueError) as fault:
                    ends["FAULTY"] += 1
                    said = str(fault) if isinstance(fault, Fault) else traceback.format_exc()
                    end = f"{kind}: {said.strip().splitlines()[-1][:150]}"
                    faults[end] += 1
                    if faults[end] == 1:
                        replay = f'--seed {given.seed} --kind "{kind}" --only {number}'
                        print(f"\n{said.rstrip()[-3000:]}\nreplay: python tests/abuse/fuzz.py {replay}\n", flush=True)
                    if not given.go_on:
                        return 1
            counts.update(ends)
            seconds = time.monotonic() - begun
            told = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
            print(f"{kind:<20} {sum(ends.values()):>6} cases in {seconds:6.1f} s: {told}", flush=True)
    for end, count in faults.most_common():
        print(f"{count:>6}  {end}")
    told = ", ".join(f"{count} {end}" for end, count in sorted(counts.items()))
    print(f"==== {sum(counts.values())} cases: {told} in {time.monotonic() - started:.0f} s ====")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
