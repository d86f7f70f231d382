"""lm-eval's own command line with the model ``sparsinglib`` in its registry and the offline tasks at hand.

``python -m sparsinglib.tasks run --model sparsinglib --model_args pretrained=0.4m-relu,thresholds=thresholds.json
--tasks offline_last_word``: all other options are lm-eval's. lm-eval looks for models in no other package, so that its
bare command does not know this one.
"""

import sys

from lm_eval.__main__ import cli_evaluate

from . import (
    model,  # noqa: F401  importing it puts the model into the registry
    offline,
)

if __name__ == "__main__":
    if any("offline_" in part for part in sys.argv) and "--include_path" not in sys.argv:
        sys.argv += ["--include_path", str(offline.build())]
    cli_evaluate()
