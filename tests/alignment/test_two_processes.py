"""Two processes on the CPU (gloo): rows are local to a process, so together they see every pair once, as one would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gentangle import pair_gram
from gentangle.alignment.policy import collate, response_log_probs

pytestmark = pytest.mark.training

SCRIPT = Path(__file__).with_name("two_processes.py")
ROOT = Path(__file__).parents[2]
DDP = ["--multi_gpu"]  # several processes; with --cpu accelerate starts a single one, without mpirun
FSDP2 = ["--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]


def launch(flags, argument):
    """The script in two processes on the CPU, by accelerate launch."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--main_process_port", "0"]
    on_cpu = {"ACCELERATE_USE_CPU": "true", "ACCELERATE_TORCH_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, *flags, str(SCRIPT), argument],
        cwd=ROOT,
        env=os.environ | on_cpu | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("flags", [DDP, FSDP2], ids=["replicated", "sharded"])
def test_a_trainer_in_two_processes_reads_the_same_matrices(flags, tiny_policy, tiny_pairs, tmp_path):
    model, tokenizer = tiny_policy
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    (tmp_path / "pairs.json").write_text(json.dumps([[p.prompt, p.chosen, p.rejected] for p in tiny_pairs]))
    launch(flags, str(tmp_path))
    rows = [row for rank in (0, 1) for row in json.loads((tmp_path / f"rows{rank}.json").read_text())]
    names = ("chosen_norm_sq", "rejected_norm_sq", "inner_product")
    found = sorted(triple for row in rows for triple in zip(*(row[name] for name in names), strict=True))
    batch = collate(tokenizer, tiny_pairs)
    blocks = pair_gram(model, lambda m: response_log_probs(m, batch), method="oracle")
    expected = sorted(zip(blocks[:, 0, 0], blocks[:, 1, 1], blocks[:, 0, 1], strict=True))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-5)
    for row in rows:
        np.testing.assert_allclose(row["forecast"]["step"], row["measured"], rtol=0.3, atol=0.02)


def test_a_sharded_models_matrix_is_the_whole_models():
    launch(DDP, "capture")
