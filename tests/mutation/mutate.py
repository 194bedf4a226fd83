"""Flips the signs and numbers of the formulas, one at a time, and counts how many of the flips the tests catch.

    python tests/mutation/mutate.py [--sample 20 --seed 0] [--only matching.fish] [--jobs 2]

Each flip runs in a process of its own, forked after the libraries were imported: there the flipped module takes the
place of the one on disk, which stays as it is, and the tests that belong to it run, the fastest first, until one fails.
A flip that survives is either named in survivors.yml, with the reason why no test can see it, or a hole in the tests.
"""

import argparse
import gc
import importlib
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib.machinery import SourceFileLoader
from importlib.util import spec_from_file_location
from multiprocessing.connection import wait
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from flips import ROOT, Flip, flips_of, source_of

#: Test files by module; what trains a model is left out.
TESTS = {
    "alignment": {
        "symbols": "objectives",
        "objectives": "objectives trl_losses",
        "compile": "objectives",
        "conditions": "conditions",
        "coupling": "conditions",
        "margin_loss": "objectives",
        "softmax": "softmax last_layer",
        "forecasts": "forecasts",
        "proxies": "proxies",
        "last_layer": "last_layer token_masks",
        "remedies": "remedies",
        "token_masks": "token_masks",
        "suffix": "suffix",
    },
    "matching": {
        "fish": "fish algorithms",
        "gip": "gip idgm",
        "idgm": "idgm",
        "smooth_fish": "fish",
        "loop_gip": "fish",
        "irm": "domain_losses",
        "erm": "idgm domain_losses gip",
        "expansion": "expansion",
        "algorithms": "algorithms domain_losses",
        "linear_toy": "linear_toy",
        "weighted_losses": "domain_losses",
    },
    "gradients": {
        "rules": "engine",
        "factors": "factors engine token_gram",
        "fused_head": "engine",
        "logits_head": "logits_head",
        "gram": "gram engine",
        "token_gram": "token_gram",
        "pairs": "gram engine",
        "preconditioner": "preconditioner",
        "step": "gram preconditioner",
        "oracle": "gram",
    },
}
FILES = {
    f"{room}.{module}": [f"tests/{room}/test_{name}.py" for name in names.split()]
    for room, modules in TESTS.items()
    for module, names in modules.items()
}
#: CPU seconds from which on a test is left out.
SLOW = 3
#: Imported before the forks, so that a flip pays for none of them.
_LIBRARIES = "numpy scipy.stats scipy.integrate sympy torch torch.func hypothesis.extra.numpy pytest tqdm torchjd \
rapidfuzz.distance transformers.models.gpt2.modeling_gpt2 transformers.models.llama.modeling_llama \
transformers.models.gpt_neox.modeling_gpt_neox transformers.models.opt.modeling_opt \
transformers.models.qwen2.modeling_qwen2 trl.trainer.dpo_trainer trl.trainer.kto_trainer trl.experimental.cpo \
trl.experimental.orpo"


class _Flipped(SourceFileLoader):
    """Loads a module from its flip, and finds it before the one on disk is found."""

    def __init__(self, flip: Flip) -> None:
        super().__init__(f"gentangle.{flip.module}", str(source_of(flip.module)))
        self.flip = flip

    def get_code(self, fullname: str) -> Any:
        return compile(self.flip.tree(), self.path, "exec")

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        return spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None


class _Watch:
    """Puts likely and fast tests first, notes the CPU seconds of each, and the first test that fails."""

    def __init__(self, seconds: Mapping[str, float], likely: list[str]) -> None:
        self.known, self.likely, self.seconds, self.failed = seconds, likely, {}, ""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if self.known.get(item.nodeid, 0) < SLOW]
        files = list(dict.fromkeys(item.path for item in items))
        items.sort(key=lambda item: (files.index(item.path), self.known.get(item.nodeid, 0)))
        items.sort(key=lambda item: self.likely.index(item.nodeid) if item.nodeid in self.likely else len(self.likely))

    def pytest_collectreport(self, report: Any) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.seconds[nodeid] = -time.process_time()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.seconds[nodeid] += time.process_time()


def outcome(
    files: list[str], flip: Flip | None = None, seconds: Mapping[str, float] = MappingProxyType({}), likely: Any = ()
) -> dict[str, Any]:
    """Run test files in this process, which is to be a fork: the test that failed, and the seconds of each."""
    import hypothesis
    import pytest

    if flip:
        sys.meta_path.insert(0, _Flipped(flip))
    os.chdir(ROOT)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1), os.dup2(nowhere, 2)
    # The same examples each time, and no search for the smallest one that fails.
    shown = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    settings = {"database": None, "derandomize": True, "deadline": None, "phases": shown, "report_multiple_bugs": False}
    hypothesis.settings.register_profile("flips", **settings)
    hypothesis.settings.load_profile("flips")
    watch = _Watch(seconds, list(likely))
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    lean = ["-x", "-q", "--tb=no", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:unraisableexception"]
    status = pytest.main([*lean, "-m", "not training and not browser and not packaging", *files], plugins=[watch])
    return {"by": watch.failed or ("" if status == 0 else f"pytest ended with {status}"), "seconds": watch.seconds}


def in_forks(jobs: int, calls: Iterable[tuple[Any, Callable[[], Any], float]]) -> Iterator[tuple[Any, Any]]:
    """(key, result) of each (key, call, limit in CPU seconds) as they end; the result is None where the limit was met.

    A limit in seconds of the clock would count a busy machine's survivors as caught; ten times as many are allowed, for
    what waits and uses no time.
    """
    forks, todo, running = multiprocessing.get_context("fork"), iter(calls), {}

    def run(call: Callable[[], Any], out: Any, limit: float) -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 1))
        signal.alarm(int(10 * limit))
        out.send(call())
        out.close()
        os._exit(0)

    while True:
        while len(running) < jobs and (given := next(todo, None)) is not None:
            key, call, limit = given
            end, out = forks.Pipe(duplex=False)
            process = forks.Process(target=run, args=(call, out, limit))
            process.start()
            out.close()
            running[end] = key, process
        if not running:
            return
        for end in wait(list(running)):
            key, process = running.pop(end)
            try:
                result = end.recv()
            except EOFError:
                result = None
            process.join()
            yield key, result


def survivors() -> dict[str, str]:
    """Reason by name of the flips that no test can see."""
    reasons = yaml.safe_load((Path(__file__).parent / "survivors.yml").read_text())
    return {name: reason for reason, names in reasons.items() for name in names}


def main(arguments: list[str] | None = None) -> int:
    """Report the flips that were caught; the status is 1 where one survives that survivors.yml does not name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, help="so many flips drawn at random, none of them a known survivor")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--only", action="append", metavar="MODULE", choices=FILES, help="as matching.fish")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once")
    parser.add_argument("--results", type=Path, help="a file of JSON lines; what it holds is not run again")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when it is imported: a flip has one core

    flips = [flip for module in given.only or FILES for flip in flips_of(module)]
    if given.sample:
        flips = random.Random(given.seed).sample([f for f in flips if f.name not in survivors()], given.sample)
    kept = {}
    if given.results and given.results.exists():
        kept = {row["name"]: row for row in map(json.loads, given.results.read_text().splitlines())}
    rows = {flip.name: kept[flip.name] for flip in flips if flip.name in kept}
    todo = [flip for flip in flips if flip.name not in rows]
    for library in _LIBRARIES.split():
        importlib.import_module(library)
    gc.collect()
    gc.freeze()  # what the forks share is not searched again in each

    def keep(row: dict[str, Any]) -> None:
        if given.results:
            with given.results.open("a") as out:
                out.write(json.dumps(row) + "\n")

    seconds: dict[str, float] = {}
    if not given.sample:  # a sample is over sooner than all files have been timed
        files = sorted({name for flip in todo for name in FILES[flip.module]})
        seconds = {test: s for name in files if name in kept for test, s in kept[name]["seconds"].items()}
        clean = ((f, lambda f=f: outcome([f]), 600) for f in files if f not in kept)
        for file, result in in_forks(given.jobs, clean):
            if result is None or result["by"]:
                sys.exit(f"mutate: {file} fails with nothing flipped ({result and result['by']}): mend it first.")
            seconds |= result["seconds"]
            keep({"name": file, "seconds": result["seconds"]})
            print(f"{sum(result['seconds'].values()):6.1f} s  {file}", flush=True)

    def limit(flip: Flip) -> float:
        known = [s for test, s in seconds.items() if test.split("::")[0] in FILES[flip.module]]
        return 30 + 4 * sum(known) if known else 200

    def likely(flip: Flip) -> list[str]:
        """The tests that have caught flips of the same statement, the last one first, then those of the module."""
        places = (flip.name.rpartition(".")[0], flip.module)
        caught = [row["by"] for place in places for name, row in reversed(rows.items()) if name.startswith(place)]
        return list(dict.fromkeys(caught))

    calls = ((flip, partial(outcome, FILES[flip.module], flip, seconds, likely(flip)), limit(flip)) for flip in todo)
    begun = time.monotonic()
    for flip, result in in_forks(given.jobs, calls):
        by = "out of time" if result is None else result["by"]
        rows[flip.name] = {"name": flip.name, "before": flip.before, "after": flip.after, "by": by}
        keep(rows[flip.name])
        if not by:
            print(f"survives: {source_of(flip.module).relative_to(ROOT)}:{flip.line}: {said(flip)}", flush=True)
        if len(rows) % 50 == 0:
            print(f"{len(rows)} of {len(flips)}, {(time.monotonic() - begun) / 60:.1f} min", flush=True)
    return report(flips, rows, time.monotonic() - started)


def said(flip: Flip) -> str:
    return f"{flip.before}  ->  {flip.after}  [{flip.name}]"


def report(flips: list[Flip], rows: dict[str, dict[str, str]], seconds: float) -> int:
    """Print what was caught, by module and in all, and what survives; the exit status."""
    alive = [flip for flip in flips if not rows[flip.name]["by"]]
    every, left = Counter(flip.module for flip in flips), Counter(flip.module for flip in alive)
    for module, count in every.items():
        print(f"{module:28} {count - left[module]:4} of {count:4}")
    known = survivors()
    holes = [flip for flip in alive if flip.name not in known]
    for flip in alive:
        print(f"survives: {said(flip)}: {known.get(flip.name, 'A HOLE IN THE TESTS')}")
    for name in [flip.name for flip in flips if flip.name in known and flip not in alive]:
        print(f"is caught, though survivors.yml names it: {name}")
    caught = len(flips) - len(alive)
    print(
        f"{caught} of {len(flips)} flips caught, {100 * caught / len(flips):.1f} %; {len(alive)} survive, "
        f"{len(alive) - len(holes)} of them with a reason. {seconds / 60:.1f} min"
    )
    return 1 if holes else 0


if __name__ == "__main__":
    sys.exit(main())
