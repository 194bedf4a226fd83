"""The default models of WILDS' data sets, and where their weights come from."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn

from gentangle.errors import InputError, first_line

RANDOM = "random"
IMAGENET = "imagenet"
#: A tokenizer trained on the data.
TRAIN = "train"
_WORDS = 20_000
#: The last layer, which is new for each data set, by network.
_HEADS = {"densenet121": "classifier.", "resnet50": "fc.", "resnet18": "fc."}


def make_network(
    name: str, outputs: int, *, weights: str, seed: int, config: Mapping[str, Any], channels: int = 8
) -> nn.Module:
    """``densenet121``, ``resnet50``, ``resnet18`` or ``distilbert``, with a new last layer.

    Args:
        outputs: logits, or values to regress.
        weights: ``random``; ``imagenet`` (torchvision's first ones, fetched), or a file with a state dictionary of the
            same architecture; of DistilBERT a hub name or a folder.
        seed: of all that is drawn; the global generator is left as it was.
        config: what differs from DistilBERT's default size, where its weights are random.
        channels: of ResNet18's images, 8 in PovertyMap; the others' have 3.

    Raises:
        InputError: the weights cannot be had, or are of another architecture.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "distilbert":
            return DistilBert(outputs, weights, config)
        from torchvision import models

        model = cast(nn.Module, getattr(models, name)(weights=None, num_classes=outputs))
        if name == "resnet18" and channels != 3:
            first = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
            model.conv1 = first
    if weights != RANDOM:
        _load_image_weights(model, name, weights, channels)
    return model


def _load_image_weights(model: nn.Module, name: str, weights: str, channels: int) -> None:
    from torchvision import models

    try:
        if weights == IMAGENET and (name != "resnet18" or channels == 3):
            known = {"densenet121": models.DenseNet121_Weights, "resnet50": models.ResNet50_Weights}
            enum: Any = (known | {"resnet18": models.ResNet18_Weights})[name]
            state = enum.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        body = {key: value for key, value in state.items() if not key.startswith(_HEADS[name])}
        found = model.load_state_dict(body, strict=False)
    except Exception as error:  # torch raises by what it stumbles over
        raise _no_weights(weights, name, error) from error
    if wrong := [key for key in found.missing_keys if not key.startswith(_HEADS[name])] + found.unexpected_keys:
        raise InputError(f"{weights} is no {name}: {len(wrong)} parameters do not fit, as {wrong[0]}.")


def _no_weights(weights: str, name: str, error: Exception) -> InputError:
    return InputError(
        f"No weights of {name} at {weights!r} ({first_line(error)}): give --weights FILE, or --weights {RANDOM} "
        "(recipes of kind matching: `weights:` of the data)."
    )


class DistilBert(nn.Module):
    """DistilBERT with a classifier over its first token; an input has shape (n, tokens, 2), ids and mask."""

    def __init__(self, outputs: int, weights: str, config: Mapping[str, Any]) -> None:
        super().__init__()
        from transformers import DistilBertConfig, DistilBertForSequenceClassification, logging

        logging.set_verbosity_error()  # that the classifier is new is meant
        logging.disable_progress_bar()
        if weights == RANDOM:
            self.body = DistilBertForSequenceClassification(DistilBertConfig(**config, num_labels=outputs))
            return
        told = {"num_labels": outputs, "ignore_mismatched_sizes": True, "output_loading_info": True}
        told["use_safetensors"] = True
        try:
            self.body, found = DistilBertForSequenceClassification.from_pretrained(weights, **told)
        except Exception as error:
            raise _no_weights(weights, "distilbert", error) from error
        if wrong := sorted(key for key in found["missing_keys"] if key.startswith("distilbert.")):
            raise InputError(f"{weights} is no distilbert: {len(wrong)} parameters are missing, as {wrong[0]}.")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, shape (n, outputs)."""
        return cast(torch.Tensor, self.body(input_ids=x[:, :, 0], attention_mask=x[:, :, 1]).logits)


def make_tokenizer(name: str, texts: Iterable[str] = ()) -> Any:
    """A tokenizer: ``train`` takes the commonest words of ``texts`` and all letters, else a hub name or a folder.

    Raises:
        InputError: there is no such tokenizer.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if name != TRAIN:
        try:
            return AutoTokenizer.from_pretrained(name)
        except Exception as error:
            raise InputError(
                f"No tokenizer at {name!r} ({first_line(error)}): give --tokenizer FOLDER, or train."
            ) from error
    from tokenizers import BertWordPieceTokenizer

    # The library's own trainer breaks ties anew each time, and a run would not have the same bytes.
    plain = BertWordPieceTokenizer()
    split = (plain.pre_tokenizer.pre_tokenize_str(plain.normalize(text)) for text in texts)
    words = Counter(word for line in split for word, _ in line)
    letters = sorted({letter for word in words for letter in word})
    known = sorted(words, key=lambda word: (-words[word], word))[:_WORDS]
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    pieces = dict.fromkeys([*names.values(), *letters, *(f"##{letter}" for letter in letters), *known])
    whole = BertWordPieceTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})
    return PreTrainedTokenizerFast(tokenizer_object=whole._tokenizer, **names)
