"""environment.yml and the distributions: what is written is what pyproject.toml says, and it installs."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ("pyproject.toml", "README.md", "LICENSE", "gentangle")


@pytest.fixture(scope="module")
def make_environment():
    return runpy.run_path(str(ROOT / "requirements" / "make_environment.py"))


def pip_section() -> list[str]:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return next(entry["pip"] for entry in dependencies if isinstance(entry, dict))


def default_torch() -> str:
    """The Makefile's own spelling: in some places it alone gives the CPU build."""
    return re.search(r"^TORCH \?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]


def call(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of a command; the test fails with its last lines where it does."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, "\n".join([*map(str, command), *(done.stdout + done.stderr).splitlines()[-20:]])
    return done.stdout


def new_environment(folder: Path) -> Path:
    """The Python of a fresh virtual environment."""
    call(sys.executable, "-m", "venv", folder, cwd=ROOT)
    return folder / "bin" / "python"


def copy_of_project(folder: Path) -> Path:
    """The files that a distribution is made of: a build leaves nothing in the working tree."""
    folder.mkdir()
    for name in PROJECT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def test_environment_yml_is_what_pyproject_says(make_environment):
    assert (ROOT / "environment.yml").read_text() == make_environment["environment"](), (
        "run requirements/make_environment.py"
    )


def test_environment_yml_holds_every_bound():
    """Read by another way than the script's: as YAML on one side and TOML on the other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {*project["dependencies"], *extras["book"], *extras["trl"], *extras["test"]}
    assert {*pip_section()} == wanted | {"-e ."}


def test_the_lock_keeps_within_the_bounds():
    from packaging.requirements import Requirement

    lines = (ROOT / "requirements" / "cpu.txt").read_text().splitlines()
    locked = {name.lower().replace("_", "-"): version for name, version in (x.split("==") for x in lines if "==" in x)}
    for bound in pip_section()[:-1]:
        requirement = Requirement(bound)
        assert requirement.specifier.contains(locked[requirement.name.lower()]), bound
    assert default_torch() == f"torch=={locked['torch']}", "the Makefile and the lock name another torch"


def test_no_lock_holds_a_local_version_or_a_package_of_cuda():
    text = (ROOT / "requirements" / "cpu.txt").read_text()
    assert not re.search(r"^[^#]*\+", text, re.MULTILINE)
    assert not re.search(r"^(nvidia|triton)", text, re.MULTILINE)


#: Modules that are part of a trainer, so that they begin with the trainer's own classes.
OF_TRAINERS = {
    f"gentangle.alignment.{name}"
    for name in (
        "callback",
        "experiment",
        "hub_run",
        "objective_trainer",
        "recipe_runs",
        "remedy_trainers",
        "tracking",
        "training",
    )
}
IMPORT_ALL = """
import importlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
import gentangle
for module in pkgutil.walk_packages(gentangle.__path__, "gentangle."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError:
        print(module.name)
"""


def test_no_other_module_imports_an_optional_dependency_at_its_top():
    from importlib.metadata import packages_distributions

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = [bound for extra in project["optional-dependencies"].values() for bound in extra]
    optional = {Requirement(bound).name.lower().replace("_", "-") for bound in bounds}
    modules = {m for m, of in packages_distributions().items() if {d.lower().replace("_", "-") for d in of} <= optional}
    assert {"trl", "transformers", "sklearn", "torchjd"} <= modules
    found = call(
        sys.executable, "-c", IMPORT_ALL.format(blocked=modules | {"wilds", "torchvision", "pandas"}), cwd=ROOT
    )
    assert {*found.split()} == OF_TRAINERS


@pytest.mark.packaging
def test_the_pip_section_installs(tmp_path):
    project = copy_of_project(tmp_path / "project")
    python = new_environment(tmp_path / "environment")
    # Uncompiled: of a hundred packages three are imported.
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")
    call(*pip, default_torch(), cwd=project)
    (project / "section.txt").write_text("\n".join(pip_section()))
    call(*pip, "-r", "section.txt", cwd=project)
    # From another folder, so that what is imported is what was installed.
    seen = call(python, "-c", "import gentangle, jupyter_book, trl; print(gentangle.__file__)", cwd=tmp_path)
    assert Path(seen.split()[-1]).is_relative_to(project)
    # Two GB that the next run needs no more.
    shutil.rmtree(tmp_path / "environment")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """(sdist, wheel): the wheel is made of the unpacked sdist, as an index's users would."""
    folder = tmp_path_factory.mktemp("distributions")
    project = copy_of_project(folder / "project")
    python = new_environment(folder / "builder")
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    call(python, "-m", "pip", "install", "--quiet", *backend["requires"], cwd=folder)
    build = f"import {backend['build-backend']} as backend; print(backend.build_sdist({str(folder)!r}))"
    sdist = folder / call(python, "-c", build, cwd=project).split()[-1]
    pip = (python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    call(*pip, "--wheel-dir", folder, sdist, cwd=folder)
    return sdist, next(folder.glob("*.whl"))


@pytest.mark.packaging
def test_the_distributions_hold_the_package_whole(distributions):
    sdist, wheel = distributions
    package = ROOT / "gentangle"
    files = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {".js", ".css", ".typed"} <= {Path(name).suffix for name in files}
    in_wheel = {*zipfile.ZipFile(wheel).namelist()}
    assert files == {name for name in in_wheel if name.startswith("gentangle/")}
    assert any(name.endswith("licenses/LICENSE") for name in in_wheel)
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    assert files | {"pyproject.toml", "README.md", "LICENSE"} <= in_sdist


@pytest.mark.packaging
def test_the_wheel_installs_and_runs(distributions, tmp_path):
    """Its dependencies are this environment's, lent by a path file."""
    python = new_environment(tmp_path / "environment")
    call(python, "-m", "pip", "install", "--quiet", "--no-deps", distributions[1], cwd=tmp_path)
    site = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    here = call(sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    Path(site, "lent.pth").write_text(here + "\n")
    seen = call(python, "-c", "import gentangle; print(gentangle.__file__, gentangle.gram)", cwd=tmp_path)
    assert Path(seen.split()[0]).is_relative_to(site)
    assert "fetch" in call(python.with_name("gentangle"), "--help", cwd=tmp_path)
