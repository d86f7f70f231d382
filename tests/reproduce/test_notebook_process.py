"""The process that runs one notebook, called as a function: what it leaves when cells work, fail or cannot run."""

import json
import sys

import nbformat
import pytest
from made_up import write_notebook

from sparsinglib.reproduce import notebook_process


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [("import os; print(x, os.path.basename(os.getcwd()))", "", "41 here\n"),
     ("1 / 0", "ZeroDivisionError: division by zero", "")],
)  # fmt: skip
def test_the_copy_holds_what_ran_and_the_error_is_told(tmp_path, monkeypatch, capsys, source, error, said):
    (tmp_path / "here").mkdir()
    (tmp_path / "book").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    copy = tmp_path / "copy.ipynb"
    notebook = write_notebook(tmp_path / "book" / "n.ipynb", source)
    asked = {"notebook": str(notebook), "copy": str(copy), "parameters": {"x": 41}}
    monkeypatch.setattr(sys, "argv", ["notebook_process.py", json.dumps(asked)])
    monkeypatch.setattr(notebook_process, "end_with_parent", lambda: None)  # pytest's standard input is closed
    assert notebook_process.main() == bool(error)
    assert json.loads(capsys.readouterr().out) == {"error": error}
    cells = nbformat.read(copy, as_version=4).cells
    assert "".join(out.get("text", "") for cell in cells for out in cell.get("outputs", [])).endswith(said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["book", "copy.ipynb", "here"]  # nothing unfinished


def test_printed_text_is_one_output_however_it_came(tmp_path):
    source = "import time; print('a', flush=True); time.sleep(0.5); print('b')"
    assert not notebook_process.run(str(write_notebook(tmp_path / "n.ipynb", source)), str(tmp_path / "copy.ipynb"), {})
    (output,) = nbformat.read(tmp_path / "copy.ipynb", as_version=4).cells[-1].outputs
    assert output.text == "a\nb\n"


def test_a_file_that_is_no_notebook_is_its_own_error(tmp_path):
    (tmp_path / "n.ipynb").write_text("{")
    assert notebook_process.run(str(tmp_path / "n.ipynb"), str(tmp_path / "copy.ipynb"), {})
    assert not (tmp_path / "copy.ipynb").exists()


@pytest.mark.parametrize(("deaths", "error"), [(1, ""), (9, "RuntimeError: Kernel died before replying")])
def test_a_kernel_that_dies_before_any_cell_is_started_again(tmp_path, monkeypatch, deaths, error):
    starts, ran = tmp_path / "starts", tmp_path / "ran"
    script = tmp_path / "frail.py"
    script.write_text(
        f"import os, sys\nwith open({str(starts)!r}, 'a') as file: print('one', file=file)\n"
        f"if len(open({str(starts)!r}).readlines()) <= {deaths}: sys.exit(1)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'ipykernel_launcher', *sys.argv[1:]])\n"
    )
    spec = tmp_path / "jupyter" / "kernels" / "frail" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, str(script), "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "frail", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    path = write_notebook(tmp_path / "n.ipynb", f"with open({str(ran)!r}, 'a') as file: print(x, file=file)")
    document = nbformat.read(path, as_version=4)
    document.metadata["kernelspec"] = {"name": "frail", "display_name": "frail", "language": "python"}
    nbformat.write(document, path)
    said = notebook_process.run(str(path), str(tmp_path / "copy.ipynb"), {"x": 2})
    assert said.startswith(error) and bool(said) == bool(error)
    assert (tmp_path / "copy.ipynb").exists() == (not error)  # what did not run leaves no copy
    assert len(starts.read_text().split()) == min(deaths + 1, notebook_process.STARTS)
    assert (ran.read_text() if ran.exists() else "") == ("" if error else "2\n")
