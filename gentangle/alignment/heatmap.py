"""Which tokens of a pair pull on which: the Gram matrix of its tokens' log-probabilities.

Source: Yuan et al., arXiv 2410.13828, the token-level figure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gentangle.alignment.diagnosis import context_of, examples
from gentangle.alignment.policy import pad_together, response_token_log_probs, to_device
from gentangle.errors import InputError
from gentangle.gradients.token_gram import token_gram

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenHeatmap:
    r"""Inner products of the gradients of the tokens of both responses, chosen first.

    Attributes:
        chosen, rejected: the tokens as texts, T_w and T_l of them.
        gram: :math:`\langle\nabla\log\pi(y_t), \nabla\log\pi(y_s)\rangle`, (T_w + T_l, T_w + T_l). Its blocks sum to
            :math:`\lVert w\rVert^2`, :math:`\langle w,l\rangle` and :math:`\lVert l\rVert^2`.
    """

    chosen: Sequence[str]
    rejected: Sequence[str]
    gram: np.ndarray

    @property
    def cosine(self) -> np.ndarray:
        """Each entry over the two norms; 0 where a gradient is 0."""
        norms = np.sqrt(np.diag(self.gram))
        scale = np.outer(norms, norms)
        return np.divide(self.gram, scale, out=np.zeros_like(self.gram), where=scale > 0)

    @property
    def pair(self) -> np.ndarray:
        """The pair's own 2x2 Gram matrix: the sums of the blocks."""
        side = np.repeat([0, 1], [len(self.chosen), len(self.rejected)])
        of = np.stack([side == 0, side == 1]).astype(float)
        return np.asarray(of @ self.gram @ of.T)

    def as_json(self) -> dict[str, Any]:
        """Tokens, Gram matrix and cosines, ready for JSON."""
        matrices = {"gram": self.gram.tolist(), "cosine": self.cosine.tolist(), "pair": self.pair.tolist()}
        return {"chosen": list(self.chosen), "rejected": list(self.rejected)} | matrices


def token_heatmap(
    model: "torch.nn.Module", tokenizer: "PreTrainedTokenizerBase", example: Mapping[str, list[int]]
) -> TokenHeatmap:
    """The heatmap of a pair that :func:`gentangle.alignment.policy.tokenise` tokenised.

    Source: Yuan et al., arXiv 2410.13828, the token-level figure.

    Raises:
        InputError: the model is one that :func:`gentangle.gradients.token_gram.token_gram` cannot take.
    """
    rows = to_device(pad_together(tokenizer, [example]), next(iter(model.parameters())).device)
    answered = rows["completion_mask"][:, 1:].bool()
    columns = answered.any(0)
    gram = token_gram(model, lambda m: response_token_log_probs(m, rows)[:, columns])
    kept = answered[:, columns].flatten().cpu().numpy()
    texts = [
        tokenizer.convert_tokens_to_string([token])
        for side in ("chosen_ids", "rejected_ids")
        for token in tokenizer.convert_ids_to_tokens(example[side])
    ]
    count = len(example["chosen_ids"])
    return TokenHeatmap(texts[:count], texts[count:], gram[np.ix_(kept, kept)])


def example_on_line(
    path: Path, line: int, model: Any, tokenizer: "PreTrainedTokenizerBase", *, end_of_text: bool = True
) -> dict[str, list[int]]:
    """The tokenised pair on one line of a JSONL file, the first line being 1.

    Raises:
        InputError: the file has no such line, or no pair is on it.
    """
    of_line = islice(examples(path, tokenizer, context_of(model), end_of_text, only=line), 1)
    found = next(of_line, None)
    if found is None:
        raise InputError(f"{path} has no pair on line {line}: give the number of a line, the first being 1.")
    return found[1]
