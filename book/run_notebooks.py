"""Execute notebooks and store their outputs, byte-identical from run to run: ``run_notebooks.py FILE...``.

A notebook runs whole in memory and then replaces its file, so that one that fails leaves the stored outputs alone.
Stored are no execution times, no widget state or views (their ids are random), and the same metadata on every machine.
"""

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from gentangle.atomic import write_atomic

TIMEOUT = 900  # seconds a cell may take: a chapter is budgeted at 4 minutes
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}
_FAILURES = (
    CellExecutionError,
    CellTimeoutError,
    DeadKernelError,
    OSError,
    RuntimeError,
    ValueError,
    nbformat.ValidationError,
)
_VIEW = "application/vnd.jupyter.widget-view+json"


def main(names: list[str]) -> int:
    """Run and store each notebook; 1 at the first that fails, 2 where none was named."""
    if not names:
        print("run_notebooks.py: no notebook was named, expected FILE... as in notebooks/*.ipynb.", file=sys.stderr)
        return 2
    os.environ.setdefault("GENTANGLE_PROFILE", "cpu")
    for path in map(Path, names):
        started = time.monotonic()
        print(f"{path} ...", end=" ", flush=True)
        try:
            store(path)
        except _FAILURES as error:
            print(f"failed\n{error}", file=sys.stderr)
            print(
                f"run_notebooks.py: {path} failed (above); its stored outputs were left as they are.", file=sys.stderr
            )
            return 1
        print(f"{time.monotonic() - started:.0f} s")
    return 0


def store(path: Path) -> None:
    """Execute the notebook in its own folder and replace its file by the executed one.

    Raises:
        CellExecutionError: a cell raised.
        ValueError: no notebook, or a cell wrote to stderr, which no page shows.
    """
    notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    kept = {key: value for key, value in notebook.metadata.items() if key not in {"widgets", *METADATA}}
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],  # silent about its port, which only this machine reaches
        store_widget_state=False,
        record_timing=False,
        resources={"metadata": {"path": str(path.parent.resolve())}},
    )
    client.execute()
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "code":
            cell.metadata.pop("execution", None)
            cell.outputs = stable(cell.outputs)
            if any(output.get("name") == "stderr" for output in cell.outputs):
                text = next(output.text for output in cell.outputs if output.get("name") == "stderr")
                raise ValueError(f"cell {number} wrote to stderr, a chapter writes nothing there: {text.strip()}")
    notebook.metadata = nbformat.from_dict({**kept, **METADATA})
    nbformat.validate(notebook)
    write_atomic(path, nbformat.writes(notebook).rstrip("\n") + "\n")


def stable(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The outputs without widget views, neighbouring pieces of a stream joined: how it is cut is chance."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        output.get("data", {}).pop(_VIEW, None)
        if joined and output.output_type == "stream" and output.name == joined[-1].get("name"):
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
