"""Importing the package alone needs torch, transformers and pandas, and nothing that stands around the core."""

import subprocess
import sys

AROUND = (
    "scipy matplotlib seaborn gensim snownlp sympy papermill nbclient nbconvert sklearn lm_eval joblib dask numba "
    "mwparserfromhell pytest hypothesis datasets gguf jupyterlab"
).split()

PROGRAM = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")
BLOCKED = set(sys.argv[1:])
sys.meta_path.insert(0, Blocker())
import sparsinglib
assert all(hasattr(sparsinglib, name) for name in sparsinglib.__all__)
print(sorted(BLOCKED & {m.split(".")[0] for m in sys.modules}))
"""


def test_import_needs_only_the_core():
    done = subprocess.run([sys.executable, "-c", PROGRAM, *AROUND], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_blocker_blocks():
    program = PROGRAM.replace("import sparsinglib\n", "import pandas\n")
    done = subprocess.run([sys.executable, "-c", program, "pandas"], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "pandas is blocked" in done.stderr


def test_unknown_attribute_is_named():
    import sparsinglib

    try:
        _ = sparsinglib.no_such_module
    except AttributeError as error:
        assert "no_such_module" in str(error)
    else:
        raise AssertionError("no error")
