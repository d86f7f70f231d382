"""The ladder's runs and models: the paper's formulas, muP by a coordinate check, attention in blocks."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from made_up import TINY, growth

from sparsinglib.files import PAPER
from sparsinglib.ladder import recipe
from sparsinglib.ladder.model import block_causal, build, make_optimizer, use_block_attention
from sparsinglib.ladder.recipe import RUNS


@pytest.mark.parametrize("scale", list(recipe.SCALES))
def test_parameters_follow_the_papers_formula(scale):
    run = RUNS[f"{scale}-relu"]
    model = build(run)
    matrices = sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2)
    assert matrices == 11.5 * run.layers * run.width**2 == run.non_embedding_parameters
    assert matrices == pytest.approx(float(scale[:-1]) * 1e6, rel=0.2)
    assert run.width // run.heads == recipe.HEAD_SIZE
    assert 12 <= run.width / run.layers <= 14
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_batches_grow_as_in_table_3():
    paper = pd.read_csv(PAPER / "table3_training.csv")["batch_size_tokens"][:5]
    ours = [RUNS[f"{scale}-relu"].batch_tokens for scale in recipe.SCALES]
    np.testing.assert_allclose(np.array(ours) / ours[0], paper / paper[0], rtol=0.06)


def test_shapes_keep_the_size_of_the_smallest_model():
    shapes = [RUNS[name] for name in recipe.SHAPE_NAMES]
    sizes = np.array([run.layers * run.width**2 for run in shapes])
    assert len({run.width for run in shapes}) == 9
    np.testing.assert_allclose(sizes, RUNS["0.1m-relu"].layers * RUNS["0.1m-relu"].width ** 2, rtol=0.05)
    for run in shapes:
        build(run)(torch.zeros(1, 8, dtype=torch.long))


def test_points_do_not_depend_on_the_target():
    run = RUNS["0.1m-relu"]
    early = [step for step in recipe.kept_steps(run) if step < 0.02 * run.steps]
    longer = replace(run, tokens=2 * run.tokens)
    assert [s for s in recipe.kept_steps(longer) if s in early] == early
    assert run.steps in recipe.kept_steps(run)
    steps = recipe.measured_steps(recipe.kept_steps(run))
    assert np.allclose(np.array(steps[-5:]) / run.steps, [0.88, 0.91, 0.94, 0.97, 1.0], atol=0.01)


def last_layer(model):
    """The input of the last layer, its FFN's neurons and the logits."""
    neurons = []
    model.model.layers[-1].mlp.down_proj.register_forward_pre_hook(lambda _, args: neurons.append(args[0].detach()))

    def look(ids):
        out = model(ids, output_hidden_states=True)
        return [out.hidden_states[-2], neurons[-1], out.logits]

    return look


def test_coordinate_check():
    """A few steps move activations about equally at every width; at one rate for all they move more and more."""
    slopes = growth(TINY, (32, 64, 128, 256), last_layer)
    assert np.all(np.abs(slopes[True]) < 0.3), slopes
    assert np.all(slopes[False][:2] > 0.4), slopes  # the logits keep their divisor either way


def test_rates_and_decay_by_group():
    run = RUNS["0.4m-relu"]
    matrices, embedding, norms = make_optimizer(build(run), run).param_groups
    assert (matrices["lr"], embedding["lr"], norms["lr"]) == (0.01 / 5, 0.01, 0.01)
    assert (matrices["weight_decay"], embedding["weight_decay"], norms["weight_decay"]) == (0.1, 0.1, 0.0)
    assert sum(len(g["params"]) for g in (matrices, embedding, norms)) == len(list(build(run).parameters()))


@pytest.mark.parametrize(("batch", "length"), [(1, 64), (2, 256), (3, 50)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_in_blocks_is_causal_attention(batch, length, dtype):
    query, key, value = torch.randn(3, batch, 2, length, 16, generator=torch.Generator().manual_seed(0), dtype=dtype)
    found, _ = block_causal(torch.nn.Identity(), query, key, value, None, scaling=0.25)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), is_causal=True, scale=0.25
    )
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), wanted.transpose(1, 2), atol=tolerance, rtol=tolerance)


def test_attention_in_blocks_refuses_padding_and_a_cache():
    model = build(TINY)
    ids = torch.arange(8).unsqueeze(0)
    before = model(ids).logits
    use_block_attention(model)
    torch.testing.assert_close(model(ids).logits, before)
    with pytest.raises(ValueError, match="without padding"):
        model(ids, attention_mask=torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]]))
    with pytest.raises(ValueError, match="without cache"):
        model.generate(ids, max_new_tokens=2, use_cache=True)
