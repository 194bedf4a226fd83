"""What Fish and exact IDGM cost beside plain optimizer steps, in one run: ``bench_fish.py [--rounds N] [--write]``.

The plain way is S steps of the same optimizer on the same minibatches, one a domain. Rounds of all ways are
interleaved; a ratio is that of medians. Fish's memory is what its process has at its peak beyond the plain one's, in
copies of the parameters, less what it has beyond it for a model of a few. With ``--write`` it goes to
``results/fish_step.json``.
"""

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peak_memory import peak_memory
from torch import nn

from gentangle.atomic import write_json
from gentangle.display.figure import save_figure
from gentangle.matching.domains import Domains
from gentangle.matching.fish import fish_step
from gentangle.matching.idgm import idgm_gradient
from gentangle.profiles import profile
from gentangle.provenance import provenance

RESULT = Path(__file__).resolve().parents[1] / "results" / "fish_step.json"
ROUNDS = 15
DOMAINS, ROWS, LAYERS = 5, 128, 3
WIDTH = 512  # of the ratios
CURVE = tuple(itertools.product((2, 4, 8, 16), (64, 256, 1024)))  # domains, width
MEMORY_WIDTHS, MEMORY_ROWS = (64, 3072), 8  # few rows: the parameters, not the activations, are what is measured
OPTIMIZERS = ("SGD", "Adam")
TARGETS = {"fish_step": 1.05, "fish_step_gip": 1.08, "fish_memory": 1.0, "idgm_over_fish": 2.5}


class Steps:
    """A perceptron, a minibatch of random numbers for each domain, and the ways to take a step on them."""

    def __init__(self, domains: int, width: int, rows: int = ROWS, make: str = "SGD") -> None:
        torch.manual_seed(0)
        hidden = [part for _ in range(LAYERS) for part in (nn.Linear(width, width), nn.Tanh())]
        self.model = nn.Sequential(*hidden, nn.Linear(width, 2))
        self.optimizer = getattr(torch.optim, make)(self.model.parameters(), lr=1e-3)
        self.generator = torch.Generator().manual_seed(0)
        batches = [(torch.randn(rows, width), torch.randint(2, (rows,))) for _ in range(domains)]
        self.domains: Domains = {
            i: lambda m, x=x, y=y: nn.functional.cross_entropy(m(x), y) for i, (x, y) in enumerate(batches)
        }

    def plain(self) -> None:
        for loss in self.domains.values():
            self.optimizer.zero_grad()
            value = loss(self.model)
            value.backward()
            self.optimizer.step()
            value.item()  # a training loop logs it

    def fish(self, track: bool = False) -> None:
        fish_step(self.model, self.domains, self.optimizer, eps=0.1, generator=self.generator, track=track)

    def fish_gip(self) -> None:
        self.fish(track=True)

    def idgm(self) -> None:
        self.step(idgm_gradient(self.model, self.domains, gamma=0.01)[0])

    def idgm_pairs(self) -> None:
        """The same gradient with every pair's inner product taken, as the formula is written."""
        parameters, losses = list(self.model.parameters()), [loss(self.model) for loss in self.domains.values()]
        gradients = [torch.autograd.grad(loss, parameters, create_graph=True) for loss in losses]
        pairs = itertools.combinations(gradients, 2)
        products = [torch.stack([(a * b).sum() for a, b in zip(*pair, strict=True)]).sum() for pair in pairs]
        objective = torch.stack(losses).mean() - 0.01 * torch.stack(products).mean()
        self.step(torch.autograd.grad(objective, parameters))

    def step(self, gradient: tuple[torch.Tensor, ...] | list[torch.Tensor]) -> None:
        """Let the optimizer step along a gradient."""
        for parameter, part in zip(self.model.parameters(), gradient, strict=True):
            parameter.grad = part
        self.optimizer.step()
        self.optimizer.zero_grad()


WAYS: dict[str, Callable[[Steps], None]] = {
    "plain": Steps.plain,
    "fish": Steps.fish,
    "fish_gip": Steps.fish_gip,
    "idgm": Steps.idgm,
    "idgm_pairs": Steps.idgm_pairs,
}


def measure(domains: int, width: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of every way, taken in turn, after a warm-up of each."""
    steps = Steps(domains, width)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for i in range(rounds + 1):
        for name, way in WAYS.items():
            started = time.perf_counter()
            way(steps)
            if i:
                seconds[name].append(round(time.perf_counter() - started, 6))
    return seconds


def ratios_of(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Ratios of medians by the names of the targets."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "fish_step": median["fish"] / median["plain"],
        "fish_step_gip": median["fish_gip"] / median["plain"],
        "idgm_over_fish": median["idgm"] / median["fish"],
    }


def memory_of(way: str, make: str, width: int) -> int:
    """Largest resident memory of a process that takes two steps of one way, in bytes."""
    steps = f"s = b.Steps({DOMAINS}, {width}, {MEMORY_ROWS}, {make!r})"
    return peak_memory(f"import bench_fish as b; {steps}; [b.WAYS[{way!r}](s) for _ in range(2)]")


def memory() -> dict[str, dict[str, list[int]]]:
    """By optimizer and way the peaks at each width, and the bytes of one copy of the parameters there."""
    models = [Steps(2, width, 1).model for width in MEMORY_WIDTHS]
    copy = [sum(p.numel() * p.element_size() for p in model.parameters()) for model in models]
    ways = ("plain", "fish", "fish_gip")
    peaks = {make: {way: [memory_of(way, make, w) for w in MEMORY_WIDTHS] for way in ways} for make in OPTIMIZERS}
    return {make: {"copy": copy} | by_way for make, by_way in peaks.items()}


def copies_of(peaks: dict[str, list[int]], way: str) -> float:
    """Copies of the parameters that a way has beyond the plain one."""
    small, large = (mine - plain for mine, plain in zip(peaks[way], peaks["plain"], strict=True))
    return (large - small) / (peaks["copy"][1] - peaks["copy"][0])


def draw(figure, curve: list[dict[str, float]]) -> None:
    """What exact IDGM costs in steps of Fish, over the domains, a panel a width."""
    widths = sorted({point["width"] for point in curve})
    for axes, width in zip(figure.subplots(1, len(widths), sharey=True), widths, strict=True):
        points = [point for point in curve if point["width"] == width]
        for way, label, line in (("idgm", "linear in S", "o-"), ("idgm_pairs", "pair by pair", "s--")):
            axes.plot([p["domains"] for p in points], [p[way] / p["fish"] for p in points], line, label=label)
        axes.set(xscale="log", xlabel="domains S", title=f"width {width}", xticks=[2, 4, 8, 16])
        axes.set_xticklabels(["2", "4", "8", "16"])
        axes.minorticks_off()
        if width == widths[0]:
            axes.set_ylabel("IDGM / Fish")
            axes.legend()
    axes.set_ylim(0, None)  # shared; set once every panel's points are known


def keep_figure(curve: list[dict[str, float]], made: dict) -> None:
    """The figure of the page on performance."""
    os.environ["GENTANGLE_FIGURES"] = str(RESULT.parents[1] / "book" / "figures")
    alt = "What an exact step of IDGM costs in steps of Fish, against the number of domains, for three widths."
    save_figure("fish-cost", lambda figure: draw(figure, curve), alt=alt, seed=0, size=(9, 3.2), origin=made)


def main() -> None:
    """Measure, print, and with ``--write`` keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    given = parser.parse_args()
    torch.set_num_threads(profile().threads)
    seconds, peaks = measure(DOMAINS, WIDTH, given.rounds), memory()
    copies = {f"{way}, {make}": copies_of(peaks[make], way) for make in OPTIMIZERS for way in ("fish", "fish_gip")}
    ratios = ratios_of(seconds) | {"fish_memory": copies["fish_gip, SGD"]}
    for name, ratio in ratios.items():
        print(f"{name:16} {ratio:6.3f}  (target {TARGETS[name]:g})", flush=True)
    print(f"copies of the parameters: { {name: round(value, 2) for name, value in copies.items()} }")
    curve = []
    for domains, width in CURVE:
        medians = {way: statistics.median(s) for way, s in measure(domains, width, max(3, given.rounds // 3)).items()}
        curve.append({"domains": domains, "width": width} | medians)
        over = {way: medians[way] / medians["fish"] for way in ("plain", "idgm", "idgm_pairs")}
        print(f"S {domains:2} width {width:4}: over Fish " + ", ".join(f"{way} {r:.2f}" for way, r in over.items()))
    if given.write:
        kept = {"ratios": {name: round(value, 2) for name, value in ratios.items()}, "targets": TARGETS}
        kept |= {"seconds": seconds, "memory_bytes": peaks, "curve": curve}
        write_json(RESULT, kept | {"provenance": (made := provenance(seed=0, data=None))})
        keep_figure(curve, made)


if __name__ == "__main__":
    main()
