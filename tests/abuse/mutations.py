"""Valid inputs, spoilt: as bytes, as trees of values, as archives, as folders. One seed, one input."""

import copy
import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

SCRIPT = "<script>alert(1)</script>"
BIDI = "\u202e\u2066abc\u2069"
#: Stand in a tree for what json and yaml refuse to write; replaced in the text.
HUGE, DEEP, LONE = "@@HUGE@@", "@@DEEP@@", "@@LONE@@"
_WRITTEN = {f'"{HUGE}"': "9" * 5000, f'"{DEEP}"': "[" * 20_000 + "]" * 20_000, LONE: r"\ud800"}

#: Values that a reader has to expect where it looked for another.
WEIRD: Sequence[Any] = (
    *(None, True, False, 0, -1, 1, 3, 2.5, -0.0, 1e-320, 1e300, -1e308, 10**12, -(10**30), 10**400),
    *(float("nan"), float("inf"), -float("inf"), HUGE, DEEP, LONE, f"a{LONE}b"),
    *(
        "",
        " ",
        "\n",
        "a\nb",
        "\x00",
        "\x1b[31m",
        "nan",
        "1e999",
        "x" * 3000,
        SCRIPT,
        BIDI,
        "é",
        "🙂",
        "../../up",
        "/abs",
    ),
    *([], {}, [[]], [None], [1, "a"], {"a": 1}, {"": ""}, [{"role": "user"}], [{"role": "user", "content": None}]),
    *([{"role": "user", "content": "a good film"}], [{"role": "nobody", "content": ["x"]}], {"content": "x"}),
)

_INSERTS = (
    *(b"\xff", b"\x00", b"\xc3", b"\xef\xbb\xbf", b"\n", b"\r", b"\r\n", b"\x0b", b"\x1c", b"\xe2\x80\xa8", b"\t"),
    *(
        b"NaN",
        b"Infinity",
        b"-",
        b"1e999",
        b"9" * 5000,
        b'"',
        b"'",
        b"\\",
        b"\\ud800",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
    ),
    *(b"[" * 20_000, b'{"a":' * 20_000, SCRIPT.encode(), BIDI.encode(), b"null", b"true", b"#", b"- ", b"&a ", b"*a"),
)


def spoilt_bytes(random: Random, data: bytes) -> bytes:
    """One to four changes of bytes, lines or the encoding."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        data = random.choice(_BYTE_CHANGES)(random, data)
    return data


def _place(random: Random, data: bytes) -> int:
    return random.randrange(len(data) + 1)


def _flip(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 3, 20)) if data else 0):
        changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut(random: Random, data: bytes) -> bytes:
    at = _place(random, data)
    return data[:at] + data[at + random.choice((1, 2, 10, 100)) :]


def _repeat(random: Random, data: bytes) -> bytes:
    at, length = _place(random, data), random.choice((1, 10, 100))
    return data[:at] + data[at : at + length] * random.choice((2, 3, 50)) + data[at + length :]


def _insert(random: Random, data: bytes) -> bytes:
    at = _place(random, data)
    return data[:at] + random.choice(_INSERTS) + data[at:]


def _encode(random: Random, data: bytes) -> bytes:
    return data.decode("utf-8", "replace").encode(
        random.choice(("utf-16", "utf-16-le", "latin-1", "utf-8-sig")), "replace"
    )


def _lines(random: Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    random.shuffle(lines)
    return random.choice((b"\n", b"\r\n", b"\r", b"\n\n", b"\x00")).join(lines[: random.randrange(len(lines) + 1)])


_BYTE_CHANGES: Sequence[Callable[[Random, bytes], bytes]] = (
    *(_flip, _cut, _repeat, _insert, _insert, _encode, _lines),
    lambda random, data: data[: _place(random, data)],
    lambda random, _: random.randbytes(random.choice((0, 1, 10, 1000))),
)


def spoilt_tree(random: Random, tree: Any) -> Any:
    """One or two changes of a tree of mappings and lists: a value, a key, an order, a type."""
    tree = copy.deepcopy(tree)
    for _ in range(random.choice((1, 1, 2))):
        places = list(_places(tree))
        if not places:
            return random.choice(WEIRD)
        holder, key = random.choice(places)
        _change(random, holder, key)
    return tree


def _places(tree: Any) -> Any:
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _places(tree[key])


def _change(random: Random, holder: Any, key: Any) -> None:
    kind, value = random.randrange(8), holder[key]
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[random.choice((f"{key}s", str(key)[:-1], SCRIPT, "", "loss_type", "name"))] = holder.pop(key)
    elif kind == 2:
        holder[key] = [value]
    elif kind == 3:
        holder[key] = str(value)
    elif kind == 4 and isinstance(value, int | float) and not isinstance(value, bool):
        holder[key] = value * random.choice((-1, 0, 1e9, 10**10, 0.5, float("nan")))
    else:
        holder[key] = copy.deepcopy(random.choice(WEIRD))


def as_json(tree: Any) -> str:
    """The tree as JSON, with what json would not write; ``NaN`` and ``Infinity`` as Python writes them."""
    return _written(json.dumps(tree, ensure_ascii=False) if not _is_huge(tree) else '"@@HUGE@@"')


def _is_huge(tree: Any) -> bool:
    try:
        json.dumps(tree)
    except (ValueError, RecursionError):
        return True
    return False


def _written(text: str) -> str:
    for mark, value in _WRITTEN.items():
        text = text.replace(mark, value)
    return text


#: What YAML can say and a recipe never does.
_YAML = (
    'more: !!python/object/apply:os.system ["touch {pwned}"]\n',
    "more: !!python/name:os.system\n",
    *("more: !!timestamp x\n", "more: !!int x\n", "more: !!bool x\n", "more: !!float x\n", "more: !!binary ####\n"),
    *("more: 2001-99-99\n", "more: 2001-01-01\n", "? [1]\n: 2\n", "? {{a: 1}}\n: 2\n", "more: !!set {{a, b}}\n"),
    "more: &a [*a]\n",
    "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(12)),
    *(
        "---\nother: 1\n",
        "...\n",
        "\tmore: 1\n",
        "<<: 3\n",
        "<<: {{name: x}}\n",
        "more: *nothing\n",
        "more: [" + "[" * 3000,
    ),
    "more: " + "{{a: " * 3000,
)


def spoilt_yaml(random: Random, tree: Any, write: Callable[[Any], str], pwned: Path) -> bytes:
    """YAML of a spoilt tree, or of a whole one with what YAML itself can do wrong."""
    kind = random.randrange(9)
    if kind == 8:
        return write(tree).encode()
    if kind < 5:
        return (
            _written(write(spoilt_tree(random, tree)).replace(f"'{HUGE}'", HUGE))
            .replace(HUGE, "9" * 5000)
            .encode("utf-8", "surrogatepass")
        )
    text = write(tree)
    if kind == 5:
        return spoilt_bytes(random, text.encode())
    if kind == 6:  # a line twice: a key twice, if it is one
        lines = text.splitlines(keepends=True)
        return "".join([*lines, random.choice(lines)]).encode()
    return (text + random.choice(_YAML).format(pwned=pwned)).encode()


@cache
def bomb(size: int = 300_000_000) -> bytes:
    """A gzip stream that unpacks to zeros, a thousand times its length."""
    piece = gzip.compress(bytes(size // 30))
    return piece * 30


def tar(members: Mapping[str, bytes], *more: tarfile.TarInfo) -> bytes:
    """A gzipped tar file of members, and of others that need no content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in more:
            archive.addfile(member)
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A link, device or folder as a member of a tar file."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def spoilt_members(random: Random, members: Mapping[str, bytes], pwned: Path) -> bytes:
    """A tar file of the members in which one is missing, elsewhere, no file, or other bytes."""
    found, name = dict(members), random.choice(sorted(members))
    content, kind = found.pop(name), random.randrange(8)
    links = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
    if kind == 0:
        return tar(found)
    if kind == 1:
        return tar(
            {random.choice(("../" * 9 + str(pwned)[1:], str(pwned), f"./{name}", name.upper())): content, **found}
        )
    if kind == 2:
        targets = ("/etc/passwd", str(pwned), name, random.choice(sorted(members)), "nowhere")
        return tar(found, special(name, random.choice(links), random.choice(targets)))
    if kind == 3:
        return spoilt_bytes(random, tar(members))
    if kind == 4:
        return tar(
            {
                **found,
                name: random.choice(
                    (b"", content[:-1], content + b"x", zipped(members), spoilt_bytes(random, content))
                ),
            }
        )
    if kind == 5:
        return random.choice((zipped(members), b"", content, gzip.compress(b"no tar"), bomb(30_000_000)))
    return tar({**members, str(pwned): b"x", "../" * 9 + str(pwned)[1:]: b"x"})


def zipped(members: Mapping[str, bytes]) -> bytes:
    """A zip file of the members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def png_bomb(side: int = 60_000) -> bytes:
    """A PNG file that says it has ``side`` pixels a side, and has none of them."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def spoil_folder(random: Random, folder: Path, *, only: Sequence[Path] = ()) -> None:
    """Change one thing in a folder of files: a file or folder that is missing, empty, other, moved, or a link."""
    every = [path for path in sorted(folder.rglob("*")) if not path.is_symlink()]
    path = random.choice(list(only) or every)
    kind = random.randrange(10)
    if path.is_dir():
        odd = random.choice(
            ("\u202eabc", "a\nb", os.fsdecode(b"\xff\xfe"), SCRIPT.replace("/", "|"), ".hidden", " ", "x" * 200)
        )
        if kind < 6:
            path.rename(path.with_name(odd))
        elif kind < 8:
            (path / odd).mkdir()
        else:
            _removed(path)
            if kind == 9:
                path.write_bytes(b"a file, no folder")
        return
    data = path.read_bytes()
    if kind < 3:
        path.write_bytes(spoilt_bytes(random, data))
    elif kind == 3:
        path.write_bytes(random.choice((b"", png_bomb(), png_bomb(12_000), bomb(1_000_000), data[: len(data) // 2])))
    elif kind == 4:
        path.rename(path.with_name(random.choice(("\u202e", "a\nb", os.fsdecode(b"\xff"), ".dot")) + path.suffix))
    else:
        path.unlink()
        target = random.choice((path.name, "nowhere", "/etc/passwd", str(folder), "/dev/null"))
        if kind == 5:
            path.mkdir()
        elif kind > 5:
            path.symlink_to(target)


def _removed(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)
