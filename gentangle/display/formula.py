"""The formula on the page is the tested object, printed."""

from typing import Any

import sympy as sp

from gentangle.alignment.symbols import to_latex
from gentangle.display.labels import checked_label
from gentangle.errors import InputError


class Formula:
    """A display equation made from a sympy object; in the book it is numbered by its label.

    Args:
        expression: any sympy object (expression, relation, matrix).
        lhs: LaTeX to the left of an equals sign, if any.
        label: name by which ``{eq}`` refers to it.
        symbols: LaTeX of symbols beyond the book's own.

    Raises:
        InputError: no sympy object or number, or a label that no page could refer to.
    """

    def __init__(self, expression: Any, lhs: str = "", label: str = "", symbols: Any = None) -> None:
        if not isinstance(expression, sp.Basic | sp.MatrixBase | int | float):
            raise InputError(f"{type(expression).__name__} is no formula, expected a sympy object or a number.")
        self.label = checked_label(label) if label else ""
        self.latex = (f"{lhs} = " if lhs else "") + to_latex(expression, symbols)

    def __repr__(self) -> str:
        return self.latex

    def _repr_markdown_(self) -> str:
        # MyST reads "(label)" after a block as the equation's name; a plain renderer shows it beside the formula.
        return f"$$\n{self.latex}\n$$" + (f" ({self.label})" if self.label else "")
