"""Settings and fixtures shared by the tests: one thread, reproducible hypothesis, the golden checkpoints."""

import copy
import os
import warnings

import pytest
import torch
from helpers import golden, golden_model, greedy, tiny_llama
from hypothesis import HealthCheck, settings

import sparsinglib as sl

torch.set_num_threads(1)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_common = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
settings.register_profile("default", max_examples=15, derandomize=bool(os.environ.get("CI")), **_common)
settings.register_profile("long", max_examples=200, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def relu():
    """The golden ReLU checkpoint; tests that change it copy it first."""
    return golden_model("relu")


@pytest.fixture(scope="session")
def silu():
    return golden_model("silu")


@pytest.fixture
def own_relu(relu):
    return copy.deepcopy(relu)


@pytest.fixture
def own_silu(silu):
    return copy.deepcopy(silu)


@pytest.fixture
def model():
    """A tiny random ReLU model of the test's own."""
    return tiny_llama(act="relu")


@pytest.fixture(scope="session")
def ids():
    return {name: torch.tensor([row]) for name, row in golden()["token_ids"].items()}


@pytest.fixture
def quiet():
    """Let a search on a short text warn about it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@pytest.fixture(scope="session")
def ladder():
    """A shipped model and its tokenizer."""
    return sl.load("0.4m-relu")


@pytest.fixture(scope="session")
def responsive():
    """A random model and its own text, on which pruning raises the loss smoothly: 12 rows of 40 tokens."""
    model = tiny_llama(seed=3)
    return model, greedy(model, 40, rows=12)
