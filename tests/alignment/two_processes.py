"""Run by test_two_processes.py, once a process: train one step with the callback and write the rows that it saw."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from test_callback import run

from gentangle.alignment.policy import load_policy
from gentangle.alignment.preference import Pair

folder = Path(sys.argv[1])
pairs = [Pair(*texts) for texts in json.loads((folder / "pairs.json").read_text())]
rows, trainer = run(
    load_policy(folder / "policy"), pairs, folder / "run", forecast_every=1, per_device_train_batch_size=2
)
assert trainer.accelerator.num_processes == 2
(folder / f"rows{os.environ['RANK']}.json").write_text(json.dumps(rows))
