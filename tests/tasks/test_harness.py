"""Tasks through lm-eval: scores are those of plain forward passes, each made once, and bad input is named."""

import copy
import json
import logging
import math
import re
import subprocess
import sys
import warnings
from functools import partial

import accelerate
import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import PlainMLP, hooks_on, same_weights

import sparsinglib as sl
from sparsinglib import tasks
from sparsinglib.core.rules import Rule
from sparsinglib.tasks import digests, harness, offline_scoring, statistics

N = 12  # examples in a small evaluation: the model answers some of each task


@pytest.fixture(scope="module")
def loaded():
    """A trained model, some of whose answers are right, and its tokenizer."""
    return sl.load("0.1m-relu", device_map="cpu")


@pytest.fixture(scope="module")
def model(loaded):
    return loaded[0]


@pytest.fixture(scope="module")
def tokenizer(loaded):
    return loaded[1]


@pytest.fixture(scope="module")
def thresholds(model):
    ids = torch.randint(0, 2048, (2, 64), generator=torch.Generator().manual_seed(1))
    return sl.thresholds_for_cett(model, [ids], 0.6)


@pytest.fixture
def evaluate(model, tokenizer, tmp_path):
    return partial(tasks.evaluate, model, tokenizer, cache=tmp_path / "cache")


@pytest.fixture(scope="module")
def scored(model, tokenizer, thresholds, tmp_path_factory):
    cache = tmp_path_factory.mktemp("scores")
    names = ["offline_word_order", "offline_last_word", "offline_span"]
    return tasks.examples(model, tokenizer, names, thresholds, N, cache=cache, name="tiny")


def plain_scores(model, tokenizer, examples):
    """Whether the right choice is the likeliest by a plain forward pass, example by example."""

    def log_probability(context, continuation):
        before, both = (tokenizer(text)["input_ids"] for text in (context, context + continuation))
        with torch.no_grad():
            chances = model(torch.tensor([both])).logits[0, :-1].log_softmax(-1)
        return float(chances.gather(-1, torch.tensor(both[1:])[:, None])[len(before) - 1 :].sum())

    out = []
    for example in examples["offline_word_order"][:N]:
        chances = [log_probability(example["query"], choice) for choice in example["choices"]]
        out.append(float(int(np.argmax(chances)) == example["gold"]))
    return out


def test_choices_are_scored_as_a_plain_forward_pass_scores_them(model, tokenizer, thresholds, examples, scored):
    got = scored[scored.task == "offline_word_order"].groupby("rule", sort=False).score.apply(list)
    assert got[tasks.DENSE] == plain_scores(model, tokenizer, examples)
    masked = PlainMLP(model, lambda i, gate, value, norm: (value.abs() * norm >= thresholds.values[i]) & (value != 0))
    with masked:
        sparse = plain_scores(model, tokenizer, examples)
    assert got[tasks.rule_name(thresholds)] == sparse


def written(model, tokenizer, prompt, tokens):
    """What the model adds to a prompt: the likeliest token each time."""
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    for _ in range(tokens):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    return tokenizer.decode(ids[0], skip_special_tokens=True)[len(prompt) :]


@pytest.mark.parametrize(("most", "tokens"), [(None, 8), (2, 2)])
def test_generated_answers_are_the_models_own(most, tokens, model, tokenizer, examples, tmp_path):
    """Of as many tokens as the task allows, or the caller."""
    got = tasks.examples(model, tokenizer, "offline_span", limit=N, max_new_tokens=most, cache=tmp_path)
    expected = [
        offline_scoring.f1(written(model, tokenizer, e["query"], tokens).partition("\n")[0], e["answer"])
        for e in examples["offline_span"][:N]
    ]
    assert any(expected) and got[got.metric == "f1"].score.tolist() == pytest.approx(expected)


def test_a_target_is_right_if_each_token_is_the_likeliest(model, tokenizer, examples, scored):
    """Blanks at the end of the question count as the target's, as lm-eval has it."""
    expected = []
    for example in examples["offline_last_word"][:N]:
        start = len(tokenizer(example["query"].rstrip())["input_ids"])
        ids = torch.tensor(tokenizer(example["query"] + example["answer"])["input_ids"])
        with torch.no_grad():
            likeliest = model(ids[None]).logits[0, start - 1 : -1].argmax(-1)
        expected.append(float(torch.equal(likeliest, ids[start:])))
    got = scored[(scored.task == "offline_last_word") & (scored.rule == tasks.DENSE)].score
    assert any(expected) and got.tolist() == expected


def test_tidy_columns_and_the_same_examples(scored):
    assert list(scored.columns) == statistics.COLUMNS
    wide = scored.pivot(index=["task", "metric", "example"], columns="rule", values="score")
    assert wide.shape == (4 * N, 2) and not wide.isna().any().any()
    assert set(scored.p.dropna()) == {0.0}  # thresholds for a CETT, not for a p


def test_the_rule_of_a_model_behind_lm_eval_holds_until_it_is_closed(model, tokenizer):
    ids = torch.arange(20)[None]
    before = model(ids).logits
    behind = tasks.SparseLM(model, sl.TopK(0.1), tokenizer=tokenizer)
    assert not torch.equal(model(ids).logits, before)
    behind.close()
    assert torch.equal(model(ids).logits, before) and hooks_on(model) == 0


def test_a_model_in_training_is_refused_and_stays_so(model, evaluate):
    model.train()
    try:
        with pytest.raises(ValueError, match="in training mode"):
            evaluate("offline_last_word", limit=1)
        assert model.training
    finally:
        model.eval()


def test_the_model_is_left_as_it_was(model, thresholds, evaluate):
    before = copy.deepcopy(model.state_dict())
    evaluate("offline_agreement", thresholds, 2)
    assert same_weights(model, before) and hooks_on(model) == 0


def test_a_summary_has_the_promised_columns(scored, thresholds):
    table = statistics.summarise(scored)
    assert {"model", "rule", "p", "task", "metric", "value", "standard_error", "n"} <= set(table.columns)
    assert set(scored.model) == {"tiny"}
    own = scored[scored.task == "offline_word_order"].pivot(index="example", columns="rule", values="score")
    dense, sparse = own[tasks.DENSE], own[tasks.rule_name(thresholds)]
    row = table[(table.rule != tasks.DENSE) & (table.task == "offline_word_order")].iloc[0]
    assert 0 < sparse.mean() < 1 and row.value == pytest.approx(sparse.mean())
    assert row.standard_error == pytest.approx(sparse.std() / math.sqrt(N))
    assert row.p_value == statistics.mcnemar(dense, sparse)
    assert (table[table.rule == tasks.DENSE][["difference", "difference_low", "difference_high"]] == 0).all().all()


class Interrupted(Exception):
    pass


def count_scores(monkeypatch, stop_after=None):
    seen, score = [], harness.Harness.score

    def counted(self, task, rule, limit):
        if stop_after is not None and len(seen) == stop_after:
            raise Interrupted
        seen.append((task[0], None if rule is None else tasks.rule_name(rule)))
        return score(self, task, rule, limit)

    monkeypatch.setattr(harness.Harness, "score", counted)
    return seen


def test_an_interrupted_evaluation_goes_on(thresholds, evaluate, monkeypatch):
    arguments = (["offline_agreement", "offline_true_false"], thresholds, 3)
    first = count_scores(monkeypatch, stop_after=3)
    with pytest.raises(Interrupted):
        evaluate(*arguments)
    assert len(first) == 3
    monkeypatch.undo()
    rest = count_scores(monkeypatch)
    table = evaluate(*arguments)
    assert rest == [("offline_true_false", tasks.rule_name(thresholds))]
    pd.testing.assert_frame_equal(table, evaluate(*arguments))
    assert len(rest) == 1


def test_other_weights_other_thresholds_and_other_limits_are_scored_anew(
    model, tokenizer, evaluate, tmp_path, monkeypatch
):
    seen = count_scores(monkeypatch)
    run = partial(evaluate, "offline_agreement")
    run(None, 2)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.model.layers[0].mlp.down_proj.weight[0, 0] += 1e-3
    tasks.evaluate(changed, tokenizer, "offline_agreement", None, 2, cache=tmp_path / "cache")
    run(None, 3)
    assert len(seen) == 3
    run(sl.TopK(0.5), 2)
    run(sl.TopK(0.25), 2)
    run([sl.TopK(0.25), sl.FAT(0.1)], 2)
    assert [rule for _, rule in seen[3:]] == ["TopK(k=0.5, over='token')", "TopK(k=0.25, over='token')", "FAT(eps=0.1)"]


class Mine(Rule):
    """A rule of the reader's own."""

    uses_gate = False


def test_a_rule_of_ones_own_is_scored_each_time(evaluate, monkeypatch):
    """It keeps its name when the reader edits it, as in a notebook; the dense scores are kept."""
    monkeypatch.setattr(Mine, "active", lambda self, ffn, neurons, gate, valid=None: neurons != 0, raising=False)
    seen = count_scores(monkeypatch)
    for _ in range(2):
        evaluate("offline_agreement", {"mine": Mine()}, 2)
    assert [rule for _, rule in seen].count(None) == 1 and len(seen) == 3


def patched(model):
    """A layer with a forward of the reader's own."""
    layer = model.model.layers[0]
    layer.forward = partial(type(layer).forward, layer)


class OwnModule(torch.nn.SiLU):
    """A module whose code nobody knows."""


def other_class_forward(model):
    model.model.layers[0].mlp.down_proj.__class__ = type("Own", (torch.nn.Linear,), {"forward": lambda self, x: x})


UNKNOWN = {
    "hook": lambda model: model.model.layers[1].register_forward_hook(lambda *_: None),
    "hook before": lambda model: model.lm_head.register_forward_pre_hook(lambda *_: None),
    "forward": patched,
    "class": lambda model: setattr(model.model.layers[0].mlp, "act_fn", OwnModule()),
    "forward of a class": other_class_forward,
    "offloaded": lambda model: model.lm_head.to("meta"),
    "packed": lambda model: torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, inplace=True),
}


@pytest.mark.parametrize("change", UNKNOWN.values(), ids=UNKNOWN)
def test_a_model_with_code_of_ones_own_has_no_digest(change, model, tokenizer):
    changed = copy.deepcopy(model)
    assert digests.model_digest(changed, tokenizer) == digests.model_digest(model, tokenizer)
    change(changed)
    assert digests.model_digest(changed, tokenizer) is None


def test_hooks_on_every_module_leave_no_digest(model, tokenizer):
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert digests.model_digest(model, tokenizer) is None
    finally:
        handle.remove()


SETTINGS = {
    "generation": lambda model, tokenizer: setattr(model.generation_config, "repetition_penalty", 2.0),
    "longest": lambda model, tokenizer: setattr(tokenizer, "model_max_length", 64),
    "chat": lambda model, tokenizer: setattr(tokenizer, "chat_template", "x"),
    "activation": lambda model, tokenizer: setattr(model.model.layers[0].mlp, "act_fn", torch.nn.Tanh()),
    "buffer": lambda model, tokenizer: model.model.rotary_emb.inv_freq.mul_(2),
}


@pytest.mark.parametrize("change", SETTINGS.values(), ids=SETTINGS)
def test_the_digest_follows_what_a_score_depends_on(change, model, tokenizer):
    changed = copy.deepcopy(model), copy.deepcopy(tokenizer)
    change(*changed)
    assert digests.model_digest(*changed) not in (None, digests.model_digest(model, tokenizer))


def test_the_digest_is_the_same_with_weights_moved_by_accelerate(model, tokenizer):
    moved = copy.deepcopy(model)
    accelerate.hooks.add_hook_to_module(moved.lm_head, accelerate.hooks.AlignDevicesHook("cpu"))
    assert digests.model_digest(moved, tokenizer) == digests.model_digest(model, tokenizer)


def test_inside_sparsify_scores_are_those_of_the_rule(model, tokenizer, evaluate, monkeypatch):
    """Neither read from the dense ones that are kept, nor kept as such."""
    seen = count_scores(monkeypatch)
    dense = evaluate("offline_agreement", None, 2)
    with sl.sparsify(model, sl.OutputTopK(0.01)):
        evaluate("offline_agreement", None, 2)
    assert len(seen) == 2
    pd.testing.assert_frame_equal(dense, evaluate("offline_agreement", None, 2))
    assert len(seen) == 2


def own_task(folder, lines):
    folder.mkdir()
    (folder / "own.jsonl").write_text("\n".join(lines))
    (folder / "own.yaml").write_text(
        "task: own\ndataset_path: json\ntest_split: test\noutput_type: loglikelihood\ndoc_to_text: query\n"
        f"doc_to_target: answer\ndataset_kwargs:\n  data_files: {{test: {folder / 'own.jsonl'}}}\n"
        "metric_list:\n  - metric: acc\n"
    )
    return folder


GOOD = '{"query": "a b", "answer": " c"}'


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([GOOD, '{"query": "a b", '], "own.jsonl, line 2: not JSON"),
        ([GOOD, '{"question": "a"}'], "own.jsonl, line 2: not an object with the fields"),
        ([GOOD, "[1]"], "own.jsonl, line 2"),
        ([], "own.jsonl holds no examples"),
    ],
)
def test_a_broken_example_file_is_named(lines, said, evaluate, tmp_path):
    folder = own_task(tmp_path / "mine", lines)
    with pytest.raises(tasks.TaskError, match=re.escape(said)):
        evaluate("own", folder=folder)


MORE = [GOOD, GOOD.replace("a b", "d e"), GOOD.replace("a b", "f g")]


def test_shots_from_the_scored_examples_are_told_each_time(evaluate, tmp_path):
    """A question can be an example in its own prompt, unless lm-eval is told that both are of one split."""
    folder = own_task(tmp_path / "mine", MORE)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"own: its 2 shots are taken from the examples it is scored on \(split"):
            evaluate("own", folder=folder, shots={"own": 2})
    file = folder / "own.yaml"
    file.write_text(file.read_text() + "num_fewshot: 2\n")
    with pytest.warns(UserWarning, match="own: its 2 shots"):
        evaluate("own", folder=folder)
    file.write_text(file.read_text() + "fewshot_split: test\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate("own", folder=folder)
        evaluate("own", folder=folder, shots={"own": 0})


def test_more_shots_than_examples_are_refused(evaluate, tmp_path, monkeypatch):
    folder = own_task(tmp_path / "mine", MORE)
    seen = count_scores(monkeypatch)
    with pytest.raises(tasks.TaskError, match="own: 4 shots, but there are 3 examples"):
        evaluate(["offline_agreement", "own"], folder=folder, shots={"own": 4})
    with (folder / "own.yaml").open("a") as file:
        file.write("fewshot_split: test\n")  # the question itself is left out
    with pytest.raises(tasks.TaskError, match="own: 3 shots, but there are 2 examples"):
        evaluate(["offline_agreement", "own"], folder=folder, shots={"own": 3})
    assert not seen


def test_what_lm_eval_warns_of_on_loading_is_told(evaluate, tmp_path, monkeypatch):
    load = harness.TaskManager.load
    warn = logging.getLogger("lm_eval").warning
    monkeypatch.setattr(harness.TaskManager, "load", lambda self, names: warn("mind this") or load(self, names))
    with pytest.warns(UserWarning, match="own: mind this"):
        evaluate("own", folder=own_task(tmp_path / "mine", [GOOD]))


def test_a_target_longer_than_the_context_is_named_before_a_pass(model, evaluate, tmp_path, monkeypatch):
    folder = own_task(tmp_path / "mine", [GOOD, json.dumps({"query": "Say:", "answer": " word" * 400})])
    monkeypatch.setattr(type(model), "forward", lambda *_, **__: pytest.fail("a pass was made"))
    with pytest.raises(tasks.TaskError, match=r"target of \d+ tokens .* longer than the model's context of 256"):
        evaluate("own", folder=folder)


@pytest.mark.parametrize("on", [True, False])
def test_bars_of_datasets_are_off_meanwhile_and_then_as_before(on):
    switch = {True: datasets.enable_progress_bars, False: datasets.disable_progress_bars}
    switch[on]()
    try:
        with harness.quiet():
            assert datasets.are_progress_bars_disabled()
        assert datasets.are_progress_bars_disabled() is not on
    finally:
        switch[True]()


def test_a_task_without_data_says_what_to_do(evaluate, tmp_path):
    folder = own_task(tmp_path / "mine", [GOOD])
    (folder / "own.jsonl").unlink()
    with pytest.raises(tasks.TaskError, match=r"own: its examples cannot be read here .*HF_HOME.*offline_span"):
        evaluate("own", folder=folder)


def test_thresholds_of_another_model_are_refused(model, tokenizer, thresholds, tmp_path):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight.mul_(1.1)
    with pytest.raises(ValueError, match="Find thresholds for this model"):
        tasks.evaluate(other, tokenizer, "offline_span", thresholds, 1, cache=tmp_path)


def test_a_task_named_twice_is_scored_once(evaluate):
    one = evaluate("offline_span", sl.FAT(0.3), 4)
    for names in (["offline_span"] * 2, "offline_span, offline_span", (name for name in ["offline_span"] * 3)):
        pd.testing.assert_frame_equal(one, evaluate(names, sl.FAT(0.3), 4))


def test_prompts_that_the_context_cannot_hold_are_told_each_time(evaluate, tmp_path):
    """Scored by their ends, as lm-eval does; from the cache too, and for answers that are written."""
    long = json.dumps({"query": "Is it so? " + "word " * 900, "answer": " yes"})
    folder = own_task(tmp_path / "mine", [GOOD, long])
    body = (folder / "own.yaml").read_text().replace("task: own", "task: written")
    body = body.replace("loglikelihood", "generate_until").replace("metric: acc", "metric: exact_match")
    (folder / "written.yaml").write_text(body + "generation_kwargs: {max_gen_toks: 8, until: []}\n")
    for task in ("own", "own", "written"):
        with pytest.warns(UserWarning, match=f"{task}: 1 prompts are longer than the model's context of 256 tokens"):
            evaluate(task, folder=str(folder), cache=str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate("own", folder=folder, limit=1)


def test_examples_that_changed_are_scored_anew(evaluate, tmp_path, monkeypatch):
    """Wherever they lie: here outside the folder of the task."""
    folder = own_task(tmp_path / "mine", [GOOD])
    data = (folder / "own.jsonl").rename(tmp_path / "elsewhere.jsonl")
    text = (folder / "own.yaml").read_text()
    (folder / "own.yaml").write_text(text.replace(str(folder / "own.jsonl"), str(data)))
    seen = count_scores(monkeypatch)
    for lines in ([GOOD], [GOOD], [GOOD, GOOD]):
        data.write_text("\n".join(lines))
        table = evaluate("own", folder=folder)
        assert table.n.tolist() == [len(lines)] and table.metric.tolist() == ["acc"]
    assert len(seen) == 2


def test_the_path_of_thresholds_is_a_rule(evaluate, thresholds, tmp_path):
    path = tmp_path / "thresholds.json"
    thresholds.save(path)
    wanted = evaluate("offline_span", thresholds, 2)
    for given in (path, str(path), [path]):
        pd.testing.assert_frame_equal(wanted, evaluate("offline_span", given, 2))
    assert set(evaluate("offline_span", {"mine": path}, 2).rule) == {"dense", "mine"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tasks": "ofline_span"}, r"unknown task 'ofline_span'.*offline_span"),
        ({"max_new_tokens": 256, "limit": 1}, r"may generate 256 tokens.*context holds 256.*max_new_tokens"),
        ({"thresholds": [sl.TopK(0.5), sl.TopK(0.5)]}, r"two rules are called TopK.*names of your own"),
        ({"thresholds": {"dense": sl.TopK(0.5)}}, "'dense' names the rows of the model without a rule"),
        ({"tokenizer": None}, "no tokenizer"),
        ({"limit": 0}, "limit"),
        ({"limit": 1.5}, "limit"),
        ({"limit": "3"}, "limit"),
        ({"limit": True}, "limit"),
        ({"batch_size": "auto"}, "batch_size"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"tasks": 3}, "names of tasks"),
        ({"tasks": []}, "tasks is empty"),
        ({"tasks": ""}, "tasks is empty"),
        ({"shots": 5}, "shots must give a number by task, as {'offline_span': 5}; got 5"),
        ({"tasks": [None]}, "names of tasks"),
        ({"shots": {"offline_spam": 2}}, "offline_spam"),
        ({"shots": {"offline_span": -1}}, "shots of offline_span"),
        ({"folder": 3}, "folder must be a path"),
        ({"cache": 3}, "cache must be a path"),
        ({"folder": "/no/such"}, "there is no folder /no/such; give the one"),
        ({"cache": __file__}, r"cache: .*test_harness\.py is no folder.*give another"),
        ({"run_code": "no"}, "run_code"),
        ({"thresholds": 0.1}, "the rule must be Thresholds"),
        ({"thresholds": {"mine": 0.1}}, "the rule must be Thresholds"),
        ({"thresholds": "none.json"}, "none.json"),
        ({"tokenizer": "gpt2"}, "tokenizer must be one"),
        ({"model": "0.4m-relu"}, "model must be a loaded model"),
    ],
    ids=str,
)
def test_each_argument_at_fault_is_named(options, says, model, tokenizer, tmp_path):
    known = {"model": model, "tokenizer": tokenizer, "tasks": "offline_span", "cache": tmp_path}
    with pytest.raises(ValueError, match=says):
        tasks.evaluate(**known | options)


def test_lm_evals_command_line_knows_the_model(model, tokenizer, thresholds, tmp_path):
    """Its own options, its own tables: the scores are those of ``evaluate``."""
    thresholds.save(tmp_path / "thresholds.json")
    args = f"pretrained=0.1m-relu,thresholds={tmp_path / 'thresholds.json'},dtype=float32"
    command = ["run", "--model", "sparsinglib", "--model_args", args, "--tasks", "offline_last_word", "--limit", "30"]
    command += ["--output_path", str(tmp_path / "out")]  # on the device that lm-eval takes where none is named
    subprocess.run([sys.executable, "-m", "sparsinglib.tasks", *command], check=True, capture_output=True, text=True)
    (path,) = (tmp_path / "out").rglob("results_*.json")
    theirs = json.loads(path.read_text())["results"]["offline_last_word"]["acc,none"]
    ours = tasks.evaluate(model, tokenizer, "offline_last_word", thresholds, 30, cache=tmp_path).set_index("rule").value
    assert theirs == pytest.approx(ours[tasks.rule_name(thresholds)]) != pytest.approx(ours["dense"])
