"""A formula prints its object in the book's symbols, under a label that a page can refer to."""

import math

import pytest
import sympy as sp

from gentangle.alignment.coupling import CHANGE_CHOSEN
from gentangle.alignment.symbols import BETA, ETA, INNER_PRODUCT, LATEX, log_sigmoid, to_latex
from gentangle.display.formula import Formula
from gentangle.errors import InputError


@pytest.mark.parametrize("label", ["a", "eq-first-order", "eq-2", "eq2-"])
def test_a_good_label_is_kept(label):
    assert Formula(BETA, label=label).label == label


@pytest.mark.parametrize("label", ["Eq-a", "2-eq", "-eq", "eq a", "eq_a", "eq:a", "eq-a\n", "eq-é", "eq-a)"])
def test_a_label_that_no_page_can_refer_to_is_refused(label):
    with pytest.raises(InputError, match="is no label: use small letters, digits and hyphens") as caught:
        Formula(BETA, label=label)
    assert repr(label) in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "latex"),
    [
        (BETA, r"\beta"),
        (log_sigmoid(BETA), r"\log\sigma\left(\beta\right)"),
        (sp.Ge(BETA, 0), r"\beta \geq 0"),
        (sp.Matrix([[BETA, 0]]), r"\left[\begin{matrix}\beta & 0\end{matrix}\right]"),
    ],
)
def test_latex_is_the_objects_own(expression, latex):
    assert Formula(expression).latex == latex


def test_a_formula_of_the_package_is_in_the_books_symbols():
    formula = Formula(CHANGE_CHOSEN)
    assert formula.latex == to_latex(CHANGE_CHOSEN)
    assert all(symbol in formula.latex for symbol in (LATEX[ETA], LATEX[INNER_PRODUCT]))
    assert "inner_product" not in formula.latex
    assert r"inner\_product" not in formula.latex


def test_the_left_side_stands_before_an_equals_sign():
    assert Formula(BETA, lhs=r"\Delta_w").latex == r"\Delta_w = \beta"


def test_symbols_given_are_added_to_the_books_and_stand_over_them():
    x = sp.Symbol("x_of_t")
    assert Formula(BETA * x, symbols={x: r"\xi"}).latex == r"\beta \xi"
    assert Formula(BETA * x, symbols={x: r"\xi", BETA: "b"}).latex == r"b \xi"
    assert Formula(BETA).latex == r"\beta"  # the change was that formula's only


def test_markdown_is_a_block_of_its_own():
    assert Formula(BETA, lhs="c")._repr_markdown_() == "$$\nc = \\beta\n$$"


def test_markdown_names_the_block_after_it_closes():
    assert Formula(BETA, label="eq-beta")._repr_markdown_() == "$$\n\\beta\n$$ (eq-beta)"


def test_a_terminal_shows_the_latex():
    assert repr(Formula(BETA, lhs="c", label="eq-beta")) == r"c = \beta"


@pytest.mark.parametrize("given", ["x", None, [1], math])
def test_what_is_no_formula_is_refused(given):
    with pytest.raises(InputError, match="is no formula"):
        Formula(given)
