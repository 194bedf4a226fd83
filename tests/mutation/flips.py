"""The flips of a module: small wrong versions of its formulas, each a change of one sign, operator or number.

``+`` becomes ``-`` and ``*`` becomes ``/``, and the other way round; a minus in front is dropped; a comparison is
turned round, or loses or gains the equal case; a whole number grows by one, a fraction doubles. Formulas of sympy are
Python's own operators, so they are flipped in the same way. Strings, messages of errors and type hints are left alone,
and so is the minus of a whole number that is an argument or an index: it counts from the end, as in ``sum(-1)``.

A flip's name holds what it changes, not where that stands: ``matching.fish/gamma_eff/5b2c1f.1`` is the second flip of
the statement with that fingerprint in that function, and lines added elsewhere leave it as it is.
"""

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
_COMPARISONS = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
}
#: Comparisons that are calls: sympy's and numpy's.
_NAMED = {"Le": ("Lt", "Ge"), "Ge": ("Gt", "Le"), "less": ("less_equal", "greater")}
_SEQUENCES = (ast.List, ast.Tuple, ast.JoinedStr, ast.ListComp)


@dataclass(frozen=True)
class Flip:
    """One wrong version of a module.

    Attributes:
        name: what it is called in ``survivors.yml``.
        module: dotted name within the package, as ``matching.fish``.
        line: where it stands now.
        before, after: the expression, and what it is turned into.
        tree: the whole module with the flip in it, to be compiled; made anew at each call.
    """

    name: str
    module: str
    line: int
    before: str
    after: str
    tree: Callable[[], ast.Module] = field(compare=False, repr=False)


def source_of(module: str) -> Path:
    return ROOT / "gentangle" / (module.replace(".", "/") + ".py")


def flips_of(module: str) -> list[Flip]:
    """All flips of a module, in the order in which they stand there."""
    return flips_in(source_of(module).read_text(), module)


def flips_in(text: str, module: str) -> list[Flip]:
    """The flips of a source text that is to be the module."""
    found, seen, prints = [], Counter(), {}
    for index, site in enumerate(_sites(ast.parse(text))):
        place = f"{module}/{site.scope or 'module'}/{sha256(site.statement.encode()).hexdigest()[:6]}"
        # Of two statements alike in one function the second has a fingerprint of its own.
        twins = prints.setdefault(place, [])
        if site.key not in twins:
            twins.append(site.key)
        place += "'" * twins.index(site.key)
        before = ast.unparse(site.node)
        site.apply()
        after = ast.unparse(site.node)

        def tree(index: int = index) -> ast.Module:
            parsed = ast.parse(text)
            next(s for i, s in enumerate(_sites(parsed)) if i == index).apply()
            return _WithoutPlus().visit(parsed)

        site.undo()
        found.append(Flip(f"{place}.{seen[place]}", module, site.node.lineno, before, after, tree))
        seen[place] += 1
    return found


class _WithoutPlus(ast.NodeTransformer):
    """A dropped minus is a plus so far; it goes too, since matrices of sympy have none in front."""

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        return node.operand if isinstance(node.op, ast.UAdd) else node


@dataclass(frozen=True)
class _Site:
    node: ast.AST
    attribute: str
    old: object
    new: object
    scope: str
    statement: str
    key: int

    def apply(self) -> None:
        setattr(self.node, self.attribute, self.new)

    def undo(self) -> None:
        setattr(self.node, self.attribute, self.old)


def _sites(tree: ast.Module) -> Iterator[_Site]:
    yield from _within(tree, "", "", 0)


def _within(node: ast.AST, scope: str, statement: str, key: int, from_the_end: bool = False) -> Iterator[_Site]:
    if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Assert)) or _is_warning(node):
        return
    if isinstance(node, ast.stmt):
        statement, key = _head(node), id(node)
    for attribute, new in _changes(node):
        if not from_the_end or attribute != "op":
            yield _Site(node, attribute, getattr(node, attribute), new, scope, statement, key)
    inner = f"{scope}.{node.name}".strip(".") if isinstance(node, ast.FunctionDef | ast.ClassDef) else scope
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                place = isinstance(node, ast.Call | ast.keyword | ast.Subscript | ast.Slice) and _is_negative(child)
                yield from _within(child, inner, statement, key, place)


def _head(node: ast.stmt) -> str:
    """A statement as text, without the statements in it."""
    lines = ast.unparse(node).splitlines()
    return lines[0] if hasattr(node, "body") else "\n".join(lines)


def _is_warning(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn"


def _changes(node: ast.AST) -> Iterator[tuple[str, object]]:
    """What a node's attributes can be flipped to."""
    match node:
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATORS:
            if not any(isinstance(side, _SEQUENCES) or _is_text(side) for side in (left, right)):
                yield "op", _OPERATORS[type(op)]()
        case ast.AugAssign(op=op) if type(op) in _OPERATORS:
            yield "op", _OPERATORS[type(op)]()
        case ast.UnaryOp(op=ast.USub()):
            yield "op", ast.UAdd()
        case ast.Compare(ops=ops):
            for k, op in enumerate(ops):
                for other in _COMPARISONS.get(type(op), ()):
                    yield "ops", [*ops[:k], other(), *ops[k + 1 :]]
        case ast.Attribute(attr=attr, value=ast.Name(id="sp" | "np")):
            for other in _NAMED.get(attr, ()):
                yield "attr", other
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int(value)):
            yield "value", value + 1
        case ast.Constant(value=float(value)):
            yield "value", 2 * value or 1.0


def _is_negative(node: ast.AST) -> bool:
    """Whether it is a whole number with a minus in front."""
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int())):
            return True
    return False


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
