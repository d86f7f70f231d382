"""Rules against cases worked out by hand, in several number types and shapes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.activations import ACT2FN

import sparsinglib as sl
from sparsinglib.rules import above_threshold


def ffn(columns, act="relu", kind="gated"):
    """An FFN with given output columns (hidden × d_ff)."""
    weight = torch.tensor(columns, dtype=torch.float32)
    down = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    down.weight = nn.Parameter(weight)
    return sl.FFN(0, "layers.0.mlp", kind, down, ACT2FN[act] if act else None)


UNIT5 = ffn([[1.0, 1, 1, 1, 1]])
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
RULES = [sl.StraightforwardReLU(), sl.FAT(0.1), sl.TopK(0.5), sl.TopK(0.5, over="layer")]


def active(rule, scores, where=UNIT5, dtype=torch.float32):
    gate = torch.tensor(scores, dtype=dtype)
    return rule.active(where, gate, gate).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_straightforward_relu_by_hand(dtype):
    assert active(sl.StraightforwardReLU(), [[0.0, 2.0, 0.0, 1e-4, -0.0]], dtype=dtype) == [
        [False, True, False, True, False]
    ]


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
    assert sl.FAT(0.1) == sl.FAT(0.1) != sl.FAT(0.2)
    assert sl.StraightforwardReLU() == sl.StraightforwardReLU()
    assert sl.FAT(0.1) != sl.CETT(0.1)
    rules = {sl.TopK(0.5), sl.TopK(0.5), sl.FAT(0.5), sl.CETT(0.5), sl.StraightforwardReLU(), sl.StraightforwardReLU()}
    assert len(rules) == 4
    for rule in rules:
        assert eval(repr(rule), vars(sl)) == rule
    with pytest.raises(AttributeError):
        sl.FAT(0.1).eps = 0.2


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: sl.TopK(0), "TopK"),
        (lambda: sl.TopK(1.5), "1.5"),
        (lambda: sl.TopK(5), "5"),
        (lambda: sl.TopK(-0.5), "-0.5"),
        (lambda: sl.TopK(float("nan")), "nan"),
        (lambda: sl.TopK("0.5"), "'0.5'"),
        (lambda: sl.TopK(True), "True"),
        (lambda: sl.TopK(0.5, over="batch"), "batch"),
        (lambda: sl.FAT(-0.1), "-0.1"),
        (lambda: sl.FAT(float("inf")), "inf"),
        (lambda: sl.FAT(float("nan")), "nan"),
        (lambda: sl.FAT(None), "None"),
        (lambda: sl.CETT(1.0), "1.0"),
        (lambda: sl.CETT(-1e-9), "CETT"),
        (lambda: sl.CETT(float("nan")), "nan"),
    ],
)
def test_bad_arguments_are_named(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def test_check_names_what_does_not_fit():
    silu, bare = ffn([[1.0]], act="silu"), ffn([[1.0]], act=None)
    with pytest.raises(ValueError, match=r"exact zeros.*SiLU"):
        sl.StraightforwardReLU().check([silu])
    for rule in (sl.FAT(0.1), sl.TopK(0.1), sl.StraightforwardReLU()):
        with pytest.raises(sl.UnsupportedModel, match=r"layers\.0\.mlp"):
            rule.check([bare])
    sl.FAT(0.1).check([ffn([[1.0]], act=None, kind="plain")])
    with pytest.raises(ValueError, match="thresholds_for_cett"):
        sl.CETT(0.1).check([silu])
    with pytest.raises(ValueError, match="no thresholds yet"):
        sl.CETT(0.1).active(silu, torch.ones(1, 1), torch.ones(1, 1))


@pytest.mark.parametrize("act", ["relu", "relu2", "relu6"])
def test_straightforward_relu_takes_any_activation_with_exact_zeros(act):
    sl.StraightforwardReLU().check([ffn([[1.0]], act=act)])
