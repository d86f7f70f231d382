"""Run the notebooks: papermill for each, one process each, side by side; one failure does not stop the others.

``python -m sparsinglib.reproduce`` runs all of them. Executed copies and the first error of each that failed lie in
``build/notebooks``; figures in ``figures``.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from joblib import Parallel, delayed
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from .paths import NOTEBOOKS, ROOT

OUT = ROOT / "build" / "notebooks"


def parse_settings(settings: Sequence[str], notebooks: Sequence[Path]) -> dict[str, Any]:
    """Read ``name=value`` pairs; raises ValueError for a name that no chosen notebook has among its parameters."""
    known = {n: entry for path in notebooks for n, entry in papermill.inspect_notebook(str(path)).items()}
    given = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set takes name=value, got {setting!r}.")
        if name not in known:
            raise ValueError(f"No chosen notebook has the parameter {name}; known: {', '.join(sorted(known))}.")
        # A text parameter stays text, also where it looks like a number; everything else is read as YAML.
        text = known[name]["default"].startswith(("'", '"'))
        given[name] = value if text else yaml.safe_load(value)
    return given


def run_notebook(notebook: Path, settings: dict[str, Any], store: bool) -> tuple[str, float, str]:
    """Execute one notebook with the settings it knows; gives its name, the seconds taken and its error, if any."""
    started = time.monotonic()
    mine = {name: value for name, value in settings.items() if name in papermill.inspect_notebook(str(notebook))}
    copy = OUT / notebook.name
    error = ""
    try:
        papermill.execute_notebook(str(notebook), str(copy), mine, progress_bar=False, cwd=str(notebook.parent))
        if store:
            store_outputs(copy, notebook)
    except PapermillExecutionError as failed:
        error = f"{failed.ename}: {failed.evalue}"
    return notebook.stem, time.monotonic() - started, error


def store_outputs(executed: Path, notebook: Path) -> None:
    """Put an executed copy in the notebook's place, without what differs from run to run (times, papermill's notes)."""
    document = nbformat.read(executed, as_version=4)
    document.metadata.pop("papermill", None)
    document.metadata["language_info"] = {"name": "python"}
    for cell in document.cells:
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
    nbformat.write(document, notebook)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 1 if a notebook failed, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m sparsinglib.reproduce", description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebook files (default: all of them)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="notebooks run side by side")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--store", action="store_true", help="keep the outputs in the notebooks themselves")
    options = parser.parse_args(arguments)
    chosen = options.notebooks or sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    try:
        if missing := [str(path) for path in chosen if not path.is_file()]:
            raise ValueError(f"No such notebook: {', '.join(missing)}.")
        settings = parse_settings(options.settings, chosen)
        if options.store and settings:
            raise ValueError("--store keeps the outputs of the default parameters; leave out --set.")
    except ValueError as error:
        parser.error(str(error))
    OUT.mkdir(parents=True, exist_ok=True)
    jobs = Parallel(n_jobs=options.jobs, return_as="generator_unordered")
    results = jobs(delayed(run_notebook)(path.resolve(), settings, options.store) for path in chosen)
    failed = 0
    for name, seconds, error in tqdm(results, total=len(chosen), desc="notebooks", unit="notebook"):
        failed += bool(error)
        tqdm.write(f"{name}: {'FAILED: ' + error if error else 'done'} ({seconds:.0f} s)")
    if failed:
        print(f"{failed} of {len(chosen)} notebooks failed; their executed copies are in {OUT.relative_to(ROOT)}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
