"""Importing the package alone needs torch, transformers and pandas, and nothing that stands around the core."""

import subprocess
import sys

import pytest

import sparsinglib

AROUND = """scipy matplotlib seaborn gensim snownlp papermill nbclient nbconvert sklearn lm_eval joblib dask numba
mwparserfromhell pytest hypothesis datasets gguf jupyterlab"""

PROGRAM = """
import importlib.machinery, sys
BLOCKED = set(sys.argv[1:])
class Absent(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in BLOCKED else super().find_spec(name, path, target)
sys.meta_path[:] = [Absent if f is importlib.machinery.PathFinder else f for f in sys.meta_path]
import sparsinglib
assert all(hasattr(sparsinglib, name) for name in (*sparsinglib.__all__, "corpora"))
print(sorted(BLOCKED & {m.split(".")[0] for m in sys.modules}))
"""


def test_import_needs_only_the_core():
    done = subprocess.run([sys.executable, "-c", PROGRAM, *AROUND.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_blocker_blocks():
    program = PROGRAM.replace("import sparsinglib\n", "import pandas\n")
    done = subprocess.run([sys.executable, "-c", program, "pandas"], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "No module named 'pandas'" in done.stderr


def test_unknown_attribute_is_named():
    with pytest.raises(AttributeError, match="no_such_module"):
        _ = sparsinglib.no_such_module
