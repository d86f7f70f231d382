"""Run the notebooks: papermill for each, one process each, side by side; one failure does not stop the others.

Notebooks whose cells, parameters, code and data are what they were in an earlier run are not run again, so a run that
was interrupted goes on where it was. Executed copies, logs and what the runs remember lie in ``build/notebooks``,
figures in ``build/figures``; for other parameters than the notebooks' own in a folder of ``build/own``, one for each
set of parameters. Paths among the parameters are those of the folder the command is given in. A run that ends with the
claims notebook writes the page, ``build/gallery/index.html``.
"""

import argparse
import ast
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import joblib
import papermill
import yaml
from filelock import FileLock, Timeout

from .. import suites
from ..core import arguments, checkpoints
from ..files import NOTEBOOKS, ROOT
from ..studies.decoding_speed.numbers import THREAD_VARIABLES
from ..suites.suite import hint
from .runner import Job, run, store

OUT = ROOT / "build"


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

    Also for a number or truth value given as something else, and for a file or model that is not there.
    """
    known = {n: entry for path in notebooks for n, entry in papermill.inspect_notebook(str(path)).items()}
    given = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set takes name=value, got {setting!r}.")
        if name not in known:
            raise ValueError(f"No chosen notebook has the parameter {name}; {hint(name, known)}")
        given[name] = _value(name, value, known[name]["default"])
        _look_for(name, given[name])
    return given


def _value(name: str, text: str, written: str) -> Any:
    """``text`` as the kind of value that the default, as ``written`` in the notebook, is."""
    default, value = ast.literal_eval(written), text
    if isinstance(default, str):  # stays text, also where it looks like a number
        return text
    for read in (yaml.safe_load, ast.literal_eval):  # the first takes [paper, ladder] without quotes, the second 1e6
        with suppress(ValueError, SyntaxError, yaml.YAMLError):
            value = read(text)
    if type(default) is int and isinstance(value, float) and value.is_integer():  # 1e6
        value = int(value)
    kinds = (int, float) if type(default) is float else (type(default),)
    if type(value) not in kinds:
        raise ValueError(f"{name} takes a value like {default!r}, got {text!r}.")
    return value


def _look_for(name: str, value: Any) -> None:
    """Raise ValueError for a parameter whose file or model is not there; the notebooks run in this folder."""
    known = name == "text_file" and value in arguments.CORPORA
    if name in ("text_file", "my_csv") and value and not known and not os.path.exists(os.path.expanduser(value)):
        raise ValueError(f"{name}={value}: there is no such file; looked for {os.path.abspath(value)}.")
    if name in ("model", "compare_with") and value:
        try:
            checkpoints.locate(value)
        except ValueError as error:
            raise ValueError(f"{error} Looked for {os.path.abspath(value)}.") from error
    if name == "suite":
        suites.validate_suite(suites.read(value))


def plan(notebooks: Sequence[Path], settings: Sequence[str], suite: str, out: Path) -> list[Job]:
    """A job for each notebook, with the settings that it knows."""
    parse_settings(settings, notebooks)
    takes = {"suite": suite, **suites.two_models(suites.read(suite))} if suite else {}
    jobs = []
    for path in notebooks:
        known = papermill.inspect_notebook(str(path))
        given = parse_settings([s for s in settings if s.partition("=")[0] in known], [path])
        jobs.append(Job(path, {name: value for name, value in takes.items() if name in known} | given, out))
    return jobs


def own_folder(suite: str, settings: Sequence[str]) -> Path:
    """Folder of the runs with these parameters, given here, and of no others: a name to know it by and a digest."""
    given = {"--suite": suite} if suite else {}
    given = dict(sorted((given | dict(setting.partition("=")[::2] for setting in settings)).items()))
    said = re.sub(r"[^\w.=]+", "-", " ".join(f"{name}={value}" for name, value in given.items()))[:60].strip("-")
    return OUT / "own" / f"{said}-{joblib.hash((given, os.getcwd()))[:8]}"


def kernel_environment(jobs: int, dask: str) -> dict[str, str]:
    """Environment of the kernels: one thread each if they run side by side, and where tasks run."""
    threads = dict.fromkeys(THREAD_VARIABLES, "1") if jobs > 1 else {}
    return {**os.environ, **threads, **({"SPARSINGLIB_DASK": dask} if dask else {})}


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m sparsinglib.reproduce", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, metavar="NOTEBOOK", help="notebook files (default: all)")
    parser.add_argument("--notebooks", nargs="+", default=[], metavar="NN", help="notebooks by number, such as 03 07")
    suite = "ladder, released, a YAML file (data/suites/example.yaml explains it) or a directory of checkpoints"
    parser.add_argument("--suite", default="", help=suite)
    two = min(2, os.cpu_count() or 1)
    parser.add_argument("--jobs", type=int, default=two, help="notebooks run side by side (default: %(default)s)")
    place = "folder for all it writes (default: build; for own parameters one of their own in build/own)"
    parser.add_argument("--out", type=Path, help=place)
    setting = "a parameter, for every chosen notebook that has it; may be given several times"
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE", help=setting)
    parser.add_argument("--store", action="store_true", help="keep outputs in the notebooks, figures in figures/")
    parser.add_argument("--again", action="store_true", help="also run notebooks that have not changed")
    scheduler = "let the workers of this dask scheduler measure, such as tcp://host:8786"
    parser.add_argument("--dask", default="", metavar="ADDRESS", help=scheduler)
    options = parser.parse_args(arguments)
    options.fail = parser.error
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 1 if a notebook failed or the disk is full, 2 for bad input, 130 if interrupted."""
    options = read_options(arguments)
    own = bool(options.suite or options.settings)
    default = own_folder(options.suite, options.settings) if own else OUT
    out = options.out.expanduser().resolve() if options.out else default
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
        jobs = plan(chosen, options.settings, options.suite, out)
        if own:
            print(f"Results go to {out}")
    except ValueError as error:
        options.fail(str(error))
    try:
        (out / "notebooks" / "state").mkdir(parents=True, exist_ok=True)
        with ExitStack() as locks:
            for job in sorted(jobs, key=lambda job: job.name):
                locks.enter_context(FileLock(out / "notebooks" / f".{job.name}.lock", timeout=0))
            return _run(jobs, options, out, kernel_environment(options.jobs, options.dask))
    except Timeout as error:
        name = Path(error.lock_file).stem.lstrip(".")
        options.fail(f"another run is at work on {name} in {out}; wait for it, or give another --out.")
    except OSError as error:
        print(f"{error}. What is done is kept: started again with the same options it goes on.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; started again with the same options it goes on from here.")
    return 130


def _run(jobs: Sequence[Job], options: argparse.Namespace, out: Path, environment: Mapping[str, str]) -> int:
    for job in jobs:
        for left_over in job.copy.parent.glob(f".{job.name}.*.ipynb"):
            left_over.unlink()
    todo = [job for job in jobs if options.again or not job.current]
    # What reads the results of the others has to look again if one of them is about to change.
    todo += [job for job in jobs if job not in todo and job.last and todo]
    for job in jobs:
        if job not in todo and job.before:
            print(f"{job.name}: unchanged since {job.before.finished}")
    records = run(todo, options.jobs, environment)
    failed = {record.notebook: record.error for record in records if record.error}
    if options.store:
        for job in jobs:
            if job.name not in failed:
                store(job)
    page = out / "gallery" / "index.html"
    if any(job.last and job.notebook.parent == NOTEBOOKS for job in jobs) and (records or not page.is_file()):
        from . import gallery

        print(f"Page: {gallery.write(out)}")
    if failed:
        print(f"{len(failed)} of {len(jobs)} notebooks failed; copies and logs are in {out / 'notebooks'}:")
        for name, error in failed.items():
            print(f"  {name}: {error}")
    return 1 if failed else 0
