"""The formula on the page is the tested object, printed."""

import re
from typing import Any

from gentangle.alignment.symbols import to_latex
from gentangle.errors import InputError


class Formula:
    """A display equation made from a sympy object; in the book it is numbered by its label.

    Args:
        expression: any sympy object (expression, relation, matrix).
        lhs: LaTeX to the left of an equals sign, if any.
        label: name by which ``{eq}`` refers to it.
        symbols: LaTeX of symbols beyond the book's own.
    """

    def __init__(self, expression: Any, lhs: str = "", label: str = "", symbols: Any = None) -> None:
        if label and not re.fullmatch(r"[a-z][a-z0-9-]*", label):
            raise InputError(f"{label!r} is no label: use small letters, digits and hyphens, as in eq-first-order.")
        self.label = label
        self.latex = (f"{lhs} = " if lhs else "") + to_latex(expression, symbols)

    def __repr__(self) -> str:
        return self.latex

    def _repr_markdown_(self) -> str:
        # MyST reads "(label)" after a block as the equation's name; a plain renderer shows it beside the formula.
        return f"$$\n{self.latex}\n$$" + (f" ({self.label})" if self.label else "")
