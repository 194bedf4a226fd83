"""Examples by domain in memory, the draws of an update from them, and accuracy on them."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gentangle.errors import InputError
from gentangle.matching.domain_sampling import draw_domains
from gentangle.matching.image_folders import ImageFiles

#: x of shape (n, ...), as floats, as bytes 0..255 or as image files, and labels y of shape (n,).
Examples = tuple[torch.Tensor | ImageFiles, torch.Tensor]
#: Examples by domain.
Parts = Mapping[Any, Examples]


@dataclass(frozen=True)
class Environments:
    """Domains' examples: to learn from, held out of the same domains, and of domains that are never learnt from.

    Raises:
        InputError: fewer than two domains to learn from, an empty domain, x and y of different length, or a label
            outside 0..classes-1 (the domain is named).
    """

    train: Parts
    validation: Parts
    test: Parts
    classes: int

    def __post_init__(self) -> None:
        if len(self.train) < 2:
            raise InputError(f"{len(self.train)} domain to learn from, not 2 or more: gradients match between domains.")

        for part in (self.train, self.validation, self.test):
            for name, (x, y) in part.items():
                if len(x) != len(y) or not len(y):
                    raise InputError(f"Domain {name!r} has {len(x)} inputs and {len(y)} labels, expected as many, > 0.")
                if (worst := int(max(y.min(), y.max(), key=lambda v: abs(float(v))))) not in range(self.classes):
                    raise InputError(f"Domain {name!r} has the label {worst}, expected 0 to {self.classes - 1}.")


def leave_out(parts: Parts, left_out: Iterable[Hashable], classes: int, seed: int) -> Environments:
    """A fifth of each domain is held out; of the domains ``left_out`` all but that fifth is never seen.

    DomainBed's cut: a left-out domain is tested on its larger part, and its fifth serves the oracle's choice.

    Raises:
        InputError: a domain to leave out that is not there.
    """
    left_out, generator = list(left_out), torch.Generator().manual_seed(seed)
    if missing := [name for name in left_out if name not in parts]:
        raise InputError(f"Cannot leave out {missing}: the domains are {', '.join(map(str, parts))}.")
    train, validation = {}, {}
    for name, (x, y) in parts.items():
        order, held = torch.randperm(len(y), generator=generator), len(y) // 5
        validation[name] = x[order[:held]], y[order[:held]]
        train[name] = x[order[held:]], y[order[held:]]
    test = {name: train.pop(name) for name in left_out}
    return Environments(train, validation, test, classes)


def random_groups(environments: Environments, seed: int) -> Environments:
    """The examples to learn from dealt out anew at random, in groups of the same sizes: the ablation of domains."""
    xs, ys = zip(*environments.train.values(), strict=True)
    x, y = joined(xs), torch.cat(ys)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    groups = order.split([len(own) for own in ys])
    return replace(environments, train={f"group {i}": (x[g], y[g]) for i, g in enumerate(groups)})


def joined(xs: Sequence[Any]) -> torch.Tensor | ImageFiles:
    """Several domains' x as one."""
    if isinstance(xs[0], ImageFiles):
        return replace(xs[0], files=np.concatenate([x.files for x in xs]))
    return torch.cat([*xs])


@dataclass
class Draws:
    """The minibatches of each update; ``generator`` is all that it remembers.

    Args:
        parts: examples by domain.
        batch_size: examples of each domain, drawn without replacement; a smaller domain gives all that it has.
        domains: how many a step visits, 0 for all.
        by: ``uniform`` or ``size``, see :func:`gentangle.matching.domain_sampling.draw_domains`.
        one_domain: several minibatches of one domain an update, as Reptile takes them.
        device: where the minibatches go.
    """

    parts: Parts
    batch_size: int
    generator: torch.Generator
    domains: int = 0
    by: str = "uniform"
    one_domain: bool = False
    device: str = "cpu"

    def draw(self) -> dict[Hashable, Examples]:
        """(x, y) of each domain that the step visits."""
        sizes, count = {name: len(y) for name, (_, y) in self.parts.items()}, self.domains or len(self.parts)
        names = draw_domains(sizes, count, by=self.by, generator=self.generator)
        if self.one_domain:
            return {f"{names[0]}, {i}": self.minibatch(names[0]) for i in range(count)}
        return {name: self.minibatch(name) for name in names}

    def minibatch(self, name: Hashable) -> Examples:
        """(x, y) of one domain."""
        x, y = self.parts[name]
        chosen = torch.randperm(len(y), generator=self.generator)[: self.batch_size]
        return as_floats(x[chosen], self.generator).to(self.device), y[chosen].to(self.device)


def as_floats(x: torch.Tensor | ImageFiles, generator: torch.Generator | None = None) -> torch.Tensor:
    """Bytes as numbers from 0 to 1; floats as they are; images decoded, and changed at random where they are to be."""
    if isinstance(x, ImageFiles):
        return x.floats(generator)
    return x.float() / 255 if x.dtype == torch.uint8 else x


def domain_accuracy(predict: Callable[[Any], torch.Tensor], examples: Examples, batch_size: int = 500) -> float:
    """Share of the examples whose largest logit is the label's."""
    x, y = examples
    right = [
        (predict(as_floats(a)).argmax(dim=-1) == b).sum().item()
        for a, b in zip(x.split(batch_size), y.split(batch_size), strict=True)
    ]
    return sum(right) / len(y)
