"""The symbols of margin losses, the smooth and kinked functions they use, and how both are typeset.

A symbol's name is a Python identifier (it becomes an argument of the compiled loss); ``LATEX`` holds
how the book writes it.
"""

from collections.abc import Mapping
from typing import Any

import sympy as sp

# Log-probabilities in nats, summed over a response's tokens; references are constants of the loss.
LOGP_CHOSEN, LOGP_REJECTED = sp.symbols("logp_chosen logp_rejected", real=True)
REF_CHOSEN, REF_REJECTED = sp.symbols("ref_chosen ref_rejected", real=True)
LEN_CHOSEN, LEN_REJECTED = sp.symbols("len_chosen len_rejected", positive=True)
MARGIN = sp.Symbol("u", real=True)

BETA, GAMMA, DELTA, LAMBDA, ALPHA = sp.symbols("beta gamma delta lam alpha", real=True)
EPSILON, TAU, ANCHOR = sp.symbols("epsilon tau anchor", real=True)
LAMBDA_CHOSEN, LAMBDA_REJECTED = sp.symbols("lam_chosen lam_rejected", positive=True)

# The gradients of the two log-probabilities, the Gram matrix of a pair, and what multiplies it.
GRADIENT_CHOSEN, GRADIENT_REJECTED = sp.symbols("w l", real=True)
# Factors of a product are printed in the order of their names: d_w before the norm that it multiplies.
CHOSEN_NORM_SQ, REJECTED_NORM_SQ = sp.symbols("norm_sq_chosen norm_sq_rejected", nonnegative=True)
INNER_PRODUCT = sp.Symbol("inner_product", real=True)
D_CHOSEN, D_REJECTED = sp.symbols("d_chosen d_rejected", real=True)
ETA = sp.Symbol("eta", positive=True)

LATEX = {
    LOGP_CHOSEN: r"\log\pi_w",
    LOGP_REJECTED: r"\log\pi_l",
    REF_CHOSEN: r"\log\pi^{\mathrm{ref}}_w",
    REF_REJECTED: r"\log\pi^{\mathrm{ref}}_l",
    LEN_CHOSEN: r"\lvert y_w\rvert",
    LEN_REJECTED: r"\lvert y_l\rvert",
    MARGIN: "u",
    BETA: r"\beta",
    GAMMA: r"\gamma",
    DELTA: r"\delta",
    LAMBDA: r"\lambda",
    ALPHA: r"\alpha",
    EPSILON: r"\epsilon",
    TAU: r"\tau",
    ANCHOR: "z_0",
    LAMBDA_CHOSEN: r"\lambda_w",
    LAMBDA_REJECTED: r"\lambda_l",
    CHOSEN_NORM_SQ: r"\lVert w\rVert^2",
    REJECTED_NORM_SQ: r"\lVert l\rVert^2",
    INNER_PRODUCT: r"\langle w,l\rangle",
    D_CHOSEN: "d_w",
    D_REJECTED: "d_l",
    ETA: r"\eta",
}


class sigmoid(sp.Function):
    r"""Logistic function :math:`\sigma(x) = 1/(1+e^{-x})`, kept whole so that it stays finite at +-1e4."""

    def fdiff(self, argindex: int) -> sp.Expr:
        x = self.args[0]
        return sigmoid(x) * sigmoid(-x)

    def _latex(self, printer: Any) -> str:
        return rf"\sigma\left({printer._print(self.args[0])}\right)"


class log_sigmoid(sp.Function):
    r""":math:`\log\sigma(x)`, kept whole: log(sigmoid(-900)) would be log(0)."""

    def fdiff(self, argindex: int) -> sp.Expr:
        return sigmoid(-self.args[0])

    def _latex(self, printer: Any) -> str:
        return rf"\log\sigma\left({printer._print(self.args[0])}\right)"


class min0(sp.Function):
    r""":math:`\min(0, x)`; at the kink its derivative is taken to be 0, as torch takes relu's."""

    def fdiff(self, argindex: int) -> sp.Expr:
        return is_negative(self.args[0])

    def _latex(self, printer: Any) -> str:
        return rf"\min\left(0, {printer._print(self.args[0])}\right)"


class is_negative(sp.Function):
    r"""Indicator :math:`\mathbf{1}[x < 0]`, the derivative of :class:`min0`; its own derivative is 0."""

    def fdiff(self, argindex: int) -> sp.Expr:
        return sp.Integer(0)

    def _latex(self, printer: Any) -> str:
        return rf"\mathbf{{1}}\left[{printer._print(self.args[0])} < 0\right]"


class log_odds(sp.Function):
    r""":math:`\log\frac{p}{1-p}` of a probability given by its logarithm x < 0, with :math:`p = e^x`."""

    def fdiff(self, argindex: int) -> sp.Expr:
        return inverse_complement(self.args[0])

    def _latex(self, printer: Any) -> str:
        x = printer._print(self.args[0])
        return rf"\log\frac{{p}}{{1-p}}\Big\vert_{{p=\exp\left({x}\right)}}"


class inverse_complement(sp.Function):
    r""":math:`1/(1-e^x)` for x < 0, the derivative of :class:`log_odds`."""

    def fdiff(self, argindex: int) -> sp.Expr:
        return inverse_complement(self.args[0]) * (inverse_complement(self.args[0]) - 1)

    def _latex(self, printer: Any) -> str:
        return rf"\frac{{1}}{{1-\exp\left({printer._print(self.args[0])}\right)}}"


def to_latex(expression: Any, symbols: Mapping[sp.Symbol, str] | None = None) -> str:
    """LaTeX of a sympy object in the book's symbols, and in ``symbols`` where it has others."""
    return str(sp.latex(expression, symbol_names=LATEX | dict(symbols or {})))
