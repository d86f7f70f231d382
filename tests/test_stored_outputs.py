"""nbval's comparison lets a last digit move and nothing else."""

import subprocess
import sys

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_outputs import compare, near, reconciled

from sparsinglib.files import ROOT

TABLE = "model      ratio  passes\n0.4m-relu  16.4 %       5\n"


@pytest.mark.parametrize(
    ("fresh", "stored", "same"),
    [
        (TABLE, TABLE, True),
        (TABLE.replace("16.4", "16.3"), TABLE, True),
        (TABLE.replace("16.4", "16.2"), TABLE, False),
        (TABLE.replace("5", "6"), TABLE, False),  # a whole number
        (TABLE.replace("0.4m", "0.3m"), TABLE, False),  # part of a name
        (TABLE.replace("ratio", "share"), TABLE, False),
        (TABLE + "more\n", TABLE, False),
        (TABLE + "1.0\n", TABLE, False),
        ("a 10.0", "a  9.99", True),  # the column is as wide as its widest number
        ("a\n1.0", "a 1.0", False),
        ("1e-05", "2e-05", True),
        ("1.01e-05", "1.03e-05", False),
        ("0.1", "0.15", False),  # the finer of the two counts
        ("-0.0", "0.1", True),
        ("+0.5", "-0.5", False),
        ("1,234.5", "1,234.6", True),
        ("nan", "0.1", False),
        ("0.118, 3", "0.116, 3", False),
        ("<td>16.3</td><td>5</td>", "<td>16.4</td><td>5</td>", True),
        ("<td>16.4</td><td>5</td>", "<td>16.4</td><td>4</td>", False),
        ("4.", "5.", False),  # the end of a sentence
        ("arXiv 2411.02335", "arXiv 2411.02335", True),
    ],
)
def test_what_counts_as_the_same(fresh, stored, same):
    assert (reconciled(fresh, stored) == stored) is same
    assert (reconciled(stored, fresh) == fresh) is same


@given(st.integers(-(10**6), 10**6), st.integers(-5, 5), st.integers(1, 5))
def test_one_unit_of_the_last_digit_and_no_more(digits, change, places):
    one, other = (f"{number / 10**places:.{places}f}" for number in (digits, digits + change))
    assert near(one, other) is (abs(change) <= 1)


@pytest.mark.parametrize(
    ("stored", "status", "tags"),
    [
        ("0.33 of 7\n", 0, []),
        ("0.34 of 7\n", 0, []),
        ("0.35 of 7\n", 1, []),
        ("0.35 of 7\n", 0, ["within-0.02"]),
        ("0.33 of 8\n", 1, ["within-2"]),
    ],
)
def test_nbval_passes_and_fails_by_it(tmp_path, stored, status, tags):
    cell = nbformat.v4.new_code_cell("print(f'{1 / 3:.2f} of 7')", execution_count=1, metadata={"tags": tags})
    cell.outputs = [nbformat.v4.new_output("stream", text=stored)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), tmp_path / "n.ipynb")
    options = ["-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", "-p", "no:cov", "--confcutdir", str(ROOT)]
    files = [str(ROOT / "conftest.py"), str(tmp_path / "n.ipynb")]
    call = [sys.executable, "-m", "pytest", "-q", "--nbval", *options, *files]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout
    assert "1 passed" in done.stdout or "Cell outputs differ" in done.stdout


@pytest.mark.parametrize("within", ["0", "0.02"])
@pytest.mark.parametrize("kind", ["text/plain", "text/html", "text/markdown"])
def test_every_kind_of_text_is_compared_so(kind, within):
    outputs = [[{"data": {kind: f"| {number} of 7 |"}}] for number in ("0.33", "0.34", "0.35")]
    near_enough = [compare(lambda fresh, stored: fresh == stored, within, outputs[0], stored) for stored in outputs]
    assert near_enough == [True, True, within == "0.02"]
