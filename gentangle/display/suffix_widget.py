"""The widget of the shared suffix: a pair in words, its three numbers as the shared text grows, and the three cases."""

from typing import Any

import numpy as np
import traitlets

from gentangle.alignment import conditions
from gentangle.alignment.suffix import orthogonal_gram
from gentangle.display.widget import CHOSEN, REJECTED, BookWidget, module_text, still


class SuffixCases(BookWidget):
    """First-order changes of one SGD step on a DPO pair (slopes 1, step 1) after a shared suffix, last layer learning.

    The Gram matrix is :func:`gentangle.alignment.suffix.orthogonal_gram`'s.

    Args:
        p_w, p_l: probabilities of the contrast tokens; InputError once shown where their sum exceeds 1.
        length: tokens of the suffix, at most 120.
        miss_w, miss_l: 1 - probability of the suffix's token after chosen and after rejected.
        rho: cosine of a position's two hidden states.
        across: what the phase diagram sets against rho: the name of one of the others.
        continuation: whether the shared words are a text of its own; else they are the long suffix of
            :data:`gentangle.alignment.preference.FORMS`. Words only: no number depends on it.
    """

    module = "suffix"
    numbers = ("p_w", "p_l", "length", "miss_w", "miss_l", "rho")
    state_names = (*numbers, "across", "continuation")
    _esm = module_text("suffix")

    p_w, p_l, miss_w = (traitlets.Float(x, min=0.0, max=1.0).tag(sync=True) for x in (0.25, 0.25, 0.2))
    miss_l = traitlets.Float(0.5, min=0.0, max=1.0).tag(sync=True)
    length = traitlets.Int(40, min=0, max=120).tag(sync=True)
    rho = traitlets.Float(0.9, min=-1.0, max=1.0).tag(sync=True)
    across = traitlets.Enum(numbers[:-1], "miss_l").tag(sync=True)
    continuation = traitlets.Bool(False).tag(sync=True)

    def given(self) -> dict[str, Any]:
        """The arguments of ``orthogonal_gram``, by name."""
        return {name: getattr(self, name) for name in self.numbers}

    def reading(self) -> dict[str, float | str]:
        """What the widget shows, by name."""
        gram = orthogonal_gram(**self.given())
        changes = conditions.first_order_changes(gram)
        names = ("chosen_norm_sq", "inner_product", "rejected_norm_sq", "cosine", "change_chosen", "change_rejected")
        values = (*gram[np.triu_indices(2)], conditions.cosine(gram), *changes)
        return dict(zip(names, map(float, values), strict=True)) | {"case": str(conditions.case(changes))}

    def picture(self) -> str:
        reading, at = self.reading(), 2 * self.length
        sentence = (
            f"p_w = {self.p_w:g}, p_l = {self.p_l:g}; {self.length} shared tokens, each missed with probability "
            f"{self.miss_w:g} after chosen and {self.miss_l:g} after rejected; hidden cosine {self.rho:g}. To first "
            f"order log \u03c0_w changes by {reading['change_chosen']:+.2f} and log \u03c0_l by "
            f"{reading['change_rejected']:+.2f}: {conditions.CASE_TITLES[str(reading['case'])]}."
        ).replace("-", "\u2212")
        changes = conditions.first_order_changes(orthogonal_gram(**self.given() | {"length": np.array([0, 120])}))
        ends = np.round(-85 * changes / np.abs(changes).max(), 1)
        lines = "".join(
            f'<g fill="{colour}"><line x2="240" y1="{start}" y2="{end}" stroke="{colour}" stroke-width="3"/>'
            f'<text x="246" y="{end + 5}">{name}</text></g>'
            for name, colour, start, end in zip(("chosen", "rejected"), (CHOSEN, REJECTED), *ends, strict=True)
        )
        axes = f'<line x2="240"/><line x1="{at}" x2="{at}" y1="-95" y2="95" stroke-dasharray="4"/>'
        return still((0, -100, 310, 200), f'<g stroke="#767676">{axes}</g>{lines}', sentence)
