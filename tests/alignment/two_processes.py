"""Run by test_two_processes.py, once a process: train one step with the callback, or shard a model and capture it."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "gradients"))

from models import language_model, responses
from test_callback import run

from gentangle.alignment.policy import load_policy
from gentangle.alignment.preference import Pair
from gentangle.gradients.capture import Capture
from gentangle.gradients.oracle import inner_products, jacobian, whole
from gentangle.gradients.rules import embedding, rule_of
from gentangle.gradients.step import snapshot, step_forecast


def train(folder: Path, sharded: bool) -> None:
    """One step of the trainer with the callback; its rows are written."""
    if sharded:
        # Accelerate shards on accelerators alone: on a CPU it takes DistributedDataParallel and does not say so.
        torch.distributed.init_process_group("gloo")
        PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
    pairs = [Pair(*texts) for texts in json.loads((folder / "pairs.json").read_text())]
    rows, trainer = run(
        load_policy(folder / "policy"), pairs, folder / "run", forecast_every=1, per_device_train_batch_size=2
    )
    assert trainer.accelerator.num_processes == 2
    assert isinstance(trainer.model_wrapped, FSDPModule if sharded else DistributedDataParallel)
    (folder / f"rows{os.environ['RANK']}.json").write_text(json.dumps(rows))


def capture(name: str, tied: bool) -> None:
    """A sharded model's matrix and changes are those of the whole model on this process's rows."""
    torch.manual_seed(0)
    model = language_model(name, tied=tied).double()
    scalars = responses(3, 8, seed=int(os.environ["RANK"]))
    gradients = jacobian(model, scalars)
    changes = step_forecast(gradients, snapshot(model))
    mesh = init_device_mesh("cpu", (2,))
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    # Units as accelerate makes them: each block, what is tied together, and the rest.
    for unit in (*next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList)), *([ends] if tied else ends)):
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert rule_of(ends[0]) is embedding
    with Capture(model, keep=True) as captured:
        scalars(model).sum().backward()
    np.testing.assert_allclose(whole(captured.gram_by_parameter()), whole(inner_products(gradients)), rtol=1e-10)
    np.testing.assert_allclose(captured.changes(snapshot(model)), changes, rtol=1e-10)


if sys.argv[1] == "capture":
    torch.distributed.init_process_group("gloo")
    for name, tied in (("gpt2", True), ("llama", False), ("opt", True)):
        capture(name, tied)
else:
    train(Path(sys.argv[1]), os.environ.get("ACCELERATE_USE_FSDP") == "true")
