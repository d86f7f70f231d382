"""The network is left alone unless a hub id is named, and a hub that does not answer is soon told, with a way out."""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from helpers import GOLDEN

import sparsinglib as sl
from sparsinglib.core import checkpoints
from sparsinglib.texts import corpora


@pytest.fixture
def asked(monkeypatch):
    """What the network is asked for, with the hub's own offline mode off; every attempt fails."""
    seen = []

    def refuse(*arguments, **_):
        seen.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(checkpoints.hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return seen


def test_nothing_is_asked_for_without_a_hub_id(asked, tmp_path, quiet):
    sl.load(GOLDEN / "tiny_minicpm_hub_layout", device_map="cpu")
    model, tokenizer = sl.load("0.1m-relu", device_map="cpu")
    text = corpora.load("math", "validation")[:4000]
    batches = sl.token_batches(text, tokenizer, 64, 4, 512)
    found = sl.find_thresholds(model, batches, 5.0)
    found.save(tmp_path / "thresholds.json")
    again = sl.Thresholds.load(tmp_path / "thresholds.json")
    assert sl.measure(model, batches, again).tokens == 512
    with sl.sparsify(model, again):
        model.generate(batches[0][:1, :8], max_new_tokens=4, do_sample=False)
    model.save_pretrained(tmp_path / "model")
    sl.load(tmp_path / "model", device_map="cpu")
    assert asked == []


def test_a_hub_id_is_asked_for(asked):
    with pytest.raises(sl.CheckpointError, match=r"owner/model: the model hub cannot be asked"):
        sl.load("owner/model")
    assert asked


CHILD = """
import sys
import sparsinglib as sl
for name in sys.argv[1:]:
    try:
        print("loaded", sl.load(name, device_map="cpu")[0].name_or_path)
    except sl.CheckpointError as error:
        print(error)
"""


def child(endpoint, home, *names):
    """Load hub ids in a process of its own, at another hub; gives what was said of each."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *names], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def advice(name, said):
    return said.startswith(name) and "To work offline" in said and f"hf download {name}" in said and "\n" not in said


def test_a_hub_that_never_answers(tmp_path):
    """It is asked once for a model, and not waited for again; what is in the hub's cache is loaded all the same."""
    snapshot = tmp_path / "hub" / "models--owner--known" / "snapshots" / "0123456789abcdef"
    shutil.copytree(GOLDEN / "tiny_minicpm_hub_layout", snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text(snapshot.name)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        said = child(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path, "owner/unknown", "owner/known")
        silent.setblocking(False)
        asked = []
        with suppress(BlockingIOError):
            while True:
                asked.append(silent.accept()[0].recv(4096).decode().split()[1])
    assert advice("owner/unknown", said[0]) and "no answer within" in said[0]
    assert said[1] == "loaded owner/known"
    files = [path for path in asked if path.startswith("/owner/")]
    assert files == [f"/owner/{name}/resolve/main/config.json" for name in ("unknown", "known")]


def test_a_hub_that_refuses(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(checkpoints.hub, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(checkpoints.hub, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(sl.CheckpointError, match="refused") as caught:
            sl.load("owner/model")
        assert advice("owner/model", str(caught.value))


def test_a_name_that_is_never_looked_up(monkeypatch):
    """Looking up a name knows no timeout of its own."""
    monkeypatch.setattr(checkpoints.hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(checkpoints, "PATIENCE", 0.5)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(5))
    with pytest.raises(sl.CheckpointError, match=r"no answer within 0\.5 seconds"):
        sl.load("owner/model")


def test_offline_mode_is_told(monkeypatch):
    monkeypatch.setattr(checkpoints.hub, "HF_HUB_OFFLINE", True)
    with pytest.raises(sl.CheckpointError, match="HF_HUB_OFFLINE is set") as caught:
        sl.load("owner/model")
    assert advice("owner/model", str(caught.value))
