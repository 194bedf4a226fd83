"""The copies for Colab and Binder install themselves and run; the workflow tests before it publishes."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "https://github.com/owner/name"
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WORKFLOW = ROOT / ".github" / "workflows" / "publish.yml"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("book/publish.py")


@pytest.fixture(autouse=True)
def no_address(monkeypatch):
    monkeypatch.delenv("GENTANGLE_REPOSITORY", raising=False)


@pytest.fixture(scope="module")
def copies(script, tmp_path_factory):
    """The branch, with a file that is only named as a wheel is."""
    folder = tmp_path_factory.mktemp("published")
    wheel = folder / "gentangle-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    script.publish(ADDRESS, wheel, folder / "launch", "torch==2.13.0")
    return folder / "launch"


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_address_given_goes_before_the_setting(script, monkeypatch):
    monkeypatch.setenv("GENTANGLE_REPOSITORY", "https://github.com/another/one")
    assert script.chosen_address(f"{ADDRESS}/") == ADDRESS
    assert script.chosen_address(None) == "https://github.com/another/one"


def code_of(chapter: Path) -> str:
    cells = json.loads(chapter.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_a_copy_is_the_chapter_after_an_install_cell(copies):
    assert {path.name for path in (copies / "notebooks").iterdir()} == {path.name for path in CHAPTERS}
    for chapter in CHAPTERS:
        original, copy = json.loads(chapter.read_text()), json.loads((copies / "notebooks" / chapter.name).read_text())
        first, *rest = copy["cells"]
        assert rest == original["cells"], "outputs and all"
        assert (first["cell_type"], first["outputs"], first["execution_count"]) == ("code", [], None)
        assert ADDRESS in "".join(first["source"])
        assert {**copy, "cells": []} == {**original, "cells": []}


def test_the_notebooks_themselves_install_nothing():
    for chapter in CHAPTERS:
        assert not re.search(r"\bpip\b|\bgit\b|github\.com|^[%!]", code_of(chapter), re.MULTILINE), chapter.name


def test_the_branch_holds_what_chapters_read_and_what_binder_builds(copies):
    assert {path.name for path in copies.iterdir()} == {
        *("notebooks", "recipes", "results", "binder", "requirements.txt", "gentangle-0.1.0-py3-none-any.whl"),
        *("LICENSE", "LICENSE-TEXT"),
    }
    for name in ("recipes", "results"):
        assert files(copies / name) == files(ROOT / name)
    assert {path.name for path in (copies / "binder").iterdir()} == {
        "runtime.txt",
        "constraints.txt",
        "postBuild",
        "start",
    }
    assert (copies / "binder" / "constraints.txt").read_bytes() == (ROOT / "requirements" / "cpu.txt").read_bytes()


def test_binder_starts_in_the_smoke_profile(copies):
    start = copies / "binder" / "start"
    command = [start, sys.executable, "-c", "import gentangle; print(gentangle.profile())"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("profile smoke:")


def test_binder_gets_torch_as_the_makefile_spells_it(script, copies, tmp_path):
    spelt = "--index-url INDEX torch==2.13.0"
    wheel = str(next(copies.glob("*.whl")))
    given = ["--address", ADDRESS, "--wheel", wheel, "--out", str(tmp_path / "launch"), f"--torch={spelt}"]
    assert script.main(given) == 0
    assert f"pip install --no-cache-dir {spelt}\n" in (tmp_path / "launch" / "binder" / "postBuild").read_text()
    assert '--torch="$(TORCH)"' in (ROOT / "Makefile").read_text()


def imported(chapter: Path) -> set[str]:
    found = re.findall(r"^(?:from|import) (\w+)", code_of(chapter), re.MULTILINE)
    return {*found} - {*sys.stdlib_module_names, "gentangle"}


def needed(requirements: list[str]) -> list[Distribution]:
    """What pip would install: this environment's packages that the requirements ask for, and what those ask for."""
    found, seen, todo = {}, set(), [Requirement(line) for line in requirements]
    while todo:
        requirement = todo.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        try:
            package = distribution(requirement.name)
        except PackageNotFoundError:  # of another build of torch
            continue
        found[package.name] = package
        for asked in map(Requirement, package.requires or []):
            if asked.marker is None or any(
                asked.marker.evaluate({"extra": name}) for name in ("", *requirement.extras)
            ):
                asked.marker = None
                todo.append(asked)
    return list(found.values())


def tops(packages: list[Distribution]) -> dict[str, Path]:
    """Files and folders of site-packages that belong to the packages, by name."""
    named = {(path.parts[0], package) for package in packages for path in package.files or [] if path.parts[0] != ".."}
    return {name: Path(package.locate_file(name)) for name, package in named}


def asked_for(copies: Path) -> list[str]:
    """requirements.txt, the package in the place of its wheel."""
    return [
        re.sub(r"^\./gentangle-.*?(\[|$)", r"gentangle\1", x)
        for x in (copies / "requirements.txt").read_text().split("\n")
        if x
    ]


def test_every_import_of_a_chapter_is_asked_for(copies):
    importable = {name.removesuffix(".py") for name in tops(needed(asked_for(copies)))}
    for chapter in CHAPTERS:
        assert imported(chapter) <= importable, chapter.name
    assert "jupyter_book" not in importable, "copies need nothing that only builds pages"


def test_the_same_again_is_the_same(script, copies, tmp_path):
    shutil.copytree(copies, tmp_path / "launch")
    (tmp_path / "launch" / "old.txt").touch()
    wheel = next(copies.glob("*.whl"))
    assert script.main(["--address", f"{ADDRESS}.git", "--wheel", str(wheel), "--out", str(tmp_path / "launch")]) == 0
    assert files(tmp_path / "launch") == files(copies)
    assert [path.name for path in tmp_path.iterdir()] == ["launch"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"--address": "owner/name"}, "expected https://github.com/OWNER/NAME"),
        ({"--address": ""}, "has no address"),
        ({"--wheel": "missing.whl"}, "is no wheel of gentangle"),
        ({"--out": str(ROOT)}, "holds something else"),
        ({"--out": str(ROOT / "notebooks")}, "holds something else"),
        ({"--out": str(ROOT / "Makefile")}, "holds something else"),
    ],
)
def test_a_mistake_is_told_in_a_line_and_writes_nothing(script, copies, tmp_path, capsys, change, told):
    given = {
        "--address": ADDRESS,
        "--wheel": str(next(copies.glob("*.whl"))),
        "--out": str(tmp_path / "launch"),
    } | change
    before = {path: path.stat().st_mtime_ns for path in [*CHAPTERS, ROOT / "Makefile"]}
    assert script.main([word for pair in given.items() for word in pair]) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert printed.err.startswith("publish.py: ")
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert not [*tmp_path.iterdir()]
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_failure_midway_leaves_what_was_there(script, copies, tmp_path, monkeypatch):
    shutil.copytree(copies, tmp_path / "launch")
    monkeypatch.setattr(script, "with_install_cell", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        script.publish(ADDRESS, next(copies.glob("*.whl")), tmp_path / "launch", "torch")
    assert files(tmp_path / "launch") == files(copies)
    assert [path.name for path in tmp_path.iterdir()] == ["launch"]


# The workflow.


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load(WORKFLOW.read_text("utf-8"))


def steps(workflow, key):
    return [step[key] for job in workflow["jobs"].values() for step in job["steps"] if key in step]


def test_it_tests_before_it_publishes(workflow):
    jobs = workflow["jobs"]
    assert [*jobs] == ["test", "copies", "deploy"]
    assert "needs" not in jobs["test"]
    assert jobs["copies"]["needs"] == "test"
    assert jobs["deploy"]["needs"] == ["test", "copies"], "first the copies that the site links to"
    tests = [step.get("run") or step["uses"] for step in jobs["test"]["steps"]]
    assert tests.index(".ci/run") < next(
        n for n, x in enumerate(tests) if x.startswith("actions/upload-pages-artifact")
    )
    assert jobs["copies"]["if"] == "github.ref == 'refs/heads/main' && github.event_name != 'schedule'"
    assert workflow[True].keys() == {"push", "workflow_dispatch", "schedule"}  # YAML reads `on` as true
    assert workflow[True]["push"] == {"branches": ["main"]}


def test_its_commands_exist(workflow):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    commands = "\n".join(steps(workflow, "run"))
    called = re.findall(r"\bmake ([\w-]+)", commands)
    assert called == ["publish"]
    assert {*called} <= {*targets}
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "exec make test" in (ROOT / ".ci" / "run").read_text()


def test_it_may_do_only_what_it_must(workflow):
    text = WORKFLOW.read_text("utf-8")
    assert workflow["permissions"] == {"contents": "read"}
    assert {name: job.get("permissions") for name, job in workflow["jobs"].items()} == {
        "test": None,
        "copies": {"contents": "write"},
        "deploy": {"pages": "write", "id-token": "write"},
    }
    assert "secrets" not in text, "the token that a job is given is enough"
    assert "://" not in text.replace("github.server_url", ""), "no host, no registry"
    assert workflow["concurrency"]["cancel-in-progress"] is False
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in steps(workflow, "uses"))


def test_the_address_is_the_repositorys_own(workflow):
    own = "${{ github.server_url }}/${{ github.repository }}"
    assert workflow["jobs"]["test"]["env"] == {"GENTANGLE_REPOSITORY": own}


# The whole way: a wheel, the copies, the branch as the workflow pushes it, Colab's cell, Binder's build.


def call(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, "\n".join([*map(str, command), *(done.stdout + done.stderr).splitlines()[-20:]])
    return done.stdout


@pytest.fixture(scope="module")
def branch(script, workflow, tmp_path_factory):
    """A folder with the copies (launch) and a repository (origin) whose branch the workflow's own command pushed."""
    folder = tmp_path_factory.mktemp("branch")
    project = folder / "project"
    project.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    shutil.copytree(ROOT / "gentangle", project / "gentangle", ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    call(*pip, project, cwd=folder)
    script.publish(ADDRESS, next(folder.glob("*.whl")), folder / "launch", script.locked("torch"))

    call("git", "init", "--quiet", "--bare", "--initial-branch=main", "origin", cwd=folder)
    call("git", "init", "--quiet", "--initial-branch=main", "checkout", cwd=folder)
    checkout = folder / "checkout"
    (checkout / ".gitignore").write_text("*.whl\n")  # the project's own rules are not the branch's
    call("git", "remote", "add", "origin", folder / "origin", cwd=checkout)
    call("tar", "--create", f"--directory={folder / 'launch'}", f"--file={checkout / 'launch.tar'}", ".", cwd=folder)
    *_, push = workflow["jobs"]["copies"]["steps"]
    for time in ("first", "again"):
        (folder / time).mkdir()
        settings = {"RUNNER_TEMP": str(folder / time), "GITHUB_SHA": "abc", **push["env"]}
        call("bash", "-e", "-c", push["run"], cwd=checkout, **settings)
    return folder


def led_here(branch: Path) -> dict[str, str]:
    """git's settings under which ADDRESS is the repository of the test."""
    instead = f"url.{(branch / 'origin').as_uri()}.insteadOf"
    return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": instead, "GIT_CONFIG_VALUE_0": ADDRESS}


def empty_environment(folder: Path, packages: list[Distribution]) -> Path:
    """The bin folder of an environment without gentangle, where pip finds the packages, lent, and itself."""
    lent = folder / "lent"
    lent.mkdir(parents=True)
    for name, path in tops([*packages, *needed(["pip", "ipykernel"])]).items():
        if "gentangle" not in name:
            (lent / name).symlink_to(path)
    call(sys.executable, "-m", "venv", "--without-pip", folder / "environment", cwd=folder)
    python = folder / "environment" / "bin" / "python"
    site = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    Path(site, "lent.pth").write_text(f"{lent}\n")
    return python.parent


@pytest.mark.packaging
def test_the_branch_is_one_commit_of_the_copies(branch, tmp_path):
    call("git", "clone", "--quiet", "--branch=launch", branch / "origin", "clone", cwd=tmp_path)
    assert call("git", "rev-list", "--count", "HEAD", cwd=tmp_path / "clone").strip() == "1"
    shutil.rmtree(tmp_path / "clone" / ".git")
    assert files(tmp_path / "clone") == files(branch / "launch")
    assert all(os.access(tmp_path / "clone" / "binder" / name, os.X_OK) for name in ("postBuild", "start"))


@pytest.mark.packaging
def test_a_copy_alone_installs_itself_and_runs(branch, tmp_path, monkeypatch):
    """As on Colab: a notebook and a kernel. It prints what the book shows, and its first cell does nothing twice."""
    name = CHAPTERS[0].name
    bin_folder = empty_environment(tmp_path / "colab", needed(asked_for(branch / "launch")))
    kernel = {"argv": [str(bin_folder / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]}
    (tmp_path / "kernels" / "colab").mkdir(parents=True)
    (tmp_path / "kernels" / "colab" / "kernel.json").write_text(
        json.dumps({**kernel, "display_name": "", "language": ""})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    for key, value in led_here(branch).items():
        monkeypatch.setenv(key, value)
    notebook = nbformat.read(branch / "launch" / "notebooks" / name, as_version=4)
    stored = [printed(cell) for cell in notebook.cells]
    place = "import gentangle, os\nprint(gentangle.__file__, os.getcwd(), *sorted(os.listdir('..')))"
    notebook.cells += [notebook.cells[0].copy(), new_code_cell(place)]
    (tmp_path / "alone").mkdir()
    NotebookClient(
        notebook, timeout=300, kernel_name="colab", resources={"metadata": {"path": str(tmp_path / "alone")}}
    ).execute()
    *cells, again, where = notebook.cells
    assert [printed(cell) for cell in cells][1:] == stored[1:]
    assert not again.outputs
    package, folder, *beside = printed(where).split()
    assert Path(package).is_relative_to(bin_folder.parent)
    assert Path(folder) == tmp_path / "alone" / "name-launch" / "notebooks"
    assert {"recipes", "results"} <= {*beside}


def printed(cell) -> str:
    return "".join(output["text"] for output in cell.get("outputs", []) if output.get("name") == "stdout")


@pytest.mark.packaging
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="Binder's Python is 3.11, which the lock is for")
def test_binder_builds_and_needs_no_install_cell(branch, script, tmp_path):
    """postBuild in a clone, then Binder's start: the profile is smoke, and the first cell finds all in place."""
    call("git", "clone", "--quiet", "--branch=launch", branch / "origin", "home", cwd=tmp_path)
    home = tmp_path / "home"
    bin_folder = empty_environment(tmp_path / "binder", needed(asked_for(home)))
    path = {"PATH": f"{bin_folder}:{os.environ['PATH']}"}
    call(home / "binder" / "postBuild", cwd=home, **path)
    code = script.install_cell(ADDRESS) + "\nimport gentangle\nprint(gentangle.profile(), gentangle.__file__)"
    before = files(home)
    seen = call(home / "binder" / "start", "python", "-c", code, cwd=home / "notebooks", **path)
    assert seen.startswith("profile smoke:")
    assert Path(seen.split()[-1]).is_relative_to(bin_folder.parent)
    assert files(home) == before
