"""The data sets of WILDS in small, each made once, and the small run on each. All need .venv/wilds on PYTHONPATH."""

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from gentangle.matching.wilds_data import SETS, import_wilds, load_wilds
from gentangle.matching.wilds_fixtures import make_fixture
from gentangle.matching.wilds_run import load_wilds_recipe, run_wilds

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))  # planted.py


def pytest_collection_modifyitems(items):
    if find_spec("wilds") is None:
        here = [item for item in items if item.path.parent == Path(__file__).parent]
        for item in here:
            item.add_marker(pytest.mark.skip("wilds is not on PYTHONPATH: see requirements/wilds.txt"))


@pytest.fixture(scope="session")
def small_recipe():
    def load(name, **changes):
        return replace(load_wilds_recipe(ROOT / "recipes" / f"wilds_{name}.yaml", small=True), **changes)

    return load


@pytest.fixture(scope="session")
def wilds_root(tmp_path_factory):
    """The folder of all six fixtures."""
    import_wilds()
    root = tmp_path_factory.mktemp("wilds")
    for name in SETS:
        make_fixture(name, root)
    return root


@pytest.fixture(scope="session")
def loaded(wilds_root):
    """Each data set as wilds reads it, loaded once."""
    return {name: load_wilds(name, wilds_root) for name in SETS}


@pytest.fixture(scope="session")
def whole_run(wilds_root, small_recipe, tmp_path_factory):
    """The directory of the small run on a data set, made once."""
    made = {}

    def run(name):
        if name not in made:
            path = tmp_path_factory.mktemp("runs") / name
            made[name] = run_wilds(small_recipe(name), wilds_root, path=path)
        return made[name]

    return run
