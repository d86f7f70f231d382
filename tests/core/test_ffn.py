"""FFNs are found in every decoder family, and measured as exactly as by hand; what has none is refused in words."""

from functools import partial

import entries
import pytest
import torch
import transformers as tf
from exactness import exactness, within
from families import COMMON, FAMILIES, NO_KV, TEXT, build
from helpers import logits

import sparsinglib as sl


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family):
    model, kind = build(family)
    ffns = sl.find_ffns(model)
    assert [(f.layer, f.kind) for f in ffns] == [(0, kind), (1, kind)]
    assert not within(exactness(model, TEXT))

    seen, outputs = {}, {}
    look = lambda ffn, neurons, gate: seen.update({ffn.layer: (neurons, gate)})  # noqa: E731
    with sl.hook_ffns(ffns, look, gate=True, on_output=lambda ffn, output: outputs.update({ffn.layer: output.clone()})):
        logits(model, TEXT)
    for ffn in ffns:
        neurons, gate = seen[ffn.layer]
        assert gate.shape == neurons.shape and model.get_submodule(ffn.name) is not None
        whole = ffn.output(neurons.reshape(-1, ffn.d_ff))
        assert torch.allclose(whole, outputs[ffn.layer].reshape(whole.shape), atol=1e-5), "without bias"
        columns = ffn.down(torch.eye(ffn.d_ff)) - ffn.down(torch.zeros(1, ffn.d_ff))
        assert torch.allclose(ffn.column_norms, columns.norm(dim=1), atol=1e-5)


@pytest.mark.parametrize("family", ["Llama", "Phi3", "Gemma", "OPT", "Nemotron", "Glm4"])
def test_gate_rules_run(family):
    model, _ = build(family)
    scores = []
    with sl.hook_ffns(sl.find_ffns(model), lambda ffn, neurons, gate: scores.append(gate.abs().flatten()), gate=True):
        logits(model, TEXT)
    # ReLU leaves fewer than half of the scores nonzero: there, the median of those that are.
    nonzero = torch.cat(scores)
    nonzero = nonzero[nonzero > 0]
    half = 0.5 * len(nonzero) / sum(map(len, scores))
    assert sl.measure(model, [TEXT], sl.FAT(float(nonzero.median()))).activation_ratio == pytest.approx(half, abs=0.01)
    result = sl.measure(model, [TEXT], sl.TopK(0.5))
    assert 0 < result.activation_ratio <= 1
    if family not in ("OPT", "Nemotron"):
        assert result.activation_ratio == pytest.approx(0.5, abs=1e-6)


def test_straightforward_relu_knows_who_has_exact_zeros():
    for family in ("OPT", "Nemotron"):
        model, _ = build(family)
        result = sl.measure(model, [TEXT], sl.StraightforwardReLU())
        assert result.ppl_ratio == 1 and 0 < result.activation_ratio < 1
    with pytest.raises(ValueError, match="exact zeros"):
        sl.measure(build("Gemma")[0], [TEXT], sl.StraightforwardReLU())


def test_layers_without_an_ffn_are_left_out_and_said():
    model, _ = build("Llama")
    model.model.layers[1].mlp = torch.nn.Identity()
    with pytest.warns(UserWarning, match=r"Layers 1 of LlamaForCausalLM have no FFN.*other 1"):
        assert [ffn.layer for ffn in sl.find_ffns(model)] == [0]
    model.model.layers[0].mlp = torch.nn.Identity()
    with pytest.raises(sl.UnsupportedModel, match=r"no FFN in any layer \(LlamaDecoderLayer\)"):
        sl.find_ffns(model)


def refused(says, model):
    for call in (lambda: sl.measure(model, [TEXT], sl.OutputTopK(0.5)), lambda: sl.find_thresholds(model, [TEXT])):
        with pytest.raises(sl.UnsupportedModel, match=says):
            call()


def test_encoder_decoder_is_refused_and_its_decoder_alone_is_not():
    arguments = {"vocab_size": 40, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 24}
    arguments |= {"decoder_ffn_dim": 24, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    arguments |= {"max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = tf.BartConfig(**arguments, decoder_start_token_id=2)
    whole = tf.BartForConditionalGeneration(config).eval()
    refused("BartForConditionalGeneration is an encoder-decoder.*decoder alone", whole)
    result = sl.measure(tf.BartForCausalLM(config).eval(), [TEXT], sl.OutputTopK(0.5))
    assert result.activation_ratio == pytest.approx(0.5)


def test_a_model_that_sees_later_tokens_is_refused():
    torch.manual_seed(0)
    refused("BertLMHeadModel is not causal.*is_decoder=True", tf.BertLMHeadModel(tf.BertConfig(**NO_KV)).eval())
    model = tf.BertLMHeadModel(tf.BertConfig(**NO_KV, is_decoder=True)).eval()
    assert sl.measure(model, [TEXT], sl.OutputTopK(0.5)).activation_ratio == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("mapping", "entry", "reason"),
    [
        ("causal", "blt", "BltConfig names no number of decoder layers.*several networks"),
        ("causal", "dbrx", r"blocks\.0\.ffn\.experts \(DbrxExperts\): a mixture.*cut from one matrix"),
        ("causal", "jetmoe", r"JetMoe\w*\): a mixture of experts. Its neurons cannot be seen"),
        ("causal", "hrm_text", "no list of 16 decoder layers .*H_module.layers with 2.*several times"),
        ("causal", "longcat_flash", r"LongcatFlashExperts\): a mixture of experts.*return their input"),
        ("causal", "musicgen", "reads 4 ids at each position"),
        ("causal", "rwkv", r"feed_forward\.value'\]; none is fed by one or two others of its width alone"),
        ("causal", "xlm", r"XLM\w+ is not causal.*Load it as a decoder \(causal=True\)"),
        ("causal", "xmod", r"cannot run on token ids alone: Input language unknown.*set_default_language"),
        ("image-text", "blip-2", "cannot run on token ids alone.*'pixel_values'"),
        ("image-text", "muse_spark", "Each expert's output is normalised"),
        ("image-text", "paligemma", r"PaliGemma\w+ is not causal on this text.*asked to predict\.$"),
    ],
)
def test_refused_with_the_true_reason(mapping, entry, reason):
    refused(reason, entries.build(mapping, entry))


@pytest.mark.parametrize(("entry", "layers"), [("git", "git.encoder.layer"), ("evolla", "model.layers")])
def test_another_network_as_deep_as_the_decoder_is_passed_over(entry, layers):
    assert [f.name.startswith(layers) for f in sl.find_ffns(entries.build("image-text", entry))] == [True] * 2


class Packed(torch.nn.Module):
    """A projection quantised to 8 bits with its weights in one row of bytes, as libraries for few bits keep them."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = float(linear.weight.detach().abs().max()) / 127
        packed = (linear.weight / self.scale).round().to(torch.int8).reshape(-1, 1)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)
        self.bias = linear.bias

    def plain(self):
        return self.weight.view(self.out_features, self.in_features).float() * self.scale

    def forward(self, x):
        return torch.nn.functional.linear(x, self.plain(), self.bias)


@pytest.mark.parametrize("family", ["Llama", "LlamaBias", "OPT"])
def test_quantised_projections_are_measured_as_what_they_stand_for(family):
    packed, plain = build(family)[0], build(family)[0]
    for name, module in list(packed.named_modules()):
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
            replacement = Packed(module)
            packed.set_submodule(name, replacement)
            with torch.no_grad():
                plain.get_submodule(name).weight.copy_(replacement.plain())
    for rule in (sl.OutputTopK(0.5), sl.CETT(0.1)):
        one, two = (sl.measure(model, [TEXT], rule) for model in (plain, packed))
        assert (two.dense_ppl, two.activation_ratio) == (one.dense_ppl, one.activation_ratio)
        assert two.by_layer.cett.tolist() == pytest.approx(one.by_layer.cett.tolist(), abs=1e-6)
        assert two.sparse_ppl == pytest.approx(one.sparse_ppl, rel=1e-6)


@pytest.mark.parametrize("bits", [8, 4])
def test_bitsandbytes(bits, tmp_path):
    pytest.importorskip("bitsandbytes")
    config = tf.LlamaConfig(**COMMON | {"hidden_size": 64, "intermediate_size": 128})
    torch.manual_seed(0)
    plain = tf.LlamaForCausalLM(config).eval()
    plain.save_pretrained(tmp_path)
    quantisation = tf.BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    model = tf.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=quantisation, device_map="cpu")
    one, two = (sl.measure(m, [TEXT], sl.CETT(0.1)) for m in (plain, model))
    assert two.by_layer.cett.tolist() == pytest.approx([0.1, 0.1], abs=0.02)
    assert two.activation_ratio == pytest.approx(one.activation_ratio, abs=0.03)
    with sl.sparsify(model, sl.OutputTopK(0.5)), sl.sparsify(plain, sl.OutputTopK(0.5)):
        sparse = logits(model, TEXT).float() - logits(plain, TEXT)
    dense = logits(model, TEXT) - logits(plain, TEXT)
    assert sparse.abs().max() < 3 * dense.abs().max(), "no more than quantisation alone makes, about"


@pytest.mark.parametrize("targets", [["q_proj"], ["gate_proj"], ["down_proj"], "all-linear"], ids=str)
@pytest.mark.parametrize("dora", [False, True])
def test_adapters(targets, dora):
    peft = pytest.importorskip("peft")
    model, _ = build("Llama")
    settings = peft.LoraConfig(r=4, target_modules=targets, use_dora=dora, task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, settings).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    got = sl.measure(adapted, [TEXT], sl.CETT(0.1))
    wanted = sl.measure(adapted.merge_and_unload(), [TEXT], sl.CETT(0.1))
    assert got.dense_ppl == pytest.approx(wanted.dense_ppl, rel=1e-5)
    assert got.activation_ratio == pytest.approx(wanted.activation_ratio, abs=0.01)


def unknown_ffn(model):
    model.model.layers[1].mlp = torch.nn.Bilinear(16, 16, 16)
    model.model.layers[1].mlp.inner = torch.nn.Linear(16, 16)


def shared_ffn(model):
    model.model.layers[1].mlp = model.model.layers[0].mlp


def ffn_called_twice(model):
    mlp = model.model.layers[1].mlp
    plain = mlp.forward
    mlp.forward = lambda x: torch.cat([plain(part) for part in x.split(1)])


def odd_width(model):
    model.model.layers[0].mlp.up_proj = torch.nn.Linear(16, 20)


def fewer_layers_than_said(model):
    model.config.num_hidden_layers = 5


def without_dict(model):
    model.config.return_dict = False


def headless(model):
    return model.model


def wrapped(model):
    class Wrapper(torch.nn.Module):
        config = model.config

        def forward(self, *args, **options):
            return model(*args, **options)

    return Wrapper().eval()


def classifier(model):
    return tf.LlamaForSequenceClassification(model.config).eval()


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (unknown_ffn, r"model\.layers\.1 .*mlp\.inner"),
        (shared_ffn, r"layers\.0\.mlp and model\.layers\.1\.mlp share one FFN"),
        (ffn_called_twice, r"model\.layers\.1\.mlp: called 2 times"),
        (odd_width, r"model\.layers\.0\.mlp.*24 neurons.*20"),
        (fewer_layers_than_said, "5 decoder layers"),
        (headless, "LlamaModel gives no logits .* load it with its head"),
        (without_dict, "gives no logits .*return_dict on"),
        (wrapped, "Wrapper has no get_input_embeddings: give the transformers model inside"),
        (classifier, "LlamaForSequenceClassification gives no score for each token"),
    ],
)
def test_a_model_changed_so_that_it_cannot_be_measured_is_refused_in_words(made, says):
    model, _ = build("Llama")
    refused(says, made(model) or model)


@pytest.mark.filterwarnings("ignore")  # of torch's, that another package will have them
def test_torchs_own_int8_layers_are_measured():
    model = build("Llama")[0]
    packed = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    plain = build("Llama")[0]
    for name, module in packed.named_modules():
        if type(module).__name__ == "Linear" and callable(module.weight):
            plain.get_submodule(name).weight.data = module.weight().dequantize()
    for mine, theirs in zip(sl.find_ffns(plain), sl.find_ffns(packed), strict=True):
        assert torch.allclose(theirs.column_norms, mine.down.weight.norm(dim=0), rtol=1e-5)
    one, two = (sl.measure(m, [TEXT], sl.CETT(0.1), kl=False) for m in (plain, packed))
    assert two.by_layer.cett.tolist() == pytest.approx([0.1] * 2, abs=0.01)
    assert two.activation_ratio == pytest.approx(one.activation_ratio, abs=0.01)  # int8 rounds what goes in, too
    assert two.ppl_ratio == pytest.approx(one.ppl_ratio, rel=0.02)


def test_projection_that_is_never_called_is_named():
    model, _ = build("Llama")
    mlp = model.model.layers[1].mlp
    mlp.forward = lambda x: torch.nn.functional.linear(
        mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x), mlp.down_proj.weight
    )
    refused(r"model\.layers\.1\.mlp.*never called", model)
    said = pytest.warns(UserWarning, match=r"^model\.layers\.1\.mlp: .*never called, so that it ran dense")
    with said, sl.sparsify(model, sl.OutputTopK(0.1)):
        model(TEXT)


class Adapter(torch.nn.Module):
    """A low-rank adapter around a projection, which it does not say the sizes of."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear
        self.added = torch.nn.Parameter(torch.randn(linear.out_features, linear.in_features))

    def forward(self, x):
        return self.linear(x) + x @ self.added.T


def test_what_a_projection_gives_beside_its_weight_counts():
    model, _ = build("Llama")
    adapters = [Adapter(layer.mlp.down_proj) for layer in model.model.layers]
    for layer, adapter in zip(model.model.layers, adapters, strict=True):
        layer.mlp.down_proj = adapter
    with pytest.raises(sl.UnsupportedModel, match=r"down_proj \(Adapter\).* merge it"):
        sl.find_ffns(model)
    for layer, adapter in zip(model.model.layers, adapters, strict=True):
        whole = adapter.linear.weight + adapter.added
        layer.mlp.down_proj = adapter.linear
        adapter.linear.forward = partial(torch.nn.functional.linear, weight=whole, bias=adapter.linear.bias)
    for ffn, adapter in zip(sl.find_ffns(model), adapters, strict=True):
        wanted = (adapter.linear.weight + adapter.added).norm(dim=0)
        assert torch.allclose(ffn.column_norms, wanted, rtol=1e-5)
