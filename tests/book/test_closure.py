"""Wording changes no hash and code does; a closure is what an entry point imports, and nothing else."""

import pytest


@pytest.fixture(scope="module")
def closure(load_script):
    return load_script("book/closure.py")


PLAIN = "def f(x):\n    return x + 1\n"


@pytest.mark.parametrize(
    "text",
    [
        "# a comment\ndef f(x):\n\n    return x + 1  # another\n",
        '"""A module."""\n\ndef f(x):\n    """A function."""\n    return (x + 1)\n',
        "def f(x): return x+1",
    ],
)
def test_wording_changes_nothing(closure, text):
    assert closure.code_hash(text) == closure.code_hash(PLAIN)


@pytest.mark.parametrize(
    "text",
    [
        "def f(x):\n    return x + 2\n",
        "def f(y):\n    return y + 1\n",
        "def f(x):\n    return x + 1.0\n",
        "def f(x):\n    return x - 1\n",
        "def f(x):\n    'one'\n    'two'\n    return x + 1\n",
        f"{PLAIN}f(1)\n",
    ],
)
def test_code_changes_the_hash(closure, text):
    assert closure.code_hash(text) != closure.code_hash(PLAIN)


def test_the_hash_is_the_same_under_every_version_of_python(closure):
    """Fields that are empty, which versions add and drop, are not in it."""
    assert closure.code_hash(PLAIN) == "8a3e47572479"
    assert closure._told(closure.ast.parse("x")) == "Module(body=[Expr(value=Name(id='x',ctx=Load()))])"


TREE = {
    "gentangle/__init__.py": "_HOME = {'gram': 'gentangle.deep.gram', 'made': 'gentangle.made'}\n",
    "gentangle/deep/__init__.py": "",
    "gentangle/deep/gram.py": "def gram():\n    import torch\n    from gentangle.lazy import late\n",
    "gentangle/lazy.py": "from gentangle.errors import InputError\nimport numpy.linalg",
    "gentangle/made.py": "",
    "gentangle/errors.py": "import nothing\n",
    "gentangle/typed.py": "",
    "gentangle/unused.py": "from gentangle import made\n",
    "gentangle/ring.py": "from . import ring_too\n",
    "gentangle/ring_too.py": "from gentangle.ring import x\n",
    "benchmarks/bench.py": "from memory import peak\nimport json\n",
    "benchmarks/memory.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import gentangle.typed\n",
}


@pytest.mark.parametrize(
    ("entry", "files", "packages"),
    [
        ("gentangle/made.py", set(), set()),
        ("gentangle/deep/gram.py", {"gentangle/lazy.py"}, {"torch", "numpy"}),
        ("gentangle/ring.py", {"gentangle/ring_too.py"}, set()),
        ("benchmarks/bench.py", {"benchmarks/memory.py"}, {"json", "typing"}),
        ("gentangle/unused.py", {"gentangle/made.py"}, set()),
    ],
)
def test_a_closure(closure, entry, files, packages):
    found, others = closure.closure([entry, "gone.py"], TREE)
    assert found == {path: closure.code_hash(TREE[path]) for path in files | {entry}}
    assert others == packages


def test_a_public_name_leads_to_its_home(closure):
    tree = TREE | {"script.py": "from gentangle import gram\n"}
    assert closure.closure(["script.py"], tree)[0].keys() == {
        "script.py",
        "gentangle/deep/gram.py",
        "gentangle/lazy.py",
    }
