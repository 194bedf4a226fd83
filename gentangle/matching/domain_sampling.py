"""Which domains a step visits, where there are more than a step can take."""

from collections.abc import Hashable, Mapping

import torch

from gentangle.errors import InputError, one_of

WAYS = ("uniform", "size")


def draw_domains(
    sizes: Mapping[Hashable, int], count: int, *, by: str = "uniform", generator: torch.Generator
) -> list[Hashable]:
    r"""Names of ``count`` different domains, drawn one after the other without replacement.

    Args:
        sizes: examples of each domain, by name.
        count: from 2 to the number of domains.
        by: ``"uniform"``, or ``"size"``: each next one in proportion to its examples (a domain far larger than the
            others is then drawn at nearly every step).
        generator: of the draws; its state is the whole state of the sampling.

    Raises:
        InputError: an empty domain, count out of range, or an unknown way.
    """
    one_of(by, WAYS, f"Unknown way {by!r} to draw domains.")
    if empty := [name for name, size in sizes.items() if size < 1]:
        raise InputError(f"Domains {empty} have no examples: leave them out.")
    if not 2 <= count <= len(sizes):
        raise InputError(f"{count} domains a step were asked for, expected from 2 to all {len(sizes)}.")
    weights = torch.tensor([1 if by == "uniform" else size for size in sizes.values()], dtype=torch.float64)
    return [list(sizes)[i] for i in torch.multinomial(weights, count, generator=generator).tolist()]
