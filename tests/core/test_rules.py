"""Rules against cases worked out by hand, in several number types and shapes."""

from fractions import Fraction

import pytest
import torch
from helpers import PlainMLP, greedy, padded, tiny_llama
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.activations import ACT2FN

import sparsinglib as sl
from sparsinglib.core.rules import above_threshold


def ffn(columns, act="relu", kind="gated"):
    """An FFN with given output columns (hidden × d_ff)."""
    weight = torch.tensor(columns, dtype=torch.float32)
    down = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    down.weight = nn.Parameter(weight)
    return sl.FFN(0, "layers.0.mlp", kind, down, ACT2FN[act] if act else None)


UNIT5 = ffn([[1.0, 1, 1, 1, 1]])
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
RULES = [
    sl.StraightforwardReLU(),
    sl.FAT(0.1),
    sl.TopK(0.5),
    sl.TopK(0.5, over="layer"),
    sl.OutputTopK(0.5),
    sl.TopP(0.5),
    sl.GateThresholds((0.1,)),
]


def active(rule, scores, where=UNIT5, dtype=torch.float32):
    gate = torch.tensor(scores, dtype=dtype)
    return rule.active(where, gate, gate).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_straightforward_relu_by_hand(dtype):
    scores = [[0.0, 2.0, 0.0, 1e-4, -0.0]]
    assert active(sl.StraightforwardReLU(), scores, dtype=dtype) == [[False, True, False, True, False]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_fat_by_hand(dtype):
    scores = [[0.25, -0.5, 0.75, 0.0, -0.125]]
    assert active(sl.FAT(0.25), scores, dtype=dtype) == [[True, True, True, False, False]]  # strict: |s| = eps stays
    assert active(sl.FAT(0.0), scores, dtype=dtype) == [[True, True, True, False, True]]  # exact zeros are weak
    assert active(sl.FAT(2), scores, dtype=dtype) == [[False] * 5]


def test_fat_compares_in_full_precision_whatever_the_scores_type():
    # 0.7 rounds down to 0.69921875 in bfloat16: the score is below eps and weak, as it is in float32.
    assert active(sl.FAT(0.7), [[0.69921875] * 5], dtype=torch.bfloat16) == [[False] * 5]
    assert active(sl.FAT(0.7), [[0.69921875] * 5], dtype=torch.float32) == [[False] * 5]


@pytest.mark.parametrize("dtype", DTYPES)
def test_topk_by_hand(dtype):
    scores = [[3.0, -4.0, 0.5, 0.0, 1.0], [0.0, 0.0, 0.25, 0.0, 0.0]]
    token = active(sl.TopK(0.4), scores, dtype=dtype)
    assert token == [[True, True, False, False, False], [False, False, True, False, False]]  # zeros are never active
    layer = active(sl.TopK(0.4, over="layer"), scores, dtype=dtype)  # four of ten: 4, 3, 1, 0.5
    assert layer == [[True, True, True, False, True], [False] * 5]


def test_topk_keeps_ties_whatever_their_order():
    assert active(sl.TopK(0.4), [[1.0, 2.0, 1.0, -1.0, 0.0]]) == [[True, True, True, True, False]]
    assert active(sl.TopK(0.2), [[2.0, 2.0, -2.0, 2.0, 2.0]]) == [[True] * 5]


def test_topk_rounds_to_a_whole_number_of_neurons():
    ten = ffn([[1.0] * 10])
    gate = torch.arange(1.0, 11.0)[None]
    # 10 × (1 - 0.9) is 0.9999999999999998 in floats: cutting it off would prune no neuron instead of one.
    for k, kept in [(0.9, 9), (0.1, 1), (0.3, 3), (0.7, 7), (1.0, 10), (1, 10), (1e-9, 1)]:
        assert int(sl.TopK(k).active(ten, gate, gate).sum()) == kept
        assert int(sl.TopK(k, over="layer").active(ten, gate, gate).sum()) == kept


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 5), (2, 3, 5), (2, 1, 3, 5)])
def test_any_leading_shape(rule, shape):
    gate = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before = gate.clone()
    mask = rule.active(UNIT5, gate, gate)
    assert mask.shape == shape and mask.dtype == torch.bool
    flat = rule.active(UNIT5, gate.reshape(-1, 5), gate.reshape(-1, 5))
    assert torch.equal(mask.reshape(-1, 5), flat)
    assert torch.equal(gate, before), "a rule must not change its input"


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_nothing_is_active_on_all_zero_scores(rule):
    assert not rule.active(UNIT5, torch.zeros(3, 5), torch.zeros(3, 5)).any()


@pytest.mark.parametrize("rule", RULES[1:], ids=repr)
def test_one_neuron(rule):
    one = ffn([[2.0]])
    assert rule.active(one, torch.tensor([[3.0]]), torch.tensor([[3.0]])).tolist() == [[True]]
    assert rule.active(one, torch.tensor([[0.0]]), torch.tensor([[0.0]])).tolist() == [[False]]


def test_topk_over_a_layer_leaves_padding_out():
    gate = torch.tensor([[5.0, 4, 3, 2, 1], [50.0, 40, 30, 20, 10]])
    valid = torch.tensor([True, False])
    mask = sl.TopK(0.4, over="layer").active(UNIT5, gate, gate, valid)
    assert mask[0].tolist() == [True, True, False, False, False]


@given(st.lists(st.floats(-4, 4, width=16), min_size=10, max_size=10), st.floats(0.05, 1))
def test_topk_never_keeps_fewer_than_asked_unless_zero(scores, k):
    gate = torch.tensor([scores])
    ten = ffn([[1.0] * 10])
    mask = sl.TopK(k).active(ten, gate, gate)[0]
    sizes = gate.abs()[0]
    wanted = min(max(1, round(10 * k)), int((sizes > 0).sum()))
    assert int(mask.sum()) >= wanted
    if mask.any() and not mask.all():
        assert sizes[mask].min() > sizes[~mask].max() or sizes[~mask].max() == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_threshold_is_on_the_length_of_the_output_vector(dtype):
    # Columns of length 5, 1, 0 and 2: the values 1, 4, 9, -2 have output vectors of length 5, 4, 0 and 4.
    where = ffn([[3.0, 1, 0, 0], [4.0, 0, 0, 2]])
    neurons = torch.tensor([[1.0, 4.0, 9.0, -2.0]], dtype=dtype)
    assert where.magnitudes(neurons).tolist() == [[5, 4, 0, 4]]
    for threshold, expected in [
        (0.0, [True, True, False, True]),  # a zero output column adds nothing, so it is never active
        (4.0, [True, True, False, True]),  # D is strict: length equal to the threshold stays
        (4.5, [True, False, False, False]),
        (6.0, [False] * 4),
    ]:
        assert above_threshold(where, neurons, threshold).tolist() == [expected]
    assert not above_threshold(where, torch.zeros(1, 4, dtype=dtype), 0.0).any()


def test_rules_are_values():
    assert sl.TopK(0.5) == sl.TopK(0.5) != sl.TopK(0.5, over="layer")
    assert sl.CETT(0.1) != sl.FAT(0.1) == sl.FAT(0.1) != sl.FAT(0.2)
    rules = {sl.TopK(0.5), sl.TopK(0.5), sl.FAT(0.5), sl.CETT(0.5), sl.StraightforwardReLU(), sl.StraightforwardReLU()}
    assert len(rules) == 4
    names = {name: getattr(sl, name) for name in sl.__all__}
    for rule in rules:
        assert eval(repr(rule), names) == rule
    with pytest.raises(AttributeError):
        sl.FAT(0.1).eps = 0.2


@pytest.mark.parametrize(
    ("make", "word"),
    [
        *((lambda k=k: sl.TopK(k), f"TopK.*{k}") for k in (0, 1.5, 5, -0.5)),
        (lambda: sl.TopK(0.5, over="batch"), "TopK.*batch"),
        (lambda: sl.FAT(-0.1), r"FAT.*-0\.1"),
        (lambda: sl.FAT(float("inf")), "FAT.*inf"),
        (lambda: sl.OutputTopK(0), "OutputTopK"),
        (lambda: sl.TopP(1.01), r"TopP.*1\.01"),
        (lambda: sl.GateThresholds(()), "GateThresholds"),
        (lambda: sl.GateThresholds("0.1"), "numbers, one for each layer"),
        (lambda: sl.GateThresholds(0.1), "numbers, one for each layer"),
        (lambda: sl.GateThresholds((0.1, -0.1)), r"GateThresholds.*-0\.1"),
        (lambda: sl.CETT(1.0), r"CETT.*1\.0"),
        (lambda: sl.CETT(-1e-9), "CETT"),
    ],
)
def test_bad_arguments_are_named(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def test_check_names_what_does_not_fit():
    silu, bare = ffn([[1.0]], act="silu"), ffn([[1.0]], act=None)
    with pytest.raises(ValueError, match=r"exact zeros.*SiLU"):
        sl.StraightforwardReLU().check([silu])
    for rule in (sl.FAT(0.1), sl.TopK(0.1), sl.StraightforwardReLU(), sl.TopP(0.5), sl.GateThresholds((0.1,))):
        with pytest.raises(sl.UnsupportedModel, match=r"layers\.0\.mlp"):
            rule.check([bare])
    sl.FAT(0.1).check([ffn([[1.0]], act=None, kind="plain")])
    sl.OutputTopK(0.1).check([bare])
    with pytest.raises(ValueError, match="2 thresholds, but the model has 1 layers"):
        sl.GateThresholds((0.1, 0.2)).check([silu])
    with pytest.raises(ValueError, match="thresholds_for_cett"), sl.sparsify(tiny_llama(), sl.CETT(0.1)):
        pass


@pytest.mark.parametrize(
    ("gives", "says"),
    [(torch.abs, "float32"), (lambda n: (n != 0)[..., :1], r"shape of neurons.*, 1\)"), (lambda n: [], "got list")],
)
def test_a_rule_of_ones_own_gives_booleans_for_each_neuron(gives, says):
    class Own(sl.FAT):
        def active(self, ffn, neurons, gate, valid=None):
            return gives(neurons)

    model, text = tiny_llama(), torch.arange(8)[None]
    with pytest.raises(ValueError, match=f"Own: active must give a tensor of booleans.*{says}"):
        sl.measure(model, [text], Own(0.1))
    with pytest.raises(ValueError, match="Own: active"), sl.sparsify(model, Own(0.1)):
        model(text)


def test_thresholds_of_ones_own_mark_as_they_say(responsive):
    class Halved(sl.Thresholds):
        def active(self, ffn, neurons, gate, valid=None):
            return super().active(ffn, neurons / 2, gate)

    model, text = responsive
    plain, twice = (sl.Thresholds((length,) * 2, 0.1, 1.0, None, 0.5) for length in (0.1, 0.2))
    own = sl.measure(model, [text], Halved(plain.values, 0.1, 1.0, None, 0.5))
    assert own.activation_ratio == sl.measure(model, [text], twice).activation_ratio
    assert own.activation_ratio < sl.measure(model, [text], plain).activation_ratio


@pytest.mark.parametrize("act", ["relu", "relu2", "relu6"])
def test_straightforward_relu_takes_any_activation_with_exact_zeros(act):
    sl.StraightforwardReLU().check([ffn([[1.0]], act=act)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_three_other_rules_by_hand(dtype):
    # Total 8: 4 is half of it, 4 + 2 three quarters; at p = 1 only the zero is left out.
    scores = [[1.0, -4.0, 0.0, 2.0, 1.0]]
    assert active(sl.TopP(0.5), scores, dtype=dtype) == [[False, True, False, False, False]]
    assert active(sl.TopP(0.51), scores, dtype=dtype) == [[False, True, False, True, False]]
    assert active(sl.TopP(0.75), scores, dtype=dtype) == [[False, True, False, True, False]]
    assert active(sl.TopP(0.76), scores, dtype=dtype) == [[True, True, False, True, True]]  # a tie is kept whole
    assert active(sl.TopP(1.0), scores, dtype=dtype) == [[True, True, False, True, True]]
    assert active(sl.GateThresholds((2.0,)), scores, dtype=dtype) == [[False, True, False, True, False]]
    # Output vectors of length 5, 4, 0 and 4 (see the test of thresholds): the largest value has no output at all.
    where = ffn([[3.0, 1, 0, 0], [4.0, 0, 0, 2]])
    neurons = torch.tensor([[1.0, 4.0, 9.0, -2.0]], dtype=dtype)
    two = [True, True, False, True]
    for k, expected in [(0.25, [True, False, False, False]), (0.5, two), (1, two)]:
        assert sl.OutputTopK(k).active(where, neurons, torch.zeros_like(neurons)).tolist() == [expected]


def test_gate_thresholds_are_each_layer_s_own():
    gate = torch.tensor([[0.5, 1.0, 2.0, 3.0, 0.0]])
    rule = sl.GateThresholds((1.0, 2.5))
    second = sl.FFN(1, "layers.1.mlp", "gated", UNIT5.down, UNIT5.activation, site=1)
    assert rule.active(UNIT5, gate, gate).tolist() == [[False, True, True, True, False]]
    assert rule.active(second, gate, gate).tolist() == [[False, False, False, True, False]]


def test_top_p_of_one_keeps_every_nonzero_score_however_small():
    gate = torch.tensor([[1e30, 1.0, 1e-30, 0.0, -1e-38]])
    assert sl.TopP(1.0).active(UNIT5, gate, gate).tolist() == [[True, True, True, False, True]]


NORMS = [1.0, 2.0, 0.0, 3.0, 0.5, 1.0]
SIX = ffn([NORMS])
SCORES = st.lists(st.lists(st.integers(-12, 12), min_size=6, max_size=6), min_size=1, max_size=4)
PARTS = st.integers(1, 64).map(lambda n: n / 64)


def plain_top_p(row, p):
    """The fewest scores that reach the share, by adding up exactly from the largest; then all tied with the last."""
    sizes = sorted((Fraction(abs(v)) for v in row), reverse=True)
    kept, reached = [], Fraction(0)
    for size in sizes:
        if reached >= Fraction(p) * sum(sizes):
            break
        kept.append(size)
        reached += size
    return [abs(v) > 0 and abs(v) >= min(kept) for v in row] if kept else [False] * len(row)


def plain_output_top_k(row, k):
    lengths = [abs(v) * norm for v, norm in zip(row, NORMS, strict=True)]
    last = sorted(lengths, reverse=True)[max(1, round(k * len(row))) - 1]
    return [length > 0 and length >= last for length in lengths]


@given(SCORES, PARTS)
def test_top_p_and_top_k_of_outputs_against_plain_python(rows, share):
    values = torch.tensor(rows, dtype=torch.float32)
    assert sl.TopP(share).active(SIX, values, values).tolist() == [plain_top_p(row, share) for row in rows]
    expected = [plain_output_top_k(row, share) for row in rows]
    assert sl.OutputTopK(share).active(SIX, values, torch.zeros_like(values)).tolist() == expected


@given(SCORES, PARTS, PARTS)
def test_a_larger_parameter_keeps_all_that_a_smaller_one_keeps(rows, a, b):
    gate = torch.tensor(rows, dtype=torch.float32)
    low, high = sorted((a, b))
    for make in (sl.TopP, sl.OutputTopK, lambda share: sl.GateThresholds((12 * (1 - share),))):
        kept, more_kept = (make(share).active(SIX, gate, gate) for share in (low, high))
        assert not (kept & ~more_kept).any()


@given(SCORES, PARTS, st.permutations(range(6)))
def test_neither_the_order_of_neurons_nor_neighbouring_tokens_matter(rows, share, order):
    gate = torch.tensor(rows, dtype=torch.float32)
    shuffled = ffn([[NORMS[i] for i in order]])
    for rule in (sl.TopP(share), sl.OutputTopK(share), sl.GateThresholds((12 * share,))):
        whole = rule.active(SIX, gate, gate)
        assert torch.equal(whole, torch.cat([rule.active(SIX, row[None], row[None]) for row in gate]))
        assert torch.equal(rule.active(shuffled, gate[:, order], gate[:, order]), whole[:, order])


@pytest.fixture(scope="module")
def gated():
    model = tiny_llama(seed=5, act="silu", layers=2, d_ff=24)
    return model, greedy(model, 20, rows=3)


@pytest.mark.parametrize("share", [0.1, 0.35, 0.8, 1.0])
def test_gate_thresholds_leave_the_share_asked_for_in_every_layer(gated, share):
    model, ids = gated
    rule = sl.gate_thresholds(model, [ids], share)
    with PlainMLP(model) as plain, torch.no_grad():
        model(ids)
    for layer, threshold in enumerate(rule.values):
        scores = torch.cat(plain.gates[layer]).abs()
        kept = (scores >= threshold * (1 - 1e-5)).float().mean()
        assert float(kept) == pytest.approx(share, abs=1.01 / scores.numel())


def test_gate_thresholds_leave_padding_out_and_do_not_mind_how_a_text_is_batched(gated):
    model, ids = gated
    rows = [ids[0, :20], ids[1, :13], ids[2, :7]]
    alone = sl.gate_thresholds(model, [row[None] for row in rows], 0.3)
    together = sl.gate_thresholds(model, padded(rows, filler=7), 0.3)
    assert together.values == pytest.approx(alone.values, rel=1e-5)
    assert sl.gate_thresholds(model, [ids], 0.3).values != pytest.approx(alone.values, rel=1e-3)


@pytest.mark.parametrize("share", [0, 1.5, -0.1, float("nan")])
def test_gate_thresholds_refuse_an_impossible_share(gated, share):
    with pytest.raises(ValueError, match="share in"):
        sl.gate_thresholds(gated[0], [gated[1]], share)
