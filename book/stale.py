"""Which records and figures are older than what they stand on: code, packages, data. ``stale.py`` names them.

``results/made_with.json`` holds, for every record and figure, the hash of each file of code that it was made with. This
command alone writes it::

    python book/stale.py                        # name what is stale; 1 where something is and no reason is given
    python book/stale.py --renew                # enter new records and figures, from git's history
    python book/stale.py --redrawn FOLDER       # enter the committed figures that FOLDER holds byte for byte, drawn now
    python book/stale.py --drawn-by NOTEBOOK... # enter the figures of chapters that were executed and stored just now
    python book/stale.py --acknowledge NAME... --reason TEXT [--verified-by TEST]
"""

import argparse
import hashlib
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from closure import PACKAGE, closure, working_tree
from figure_cells import FigureCells, figures_of
from history import History, package_sha256

from gentangle import rated_texts
from gentangle.alignment.review_pairs import SOURCES
from gentangle.atomic import write_json

ROOT = Path(__file__).resolve().parents[1]
LEDGER = "results/made_with.json"
#: Written by commands of the book about itself: no record of a run.
NOT_RECORDS = {"made_with.json", "checks.json"}
UNVERIFIED = "not yet verified"
CELLS = "the chapter's cells"
_CODE = (PACKAGE, "benchmarks", "book")
_ENTRIES = {
    "preference": [f"{PACKAGE}/alignment/experiment.py"],
    "matching": [f"{PACKAGE}/matching/experiment.py"],
    "wilds": [f"{PACKAGE}/matching/wilds_run.py", f"{PACKAGE}/matching/wilds_fixtures.py"],
}


@dataclass(frozen=True)
class Stale:
    """A record set or figure, what has changed since it was made, and why it may stay."""

    name: str
    changes: tuple[str, ...]
    digest: str
    reason: str | None = None
    verified_by: str | None = None


class Book:
    """The records and figures of a repository and the code that they stand on now."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        path = root / LEDGER
        self.ledger = json.loads(path.read_text("utf-8")) if path.exists() else {"made": {}, "acknowledged": {}}

    @cached_property
    def tree(self) -> dict[str, str]:
        """Code, recipes and notebooks of the working tree."""
        found = working_tree(self.root, *_CODE)
        for pattern in ("recipes/**/*.yaml", "notebooks/*.ipynb"):
            paths = sorted(self.root.glob(pattern))
            found |= {path.relative_to(self.root).as_posix(): path.read_text("utf-8") for path in paths}
        return found

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """Provenance of each record, by path."""
        paths = [path for path in sorted((self.root / "results").rglob("*.json")) if path.name not in NOT_RECORDS]
        told = {path.relative_to(self.root).as_posix(): json.loads(path.read_text("utf-8")) for path in paths}
        return {path: record["provenance"] for path, record in told.items()}

    @cached_property
    def figures(self) -> dict[str, dict[str, Any]]:
        """Provenance of each committed figure, by ``book/figures/NAME``."""
        paths = sorted((self.root / "book" / "figures").glob("*.json"))
        return {f"book/figures/{path.stem}": json.loads(path.read_text("utf-8"))["provenance"] for path in paths}

    @cached_property
    def locked(self) -> dict[str, str]:
        """Versions of the lock file."""
        text = (self.root / "requirements" / "cpu.txt").read_text("utf-8")
        return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.M))

    # ---- what is stale ----

    def stale(self) -> list[Stale]:
        """Everything that has changed since it was made, acknowledged or not, records first."""
        return [found for name in (*self.sets(), *self.figures) if (found := self._stale(name))]

    def sets(self) -> list[str]:
        """Folders of records, and records that lie alone."""
        return sorted({_set(path) for path in self.records})

    def _stale(self, name: str) -> Stale | None:
        made = self.ledger["made"].get(name, {})
        changes = set[str]()
        told = [self.figures[name]] if name in self.figures else [p for k, p in self.records.items() if _set(k) == name]
        for provenance in told:
            key = "figure" if name in self.figures else provenance["package_sha256"][:12]
            if key not in made:
                changes.add(f"no entry for the package {key}: python book/stale.py --renew")
                continue
            now, packages = self._now(name, provenance)
            changes |= set(_differences(made[key]["code"], now))
            if name not in self.figures:
                changes |= self._other_versions(provenance["versions"], packages) | self._other_data(provenance)
        if not changes:
            return None
        digest = hashlib.sha256("\n".join(sorted(changes)).encode()).hexdigest()[:12]
        given = self.ledger["acknowledged"].get(name, {})
        given = given if given.get("changes") == digest else {}
        return Stale(name, tuple(_short(sorted(changes))), digest, given.get("reason"), given.get("verified_by"))

    def _now(self, name: str, provenance: Mapping[str, Any]) -> tuple[dict[str, str], set[str]]:
        if name in self.figures:
            return figure_code(name, provenance, self.tree)
        return record_code(provenance, self.tree)

    def _other_versions(self, versions: Mapping[str, str], packages: set[str]) -> set[str]:
        held = {name: version.split("+")[0] for name, version in versions.items() if name in packages}
        pairs = ((name, version, self.locked.get(name, version)) for name, version in held.items())
        return {f"{name} {made} then, {locked} in the lock" for name, made, locked in pairs if made != locked}

    def _other_data(self, provenance: Mapping[str, Any]) -> set[str]:
        """WILDS's stand-ins are made by code, which is compared; the rated texts have a hash."""
        texts = {rated_texts.corpus_hash(of) for of in (*([d] for d in rated_texts.DOMAINS), list(SOURCES))}
        of_texts = "wilds" not in provenance["command"] and provenance["data_sha256"]
        return {"the rated texts are others"} if of_texts and provenance["data_sha256"] not in texts else set()

    # ---- what the ledger is told ----

    def renew(self) -> None:
        """Enter what is new, drop what is gone, and carry over the reasons that a test goes on verifying."""
        history, made = History(self.root), {}
        for path, provenance in self.records.items():
            entry = made.setdefault(_set(path), {})
            key = provenance["package_sha256"][:12]
            known = self.ledger["made"].get(_set(path), {}).get(key)
            entry[key] = known or entry.get(key) or self._as_made(history, path, provenance)
        for name, provenance in self.figures.items():
            shown = {"picture": self._picture(name)}
            known = self.ledger["made"].get(name, {}).get("figure")
            fresh = known and known["picture"] == shown["picture"]
            made[name] = {"figure": known if fresh else self._as_drawn(history, name, provenance) | shown}
        self.ledger["made"] = made
        before, self.ledger["acknowledged"] = self.ledger["acknowledged"], {}
        for found in self.stale():
            given = before.get(found.name, {})
            kept = given.get("changes") == found.digest or given.get("verified_by")
            reason = given["reason"] if kept else UNVERIFIED
            self.acknowledge(found, reason, given.get("verified_by") if kept else None)

    def _as_made(self, history: History, path: str, provenance: Mapping[str, Any]) -> dict[str, Any]:
        commit, exact = self._commit(history, provenance, path)
        code, _ = record_code(provenance, self._tree_of(history, commit, path))
        return {"commit": _told(commit), "exact": exact, "code": code}

    def _as_drawn(self, history: History, name: str, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """With the package that the figure names, unless that is the one of the record that it draws."""
        pictures = [f"{name}.{theme}.png" for theme in ("light", "dark")]
        own = _script(provenance) or provenance["command"].startswith("ipykernel")
        commit, exact = self._commit(history, provenance, *pictures)
        if not own:
            commit, exact = history.last_change(*pictures), False
        code, _ = figure_code(name, provenance, self._tree_of(history, commit, *pictures))
        return {"commit": _told(commit), "exact": exact, "code": code}

    def _tree_of(self, history: History, commit: str | None, *paths: str) -> dict[str, str]:
        """The package of a commit, and scripts, recipes and notebooks of the one that brought the files.

        A script is often committed with what it made, after the package that it ran with.
        """
        brought = history.last_change(*paths)
        rest = history.tree(brought, "benchmarks", "book", "recipes", "notebooks") if brought else self.tree
        package = history.tree(commit, PACKAGE) if commit else self.tree
        inside = {path: text for path, text in package.items() if path.startswith(f"{PACKAGE}/")}
        return inside | {path: text for path, text in rest.items() if not path.startswith(f"{PACKAGE}/")}

    def _commit(self, history: History, provenance: Mapping[str, Any], *paths: str) -> tuple[str | None, bool]:
        """The commit whose package is the one named, and True; else the one that brought the file, and False."""
        sha = provenance["package_sha256"]
        if sha == package_sha256({k: v for k, v in self.tree.items() if k.startswith(f"{PACKAGE}/")}):
            return None, True
        return (history.commits[sha], True) if sha in history.commits else (history.last_change(*paths), False)

    def _picture(self, name: str) -> str:
        return _bytes_hash(self.root / f"{name}.{theme}.png" for theme in ("light", "dark"))

    def redrawn(self, folder: Path) -> tuple[list[str], list[str]]:
        """Enter the figures whose pictures a folder holds byte for byte as drawn with the code of now.

        Returns:
            The figures entered, and those that came out as other pictures.
        """
        same, other = [], []
        for name in self.figures:
            drawn = [folder / f"{Path(name).name}.{theme}.png" for theme in ("light", "dark")]
            if all(path.exists() for path in drawn):
                (same if _bytes_hash(drawn) == self._picture(name) else other).append(name)
        self.enter(same)
        return same, other

    def drawn_by(self, notebooks: Sequence[str]) -> list[str]:
        """The figures that chapters draw and the book holds."""
        drawn = {f"book/figures/{figure}" for path in notebooks for figure in figures_of(self.tree[path])}
        return [name for name in self.figures if name in drawn]

    def enter(self, names: Sequence[str]) -> None:
        """Enter figures as drawn with the code of now."""
        for name in names:
            code, _ = self._now(name, self.figures[name])
            entry = {"commit": "drawn again", "exact": True, "code": code, "picture": self._picture(name)}
            self.ledger["made"][name] = {"figure": entry}
            self.ledger["acknowledged"].pop(name, None)

    def acknowledge(self, found: Stale, reason: str, verified_by: str | None) -> None:
        entry = {"changes": found.digest, "reason": reason, "verified_by": verified_by}
        self.ledger["acknowledged"][found.name] = entry

    def write(self) -> None:
        write_json(self.root / LEDGER, self.ledger)


def record_code(provenance: Mapping[str, Any], tree: Mapping[str, str]) -> tuple[dict[str, str], set[str]]:
    """Hashes of the code that a record's command runs, and the packages that it imports.

    Recipes are left out: the tests of records compare each record's settings with its recipe.
    """
    if script := _script(provenance):
        return closure([f"benchmarks/{script}", f"book/{script}"], tree)
    command = shlex.split(provenance["command"])
    if "fish" in command:
        return closure(_ENTRIES["wilds"], tree)
    # By its name alone: a record may have been made while the recipe lay in another folder.
    name = Path(command[command.index("--recipe") + 1]).name
    recipes = {Path(path).name: text for path, text in tree.items() if path.startswith("recipes/")}
    recipe = yaml.safe_load(recipes[name])
    return closure(_ENTRIES[recipe["kind"]], tree)


def figure_code(name: str, provenance: Mapping[str, Any], tree: Mapping[str, str]) -> tuple[dict[str, str], set[str]]:
    """Hashes of the code that draws a figure: a chapter's cells and what they import, or a script's."""
    _, cells = cells_of(Path(name).name, tree)
    if cells is None:
        return record_code(provenance, tree)
    code, packages = closure([CELLS], {CELLS: cells.code, **tree})
    return code, packages


def cells_of(figure: str, tree: Mapping[str, str]) -> tuple[str, FigureCells | None]:
    """The chapter that draws a figure and the cells behind it; none where a script draws it."""
    for path, text in tree.items():
        if path.endswith(".ipynb") and figure in (found := figures_of(text)):
            return path, found[figure]
    return "", None


def _script(provenance: Mapping[str, Any]) -> str | None:
    """The script that made it, where none of gentangle's own commands did."""
    first = next(word for word in shlex.split(provenance["command"]) if word != "python")
    name = Path(first).name
    return name if name.endswith(".py") and name not in ("cli.py", "ipykernel_launcher.py") else None


def _told(commit: str | None) -> str:
    return commit[:8] if commit else "working tree"


def _set(path: str) -> str:
    return path if path.count("/") == 1 else path.rpartition("/")[0]


def _bytes_hash(paths: Any) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]


def _differences(made: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    changed = [f"{path} changed ({now[path]})" for path in made.keys() & now.keys() if made[path] != now[path]]
    gone = [f"{path} is gone" for path in made.keys() - now.keys()]
    return changed + gone + [f"{path} is new ({now[path]})" for path in now.keys() - made.keys()]


def _short(changes: Sequence[str]) -> list[str]:
    """Without the hashes, which only tell one change of a file from the next."""
    return [re.sub(r" \([0-9a-f]{12}\)$", "", change) for change in changes]


def main(arguments: Sequence[str] | None = None) -> int:
    """Name what is stale; 1 where a thing is so without a reason."""
    parser = argparse.ArgumentParser(description="Which records and figures are older than what they stand on.")
    parser.add_argument("--renew", action="store_true", help="enter new records and figures, from git's history")
    parser.add_argument("--redrawn", type=Path, metavar="FOLDER", help="figures drawn now, to compare with the book's")
    parser.add_argument("--drawn-by", nargs="+", metavar="NOTEBOOK", default=[], help="chapters executed just now")
    parser.add_argument("--acknowledge", nargs="+", metavar="NAME", default=[], help="results/SET or book/figures/NAME")
    parser.add_argument("--reason", help="why it may stay")
    parser.add_argument("--verified-by", metavar="TEST", help="test or chapter that shows it at every `make test`")
    given = parser.parse_args(arguments)
    if given.acknowledge and not given.reason:
        parser.error("--acknowledge needs --reason.")
    book = Book()
    if given.renew:
        book.renew()
    if given.redrawn:
        same, other = book.redrawn(given.redrawn)
        print(f"{len(same)} figures come out byte for byte; not so: {', '.join(other) or 'none'}")
    book.enter(book.drawn_by(given.drawn_by))
    by_name = {found.name: found for found in book.stale()}
    for name in given.acknowledge:
        if name not in by_name:
            parser.error(f"{name} is not stale; stale are {', '.join(by_name) or 'none'}.")
        book.acknowledge(by_name[name], given.reason, given.verified_by)
    if given.renew or given.redrawn or given.drawn_by or given.acknowledge:
        book.write()
    return _report(book)


def _report(book: Book) -> int:
    stale = book.stale()
    for found in stale:
        verified = f" ({found.verified_by})" if found.verified_by else ""
        print(f"{found.name}: {'; '.join(found.changes)}\n    {found.reason or 'NO REASON GIVEN'}{verified}")
    wanting = [found.name for found in stale if found.reason is None]
    total = len(book.sets()) + len(book.figures)
    print(f"{total - len(stale)} of {total} record sets and figures are as the code of now would make them")
    if wanting:
        print(f"stale, and no reason given: {', '.join(wanting)}. See --help.", file=sys.stderr)
    return bool(wanting)


if __name__ == "__main__":
    sys.exit(main())
