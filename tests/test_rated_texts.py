"""The rated texts: what is loaded, and what each kind of bad input is told."""

import io
import shutil
import tarfile
from collections import Counter
from dataclasses import replace

import pytest

from gentangle import rated_texts
from gentangle.errors import InputError


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENTANGLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def whole_cache(corpus, tmp_path, monkeypatch):
    """A copy of the fetched files that a test may spoil."""
    source = rated_texts.folder()
    monkeypatch.setenv("GENTANGLE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(source, rated_texts.folder())
    return rated_texts.folder()


@pytest.fixture
def no_network(monkeypatch):
    """pip with nowhere to look."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")


@pytest.mark.parametrize(
    ("domain", "count"), [("tweets", 4200), ("film", 10605), ("product", 3708), ("newspaper", 5190)]
)
def test_real_texts(corpus, domain, count):
    texts = corpus[domain]
    assert len(texts) == count
    assert all(-4 <= text.rating <= 4 and text.text for text in texts)
    assert len({text.rating for text in texts}) > 50, "mean ratings of 20 raters take many values"
    assert Counter(t.identifier for t in texts).most_common(1)[0][1] == 1, "identifiers are unique"


def test_first_tweet_is_read_as_it_stands(corpus):
    first = corpus["tweets"][0]
    assert first.identifier == "1"
    assert "\t" not in first.text
    assert not first.identifier.startswith("\ufeff")


def test_ratings_go_with_the_words(corpus):
    """A column read wrongly would lose this: texts with `great` are rated above those with `bad`."""
    for texts in corpus.values():
        mean = {}
        for word in ("great", "bad"):
            ratings = [t.rating for t in texts if word in t.text.lower().split()]
            assert len(ratings) >= 20
            mean[word] = sum(ratings) / len(ratings)
        assert mean["great"] > 0 > mean["bad"]


def test_fetch_finds_what_is_there(whole_cache, no_network):
    assert rated_texts.fetch() == whole_cache


def test_unknown_domain(empty_cache):
    with pytest.raises(InputError, match=r"Unknown domain 'tweet'\. Did you mean 'tweets'"):
        rated_texts.load("tweet")


def test_missing_file(empty_cache):
    with pytest.raises(InputError, match=r"tweets_GroundTruth.txt is missing: run `gentangle fetch rated-texts`"):
        rated_texts.load("tweets")


def test_corrupted_file(whole_cache):
    path = whole_cache / rated_texts.DOMAINS["tweets"][0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"SHA-256 differs\): delete it and run `gentangle fetch rated-texts`"):
        rated_texts.load("tweets")


def test_without_a_network_the_error_says_what_to_do(empty_cache, no_network):
    with pytest.raises(InputError, match="without a network") as caught:
        rated_texts.fetch()
    message = str(caught.value)
    assert "\n" not in message
    assert rated_texts.RELEASE.requirement in message
    assert "gentangle fetch rated-texts --archive FILE" in message
    assert not empty_cache.exists()


def test_missing_archive(empty_cache, tmp_path):
    with pytest.raises(InputError, match=f"No such file.*expected the archive {rated_texts.RELEASE.archive}"):
        rated_texts.fetch(tmp_path / "none.tar.gz")
    assert not empty_cache.exists()


@pytest.mark.parametrize("content", [b"", b"not an archive"])
def test_archive_with_another_checksum(empty_cache, tmp_path, content):
    archive = tmp_path / rated_texts.RELEASE.archive
    archive.write_bytes(content)
    with pytest.raises(InputError, match=f"has SHA-256 .* expected {rated_texts.RELEASE.sha256[:16]}"):
        rated_texts.fetch(archive)
    assert not empty_cache.exists()


def archive_of(texts: dict[str, bytes]) -> bytes:
    """A source distribution with these files inside its inner archive."""

    def packed(members: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return buffer.getvalue()

    return packed({rated_texts._INNER: packed({f"hutto_ICWSM_2014/{name}": text for name, text in texts.items()})})


@pytest.mark.parametrize("spoiled", list(rated_texts.DOMAINS))
def test_archive_whose_files_differ_leaves_nothing(whole_cache, empty_cache, tmp_path, monkeypatch, spoiled):
    """Three of the four files are right, so that a file written before the check would stay."""
    import hashlib

    texts = {name: (whole_cache / name).read_bytes() for name, _ in rated_texts.DOMAINS.values()}
    texts[rated_texts.DOMAINS[spoiled][0]] += b"x"
    archive = tmp_path / rated_texts.RELEASE.archive
    archive.write_bytes(archive_of(texts))
    shutil.rmtree(whole_cache)
    known = replace(rated_texts.RELEASE, sha256=hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(rated_texts, "RELEASE", known)
    with pytest.raises(InputError, match=f"{rated_texts.DOMAINS[spoiled][0]} inside .* another SHA-256"):
        rated_texts.fetch(archive)
    assert not list(empty_cache.rglob("*.txt"))


def test_archive_that_is_right_is_taken(whole_cache, tmp_path, monkeypatch, no_network):
    """From a file alone, with no network, and into a cache of which one file is corrupted."""
    import hashlib

    texts = {name: (whole_cache / name).read_bytes() for name, _ in rated_texts.DOMAINS.values()}
    archive = tmp_path / rated_texts.RELEASE.archive
    archive.write_bytes(archive_of(texts))
    known = replace(rated_texts.RELEASE, sha256=hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(rated_texts, "RELEASE", known)
    (whole_cache / rated_texts.DOMAINS["film"][0]).write_bytes(b"half")
    rated_texts.fetch(archive)
    assert len(rated_texts.load("film")) == 10605
    assert {path.name for path in whole_cache.iterdir()} == {name for name, _ in rated_texts.DOMAINS.values()}


GOOD = b"1\t1.5\tfine\n"


def test_parse():
    texts = rated_texts.parse(b"\xef\xbb\xbf1\t-4\t caf\xc3\xa9 \n2\t4\tb", "some.txt")
    assert texts == [rated_texts.RatedText("1", -4.0, "café"), rated_texts.RatedText("2", 4.0, "b")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"2\t1.0\tcaf\xe9", r"some.txt, line 2 is not UTF-8 \(byte 9\): save the file as UTF-8"),
        (b"2\t1.0", r"some.txt, line 2 has 2 fields, expected 3"),
        (b"2\t1.0\ta\tb", r"some.txt, line 2 has 4 fields, expected 3"),
        (b"2\t4.1\ta", r"some.txt, line 2: rating '4.1' is no number in \[-4, 4\]"),
        (b"2\t-4.01\ta", r"rating '-4.01' is no number"),
        (b"2\tgood\ta", r"rating 'good' is no number"),
        (b"2\tnan\ta", r"rating 'nan' is no number"),
    ],
)
def test_bad_line(line, message):
    with pytest.raises(InputError, match=message):
        rated_texts.parse(GOOD + line + b"\n" + GOOD, "some.txt")


def test_corpus_hash_names_the_domains():
    assert rated_texts.corpus_hash(["tweets"]) != rated_texts.corpus_hash(["film"]) != rated_texts.corpus_hash()
