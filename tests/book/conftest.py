"""The book's own scripts are no package: a test loads them by their path."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def load_script():
    """Load a file of the repository as the module of its stem; Sphinx and dataclasses look it up in sys.modules."""
    loaded = []

    def load(path):
        name = Path(path).stem
        if name not in loaded:
            spec = importlib.util.spec_from_file_location(name, ROOT / path)
            sys.modules[name] = importlib.util.module_from_spec(spec)
            loaded.append(name)
            spec.loader.exec_module(sys.modules[name])
        return sys.modules[name]

    yield load
    for name in loaded:
        del sys.modules[name]
