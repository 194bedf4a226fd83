"""No file makes Python run code: nothing is unpickled, here or where models and checkpoints are read for us."""

import ast
from pathlib import Path

import pytest
import torch

from gentangle import InputError
from gentangle.alignment.policy import load_adapter, load_policy

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for folder in ("gentangle", "book", "benchmarks", "requirements") for path in (ROOT / folder).rglob("*.py")
)
#: Call -> what has to be among its arguments, or None where nothing makes it safe.
RULES = {
    "pickle.load": None,
    "pickle.loads": None,
    "pickle.Unpickler": None,
    "dill.load": None,
    "joblib.load": None,
    "shelve.open": None,
    "marshal.load": None,
    "marshal.loads": None,
    "pandas.read_pickle": None,
    "yaml.unsafe_load": None,
    "yaml.full_load": None,
    "torch.jit.load": None,
    "eval": None,
    "exec": None,
    "extractall": None,
    "torch.load": "weights_only=True",
}


def name_of(function):
    """``torch.load`` of the call's function; of a method of what is computed ``.load``."""
    if isinstance(function, ast.Name):
        return function.id
    if isinstance(function, ast.Attribute):
        return f"{name_of(function.value)}.{function.attr}"
    return ""


def faults(source, where):
    """Calls that can run what is in a file, and imports of modules that only do so."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            bad = [name for name in names if name.split(".")[0] in ("pickle", "dill", "shelve", "marshal")]
            found += [f"{where}:{node.lineno} imports {name}" for name in bad]
        if not isinstance(node, ast.Call):
            continue
        name, given = name_of(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        for rule, needs in RULES.items():
            if name == rule or (rule == "extractall" and name.endswith(".extractall")):
                wanted = dict([needs.split("=")]) if needs else None
                if wanted is None or not wanted.items() <= given.items():
                    found.append(f"{where}:{node.lineno} calls {name}")
        if given.get("allow_pickle", "False") != "False" or given.get("trust_remote_code", "False") != "False":
            found.append(f"{where}:{node.lineno} calls {name} with {given}")
        if name == "yaml.load" and not (len(node.args) == 2 and ast.unparse(node.args[1]) == "_Loader"):
            found.append(f"{where}:{node.lineno} calls {name}")
    return found


def test_no_source_unpickles():
    assert len(SOURCES) > 100
    assert [fault for path in SOURCES for fault in faults(path.read_text(encoding="utf-8"), path.name)] == []


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from pickle import loads", "torch.load(f)", "torch.load(f, weights_only=False)", "eval(x)"),
        *("np.load(f, allow_pickle=True)", "yaml.load(f, yaml.Loader)", "yaml.unsafe_load(f)", "a.b().extractall(p)"),
        "AutoModel.from_pretrained(n, trust_remote_code=True)",
    ],
)
def test_the_scan_sees(line):
    assert faults(line, "x.py")


def test_the_yaml_loader_is_a_safe_one():
    import yaml

    from gentangle.settings import _Loader

    assert issubclass(_Loader, yaml.SafeLoader)
    assert _Loader.yaml_constructors == yaml.SafeLoader.yaml_constructors
    assert _Loader.yaml_multi_constructors == yaml.SafeLoader.yaml_multi_constructors


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def model_folder(tiny_policy, tmp_path):
    for part in tiny_policy:
        part.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_in_a_models_folder_is_not_run(name, model_folder, tmp_path):
    (model_folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Touch(tmp_path / "PWNED")}, model_folder / name)
    with pytest.raises(InputError, match="No model at"):
        load_policy(model_folder)
    assert not (tmp_path / "PWNED").exists()


def test_a_pickle_in_an_adapters_folder_is_not_run(tiny_policy, tmp_path):
    import copy

    from peft import LoraConfig, get_peft_model

    model = copy.deepcopy(tiny_policy[0])
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=True)).save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    torch.save({"x": Touch(tmp_path / "PWNED")}, tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(InputError, match="No adapter for this model"):
        load_adapter(copy.deepcopy(tiny_policy[0]), tmp_path / "adapter")
    assert not (tmp_path / "PWNED").exists()


def test_code_beside_a_model_is_not_run(model_folder, tmp_path):
    import json

    config = json.loads((model_folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}, "model_type": "evil"}
    (model_folder / "config.json").write_text(json.dumps(config))
    (model_folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'PWNED')!r}).touch()\n")
    with pytest.raises(InputError, match="No model at"):
        load_policy(model_folder)
    assert not (tmp_path / "PWNED").exists()


def test_a_checkpoint_of_a_run_holds_weights_and_numbers_alone(tmp_path):
    """A run's own checkpoint that was replaced by a pickle is refused, and nothing in it is run."""
    from gentangle.matching.experiment import run_algorithm
    from gentangle.matching.recipes import load_matching_recipe
    from gentangle.runs import RunDirectory

    run = RunDirectory(tmp_path / "run", {})
    torch.save({"key": Touch(tmp_path / "PWNED")}, run.path / "checkpoint.pt")
    variant = load_matching_recipe(ROOT / "recipes" / "cdsprites.yaml").variants()["erm-N2"]
    with pytest.raises(InputError, match="checkpoint.pt"):
        run_algorithm(variant, 0, run=run)
    assert not (tmp_path / "PWNED").exists()
