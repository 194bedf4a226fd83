"""A notebook is executed whole and stored the same each time, or is left as it was."""

import json
import os
import re

import nbformat
import pytest
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

VIEW = "application/vnd.jupyter.widget-view+json"
GOOD = [
    "import os, uuid\nfrom pathlib import Path\nprint(Path.cwd().name, os.environ['GENTANGLE_PROFILE'])",
    # Flushed in pieces, which arrive as one stream output or as several.
    "for piece in 'abc':\n    print(piece, flush=True)",
    f"display({{{VIEW!r}: {{'model_id': uuid.uuid4().hex}}, 'text/plain': 'a widget'}}, raw=True)",
    "6 * 7",
]
STORED = [new_output("stream", name="stdout", text="as it was\n")]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("book/run_notebooks.py")


@pytest.fixture(autouse=True)
def cpu_profile(monkeypatch):
    """main() sets the variable where it is not set: this one is taken back after the test."""
    monkeypatch.setenv("GENTANGLE_PROFILE", "cpu")


def write(path, *sources, metadata=None):
    cells = [
        new_markdown_cell("# A page", id="cell-0"),
        *(new_code_cell(source, id=f"cell-{n}", outputs=STORED) for n, source in enumerate(sources, 1)),
    ]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata=metadata or {}), path)
    return path


@pytest.fixture(scope="module")
def executed(script, tmp_path_factory):
    """A notebook that another program wrote, executed and stored once."""
    metadata = {
        "kernelspec": {"display_name": "my env", "language": "python", "name": "my-env"},
        "language_info": {"name": "python", "version": "3.9.1"},
        "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2}},
        "title": "kept",
    }
    path = write(tmp_path_factory.mktemp("run") / "chapters" / "a.ipynb", *GOOD, metadata=metadata)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENTANGLE_PROFILE", "cpu")
        script.store(path)
    return path


def outputs(path):
    return [cell.outputs for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_outputs_are_those_of_the_run_in_the_notebooks_own_folder(executed):
    where, pieces, widget, number = outputs(executed)
    assert [(output.name, output.text) for output in where] == [("stdout", "chapters cpu\n")]
    assert [(output.name, output.text) for output in pieces] == [("stdout", "a\nb\nc\n")]
    assert [output.data for output in widget] == [{"text/plain": "a widget"}]
    assert [output.data for output in number] == [{"text/plain": "42"}]


def test_metadata_is_the_same_on_every_machine_and_the_authors_is_kept(script, executed):
    notebook = json.loads(executed.read_text("utf-8"))
    assert notebook["metadata"] == script.METADATA | {"title": "kept"}
    assert all(cell["metadata"] == {} for cell in notebook["cells"])
    assert executed.read_bytes().endswith(b"}\n")


def test_a_second_run_gives_the_same_bytes(script, executed, capsys):
    before = executed.read_bytes()
    assert script.main([str(executed)]) == 0
    assert executed.read_bytes() == before
    assert [path.name for path in executed.parent.iterdir()] == ["a.ipynb"]
    assert str(executed) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import sys\nprint('seen')\nprint('a warning', file=sys.stderr)", "cell 3 wrote to stderr, .*: a warning"),
    ],
    ids=["raises", "writes to stderr"],
)
def test_a_notebook_that_fails_keeps_its_stored_outputs(script, tmp_path, capsys, source, words):
    """The notebook after it is not run."""
    bad, other = write(tmp_path / "bad.ipynb", "print(1)", source), write(tmp_path / "other.ipynb", "print(2)")
    before = bad.read_bytes(), other.read_bytes()
    assert script.main([str(bad), str(other)]) == 1
    assert (bad.read_bytes(), other.read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.ipynb", "other.ipynb"]
    told = capsys.readouterr().err
    assert re.search(words, told)
    assert f"{bad} failed (above); its stored outputs were left as they are" in told


@pytest.mark.parametrize(
    "error",
    [
        CellTimeoutError("a cell took longer than 900 s"),
        DeadKernelError("Kernel died"),
        OSError(28, "No space left on device"),
        nbformat.ValidationError("an output is not valid"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_else_stops_a_run_keeps_the_stored_outputs(script, tmp_path, monkeypatch, capsys, error):
    def execute(self):
        self.nb.cells[1].outputs = []
        raise error

    monkeypatch.setattr(script.NotebookClient, "execute", execute)
    path = write(tmp_path / "a.ipynb", "print(1)")
    before = path.read_bytes()
    assert script.main([str(path)]) == 1
    assert path.read_bytes() == before
    assert f"{path} failed (above)" in capsys.readouterr().err


def test_a_mistake_of_the_script_itself_is_not_hidden(script, tmp_path, monkeypatch):
    def execute(self):
        raise AttributeError("misspelt")

    monkeypatch.setattr(script.NotebookClient, "execute", execute)
    with pytest.raises(AttributeError, match="misspelt"):
        script.main([str(write(tmp_path / "a.ipynb", "print(1)"))])


@pytest.mark.parametrize("content", [None, b"", b"{", b"{}", b"\xff"])
def test_a_file_that_is_no_notebook_fails(script, tmp_path, capsys, content):
    path = tmp_path / "a.ipynb"
    if content is not None:
        path.write_bytes(content)
    assert script.main([str(path)]) == 1
    assert (path.read_bytes() if path.exists() else None) == content
    assert f"{path} failed (above)" in capsys.readouterr().err


def test_without_a_name_the_status_is_two_and_the_line_says_what_to_name(script, capsys):
    assert script.main([]) == 2
    assert "no notebook was named, expected FILE..." in capsys.readouterr().err


@pytest.mark.parametrize(("given", "used"), [(None, "cpu"), ("gpu", "gpu")])
def test_the_profile_is_cpu_where_none_is_set(script, tmp_path, monkeypatch, given, used):
    if given is None:
        monkeypatch.delenv("GENTANGLE_PROFILE")
    else:
        monkeypatch.setenv("GENTANGLE_PROFILE", given)
    assert script.main([str(tmp_path / "none.ipynb")]) == 1
    assert os.environ["GENTANGLE_PROFILE"] == used


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def shown(text):
    return new_output("display_data", data={"text/plain": text})


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ([], []),
        ([stream("a\n")], [stream("a\n")]),
        ([stream("a"), stream("b\n"), stream("c\n")], [stream("ab\nc\n")]),
        (
            [stream("a"), stream("b", "stderr"), stream("c", "stderr"), stream("d")],
            [stream("a"), stream("bc", "stderr"), stream("d")],
        ),
        ([stream("a"), shown("x"), stream("b")], [stream("a"), shown("x"), stream("b")]),
        ([shown("x"), shown("y")], [shown("x"), shown("y")]),
    ],
    ids=["none", "one", "neighbours", "of two streams", "parted by a picture", "pictures"],
)
def test_neighbouring_pieces_of_a_stream_are_joined(script, given, stored):
    assert script.stable(given) == stored


def test_the_view_of_a_widget_is_not_stored(script):
    data = {VIEW: {"model_id": "5f"}, "text/html": "<svg/>", "text/plain": "a widget"}
    (output,) = script.stable([new_output("display_data", data=data)])
    assert output.data == {"text/html": "<svg/>", "text/plain": "a widget"}
