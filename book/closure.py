"""What code a result stands on: the modules that its entry point imports, each with a hash that no wording changes.

A hash is of the syntax tree, without docstrings and comments. A tree is given as a mapping from path to text, so that a
commit of long ago is read as the working tree is.
"""

import ast
import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

PACKAGE = "gentangle"
#: They name, refuse, store and say where a number came from. They compute none.
BOOKKEEPING = {f"{PACKAGE}/{name}.py" for name in ("atomic", "cache", "errors", "provenance", "runs")}

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def working_tree(root: Path, *folders: str) -> dict[str, str]:
    """Python files below some folders, by their path from the root."""
    files = (path for folder in folders for path in sorted((root / folder).rglob("*.py")))
    return {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in files}


@cache
def code_hash(text: str) -> str:
    """12 hexadecimal digits of the SHA-256 of a source's syntax tree, the same under every version of Python."""
    return hashlib.sha256(_told(_parsed(text)).encode()).hexdigest()[:12]


@cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _told(node: object) -> str:
    """A syntax tree as text. ``ast.dump`` names empty fields that another version of Python does not have."""
    if isinstance(node, list):
        return f"[{','.join(map(_told, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, []) and name != "kind"}
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = fields["body"][1:]
    return f"{type(node).__name__}({','.join(f'{name}={_told(value)}' for name, value in fields.items())})"


def imports(path: str, tree: Mapping[str, str]) -> tuple[set[str], set[str]]:
    """Files of the tree that a file imports, anywhere in it, and the top-level names of what else it imports.

    What is imported for type checkers alone is left out. A name that a package loads when it is first used, from the
    table ``_HOME`` of its ``__init__``, counts as an import of its home.
    """
    inside, outside = set(), set()
    for module, name, level in _imported(tree[path]):
        whole = ".".join([*(path.split("/")[:-level] if level else []), *filter(None, [module])])
        found = _files(whole, name, tree) or _neighbour(path, whole, tree)
        inside |= found
        if not found:
            outside.add(whole.split(".")[0])
    return inside - {path}, outside


@cache
def _imported(text: str) -> list[tuple[str | None, str | None, int]]:
    """Module, name and level of each import."""
    found: list[tuple[str | None, str | None, int]] = []
    for node in _run_imports(_parsed(text)):
        if isinstance(node, ast.Import):
            found += [(alias.name, None, 0) for alias in node.names]
        else:
            found += [(node.module, alias.name, node.level) for alias in node.names]
    return found


def _run_imports(tree: ast.Module) -> Iterable[ast.Import | ast.ImportFrom]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        waiting += ast.iter_child_nodes(node)


def _files(module: str, name: str | None, tree: Mapping[str, str]) -> set[str]:
    """The file that ``import module`` or ``from module import name`` means; none where it is not of the tree."""
    stem = module.replace(".", "/")
    if name and (deeper := _file(f"{stem}/{name}", tree)):
        return {deeper}
    found = _file(stem, tree)
    if found and name and (home := _homes(tree[found]).get(name)):
        return _files(home, name, tree)
    return {found} if found else set()


def _file(stem: str, tree: Mapping[str, str]) -> str | None:
    return next((path for path in (f"{stem}.py", f"{stem}/__init__.py") if path in tree), None)


def _neighbour(path: str, module: str, tree: Mapping[str, str]) -> set[str]:
    """A script imports the file beside it by its bare name."""
    beside = f"{path.rpartition('/')[0]}/{module}.py"
    return {beside} if "/" in path and not path.startswith(f"{PACKAGE}/") and beside in tree else set()


@cache
def _homes(text: str) -> dict[str, str]:
    for node in _parsed(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOME":
            return dict(ast.literal_eval(node.value))
    return {}


def closure(entries: Iterable[str], tree: Mapping[str, str]) -> tuple[dict[str, str], set[str]]:
    """Hash of each file that the entry points' code stands on, themselves included, and the other packages imported.

    Args:
        entries: paths of files of the tree; one that the tree lacks is passed over.
    """
    seen, outside = set(), set()
    waiting = [entry for entry in entries if entry in tree]
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            inside, others = imports(path, tree)
            outside |= others
            waiting += inside - BOOKKEEPING
    return {path: code_hash(tree[path]) for path in sorted(seen)}, outside
