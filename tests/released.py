"""The released suite as it lies on disk after a download, with tiny weights: files named and typed as on the hub."""

import json
import shutil
from pathlib import Path

import torch
from helpers import GOLDEN

SCALES = ("0.1", "0.2", "0.4", "0.8", "1.2")
NAMES = tuple(f"sparsing-law-{scale}b-{activation}" for scale in SCALES for activation in ("relu", "silu"))


def write(folder: Path, names=NAMES) -> Path:
    """One folder for each name, of the golden hub layout; weights differ a little from one to the next."""
    source = GOLDEN / "tiny_minicpm_hub_layout"
    weights = torch.load(source / "pytorch_model.bin", weights_only=True)
    config = json.loads((source / "config.json").read_text())
    for seed, name in enumerate(names):
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("expected_token_ids.json"))
        own = config | {"hidden_act": name.rpartition("-")[2]}
        (folder / name / "config.json").write_text(json.dumps(own, indent=2))
        generator = torch.Generator().manual_seed(seed)
        varied = {k: w * (1 + 0.1 * torch.randn(w.shape, generator=generator)) for k, w in weights.items()}
        torch.save(varied, folder / name / "pytorch_model.bin")
    return folder
