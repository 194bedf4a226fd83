"""A pair that is typed by hand, read by a live model: its Gram matrix, its case, and the heatmap of its tokens."""

from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets

from gentangle.alignment import conditions
from gentangle.alignment.diagnosis import context_of, fitting
from gentangle.alignment.heatmap import TokenHeatmap, token_heatmap
from gentangle.alignment.policy import tokenise
from gentangle.alignment.preference import Pair
from gentangle.display.report import heatmap_page
from gentangle.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

#: A heatmap has (T_w + T_l)^2 cells, each a field of a table.
MOST_TOKENS = 160


class LivePair(ipywidgets.VBox):
    r"""Three texts and a button: prompt, chosen, rejected; below them what G says of the pair.

    The reading is that of one SGD step on this pair alone with :math:`d_w = d_l = 1`:
    :math:`\Delta\log\pi_w / \eta = \lVert w\rVert^2 - \langle w,l\rangle`,
    :math:`\Delta\log\pi_l / \eta = \langle w,l\rangle - \lVert l\rVert^2`. It needs a kernel;
    a page without one shows the reading of the pair that it was made with.

    Args:
        model, tokenizer: as :func:`gentangle.alignment.policy.load_policy` returns them. No token is appended.
        pair: what the three fields begin with; each can be typed over, and *Read the pair* reads anew.

    Source: Yuan et al., arXiv 2410.13828: the condition, and the token-level figure.
    """

    def __init__(self, model: "torch.nn.Module", tokenizer: "PreTrainedTokenizerBase", pair: Pair) -> None:
        self.model, self.tokenizer = model, tokenizer
        layout = ipywidgets.Layout(width="100%", max_width="44rem")
        self.fields = {
            name: ipywidgets.Textarea(
                getattr(pair, name), description=name, rows=2, layout=layout, continuous_update=False
            )
            for name in ("prompt", "chosen", "rejected")
        }
        self.button = ipywidgets.Button(description="Read the pair", button_style="primary")
        self.shown = ipywidgets.HTML(layout=ipywidgets.Layout(width="100%"))
        self.button.on_click(lambda _: self.read())
        for field in self.fields.values():
            field.observe(lambda _: self.forget(), "value")
        self.read()
        super().__init__([*self.fields.values(), self.button, self.shown])

    def typed(self) -> Pair:
        """The pair in the three fields.

        Raises:
            InputError: a response is empty, or the two are alike.
        """
        return Pair(**{name: field.value for name, field in self.fields.items()})

    def read(self) -> None:
        """Read the pair in the fields; what cannot be read is told below the button, and the rest stays."""
        # Whatever happens below: the last pair's verdict does not stand under this pair's texts.
        self.shown.value = "<p>Reading \u2026</p>"
        try:
            self.shown.value = reading_html(pair_heatmap(self.model, self.tokenizer, self.typed()))
        except InputError as error:
            self.shown.value = f'<p role="alert"><b>This pair cannot be read.</b> {escape(str(error))}</p>'

    def forget(self) -> None:
        """Take the last reading away: it is of other texts than those in the fields."""
        self.shown.value = "<p>Press the button to read the pair.</p>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        texts = "".join(f"<dt>{name}</dt><dd>{escape(field.value)}</dd>" for name, field in self.fields.items())
        note = "With a kernel the three texts can be typed over; the model then reads them anew and shows the heatmap."
        numbers = self.shown.value.partition("<iframe")[0]  # the heatmap would be most of a stored notebook
        return {**data, "text/html": f'<div class="gt-live"><dl>{texts}</dl>{numbers}<p>{note}</p></div>'}, metadata

    def __repr__(self) -> str:
        return f"LivePair({', '.join(f'{name}={field.value!r}' for name, field in self.fields.items())})"


def pair_heatmap(model: "torch.nn.Module", tokenizer: "PreTrainedTokenizerBase", pair: Pair) -> TokenHeatmap:
    """The heatmap of a typed pair.

    Raises:
        InputError: there are more than ``MOST_TOKENS`` tokens, the prompt is empty, or the model cannot hold the pair.
    """
    example = fitting(tokenise(tokenizer, pair), context_of(model))
    count = len(example["chosen_ids"]) + len(example["rejected_ids"])
    if count > MOST_TOKENS:
        raise InputError(f"The two responses have {count} tokens, at most {MOST_TOKENS} are drawn: shorten them.")
    return token_heatmap(model, tokenizer, example)


def reading_html(found: TokenHeatmap) -> str:
    """The pair's Gram matrix, its case by SGD on the pair alone, and the heatmap, as a fragment without scripts."""
    gram = found.pair
    chosen, rejected = conditions.first_order_changes(gram)
    title = conditions.CASE_TITLES[str(conditions.case((chosen, rejected)))]
    cosine = float(conditions.cosine(gram)) if gram[0, 0] * gram[1, 1] > 0 else 0.0
    rows = {
        "|w|\u00b2": gram[0, 0],
        "\u27e8w, l\u27e9": gram[0, 1],
        "|l|\u00b2": gram[1, 1],
        "cosine": cosine,
        "\u0394 log \u03c0<sub>w</sub> / \u03b7": chosen,
        "\u0394 log \u03c0<sub>l</sub> / \u03b7": rejected,
    }
    cells = "".join(f'<tr><th scope="row">{head}</th><td>{value:+.3g}</td></tr>' for head, value in rows.items())
    page = escape(heatmap_page(found), quote=True)
    return (
        f"<p><b>{title.capitalize()}.</b> To first order, by SGD of rate \u03b7 on this pair alone, "
        "d<sub>w</sub> = d<sub>l</sub> = 1; in nats.</p>"
        f'<table class="gt-pair"><tbody>{cells}</tbody></table>'
        f'<iframe title="Heatmap of the pair\'s tokens" sandbox srcdoc="{page}" loading="lazy" '
        'style="width:100%;height:26rem;border:1px solid #8888"></iframe>'
    )
