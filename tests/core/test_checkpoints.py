"""Loading: every layout, no code and no pickle of a checkpoint executed, one clear error for what cannot be read."""

import json
import os
import pickle
import re
import shutil

import pytest
import torch
from helpers import GOLDEN, golden_model, logits, tiny_llama
from safetensors.torch import load_file, save_file
from transformers import GraniteForCausalLM

import sparsinglib as sl
from sparsinglib.core import checkpoints

HUB = GOLDEN / "tiny_minicpm_hub_layout"


@pytest.fixture
def copied(tmp_path):
    def copy(name):
        target = tmp_path / name
        shutil.copytree(GOLDEN / name, target)
        return target

    return copy


def refused(says, name, **options):
    """Loading a checkpoint gives one clear error; its text."""
    with pytest.raises(sl.CheckpointError, match=says) as error:
        sl.load(name, device_map="cpu", **options)
    return str(error.value)


def edit(path, **changes):
    config = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def test_hub_layout_with_bin_and_sentencepiece(ids):
    model, tokenizer = sl.load(HUB, device_map="cpu")
    plain = golden_model("relu")
    assert torch.allclose(logits(model, ids["tiny64"]), logits(plain, ids["tiny64"]), atol=1e-5)
    expected = json.loads((HUB / "expected_token_ids.json").read_text())
    assert len(expected) >= 2
    for text, wanted in expected.items():
        assert tokenizer(text)["input_ids"] == wanted, text


def test_evaluation_mode_name_and_dtype():
    model, tokenizer = sl.load(GOLDEN / "tiny_minicpm_relu", device_map="cpu")
    assert not model.training and model.dtype == torch.float32
    assert model.name_or_path == str(GOLDEN / "tiny_minicpm_relu")
    assert tokenizer is None


def test_bfloat16_and_the_checkpoints_own_dtype(ids):
    half, _ = sl.load(GOLDEN / "tiny_minicpm_silu", dtype=torch.bfloat16, device_map="cpu")
    assert half.dtype == torch.bfloat16
    gap = logits(half, ids["tiny64"]).float() - logits(golden_model("silu"), ids["tiny64"])
    assert 0 < gap.abs().max() < 0.1
    own, _ = sl.load(GOLDEN / "tiny_minicpm_silu", dtype="auto", device_map="cpu")
    assert own.dtype == torch.float32


def test_muP_scalings_matter(copied, ids):
    path = copied("tiny_minicpm_relu")
    edit(path, scale_depth=1.0)
    model, _ = sl.load(path, device_map="cpu")
    plain = golden_model("relu")
    assert not torch.allclose(logits(model, ids["tiny64"]), logits(plain, ids["tiny64"]), atol=1e-2)


def test_scaled_rotary_embeddings_keep_their_base(copied, ids):
    path = copied("tiny_minicpm_relu")
    edit(path, rope_theta=5e5, rope_scaling={"rope_type": "linear", "factor": 2.0})
    rope = sl.load(path, device_map="cpu")[0].config.rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("linear", 2.0, 5e5)


class Writes:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("known", [True, False], ids=["minicpm", "unknown type"])
def test_code_and_pickle_of_a_checkpoint_are_never_executed(known, copied, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # whoever asks whether to run the code is told to
    marker = tmp_path / "was_here"
    path = copied("tiny_minicpm_hub_layout")
    for module in ("configuration_minicpm", "modeling_minicpm", "tokenization_minicpm"):
        (path / f"{module}.py").write_text(f"open({str(marker)!r}, 'w')\nraise SystemExit\n")
    auto = {"AutoTokenizer": ["tokenization_minicpm.T", None]}
    tokenizer = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"auto_map": auto}))
    if known:  # its own code is not needed
        sl.load(path, device_map="cpu")
    else:
        edit(path, model_type="mystery", architectures=["MysteryForCausalLM"])
        refused("tiny_minicpm_hub_layout", path)
    assert not marker.exists()
    edit(path, model_type="minicpm", architectures=["MiniCPMForCausalLM"])
    with (path / "pytorch_model.bin").open("wb") as file:
        torch.save({"model.embed_tokens.weight": Writes(marker)}, file)
    for dtype in (torch.float32, "auto"):
        refused("tiny_minicpm_hub_layout.*unpickling", path, dtype=dtype)
    (path / "pytorch_model.bin").write_bytes(pickle.dumps({"model.embed_tokens.weight": Writes(marker)}))
    refused("tiny_minicpm_hub_layout.*unpickling", path)
    assert not marker.exists()


def test_code_beside_a_known_model_is_not_executed_either(tmp_path):
    """Own classes for a type that transformers knows, a generate function, kernels named in the configuration."""
    marker, path = tmp_path / "was_here", tmp_path / "llama"
    tiny_llama().save_pretrained(path)
    (path / "custom_generate").mkdir()
    for file in ("configuration_own.py", "modeling_own.py", "custom_generate/generate.py"):
        (path / file).write_text(f"open({str(marker)!r}, 'w')\nraise SystemExit\n")
    own = {"AutoConfig": "configuration_own.C", "AutoModelForCausalLM": "modeling_own.M"}
    for auto_map in (own, {kind: f"someone/else--{name}" for kind, name in own.items()}):
        edit(path, auto_map=auto_map)
        model, _ = sl.load(path, device_map="cpu")
        assert type(model).__module__ == "transformers.models.llama.modeling_llama"
        model.generate(torch.tensor([[1, 2]]), max_new_tokens=2, do_sample=False)
    for name in ("attn_implementation", "_attn_implementation", "experts_implementation"):
        for entry in ({name: "someone/kernel"}, {"text_config": {name: "someone/kernel@main:function"}}):
            edit(path, **{name: ..., "text_config": ...} | entry)
            refused(f"llama: .*code from the hub.*{name}: someone/kernel", path)
        edit(path, **{name: ...})
    assert not marker.exists()


def test_the_trap_of_the_tests_above_works(tmp_path):
    marker = tmp_path / "was_here"
    call, arguments = Writes(marker).__reduce__()  # what unpickling would do
    call(*arguments).close()
    assert marker.exists()


@pytest.mark.parametrize("share", [None, 0.0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize(
    ("name", "file"), [("tiny_minicpm_relu", "model.safetensors"), ("tiny_minicpm_hub_layout", "pytorch_model.bin")]
)
def test_half_written_weights(name, file, share, copied):
    path = copied(name)
    data = (path / file).read_bytes()
    (path / file).unlink()
    if share is not None:
        (path / file).write_bytes(data[: int(len(data) * share)])
    refused(f"{name}.*weights", path)


DOWN, BIAS, UP = (f"model.layers.0.mlp.{part}" for part in ("down_proj.weight", "down_proj.bias", "up_proj.weight"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop(DOWN), DOWN),
        (lambda w: w.update({BIAS: torch.ones(64)}), BIAS),  # of another layout, not to be dropped
        (lambda w: w.update({UP: w[UP][:128].clone()}), "weights"),  # of another shape
        *((lambda w, bad=bad: w[UP].__setitem__((3, 5), float(bad)), UP) for bad in ("nan", "inf")),
    ],
)
def test_weights_that_do_not_fit(change, says, copied):
    path = copied("tiny_minicpm_relu")
    weights = load_file(path / "model.safetensors")
    change(weights)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    refused(f"tiny_minicpm_relu.*{re.escape(says)}", path)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"intermediate_size": 128}, "weights"),
        ({"model_type": ..., "architectures": ...}, "layout"),
        ({"model_type": "mystery", "architectures": ["MysteryForCausalLM"], "auto_map": ...}, "mystery"),
        ({"attention_type": "mla"}, "mla"),
        ({"ffn_type": "block"}, "block"),
        ({"scale_emb": ...}, "scale_emb"),
        ({"hidden_size": ...}, "hidden_size"),
        ({"dim_model_base": 0}, "complete"),
        ({"num_hidden_layers": "two"}, "config"),
        ({"hidden_act": "no_such"}, "no_such"),
    ],
)
def test_unknown_layout(changes, word, copied):
    path = copied("tiny_minicpm_relu")
    edit(path, **changes)
    assert word in refused("tiny_minicpm_relu", path)


@pytest.mark.parametrize(
    ("file", "text"),
    [*(("config.json", text) for text in ("", "{", "[1]", "null")), ("tokenizer.model", "no model")],
)
def test_broken_config_or_tokenizer(file, text, copied):
    path = copied("tiny_minicpm_hub_layout")
    (path / file).write_text(text)
    refused(f"tiny_minicpm_hub_layout.*{file.partition('.')[0]}", path)


def test_a_path_is_never_a_name_of_the_ladder(tmp_path, monkeypatch):
    shutil.copytree(GOLDEN / "tiny_minicpm_silu", tmp_path / "0.1m-relu")
    monkeypatch.chdir(tmp_path)
    assert sl.load("./0.1m-relu")[0].config.hidden_act == "silu"
    assert sl.load("0.1m-relu")[0].config.hidden_act == "relu"


def test_unknown_name_lists_the_ladder(tmp_path, monkeypatch):
    for name in ("0.4m-relu", "0.1m-silu"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    monkeypatch.setattr(checkpoints, "LADDER", tmp_path)
    nowhere = ((name, "neither a directory") for name in ("no-such-name", "./no/such/dir", "/no/such", "a/b/c"))
    for name, says in (("0.5m-relu", "in the project's checkout"), *nowhere):
        assert "0.1m-silu, 0.4m-relu" in refused(says, name)


@pytest.mark.parametrize("dtype", [torch.float16, "fp16", "float16", "torch.float16", "half", "FP16"], ids=str)
def test_a_dtype_may_have_any_of_its_names(dtype):
    assert sl.load(GOLDEN / "tiny_minicpm_relu", dtype=dtype, device_map="cpu")[0].dtype == torch.float16


@pytest.mark.parametrize(
    "options",
    [
        *({"dtype": dtype} for dtype in ("int8", torch.int8, "4bit", 16, None, "nn", "float8_e4m3fn")),
        *({"device_map": place} for place in ("gpu", "cuda:77", 77, {"": "gpu"}, 1.5, "", "disk")),
        *({"offload_folder": folder} for folder in (3, __file__)),
    ],
    ids=str,
)
def test_an_argument_at_fault_is_named_and_not_the_checkpoint(options, monkeypatch):
    monkeypatch.setattr("sparsinglib.core.checkpoints.locate", None)  # it is not even looked for
    (name,) = options
    with pytest.raises(ValueError, match=name) as error:
        sl.load(GOLDEN / "tiny_minicpm_relu", **options)
    assert not isinstance(error.value, sl.CheckpointError)


@pytest.mark.parametrize(("given", "put"), [(None, "cuda"), ("cpu", "cpu")])
def test_a_model_is_put_on_cuda_unless_told_otherwise(given, put, monkeypatch):
    def read(*_, device_map, **options):
        raise ValueError(f"to be put on {device_map}.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(GraniteForCausalLM, "from_pretrained", read)
    with pytest.raises(sl.CheckpointError, match=f"to be put on {put}"):
        sl.load(GOLDEN / "tiny_minicpm_relu", device_map=given)


def test_loading_leaves_the_environment_as_it_was(monkeypatch):
    for change in (lambda name: monkeypatch.setenv(name, "0"), monkeypatch.delenv):
        change("DISABLE_SAFETENSORS_CONVERSION")
        before = dict(os.environ)
        sl.load(GOLDEN / "tiny_minicpm_hub_layout", device_map="cpu")
        assert dict(os.environ) == before


def test_names_of_nothing_say_what_to_give(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    for name, says in (("", "name must be a hub id"), ("a/b@main", "load\\('a/b', revision"), (tmp_path, "merge it")):
        refused(says, name)
    for other in (None, 3, ["a"], b"a"):
        refused("name must be", other)


def test_a_revision_is_one_of_a_hub_model(tmp_path, monkeypatch):
    refused("only a model on the hub has a revision", "0.1m-relu", revision="main")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my@model").mkdir()
    refused(r"no config\.json", "~/my@model")


def test_a_file_of_a_checkpoint_is_no_checkpoint(copied, tmp_path):
    refused("give its directory", copied("tiny_minicpm_relu") / "model.safetensors")
    refused(r"has no config\.json, so it is not a checkpoint\.$", tmp_path)
    (tmp_path / "Model.GGUF").touch()
    refused(r"It holds Model\.GGUF: give that file", tmp_path)
    refused("no such GGUF file", tmp_path / "other.GGUF")


def test_gguf_that_is_none(tmp_path):
    pytest.importorskip("gguf")
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(20))
    refused(r"model\.gguf", tmp_path / "model.gguf")
