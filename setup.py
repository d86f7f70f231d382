"""The data that a wheel carries lies in the checkout's data/; pyproject.toml says all the rest."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

DATA = Path("data")
# Everything but the ladder's weights, of which two models go along: the others would make it forty megabytes.
CARRIED = [
    *(f"{part}/*" for part in ("paper", "suites", "tasks", "texts", "decoding", "ladder/tokenizer")),
    *(f"ladder/*/{name}" for name in ("run.json", "training.csv", "trajectory.csv")),
    *(f"ladder/0.4m-{kind}/{name}" for kind in ("relu", "silu") for name in ("config.json", "model.safetensors")),
]


class BuildWithData(build_py):
    """Puts the data beside the modules; a checkout installed to be edited reads its own."""

    def run(self):
        """Copy the data after the modules."""
        super().run()
        if not self.editable_mode:
            for path in sorted({path for pattern in CARRIED for path in DATA.glob(pattern) if path.is_file()}):
                target = Path(self.build_lib) / "sparsinglib" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


setup(cmdclass={"build_py": BuildWithData})
