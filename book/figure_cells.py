"""Which code cells of a chapter a figure stands on: its own, and those that bind or change a name that it uses."""

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from symtable import symtable

#: Methods that change what they are called on, as far as chapters use them.
_CHANGING = {"append", "extend", "update", "add", "setdefault", "pop", "sort", "copy_"}


@dataclass(frozen=True)
class FigureCells:
    """The cells behind a figure: their numbers as the chapter shows them, their sources, and what they import."""

    figure: str
    numbers: tuple[int, ...]
    sources: tuple[str, ...]

    @property
    def own(self) -> int:
        """Number of the cell that draws."""
        return self.numbers[-1]

    @property
    def code(self) -> str:
        """The cells as one text; of import statements only what the cells use."""
        return "\n".join(self.sources)

    @property
    def constants(self) -> set[str]:
        """Every string that stands in the cells."""
        nodes = ast.walk(ast.parse(self.code))
        return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@cache
def figures_of(notebook: str) -> dict[str, FigureCells]:
    """The figures that a notebook's text saves under a name of their own, by that name, without ``fig-``."""
    cells = [cell for cell in json.loads(notebook)["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    found = {}
    for k, source in enumerate(sources):
        for name in re.findall(r"save_figure\(\s*\"([\w-]+)\"", source):
            found[name] = _behind(name, k, sources)
    return found


def _behind(figure: str, own: int, sources: Sequence[str]) -> FigureCells:
    """Backwards through the cells' statements, from the one that draws, keeping what binds or changes a live name."""
    live, kept = set[str](), dict[int, list[ast.stmt]]()
    for k in range(own, -1, -1):
        for statement in reversed(ast.parse(sources[k]).body):
            if isinstance(statement, ast.Import | ast.ImportFrom):
                statement.names = [alias for alias in statement.names if _name(alias) in live]
                if statement.names:
                    kept.setdefault(k, []).append(statement)
                    live -= {_name(alias) for alias in statement.names}
            elif _draws(statement, figure) or live & (_bound(statement) | _changed(statement)):
                kept.setdefault(k, []).append(statement)
                live = live - _rebound(statement) | _exposed([statement])
    numbers = sorted(kept)
    texts = ("\n".join(ast.unparse(statement) for statement in reversed(kept[k])) for k in numbers)
    return FigureCells(figure, tuple(k + 1 for k in numbers), tuple(texts))


def _draws(statement: ast.stmt, figure: str) -> bool:
    nodes = ast.walk(statement)
    called = (node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "save_figure")
    return any(ast.unparse(call.args[0]) == repr(figure) for call in called)


def _name(alias: ast.alias) -> str:
    return (alias.asname or alias.name).split(".")[0]


def _exposed(statements: Sequence[ast.stmt]) -> set[str]:
    """Names that the statements read before they bind them."""
    live = set[str]()
    for statement in reversed(statements):
        live = live - _rebound(statement) | _read(statement)
    return live


def _read(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.For):
        inside = _exposed(statement.body) - _stored(statement.target)
        return _used(statement.iter) | inside | _exposed(statement.orelse)
    if isinstance(statement, ast.If | ast.While):
        return _used(statement.test) | _exposed(statement.body) | _exposed(statement.orelse)
    if isinstance(statement, ast.With):
        given = set[str]().union(*(_used(item.context_expr) for item in statement.items))
        return given | _exposed(statement.body) - _stored(
            *(i.optional_vars for i in statement.items if i.optional_vars)
        )
    return _used(statement)


def _used(node: ast.AST) -> set[str]:
    """Names of the notebook that a piece of code reads, in its functions too: not a function's own."""
    tables, found = [symtable(ast.unparse(node), "cell", "exec")], set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        whole = table.get_type() == "module"
        found |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (whole or s.is_global())}
    return found


def _bound(statement: ast.stmt) -> set[str]:
    table = symtable(ast.unparse(statement), "cell", "exec")
    return {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned()}


def _rebound(statement: ast.stmt) -> set[str]:
    """Names whose earlier value the statement replaces, whatever happens."""
    if isinstance(statement, ast.Assign):
        plain = (node for target in statement.targets for node in ([target, *getattr(target, "elts", [])]))
        return {node.id for node in plain if isinstance(node, ast.Name)}
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    return set()


def _stored(*nodes: ast.AST) -> set[str]:
    inside = (inner for node in nodes for inner in ast.walk(node))
    return {node.id for node in inside if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _changed(statement: ast.stmt) -> set[str]:
    """Names whose object the statement visibly changes: an item or attribute set, or a method that changes called."""
    found = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            found |= _root(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGING:
            found |= _root(node.func)
    return found


def _root(node: ast.expr) -> set[str]:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return {node.id} if isinstance(node, ast.Name) else set()
