"""Mixtures of experts against hand-written ones: parameters, function, perplexity; and a stopped run that goes on."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import greedy, hooks_on, tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import growth, training_texts
from safetensors.torch import load_file

import sparsinglib as sl
from sparsinglib.ladder import recipe, train
from sparsinglib.ladder.model import build, make_optimizer
from sparsinglib.ladder.recipe import RUNS, MixtureRun, Run
from sparsinglib.studies.mixtures import claims as moe_claims
from sparsinglib.studies.mixtures import figures as moe_figures
from sparsinglib.studies.mixtures import numbers as moe

TINY = MixtureRun("tiny-moe", 16, 2, "relu", 1, 24 * recipe.CONTEXT, 1, warmup_tokens=2560, experts=5, active_experts=2)
IDS = [torch.randint(0, recipe.VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(i)) for i in range(2)]


@pytest.fixture
def model():
    """A tiny mixture whose weights are large enough for the choice of experts to matter."""
    made = build(TINY).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "block_sparse_moe" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator))
    return made


def mixture_by_hand(block, x: torch.Tensor, count: int) -> torch.Tensor:
    """Token by token, expert by expert: the ``count`` experts of largest router score, weighted by their softmax."""
    out = torch.zeros_like(x)
    gates, ups = block.experts.gate_up_proj.chunk(2, dim=1)
    for place in np.ndindex(x.shape[:2]):
        scores = [float(x[place] @ w) for w in block.router.weight]
        best = sorted(range(len(scores)), key=lambda e: -scores[e])[:count]
        total = sum(math.exp(scores[e]) for e in best)
        for e in best:
            neurons = (gates[e] @ x[place]).clamp(min=0) * (ups[e] @ x[place])
            out[place] += math.exp(scores[e]) / total * (block.experts.down_proj[e] @ neurons)
    return out


def perplexity_by_hand(model, count: int) -> float:
    """Perplexity of ``IDS`` with every FFN replaced by ``mixture_by_hand``."""
    for layer in model.model.layers:
        block = layer.block_sparse_moe
        block.forward = lambda x, block=block: mixture_by_hand(block, x, count)
    losses = []
    with torch.no_grad():
        for ids in IDS:
            log_p = model(input_ids=ids, output_router_logits=False).logits.double().log_softmax(-1)
            losses += [-float(log_p[r, t, ids[r, t + 1]]) for r in range(len(ids)) for t in range(ids.shape[1] - 1)]
    return math.exp(sum(losses) / len(losses))


# --- the models ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", moe.MIXTURES)
def test_ffn_parameters_equal_those_of_the_vanilla_model(name):
    run, vanilla = RUNS[name], RUNS[moe.VANILLA]
    sizes = {n: p.numel() for n, p in build(run).named_parameters()}
    plain = {n: p.numel() for n, p in build(vanilla).named_parameters()}
    experts = sum(size for n, size in sizes.items() if "experts" in n)
    assert experts == sum(size for n, size in plain.items() if ".mlp." in n) == 3 * 3 * 96 * 240
    routers = sum(size for n, size in sizes.items() if "router" in n)
    assert routers == 3 * run.experts * 96
    assert sum(sizes.values()) - routers == sum(plain.values())
    assert (run.tokens, run.batch, run.seed) == (vanilla.tokens, vanilla.batch, vanilla.seed)
    assert 0.24 < run.active_experts / run.experts < 0.27


def test_one_expert_is_the_ordinary_model():
    """Where there is nothing to choose, mixture, deviations, rates and decay are those of the dense run."""
    dense_run = Run("dense", 32, 2, "relu", 1, 2560, 2)
    single = build(replace(TINY, width=32, heads=2, experts=1, active_experts=1))
    dense = build(dense_run).eval()
    weights = dense.state_dict()
    for i in range(2):
        gate, up, down = (weights.pop(f"model.layers.{i}.mlp.{n}_proj.weight") for n in ("gate", "up", "down"))
        prefix = f"model.layers.{i}.block_sparse_moe"
        weights[f"{prefix}.experts.gate_up_proj"] = torch.cat([gate, up])[None]
        weights[f"{prefix}.experts.down_proj"] = down[None]
        weights[f"{prefix}.router.weight"] = torch.ones(1, 32)
    deviation = single.model.layers[0].block_sparse_moe.experts.down_proj.std()
    assert float(deviation.detach()) == pytest.approx(0.1 / math.sqrt(2), rel=0.05)
    down_group = make_optimizer(single, replace(TINY, width=32, experts=1)).param_groups[3]
    assert (down_group["lr"], down_group["weight_decay"]) == (0.005, 0.1)
    single.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(single.eval()(IDS[0]).logits, dense(IDS[0]).logits)


def test_rates_of_experts():
    """A down projection of w inputs learns w / 40 times slower than the base model's; rate × decay is one for all."""
    run = RUNS["moe-60"]
    groups = make_optimizer(build(run), run).param_groups
    assert [g["lr"] for g in groups] == pytest.approx([0.01 / 6, 0.01, 0.01, 0.01 * 40 / 4])
    assert groups[3]["lr"] * groups[3]["weight_decay"] == pytest.approx(0.01 / 6 * 0.1)
    assert [p.shape for p in groups[3]["params"]] == [(60, 96, 4)] * 3
    assert any(p.shape == (60, 96) for p in groups[0]["params"])  # routers learn as the other readers of d inputs


def last_mixture(model):
    """The logits, the last layer's router scores and its mixture's output."""
    block, seen = model.model.layers[-1].block_sparse_moe, {}
    block.router.register_forward_hook(lambda _, __, out: seen.update(router=out[0].detach()))
    block.register_forward_hook(lambda _, __, out: seen.update(output=out.detach()))
    return lambda ids: [model(ids).logits, seen["router"], seen["output"]]


def test_coordinate_check_of_mixtures():
    """A few steps move router scores and outputs about equally at every width; at one rate for all, more and more."""
    slopes = growth(replace(TINY, experts=4), (32, 64, 128), last_mixture)
    assert np.all(np.abs(slopes[True]) < 0.4), slopes
    assert slopes[False][1] > 0.3 and slopes[False][2] > 0.8, slopes


@settings(max_examples=20, deadline=None)
@given(experts=st.integers(1, 6), seed=st.integers(0, 2**16), data=st.data())
def test_one_product_is_transformers_own_mixture(experts, seed, data):
    """Values and gradients of the way in which the runs are trained against transformers' loop over experts."""
    count = data.draw(st.integers(1, experts))
    made = build(replace(TINY, layers=1, experts=experts, active_experts=count, seed=seed))
    grads, outputs = [], []
    for way in ("one_product", "eager"):
        made.set_experts_implementation(way)
        made.zero_grad()
        out = made(input_ids=IDS[0], labels=IDS[0])
        out.loss.backward()
        outputs.append(out.logits)
        grads.append([p.grad.clone() for p in made.parameters()])
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*grads, atol=1e-6, rtol=1e-4)


# --- training ------------------------------------------------------------------------------------


def test_a_stopped_run_continues_to_the_same_weights_and_what_is_shipped_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "LOG_TOKENS", 4 * recipe.CONTEXT)
    texts = training_texts()
    whole, pieces, elsewhere, target = (tmp_path / name for name in ("whole", "pieces", "elsewhere", "shipped"))
    train.train(TINY, texts, whole, compiled=False)
    assert train.train(TINY, texts, pieces, minutes=0, compiled=False) == 4
    train.publish(TINY, pieces, target)
    train.restore(elsewhere, target)
    for work in (pieces, elsewhere):
        train.train(TINY, texts, work, compiled=False)
    files = [load_file(train.last_checkpoint(w) / "model.safetensors") for w in (whole, pieces, elsewhere)]
    assert any("router" in name for name in files[0])
    assert all(torch.equal(files[0][n], other[n]) for other in files[1:] for n in files[0])
    train.publish(TINY, pieces, target)
    facts = json.loads((target / "run.json").read_text())
    assert (facts["experts"], facts["active_experts"], facts["router_loss"], facts["finished"]) == (5, 2, 0.01, True)
    trained = build(TINY).eval()
    trained.load_state_dict({n: w.to(torch.bfloat16).float() for n, w in files[0].items()}, strict=False)
    shipped, _ = sl.load(target)
    with torch.no_grad():
        torch.testing.assert_close(shipped(IDS[0]).logits, trained(IDS[0]).logits)


def test_the_training_loss_holds_the_routers_loss():
    made = build(TINY)
    out = made(input_ids=IDS[0], labels=IDS[0])
    plain = made(input_ids=IDS[0], labels=IDS[0], output_router_logits=False)
    share = float(out.aux_loss.detach()) / TINY.active_experts
    assert share >= 0.99  # 1 where tokens are spread evenly
    assert float((out.loss - plain.loss).detach()) == pytest.approx(0.01 * share, rel=1e-3)


# --- perplexity by active experts ----------------------------------------------------------------


def test_perplexity_is_that_of_a_hand_written_mixture(model):
    curve = moe.mixture_curve("tiny", model, IDS)
    assert curve.varied == [1, 2, 3, 4, 5] and curve.activation_ratio == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    by_hand = [perplexity_by_hand(model, k) for k in range(1, 6)]
    assert curve.perplexity == pytest.approx(by_hand, rel=1e-4)
    assert np.ptp(by_hand) > 1e-3 * by_hand[0]  # the number of experts matters
    assert curve.table["trained_here"].tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("count", [0, -1, 6, 2.0, True, "3"])
def test_bad_counts(model, count):
    with pytest.raises(ValueError, match="whole number from 1 to 5"):
        moe.mixture_curve("tiny", model, IDS, [1, count])


def test_the_model_is_left_as_it_was(model):
    with pytest.raises(RuntimeError, match="inside"), moe.active_experts(model, 4):
        assert [r.top_k for r in moe.routers(model)] == [4, 4]
        raise RuntimeError("inside")
    assert [r.top_k for r in moe.routers(model)] == [2, 2]


def test_a_model_without_experts():
    dense = build(Run("dense", 16, 1, "relu", 1, 2560, 1)).eval()
    with pytest.raises(ValueError, match="no mixture of experts"):
        moe.mixture_curve("dense", dense, IDS)


def test_cett_curve_is_what_measure_says():
    dense = tiny_llama(act="relu", d_ff=64)
    text = [greedy(dense, 60, rows=8)]
    curve = moe.cett_curve("dense", dense, text, (0.2, 0.4, 0.7))
    for i, cett in enumerate((0.2, 0.4, 0.7)):
        result = sl.measure(dense, text, sl.CETT(cett))
        assert curve.activation_ratio[i] == pytest.approx(result.activation_ratio, rel=0.02)
        assert curve.perplexity[i] == pytest.approx(result.sparse_ppl, rel=0.02)
    assert curve.perplexity[2] > 1.2 * curve.perplexity[0]
    assert hooks_on(dense) == 0


def test_cett_within_the_chosen_experts_is_what_measure_says(monkeypatch):
    made = build(replace(TINY, layers=1)).eval()
    text = [greedy(made, 60, rows=8)]
    monkeypatch.setattr(moe, "open_model", lambda name: made)
    monkeypatch.setattr(moe, "CETTS_WITHIN", (0.1, 0.5))
    plain = curve(moe.VANILLA, {0.3: 2.0, 0.1: 2.4})
    found = {moe.VANILLA: plain, "moe-16": curve("moe-16", {0.2: 2.2}, 20)}
    chosen = moe.chosen_neurons(found, text)
    assert chosen[moe.VANILLA] is plain
    mixture = chosen["moe-16"]
    for cett, ratio, perplexity in zip((0.1, 0.5), mixture.activation_ratio, mixture.perplexity, strict=True):
        result = sl.measure(made, text, sl.CETT(cett))
        assert ratio == pytest.approx(result.activation_ratio, rel=0.05)
        assert perplexity == pytest.approx(result.sparse_ppl, rel=0.02)
    row = moe.at_target({"moe-16": result}).iloc[0]
    # Two of five experts have a token, so that of their neurons 5 / 2 times the share is active.
    assert row["of the chosen experts'"] == pytest.approx(2.5 * row["active of all neurons"])
    assert moe.table(found, chosen).series.tolist() == [moe.VANILLA] * 2 + ["moe-16"] * 3


# --- the gap and the figure ----------------------------------------------------------------------


def curve(name: str, points: dict[float, float], trained_at: float | None = None, noise: float = 0.0) -> moe.Curve:
    """A curve with given mean loss at each activation ratio over 20 blocks of 10 targets."""
    spread = torch.linspace(-1, 1, 20)
    blocks = [torch.stack([10 * (loss + noise * spread), torch.full((20,), 10.0)], 1) for loss in points.values()]
    ratios = np.array(list(points))
    return moe.Curve(name, [float(round(100 * r)) for r in ratios], ratios, torch.stack(blocks).double(), trained_at)


def family(rise: float, noise: float = 0.0) -> dict[str, moe.Curve]:
    vanilla = curve(moe.VANILLA, {0.3: 2.0, 0.1: 2.4, 0.05: 3.0})
    return {moe.VANILLA: vanilla} | {
        name: curve(name, {0.02: 9.0, 0.2: 2.2 + rise, 0.3: 2.0 + rise, 0.6: 1.0}, 20, noise) for name in moe.MIXTURES
    }


def test_gap_at_equal_activation_ratio_by_hand():
    gap = moe.gaps(family(0.1))
    one = gap[gap["series"] == "moe-30"]
    assert one["activation_ratio"].tolist() == [0.2, 0.3]  # 0.02 and 0.6 lie outside the vanilla curve
    assert one["gap_pct"].tolist() == pytest.approx([100 * math.expm1(0.1)] * 2)
    assert one["trained_here"].tolist() == [True, False]
    noisy = moe.gaps(family(0.1, noise=0.5)).iloc[0]
    assert noisy.high_pct == pytest.approx(100 * math.expm1(0.1 + 1.645 * text_error(0.5)), rel=1e-6)


def text_error(noise):
    """The standard error of a mean over the blocks of ``curve``."""
    return noise * np.linspace(-1, 1, 20).std(ddof=1) / math.sqrt(20)


WITHIN = {"series": ["moe-16"], "cett": moe.CETT_ALIKE, "activation_ratio": 0.1}
WITHIN = pd.DataFrame(WITHIN | {"gap_pct": -18.1, "low_pct": -19.0, "high_pct": -17.0})


@pytest.fixture
def judged(monkeypatch):
    """The ladder's row of C66, given curves, what is known of seeds, and the tokens of each run."""

    def of(found, seeds, tokens=1):
        monkeypatch.setattr(moe_claims, "seed_error", lambda: seeds)
        size = pd.DataFrame({"run": [moe.VANILLA, *moe.MIXTURES], "tokens": tokens})
        published, row = moe_claims.verdicts(moe.gaps(found), size, WITHIN)
        assert published.verdict == "no data" and (row.id, row.evidence) == ("C66", "ladder")
        return row

    return of


@pytest.mark.parametrize(
    ("rise", "noise", "seeds", "tokens", "verdict"),
    [
        (0.1, 0.0, (0.02, 4), 1, "holds"),
        (0.1, 0.0, (0.1, 4), 1, "inconclusive"),  # so much could be seeds
        (-0.1, 0.0, (0.02, 4), 1, "fails"),
        (-0.1, 0.0, (0.1, 4), 1, "inconclusive"),
        (0.1, 2.0, (0.02, 4), 1, "inconclusive"),
        (0.1, 0.0, (0.02, 4), [1, 1, 1, 2], "no data"),
    ],
)
def test_verdict(judged, rise, noise, seeds, tokens, verdict):
    found = family(rise, noise)
    row = judged(found, seeds, tokens)
    assert row.verdict == verdict
    assert verdict == "no data" or ("neurons by CETT" in row.why and "moe-16: -0.2" in row.why)
    # Away from the rings a mixture runs as it was never trained to: that decides nothing.
    away = {name: curve(name, {0.2: 2.2 + rise, 0.3: 9.0}, 20, noise) for name in moe.MIXTURES}
    assert judged(found | away, seeds, tokens).verdict == verdict


def test_seeds_and_text_add_up_in_the_interval(judged):
    row = judged(family(0.1, 0.2), (0.01, 5))
    half = 2.015048 * math.hypot(text_error(0.2), math.sqrt(2) * 0.01)  # t of five degrees of freedom, 90 %
    assert f"moe-16: 0.100 ({0.1 - half:.3f} to {0.1 + half:.3f}) nats" in row.our_value


def test_the_seeds_error_is_the_spread_of_runs_that_differ_in_their_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(moe_claims, "LADDER", tmp_path)
    losses = {"a": 3.0, "a-seed2": 3.02, "b": 2.0, "b-seed2": 9.0, "c": 5.0, "s": 3.0, "s-seed2": 3.5}
    for name, loss in losses.items():
        (tmp_path / name).mkdir()
        facts = {"finished": name != "b-seed2", "activation": "silu" if name[0] == "s" else "relu"}
        (tmp_path / name / "run.json").write_text(json.dumps(facts))
        pd.DataFrame({"loss_smoothed": [7.0, loss]}).to_csv(tmp_path / name / "training.csv", index=False)
    monkeypatch.setattr(moe_claims, "ladder_names", lambda: list(losses))
    assert moe_claims.seed_error() == (pytest.approx(0.02 / math.sqrt(2)), 1)


def test_figure_12():
    found = family(0.1)
    chosen = found | {n: curve(n, {0.2: 2.1, 0.1: 2.2}) for n in moe.MIXTURES}
    for other in chosen.values():
        other.varied[1] = moe.CETT_ALIKE
    picture = moe_figures.figure_12(found, moe.gaps(found), (0.01, 5), chosen, moe.gaps(chosen))
    assert "(seeds: ± 2.9 %)" in picture.message  # sqrt(2) · 0.01 · 2.015, t of five
    assert "with CETT 0.1 inside their experts too, 18.1 to 18.1 % less at" in picture.message
    left, right = picture.axes
    assert [t.get_text() for t in left.get_legend().get_texts()] == [
        "vanilla, cut by CETT", "16 experts", "30 experts", "60 experts", "and CETT within the experts",
    ]  # fmt: skip
    assert left.lines[0].get_xdata() == pytest.approx([5, 10, 30])
    assert right.get_ylabel().endswith("(%)")
    assert sum(line.get_linestyle() == "--" for line in right.lines) == 3
    points = moe.table(found)
    assert points.cett.notna().tolist() == points.active_experts.isna().tolist() == [True] * 3 + [False] * 12


def test_missing_and_unfinished_runs_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(moe, "LADDER", tmp_path)
    for name, finished in (("moe-16", False), ("moe-30", True)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"finished": finished}))
    with pytest.raises(ValueError, match=r"the end: (moe-vanilla moe-16 moe-60).* sparsinglib.ladder.train \1$"):
        moe.trained()
