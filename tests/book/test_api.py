"""The API reference is complete: what chapters, pages and scripts import is in it, with its errors and its source.

A name that the reference does not list is internal to the package, and may change with any release.
"""

import ast
import importlib
import inspect
import json
import re
from pathlib import Path

import pytest

import gentangle

ROOT = Path(__file__).parents[2]
ENTRY = re.compile(
    r"^\.\. auto(?:function|class|exception):: (\S+)|^\.\. automodule:: (\S+)\n(?:   :members: (.+))?", re.M
)
# Where a formula of a paper stands, the paper is named: by the name's own docstring or by its module's.
OF_PAPERS = re.compile(
    r"gentangle\.(alignment\.(conditions|objectives|margin_loss|softmax|last_layer|suffix|flow|remedies|token_masks|proxies"
    r"|transfer|bridge|heatmap)|matching\.(gip|erm|idgm|fish|loop_gip|smooth_fish|irm|weighted_losses|expansion|linear_toy))"
)


def entries() -> dict[str, object]:
    """What the reference lists, by its full name; a class also stands for its members."""
    found = {}
    for one, module, members in ENTRY.findall((ROOT / "book" / "api.md").read_text("utf-8")):
        names = [one] if one else [f"{module}.{member.strip()}" for member in members.split(",")]
        for name in names:
            where, _, last = name.rpartition(".")
            found[name] = getattr(importlib.import_module(where), last)
    return found


ENTRIES = entries()
PLACES = {f"{item.__module__}.{item.__qualname__}" for item in ENTRIES.values() if hasattr(item, "__qualname__")}


def code_of(path: Path) -> str:
    """A script of the how-to, a notebook's code cells, or a page's blocks of Python, as one text."""
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        return "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "code")
    return text if path.suffix == ".py" else "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S))


READERS = sorted(
    path
    for pattern in ("notebooks/*.ipynb", "book/howto*.py", "book/*.md", "README.md")
    for path in ROOT.glob(pattern)
    if "import" in code_of(path)
)


def imported(path: Path) -> set[str]:
    """Functions and classes of gentangle that the text imports, or takes from a module that it imports."""
    found, modules = set(), {}
    tree = ast.parse(code_of(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gentangle":
            for alias in node.names:
                item = getattr(importlib.import_module(node.module), alias.name, None)
                if item is None:  # a module that no other has imported yet
                    item = importlib.import_module(f"{node.module}.{alias.name}")
                if inspect.ismodule(item):
                    modules[alias.asname or alias.name] = item
                elif getattr(item, "__module__", "").startswith("gentangle"):
                    found.add(f"{item.__module__}.{item.__qualname__}")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            item = getattr(modules[node.value.id], node.attr, None)
            if hasattr(item, "__qualname__") and item.__module__.startswith("gentangle"):
                found.add(f"{item.__module__}.{item.__qualname__}")
    return found


@pytest.mark.parametrize("path", READERS, ids=lambda path: path.name)
def test_what_a_reader_sees_imported_is_in_the_reference(path):
    assert sorted(imported(path) - PLACES) == []


def test_what_comes_with_the_package_itself_is_in_the_reference():
    public = [getattr(gentangle, name) for name in gentangle.__all__]
    assert [item.__qualname__ for item in public if callable(item) and item not in ENTRIES.values()] == []


@pytest.mark.parametrize("name", ENTRIES)
def test_a_name_says_what_it_is_what_it_refuses_and_where_it_is_from(name):
    item = ENTRIES[name]
    doc, module = inspect.getdoc(item) or "", inspect.getmodule(item)
    assert doc.strip()
    source = inspect.getsource(item)
    if "raise InputError" in source:
        told = doc + "".join(inspect.getdoc(member) or "" for _, member in inspect.getmembers(item, inspect.isfunction))
        assert "Raises:" in told
    if OF_PAPERS.fullmatch(module.__name__):
        assert re.search(r"arXiv|Equation|Source|Section|theory|ours", doc + (module.__doc__ or ""))
    if inspect.isfunction(item):
        assert "return" in item.__annotations__
