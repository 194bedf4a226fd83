"""Two processes through accelerate come to the numbers of one; a process that is killed goes on from its checkpoint."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from several_processes import run

pytestmark = pytest.mark.training

SCRIPT = str(Path(__file__).with_name("several_processes.py"))
ON_CPU = os.environ | {
    "ACCELERATE_USE_CPU": "true",
    "ACCELERATE_TORCH_DEVICE": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Here as in the processes started: the same thread count, the same bytes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def alone(wilds_root, tmp_path_factory):
    return run(wilds_root, tmp_path_factory.mktemp("alone") / "run", 1)


def weights(path):
    state = torch.load(path / "checkpoint.pt")["fish"]["model"]
    return {key.removeprefix("module."): value.numpy() for key, value in state.items()}


def test_two_processes_come_to_the_numbers_of_one(alone, wilds_root, tmp_path):
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    command = [sys.executable, *launch, SCRIPT, str(wilds_root), str(tmp_path / "run"), "2"]
    done = subprocess.run(command, env=ON_CPU, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("run whole in") == 1
    for name, value in weights(alone).items():
        np.testing.assert_allclose(weights(tmp_path / "run")[name], value, atol=2e-4)
    for file in sorted(path.name for path in (alone / "predictions").iterdir()):
        assert (tmp_path / "run" / "predictions" / file).read_text() == (alone / "predictions" / file).read_text()


def test_a_killed_process_goes_on_to_the_same_end(alone, wilds_root, tmp_path):
    path = tmp_path / "run"
    process = subprocess.Popen([sys.executable, SCRIPT, str(wilds_root), str(path), "1"], env=ON_CPU)
    try:
        for _ in range(1200):
            if (path / "checkpoint.pt").exists() or process.poll() is not None:
                break
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    assert not (path / "evaluation.json").exists()
    run(wilds_root, path, 1)
    assert json.loads((path / "evaluation.json").read_text()) == json.loads((alone / "evaluation.json").read_text())
    ours = weights(path)
    assert all(np.array_equal(ours[name], value) for name, value in weights(alone).items())
