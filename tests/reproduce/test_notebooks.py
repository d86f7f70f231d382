"""Stored notebooks are clean: no errors, machine paths or run metadata; parameters that papermill understands."""

import ast
import json
import re

import nbformat
import papermill
import pytest

from sparsinglib.files import NOTEBOOKS, ROOT
from sparsinglib.reproduce import findings
from sparsinglib.studies.checkpoint import numbers

FILES = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_they_are_numbered_without_a_gap():
    assert [path.name[:2] for path in FILES] == [f"{number:02d}" for number in range(max(12, len(FILES)))]


def test_each_has_checks_and_something_to_try(notebook):
    cells = notebook.cells
    titles = {line for c in cells if c.cell_type == "markdown" for line in c.source.splitlines()}
    assert titles >= {"## Checks", "## Your turn"}
    last = max(i for i, c in enumerate(cells) if "## Your turn" in c.source)
    assert any(c.cell_type == "code" for c in cells[last:]), "nothing to run under Your turn"


def test_each_opens_with_why_what_it_found_and_three_terms(notebook):
    first = notebook.cells[0].source
    assert "**Why.** " in first and first.partition("**Three terms.**")[2].count("\n- *") == 3
    assert findings.LINE.search(first)
    assert findings.with_findings(first) == first, "python -m sparsinglib.reproduce.findings writes it anew"
    assert re.search(r": [^`]*\d", findings.LINE.search(first)[0]), "a number"


def test_cells_are_short_and_their_outputs_there_in_order_and_without_errors_and_warnings(notebook):
    cells = code(notebook)
    assert max(len(cell.source.splitlines()) for cell in cells) <= 15
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [out for cell in cells for out in cell.outputs]
    assert outputs and not [out for out in outputs if out.output_type == "error"]
    assert [out["text"][:300] for out in outputs if out.get("name") == "stderr"] == []


def test_no_machine_path_and_no_run_metadata(notebook):
    body = json.dumps(notebook)
    assert not re.search(r"/(work|home|root|tmp|Users)/", body)
    assert str(ROOT) not in body
    assert not {"papermill", "widgets"} & set(notebook.metadata)
    assert not [cell for cell in notebook.cells if {"papermill", "execution"} & set(cell.metadata)]


def test_one_parameters_cell_that_papermill_reads(path, notebook):
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code(notebook)) == 1
    parameters = papermill.inspect_notebook(str(path))
    assert parameters
    assert all(entry["help"] for entry in parameters.values()), "every parameter has a comment"


@pytest.mark.parametrize(
    ("given", "message"),
    [({"text_file": 2024}, "text_file is a text, got 2024.*-r text_file 2024"), ({"model": 7}, "model is a text"),
     ({"argument": "1/10"}, "argument must be a finite number, got '1/10'"),
     ({"window": 64.5}, "window must be a whole number")],
)  # fmt: skip
def test_what_papermill_made_of_a_parameter_is_refused_in_words(given, message):
    defaults = {name: entry["default"] for name, entry in papermill.inspect_notebook(str(FILES[0])).items()}
    names = ("model", "compare_with", "text_file", "strategy", "argument", "max_tokens", "window")
    parameters = {name: ast.literal_eval(defaults[name]) for name in names}
    numbers.validate_parameters(**parameters)
    with pytest.raises(ValueError, match=message):
        numbers.validate_parameters(**parameters | given)
