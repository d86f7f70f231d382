"""Run the notebooks: papermill for each, one process each, side by side; one failure does not stop the others.

Notebooks whose cells, parameters, code and data are what they were in an earlier run are not run again, so a run that
was interrupted goes on where it was. Executed copies, logs and what the runs remember lie in ``build/notebooks``,
figures in ``build/figures``, all of them in ``build/own`` for other parameters than the notebooks' own. A run that ends
with the claims notebook writes the gallery, ``build/gallery/index.html``.
"""

import argparse
import ast
import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from filelock import FileLock, Timeout

from ..files import FIGURES, NOTEBOOKS, OUTPUT, ROOT, copy, write_atomically
from ..suites import suite as suites
from . import run_state
from .runner import Job, Runner, is_claims, short

OUT = ROOT / "build"
OUT_HELP = "directory for figures, executed copies, logs and gallery (default: build; build/own with --suite or --set)"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def find_notebooks(paths: Sequence[Path], numbers: Sequence[str]) -> list[Path]:
    """Files and numbers (``3``, ``03`` or ``03_width_and_depth``) as paths; all notebooks if nothing is named."""
    known = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    chosen = list(paths)
    for number in numbers:
        found = [p for p in known if p.stem == number or p.stem.split("_")[0] == number.zfill(2)]
        if not found:
            raise ValueError(f"No notebook {number}; there are {', '.join(p.stem for p in known)}.")
        chosen += found
    chosen = list(dict.fromkeys(path.resolve() for path in chosen or known))
    if missing := [str(path) for path in chosen if not path.is_file()]:
        raise ValueError(f"No such notebook: {', '.join(missing)}.")
    names = [path.stem for path in chosen]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"Two notebooks are called {twice[0]}; their executed copies would overwrite each other.")
    return chosen


def parse_settings(settings: Sequence[str], notebooks: Sequence[Path]) -> dict[str, Any]:
    """Read ``name=value`` pairs; raises ValueError for a name that no chosen notebook has among its parameters.

    Also for a number or truth value given as something else.
    """
    known = {n: entry for path in notebooks for n, entry in papermill.inspect_notebook(str(path)).items()}
    given = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set takes name=value, got {setting!r}.")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}."
            raise ValueError(f"No chosen notebook has the parameter {name}; {hint}")
        given[name] = _value(name, value, known[name]["default"])
    return given


def _value(name: str, text: str, written: str) -> Any:
    """``text`` as the kind of value that the default, as ``written`` in the notebook, is."""
    try:
        default = ast.literal_eval(written)
    except ValueError:
        return yaml.safe_load(text)
    if isinstance(default, str):  # stays text, also where it looks like a number
        return text
    value = yaml.safe_load(text)
    kinds = (int, float) if type(default) is float else (type(default),)
    if default is not None and type(value) not in kinds:
        raise ValueError(f"{name} takes a value like {default!r}, got {text!r}.")
    return value


def plan(notebooks: Sequence[Path], settings: Sequence[str], suite: str, folder: Path, results: Path) -> list[Job]:
    """A job for each notebook, with the settings that it knows; ``results`` is what the claims notebook reads too."""
    parse_settings(settings, notebooks)
    jobs = []
    for path in notebooks:
        known = papermill.inspect_notebook(str(path))
        parameters = parse_settings([s for s in settings if s.partition("=")[0] in known], [path])
        if suite:
            takes = {"suite": suite, **suites.two_models(suites.read(suite))}
            parameters = {name: value for name, value in takes.items() if name in known} | parameters
        reads = [FIGURES / "results", results] if is_claims(path) else []
        jobs.append(Job(path, parameters, parameters.get("suite", suite), folder, reads))
    return jobs


def store_outputs(executed: Path, notebook: Path) -> None:
    """Put an executed copy in the notebook's place, without what differs from run to run (papermill's notes, bars)."""
    document = nbformat.read(executed, as_version=4)
    for name in ("papermill", "widgets"):  # progress bars are drawn again by whoever runs the notebook
        document.metadata.pop(name, None)
    document.metadata["language_info"] = {"name": "python"}
    for cell in document.cells:
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
    text = nbformat.writes(document)
    if notebook.read_text(encoding="utf-8") != text + "\n":
        write_atomically(notebook, text)


def store_figures(record: run_state.Record, figures: Path) -> None:
    """Copy what a notebook drew and judged from ``figures`` to the tracked folder."""
    for path in (ROOT / name for name in record.outputs):
        if path.is_relative_to(figures):
            copy(path, FIGURES / path.relative_to(figures))


def kernel_environment(jobs: int, dask: str, figures: Path) -> dict[str, str]:
    """Environment of the kernels: one thread each if they run side by side, where figures go and tasks run."""
    threads = dict.fromkeys(THREADS, "1") if jobs > 1 else {}
    extra = {"SPARSINGLIB_DASK": dask} if dask else {}
    return {**os.environ, **threads, **extra, OUTPUT: str(figures), "SPARSINGLIB_WATCH": str(figures)}


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m sparsinglib.reproduce", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, metavar="NOTEBOOK", help="notebook files (default: all)")
    parser.add_argument("--notebooks", nargs="+", default=[], metavar="NN", help="notebooks by number, such as 03 07")
    parser.add_argument(
        "--suite",
        default="",
        help="ladder, released, a YAML file (data/suites/example.yaml explains it) or a directory of checkpoints",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(2, os.cpu_count() or 1),
        help="notebooks run side by side (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, help=OUT_HELP)
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter, for every chosen notebook that has it; may be given several times",
    )
    parser.add_argument("--store", action="store_true", help="keep outputs in the notebooks, figures in figures/")
    parser.add_argument("--again", action="store_true", help="also run notebooks that have not changed")
    parser.add_argument(
        "--dask",
        default="",
        metavar="ADDRESS",
        help="let the workers of this dask scheduler measure, such as tcp://host:8786",
    )
    options = parser.parse_args(arguments)
    options.fail = parser.error
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 1 if a notebook failed or the disk is full, 2 for bad input, 130 if interrupted."""
    options = read_options(arguments)
    own = bool(options.suite or options.settings)
    out = options.out.resolve() if options.out else OUT / "own" if own else OUT
    folder, figures = out / "notebooks", out / "figures"
    try:
        chosen = find_notebooks(options.paths, options.notebooks)
        if options.store and own:
            raise ValueError("--store keeps the outputs of the default parameters; leave out --set and --suite.")
        if options.jobs < 1:
            raise ValueError(f"--jobs must be at least 1, got {options.jobs}.")
        if options.suite:
            suite = suites.read(options.suite)
            suites.validate_suite(suite)
            print(suite.gaps() or f"{suite.name}: all {len(suite.checkpoints)} checkpoints are there")
            options.suite = str(Path(options.suite).resolve()) if Path(options.suite).exists() else options.suite
        jobs = plan(chosen, options.settings, options.suite, folder, figures / "results")
    except ValueError as error:
        options.fail(str(error))
    try:
        (folder / "state").mkdir(parents=True, exist_ok=True)
        with ExitStack() as locks:
            for job in sorted(jobs, key=lambda job: job.name):
                locks.enter_context(FileLock(folder / f".{job.name}.lock", timeout=0))
            return _run(jobs, options, figures, kernel_environment(options.jobs, options.dask, figures))
    except Timeout as error:
        name = Path(error.lock_file).stem.lstrip(".")
        options.fail(f"another run is at work on {name} in {short(folder)}; wait for it, or give another --out.")
    except OSError as error:
        print(f"{error}. What is done is kept: started again with the same options it goes on.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; started again with the same options it goes on from here.")
    return 130


def _run(jobs: Sequence[Job], options: argparse.Namespace, figures: Path, environment: Mapping[str, str]) -> int:
    for job in jobs:
        for left_over in job.folder.glob(f".{job.name}.*.ipynb"):
            left_over.unlink()
    todo = [job for job in jobs if options.again or not job.current]
    # What reads the results of the others has to look again if one of them is about to change.
    todo += [job for job in jobs if job not in todo and is_claims(job.notebook) and todo]
    for job in jobs:
        if job not in todo and job.before:
            print(f"{job.name}: unchanged since {job.before.finished}")
    records = Runner(todo, options.jobs, environment).run()
    failed = [record for record in records if record.error]
    if options.store:
        for job in jobs:
            if job.name not in [record.notebook for record in failed]:
                store_outputs(job.copy, job.notebook)
                if (record := run_state.load(job.state, job.name)) is not None:
                    store_figures(record, figures)
    if any(is_claims(job.notebook) and job.notebook.parent == NOTEBOOKS for job in jobs):
        _write_gallery(jobs[0].folder, figures)
    if failed:
        print(f"{len(failed)} of {len(jobs)} notebooks failed; copies and logs are in {short(jobs[0].folder)}:")
        for record in failed:
            print(f"  {record.notebook}: {record.error}")
    return 1 if failed else 0


def _write_gallery(folder: Path, figures: Path) -> None:
    """The gallery beside the executed copies, if something ran since it was written."""
    from . import gallery

    page = folder.parent / "gallery" / "index.html"
    ran = [record.stat().st_mtime for record in (folder / "state").glob("*.json")]
    if not page.is_file() or page.stat().st_mtime < max(ran, default=0):
        gallery.write(page.parent, folder, own=figures)
    print(f"Gallery: {short(page)}")


if __name__ == "__main__":
    sys.exit(main())
