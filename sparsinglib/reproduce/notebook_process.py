"""The process that runs one notebook for ``sparsinglib.reproduce``; a script that imports nothing of the package.

Started with a JSON object as its argument (``notebook``, ``copy``, ``parameters``), it says on its standard output, in
one line of JSON, which error stopped the notebook ("" if none). It ends when its standard input closes, so that no
notebook goes on running after the program that asked for it was killed.
"""

import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

import papermill
from papermill.exceptions import PapermillExecutionError

START_SECONDS = 300  # for a kernel on a busy machine; papermill's own 60 are too few there
STARTS = 3


def end_with_parent() -> None:
    """Leave at once when the other end of the standard input is gone."""
    while os.read(0, 1):  # not sys.stdin: its lock would be held when this process ends first
        pass
    os._exit(1)


def run(notebook: str, copy: str, parameters: dict[str, Any]) -> str:
    """Execute ``notebook`` in this folder; the executed copy appears whole at the end. Gives the error, "" if none."""
    unfinished = Path(copy).with_name(f".{Path(copy).stem}.{os.getpid()}.ipynb")
    try:
        _execute(notebook, str(unfinished), parameters)
    except PapermillExecutionError as failed:
        logging.getLogger().error("%s", failed)
        os.replace(unfinished, copy)  # up to the cell that failed
        return f"{failed.ename}: {failed.evalue}"
    except Exception as failed:  # whatever goes wrong with one notebook is its own error, not that of the others
        logging.getLogger().exception("the notebook could not be run")
        unfinished.unlink(missing_ok=True)  # of a full disk, half a copy
        place = f": '{copy}'" if isinstance(failed, OSError) and not failed.filename else ""
        return f"{type(failed).__name__}: {failed}{place}"
    os.replace(unfinished, copy)
    return ""


def _execute(notebook: str, copy: str, parameters: dict[str, Any]) -> None:
    for left in reversed(range(STARTS)):
        try:
            papermill.execute_notebook(
                notebook,
                copy,
                parameters,
                progress_bar=False,
                log_output=True,
                start_timeout=START_SECONDS,
                coalesce_streams=True,  # how a text is cut into pieces differs from run to run
            )
            return
        except RuntimeError as failed:
            # Kernels that start at one time now and then take the same port, and one of them dies before any cell ran.
            if not left or "before replying" not in str(failed):
                raise
            logging.getLogger().warning("%s; it is started again", failed)


def main() -> int:
    """Run what the argument asks for; exit status 1 if the notebook failed."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    error = run(**json.loads(sys.argv[1]))
    print(json.dumps({"error": error}), flush=True)
    return 1 if error else 0


if __name__ == "__main__":
    sys.exit(main())
