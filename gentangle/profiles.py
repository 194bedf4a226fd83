"""The one place for sizes, dtypes, tolerances and budgets: ``GENTANGLE_PROFILE=smoke|cpu|gpu``."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gentangle.errors import InputError, nearest

ENVIRONMENT_VARIABLE = "GENTANGLE_PROFILE"


@dataclass(frozen=True)
class Tolerance:
    """How far two computations of one number may lie apart, by the precision they ran in.

    ``identity`` is for algebraic identities in float64 (relative); ``gram`` for inner products of
    float32 gradients (relative to the product of the norms); ``log_prob`` for log-probabilities in
    nats (absolute); ``rerun`` for the start of a stored run made again on another machine: the
    absolute difference of mean log-probabilities in nats. ``noise_floor``: a measured change of a
    log-probability below it, in nats, is float32's rounding more than the step's doing.
    """

    identity: float = 1e-10
    gram: float = 1e-4
    log_prob: float = 1e-4
    rerun: float = 0.05
    noise_floor: float = 1e-3


@dataclass(frozen=True)
class TweetSizes:
    """How much of ``recipes/tweets.yaml`` the chapter on tweets runs live.

    ``preference_steps`` counts the first optimizer steps of each form's run; ``tracked_pairs`` the
    pairs whose log-probabilities are followed; ``gram_pairs`` those whose Gram matrix is.
    """

    sft_steps: int
    preference_steps: int
    tracked_pairs: int
    gram_pairs: int


@dataclass(frozen=True)
class Profile:
    """Sizes, device, dtype, tolerances, expected minutes and memory of one way to run the book."""

    name: str
    device: str
    dtype: str
    threads: int
    memory_gb: float
    minutes: Mapping[str, float]
    tweets: TweetSizes
    tolerance: Tolerance = field(default_factory=Tolerance)

    def __str__(self) -> str:
        return (
            f"profile {self.name}: device {self.device}, {self.dtype}, {self.threads} threads, "
            f"up to {self.memory_gb:g} GB"
        )


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile("smoke", "cpu", "float32", 2, 2, {"tweets": 1}, TweetSizes(8, 4, 8, 2)),
            Profile("cpu", "cpu", "float32", 2, 3, {"tweets": 3}, TweetSizes(60, 20, 64, 8)),
            Profile("gpu", "cuda", "float32", 2, 4, {"tweets": 2}, TweetSizes(60, 100, 256, 32)),
        )
    }
)


def profile(name: str | None = None) -> Profile:
    """Profile called ``name``, else the one that ``GENTANGLE_PROFILE`` names, else ``cpu``.

    Raises:
        InputError: the name is none of ``smoke``, ``cpu``, ``gpu``.
    """
    chosen = name or os.environ.get(ENVIRONMENT_VARIABLE) or "cpu"
    if chosen not in PROFILES:
        raise InputError(f"{ENVIRONMENT_VARIABLE} is {chosen!r}, which is no profile. {nearest(chosen, PROFILES)}")
    return PROFILES[chosen]
