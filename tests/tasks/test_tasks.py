"""Downstream tasks: examples checked by hand and by arithmetic, scores by a plain forward pass, statistics by hand."""

import copy
import json
import math
import re
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import PlainMLP, golden, golden_model, hooks_on, same_weights, tiny_granite
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

import sparsinglib as sl
from sparsinglib import paper, tasks
from sparsinglib.files import LADDER
from sparsinglib.studies.downstream import claims, figures, scores, tables
from sparsinglib.tasks import harness, offline, offline_scoring, statistics
from sparsinglib.texts import corpora

N = 6  # examples in a small evaluation


@pytest.fixture(scope="module")
def tokenizer():
    return PreTrainedTokenizerFast.from_pretrained(LADDER / "tokenizer")


@pytest.fixture(scope="module")
def model():
    return tiny_granite(2048, max_position_embeddings=256, initializer_range=0.3, bos_token_id=0, eos_token_id=0)


@pytest.fixture(scope="module")
def thresholds(model):
    ids = torch.randint(0, 2048, (2, 64), generator=torch.Generator().manual_seed(1))
    return sl.thresholds_for_cett(model, [ids], 0.6)


@pytest.fixture(scope="module")
def examples():
    return {task: offline.make(task, 40) for task in offline.MAKERS}


@pytest.fixture(scope="module")
def scored(model, tokenizer, thresholds, tmp_path_factory):
    cache = tmp_path_factory.mktemp("scores")
    names = ["offline_word_order", "offline_last_word", "offline_span"]
    return tasks.examples(model, tokenizer, names, thresholds, N, cache=cache, name="tiny")


# The table of benchmarks.


def benchmarks():
    return pd.DataFrame(offline.yaml.safe_load(offline.BENCHMARKS.read_text(encoding="utf-8"))["paper"])


def test_benchmarks_are_the_papers_fifteen():
    ours, theirs = benchmarks().set_index("benchmark"), paper.read("benchmarks").set_index("benchmark")
    assert list(ours.index) == list(theirs.index) and len(ours) == 15
    assert (ours.group == theirs.group).all()
    assert (ours.shots == theirs.n_shot).all()
    by_choice = {"piqa", "siqa", "hellaswag", "winogrande", "copa", "boolq", "agieval"}
    assert set(ours.index[ours.scoring == "choice"]) == by_choice


@pytest.mark.slow
def test_every_benchmark_exists_in_lm_eval():
    manager = harness.find(["piqa"])
    assert set(benchmarks().task) <= set(manager.all_tasks)


def test_offline_tasks_have_a_kind_and_a_template():
    table = offline.table()
    assert set(table.task) == set(offline.MAKERS)
    assert set(table["like"]) <= set(benchmarks().benchmark)
    assert table.groupby("group").task.nunique().to_dict() == {
        "commonsense_reasoning": 3, "reading_comprehension": 3, "complex": 2,
    }  # fmt: skip


# The examples.


@pytest.mark.parametrize("task", list(offline.MAKERS))
def test_examples_are_distinct_and_the_same_again(task, examples):
    mine = examples[task]
    assert len(mine) == 40
    assert len({json.dumps(example) for example in mine}) == 40
    assert offline.make(task, 10) == mine[:10]
    for example in mine:
        assert all(re.search(r"\w", choice) for choice in example.get("choices", []))
        if "choices" in example:
            assert len(set(example["choices"])) == len(example["choices"]) > example["gold"] >= 0


@pytest.mark.parametrize("task", ["offline_continuation", "offline_word_order", "offline_agreement"])
def test_the_right_choice_is_what_the_held_out_text_says(task, examples):
    def plain(text):
        return " ".join(text.split())

    held_out = [plain(t) for name in ("wikipedia", "code") for t in corpora.documents(name, "validation")]
    trained = [plain(t) for t in corpora.documents("wikipedia", "train")]
    for example in examples[task][:12]:
        passages = [plain(example["query"] + choice) for choice in example["choices"]]
        assert any(passages[example["gold"]] in text for text in held_out)
        wrong = [p for i, p in enumerate(passages) if i != example["gold"]]
        assert not any(p in text for p in wrong for text in held_out)
        assert not any(passages[example["gold"]] in text for text in trained)


def test_comparisons_are_right_and_balanced(examples):
    for example in examples["offline_true_false"]:
        a, b = map(int, re.match(r"Is (-?\d+) greater than (-?\d+)\?", example["query"]).groups())
        assert example["choices"][example["gold"]] == (" yes" if a > b else " no")
        assert not re.search(r"yes|no$", example["query"])
    assert sum(example["gold"] for example in examples["offline_true_false"]) == 20


def test_answers_of_arithmetic_are_right(examples):
    factors = {"metres": {"kilometres": 1000}, "centimetres": {"metres": 100}, "minutes": {"hours": 60}}
    factors |= {"hours": {"days": 24}, "grams": {"kilograms": 1000}, "millilitres": {"litres": 1000}}
    factors |= {"days": {"weeks": 7}, "seconds": {"minutes": 60}}
    for example in examples["offline_arithmetic"]:
        query, answer = example["query"], int(example["answer"])
        if found := re.match(r"(?:What is|Work out) ([-+*() \d]+)[?.]", query):
            assert eval(found[1]) == answer  # digits and operators only
        elif found := re.match(r"How many (\w+) are there in (\d+) (\w+)", query):
            assert int(found[2]) * factors[found[1]][found[3]] == answer
        else:
            a, b, c = map(int, re.match(r"Solve (\d+)\*\w \+ (\d+) = (-?\d+) for", query).groups())
            assert a * answer + b == c


def test_spans_are_in_their_passage(examples):
    for example in examples["offline_span"]:
        passage = example["query"].removesuffix("Answer:")
        assert example["answer"].strip() in passage
        if found := re.match(r"Which is the largest of (.*)\?", passage):
            assert int(example["answer"]) == max(map(int, found[1].split(",")))


def test_stored_answers_reach_the_ceiling_and_others_do_not(examples):
    for example in examples["offline_code_line"][:8]:
        assert offline_scoring.code_line(example, [example["answer"]]) == {"pass": 1.0}
        assert offline_scoring.code_line(example, [example["answer"] + "\nbroken ("]) == {"pass": 1.0}
        for wrong in (" nothing", "", " (", example["answer"] + "x"):
            assert offline_scoring.code_line(example, [wrong]) == {"pass": 0.0}
    for example in examples["offline_span"]:
        assert offline_scoring.span(example, [example["answer"] + "\nmore"]) == {"f1": 1.0, "acc": 1.0}
        assert offline_scoring.span(example, [example["answer"] + "."])["acc"] == 1
        assert offline_scoring.span(example, [example["answer"] + " in all."])["acc"] == 0
    for example in examples["offline_arithmetic"]:
        assert offline_scoring.arithmetic(example, [f" steps. Answer: {example['answer']}\n"]) == {"acc": 1.0}
        assert offline_scoring.arithmetic(example, [f" steps. Answer: {example['answer']}0"]) == {"acc": 0.0}


def test_chance_by_hand():
    four = [{"query": "", "choices": ["a", "b", "c", "d"], "gold": 0}] * 3
    assert offline.chance("t", four) == {"acc": 0.25}
    answers = [{"query": "", "answer": a} for a in ("x", "x", "y", "z")]
    assert offline.chance("t", answers) == {"acc": 0.5}
    numbers = [{"query": "", "answer": " 12", "candidates": ["12", "13", "45", "21"]}]
    assert offline.chance("t", numbers) == {"f1": (1 + 0.5 + 0 + 1) / 4, "acc": 0.25}


def test_a_damaged_cache_is_written_again_and_one_that_was_moved_points_to_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "make", lambda task: [{"query": task, "choices": ["a", "b"], "gold": 0}])
    folder = offline.build(offline.build(tmp_path / "before").rename(tmp_path / "after"))
    damaged = folder / "offline_span.jsonl"
    whole = damaged.read_text()
    damaged.write_text(whole[:20])
    assert offline.build(folder) == folder and damaged.read_text() == whole
    for task in offline.MAKERS:
        (place,) = re.findall(r"^dataset_kwargs: (.*)$", (folder / f"{task}.yaml").read_text(), re.MULTILINE)
        assert json.loads(place)["data_files"]["test"] == str(folder / f"{task}.jsonl")


# Running generated code.


@pytest.mark.parametrize(
    ("program", "right"),
    [
        ("assert 1 + 1 == 2", True),
        ("assert 1 + 1 == 3", False),
        ("def broken(:", False),
        ("while True: pass", False),
        ("x = bytearray(10**9)", False),
        ("with open('here.txt', 'w') as file:\n    file.write('x' * 10)", False),
        ("import os\nassert not [k for k in os.environ if k != 'LC_CTYPE']", True),
        ("import pandas", False),
        ("x = '\\0'", True),
        ("x = 1\0", False),
    ],
)
def test_limits_of_generated_programs(program, right):
    assert offline_scoring.runs(program, seconds=1) is right


def test_f1_by_hand():
    assert offline_scoring.f1("123", "123") == 1
    assert offline_scoring.f1("12", "123") == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))
    assert offline_scoring.f1("-5", "5") == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert offline_scoring.f1("none", "5") == 0


# Scores against plain forward passes.


def log_probability(model, tokenizer, context, continuation):
    before, both = (tokenizer(text)["input_ids"] for text in (context, context + continuation))
    with torch.no_grad():
        chances = model(torch.tensor([both])).logits[0, :-1].log_softmax(-1)
    targets = torch.tensor(both[1:])
    own = chances.gather(-1, targets[:, None])[len(before) - 1 :, 0]
    greedy = chances.argmax(-1)[len(before) - 1 :] == targets[len(before) - 1 :]
    return float(own.sum()), bool(greedy.all())


def plain_scores(model, tokenizer, examples):
    out = []
    for example in examples["offline_word_order"][:N]:
        chances = [log_probability(model, tokenizer, example["query"], c)[0] for c in example["choices"]]
        out.append(float(int(np.argmax(chances)) == example["gold"]))
    return out


def test_choices_are_scored_as_a_plain_forward_pass_scores_them(model, tokenizer, thresholds, examples, scored):
    got = scored[scored.task == "offline_word_order"].groupby("rule", sort=False).score.apply(list)
    assert got[tasks.DENSE] == plain_scores(model, tokenizer, examples)
    masked = PlainMLP(model, lambda i, gate, value, norm: (value.abs() * norm >= thresholds.values[i]) & (value != 0))
    with masked:
        sparse = plain_scores(model, tokenizer, examples)
    assert got[tasks.rule_name(thresholds)] == sparse


def test_generated_answers_are_the_models_own(model, tokenizer, examples, scored):
    got = scored[(scored.task == "offline_span") & (scored.metric == "f1") & (scored.rule == tasks.DENSE)].score
    for example, score in zip(examples["offline_span"], got, strict=False):
        ids = torch.tensor([tokenizer(example["query"])["input_ids"]])
        for _ in range(8):
            with torch.no_grad():
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        text = tokenizer.decode(ids[0], skip_special_tokens=True)[len(example["query"]) :]
        assert offline_scoring.f1(text.partition("\n")[0], example["answer"]) == pytest.approx(score)


def test_tidy_columns_and_the_same_examples(scored):
    assert list(scored.columns) == statistics.COLUMNS
    wide = scored.pivot(index=["task", "metric", "example"], columns="rule", values="score")
    assert wide.shape == (4 * N, 2) and not wide.isna().any().any()
    assert set(scored.p.dropna()) == {0.0}  # thresholds for a CETT, not for a p


def test_the_model_is_left_as_it_was(model, tokenizer, thresholds, tmp_path):
    before = copy.deepcopy(model.state_dict())
    tasks.evaluate(model, tokenizer, "offline_agreement", thresholds, 2, cache=tmp_path)
    assert same_weights(model, before) and hooks_on(model) == 0


def test_a_summary_has_the_promised_columns(scored):
    table = statistics.summarise(scored)
    assert {"model", "rule", "p", "task", "metric", "value", "standard_error", "n"} <= set(table.columns)
    row = table[(table.rule == tasks.DENSE) & (table.metric == "f1")].iloc[0]
    values = scored[(scored.rule == tasks.DENSE) & (scored.metric == "f1")].score
    assert row.value == pytest.approx(sum(values) / N)
    assert row.standard_error == pytest.approx(values.std() / math.sqrt(N))
    assert (table[table.rule == tasks.DENSE][["difference", "difference_low", "difference_high"]] == 0).all().all()


# The cache.


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


def test_an_interrupted_evaluation_goes_on(model, tokenizer, thresholds, tmp_path, monkeypatch):
    arguments = (model, tokenizer, ["offline_agreement", "offline_true_false"], thresholds, 3)
    first = count_scores(monkeypatch, stop_after=3)
    with pytest.raises(Interrupted):
        tasks.evaluate(*arguments, cache=tmp_path)
    assert len(first) == 3
    monkeypatch.undo()
    rest = count_scores(monkeypatch)
    table = tasks.evaluate(*arguments, cache=tmp_path)
    assert rest == [("offline_true_false", tasks.rule_name(thresholds))]
    again = tasks.evaluate(*arguments, cache=tmp_path)
    pd.testing.assert_frame_equal(table, again)
    assert len(rest) == 1


def test_other_weights_other_thresholds_and_other_limits_are_scored_anew(
    model, tokenizer, thresholds, tmp_path, monkeypatch
):
    seen = count_scores(monkeypatch)
    run = lambda m, rule, limit: tasks.evaluate(m, tokenizer, "offline_agreement", rule, limit, cache=tmp_path)  # noqa: E731
    run(model, None, 2)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.model.layers[0].mlp.down_proj.weight[0, 0] += 1e-3
    run(changed, None, 2)
    run(model, None, 3)
    assert len(seen) == 3
    run(model, sl.TopK(0.5), 2)
    run(model, sl.TopK(0.25), 2)
    run(model, [sl.TopK(0.25), sl.FAT(0.1)], 2)
    assert [rule for _, rule in seen[3:]] == ["TopK(k=0.5, over='token')", "TopK(k=0.25, over='token')", "FAT(eps=0.1)"]


# Bad input.


def own_task(folder, lines, extra=""):
    folder.mkdir()
    (folder / "own.jsonl").write_text("\n".join(lines))
    (folder / "own.yaml").write_text(
        "task: own\ndataset_path: json\ntest_split: test\noutput_type: loglikelihood\ndoc_to_text: query\n"
        f"doc_to_target: answer\ndataset_kwargs:\n  data_files: {{test: {folder / 'own.jsonl'}}}\n"
        f"metric_list:\n  - metric: acc\n{extra}"
    )
    return folder


GOOD = '{"query": "a b", "answer": " c"}'


def test_a_task_of_ones_own(model, tokenizer, tmp_path):
    folder = own_task(tmp_path / "mine", [GOOD, '{"query": "x", "answer": " y"}'])
    table = tasks.evaluate(model, tokenizer, "own", folder=folder, cache=tmp_path / "cache")
    assert table.n.tolist() == [2] and table.metric.tolist() == ["acc"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([GOOD, '{"query": "a b", '], "own.jsonl, line 2: not JSON"),
        ([GOOD, '{"question": "a"}'], "own.jsonl, line 2: not an object with the fields"),
        ([GOOD, "[1]"], "own.jsonl, line 2"),
        ([], "own.jsonl holds no examples"),
    ],
)
def test_a_broken_example_file_is_named(lines, said, model, tokenizer, tmp_path):
    folder = own_task(tmp_path / "mine", lines)
    with pytest.raises(tasks.TaskError, match=re.escape(said)):
        tasks.evaluate(model, tokenizer, "own", folder=folder, cache=tmp_path / "cache")


def test_a_task_without_data_says_what_to_do(model, tokenizer, tmp_path):
    folder = own_task(tmp_path / "mine", [GOOD])
    (folder / "own.jsonl").unlink()
    with pytest.raises(tasks.TaskError, match=r"own: its examples cannot be read here .*HF_HOME.*offline_span"):
        tasks.evaluate(model, tokenizer, "own", folder=folder, cache=tmp_path / "cache")


def test_thresholds_of_another_model_are_refused(model, tokenizer, thresholds, tmp_path):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight.mul_(1.1)
    with pytest.raises(ValueError, match="Find thresholds for this model"):
        tasks.evaluate(other, tokenizer, "offline_span", thresholds, 1, cache=tmp_path)


@pytest.mark.parametrize(
    ("given", "says"), [(([], 5), "p_values"), (([200.0], 5), "p_values"), (([1.0], 11), "figure_3_examples")]
)
def test_parameters_of_the_study(given, says):
    with pytest.raises(ValueError, match=says):
        scores.validate_parameters(given[0], 10, given[1], 8192)


def test_a_task_named_twice_is_scored_once(model, tokenizer, tmp_path):
    one = tasks.evaluate(model, tokenizer, "offline_span", sl.FAT(0.3), 4, cache=tmp_path)
    for names in (["offline_span"] * 2, "offline_span, offline_span", (name for name in ["offline_span"] * 3)):
        pd.testing.assert_frame_equal(one, tasks.evaluate(model, tokenizer, names, sl.FAT(0.3), 4, cache=tmp_path))


def test_prompts_that_the_context_cannot_hold_are_told_each_time(model, tokenizer, tmp_path):
    """Scored by their ends, as lm-eval does; from the cache too, and for answers that are written."""
    long = json.dumps({"query": "Is it so? " + "word " * 900, "answer": " yes"})
    folder = own_task(tmp_path / "mine", [GOOD, long])
    body = (folder / "own.yaml").read_text().replace("task: own", "task: written")
    body = body.replace("loglikelihood", "generate_until").replace("metric: acc", "metric: exact_match")
    (folder / "written.yaml").write_text(body + "generation_kwargs: {max_gen_toks: 8, until: []}\n")
    for task in ("own", "own", "written"):
        with pytest.warns(UserWarning, match=f"{task}: 1 prompts are longer than the model's context of 256 tokens"):
            tasks.evaluate(model, tokenizer, task, folder=str(folder), cache=str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tasks.evaluate(model, tokenizer, "own", folder=folder, limit=1, cache=tmp_path / "cache")


def test_examples_that_changed_are_scored_anew(model, tokenizer, tmp_path, monkeypatch):
    """Wherever they lie: here outside the folder of the task."""
    folder = own_task(tmp_path / "mine", [GOOD])
    data = (folder / "own.jsonl").rename(tmp_path / "elsewhere.jsonl")
    text = (folder / "own.yaml").read_text()
    (folder / "own.yaml").write_text(text.replace(str(folder / "own.jsonl"), str(data)))
    seen = count_scores(monkeypatch)
    for lines in ([GOOD], [GOOD], [GOOD, GOOD]):
        data.write_text("\n".join(lines))
        table = tasks.evaluate(model, tokenizer, "own", folder=folder, cache=tmp_path / "cache")
        assert table.n.tolist() == [len(lines)]
    assert len(seen) == 2


def test_the_path_of_thresholds_is_a_rule(model, tokenizer, thresholds, tmp_path):
    path = tmp_path / "thresholds.json"
    thresholds.save(path)
    wanted = tasks.evaluate(model, tokenizer, "offline_span", thresholds, 2, cache=tmp_path)
    for given_rule in (path, str(path), [path]):
        pd.testing.assert_frame_equal(
            wanted, tasks.evaluate(model, tokenizer, "offline_span", given_rule, 2, cache=tmp_path)
        )
    named = tasks.evaluate(model, tokenizer, "offline_span", {"mine": path}, 2, cache=tmp_path)
    assert set(named.rule) == {"dense", "mine"}


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
        ({"tasks": [None]}, "names of tasks"),
        ({"shots": {"offline_spam": 2}}, "offline_spam"),
        ({"shots": {"offline_span": -1}}, "shots of offline_span"),
        ({"folder": 3}, "folder must be a path"),
        ({"cache": 3}, "cache must be a path"),
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


def test_lm_evals_command_line_knows_the_model(thresholds, tmp_path):
    """Its own options, its own tables: the scores are those of ``evaluate``."""
    model, tokenizer = sl.load("0.1m-relu", device_map="cpu")
    ids = sl.token_batches("The mill stood still. " * 200, tokenizer, 64, 8, 512)
    found = sl.thresholds_for_cett(model, ids, 0.9)
    found.save(tmp_path / "thresholds.json")
    args = f"pretrained=0.1m-relu,thresholds={tmp_path / 'thresholds.json'},dtype=float32"
    command = ["run", "--model", "sparsinglib", "--model_args", args, "--tasks", "offline_last_word", "--limit", "30"]
    command += ["--output_path", str(tmp_path / "out")]  # on the device that lm-eval takes where none is named
    subprocess.run([sys.executable, "-m", "sparsinglib.tasks", *command], check=True, capture_output=True, text=True)
    (path,) = (tmp_path / "out").rglob("results_*.json")
    theirs = json.loads(path.read_text())["results"]["offline_last_word"]["acc,none"]
    ours = tasks.evaluate(model, tokenizer, "offline_last_word", found, 30, cache=tmp_path).set_index("rule").value
    assert theirs == pytest.approx(ours[tasks.rule_name(found)]) != pytest.approx(ours["dense"])


# Statistics.


def frame(cells):
    """Rows of scores from {(model, rule, p, task, metric): scores}."""
    rows = [(*key, f"{key[3]}/{i}", float(s)) for key, scores in cells.items() for i, s in enumerate(scores)]
    return pd.DataFrame(rows, columns=statistics.COLUMNS)


def test_mcnemar_by_hand():
    before, after = pd.Series([1.0] * 8 + [0.0, 1.0]), pd.Series([0.0] * 8 + [1.0, 1.0])
    assert statistics.mcnemar(before, after) == pytest.approx(2 * (math.comb(9, 0) + math.comb(9, 1)) / 2**9)
    assert statistics.mcnemar(before, before) == 1
    assert math.isnan(statistics.mcnemar(before, after * 0.5))


@given(st.integers(0, 2**20), st.integers(1, 3))
def test_the_interval_agrees_with_the_normal_one(seed, parts):
    generator = np.random.default_rng(seed)
    samples = [generator.choice([-1.0, 0.0, 1.0], size=400, p=[0.1, 0.85, 0.05]) for _ in range(parts)]
    mean, low, high = statistics.interval(samples)
    error = math.sqrt(sum(s.var() / len(s) for s in samples))
    assert mean == pytest.approx(sum(s.mean() for s in samples))
    assert low == pytest.approx(mean - 1.645 * error, abs=0.35 * error)
    assert high == pytest.approx(mean + 1.645 * error, abs=0.35 * error)


def test_a_missing_dense_score_is_named():
    table = frame({("m", "dense", 0.0, "t", "acc"): [1, 0], ("m", "r", 1.0, "t", "acc"): [1, 0, 1]})
    with pytest.raises(ValueError, match=r"m, t: example t/2 was not scored"):
        statistics.summarise(table)


@pytest.fixture
def two_groups():
    right, half = [1.0] * 30 + [0.0] * 10, [1.0] * 20 + [0.0] * 20
    worse = [1.0] * 28 + [0.0] * 12
    cells = {}
    for model in ("a-relu", "a-silu"):
        for rule, p, values in (("dense", 0.0, right), ("r", 1.0, worse)):
            cells |= {(model, rule, p, task, "acc"): values for task in ("t1", "t2")}
            cells[model, rule, p, "u1", "acc"] = values
            cells[model, rule, p, "u2", "acc"] = half
    groups = pd.DataFrame(
        [("t1", "acc", "T"), ("t2", "acc", "T"), ("u1", "acc", "U"), ("u2", "acc", "U")],
        columns=["task", "metric", "group"],
    )
    floors = groups.assign(chance=0.5)[["task", "metric", "chance"]]
    return frame(cells), groups, floors


def test_only_tasks_above_chance_enter_and_a_group_needs_two(two_groups):
    examples, groups, floors = two_groups
    chance = statistics.above_chance(statistics.summarise(examples), floors)
    assert chance.groupby("task").testable.all().to_dict() == {"t1": True, "t2": True, "u1": True, "u2": False}
    means = statistics.group_means(examples, groups, chance).set_index(["model", "group", "rule"])
    assert math.isnan(means.value["a-relu", "U", "r"]) and means.tasks["a-relu", "U", "r"] == 1
    assert means.value["a-relu", "T", "dense"] == pytest.approx(0.75)
    for model in ("a-relu", "a-silu", "mean"):
        assert means.difference[model, "T", "r"] == pytest.approx(-0.05)
    # Two models that fail on the same examples tell no more than one: resampled together, the interval stays as wide.
    width = means.difference_high - means.difference_low
    assert width["mean", "T", "r"] == pytest.approx(width["a-relu", "T", "r"], rel=1e-6)


def test_the_mean_over_models_has_rules_without_a_p_too(two_groups):
    examples, groups, floors = two_groups
    chance = statistics.above_chance(statistics.summarise(examples), floors)
    means = statistics.group_means(examples.assign(p=examples.p.where(examples.rule != "r")), groups, chance)
    mean = means[means.model == "mean"].set_index(["group", "rule"])
    assert mean.p.isna()["T", "r"] and mean.difference["T", "r"] == pytest.approx(-0.05)


def test_a_mean_over_metrics_counts_each_metric_once():
    cells = {}
    for rule, p, drop in (("dense", 0.0, 0), ("r", 1.0, 1)):
        cells["m", rule, p, "t", "f1"] = [0.9 - 0.4 * drop] * 20
        cells["m", rule, p, "t", "acc"] = [0.8 - 0.2 * drop] * 20
        cells["m", rule, p, "u", "acc"] = [0.7] * 20
    groups = pd.DataFrame([("t", "f1", "G"), ("t", "acc", "G"), ("u", "acc", "G")], columns=["task", "metric", "group"])
    floors = groups.assign(chance=0.1)
    examples = frame(cells)
    chance = statistics.above_chance(statistics.summarise(examples), floors)
    means = statistics.group_means(examples, groups, chance).set_index("rule")
    assert means.value["r"] == pytest.approx((0.5 + 0.6 + 0.7) / 3)
    assert means.difference["r"] == pytest.approx(-(0.4 + 0.2) / 3)


# The paper's tables.


def test_the_papers_inconsistencies_are_found():
    table = tables.inconsistencies().set_index("where")
    assert list(table.index) == [
        "Table 4, 0.1B relu, p = 1: average",
        "Table 6, 0.8B silu, p = 0: average",
        "Table 1, 0.8B relu, p = 10, commonsense: change",
        "Table 1, mean, p = 10, commonsense: change",
    ]
    assert table.recomputed.iloc[2] == pytest.approx(55.6 - 56.8)
    assert table.difference.iloc[0] == pytest.approx(49.1 - 49.04)


def test_verdicts_on_the_printed_tables():
    found = {row.id: str(row.verdict) for row in claims.paper_verdicts()}
    assert found == {
        "C02": "no data", "C04": "holds", "C05": "fails", "C13": "holds", "C14": "holds", "C22": "holds",
        "C77": "inconclusive", "C79": "fails",
    }  # fmt: skip


def test_table_1_holds_both_kinds_of_evidence_apart(two_groups):
    examples, groups, floors = two_groups
    groups["group"] = "commonsense_reasoning"
    chance = statistics.above_chance(statistics.summarise(examples), floors)
    table = tables.table_1(statistics.group_means(examples, groups, chance))
    assert set(table.evidence) == {"paper", "ladder"}
    theirs = table[(table.evidence == "paper") & (table.model == "0.8b-relu") & (table.p_pct == 10)]
    assert theirs.printed_change.tolist() == [-0.2, pytest.approx(theirs.printed_change.iloc[1])]
    assert len(table[(table.evidence == "paper") & (table.model != "mean")]) == 10 * 4 * 2


def test_figure_3_says_what_it_cannot_show():
    rows = []
    for group, value in zip(figures.GROUPS, (0.6, math.nan), strict=True):
        rows.append(("m", group, "dense", math.nan, value, 0, 0, 0))
        rows += [("m", group, family, 0.8, value - 0.1, -0.1, -0.2, 0.05) for family in figures.RULES]
    names = ["model", "group", "family", "sparsity", "value", "difference", "difference_low", "difference_high"]
    curves = pd.DataFrame(rows, columns=names).assign(evidence="ladder", n=75, p=math.nan, rule="r", tasks=3)
    figure = figures.figure_3(curves)
    left, right = figure.axes
    assert figure.message.endswith(", ".join(f"{family} -10.0 (0 of 2)" for family in figures.RULES))
    assert (
        figure.note.startswith("ladder")
        and "75 examples of each task" in figure.note
        and "90 % interval of the change" in figure.note
    )
    saved = figures.in_percent(curves.assign(difference=-8.67e-19))
    assert set(saved.change) == {0} and saved.score_pct[0] == 60 and saved.sparsity_pct[1] == 80
    assert [bars.get_label() for bars in left.containers] == list(figures.RULES)
    assert all(bars.lines[0].get_ydata()[0] == pytest.approx(-10) for bars in left.containers)
    assert "not testable at this scale" in right.texts[0].get_text()


# The authors' evaluation format.


def authors_forward(model, line, ids):
    """A forward pass that prunes by one line of thresholds: a neuron is cut below its threshold / column length."""
    limits = [float(number) for number in line.split(",")]
    with PlainMLP(model, lambda i, gate, value, norm: value.abs() >= limits[i] / norm), torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_the_exported_line_gives_the_same_logits(activation, ids):
    model = golden_model(activation)
    found = sl.thresholds_for_cett(model, [ids["tiny64"]], 0.3)
    with sl.sparsify(model, found), torch.no_grad():
        ours = model(ids["tiny64"]).logits
    theirs = authors_forward(model, found.as_env(), ids["tiny64"])
    with torch.no_grad():
        dense = model(ids["tiny64"]).logits
    assert float((ours - theirs).abs().max()) < 1e-5
    assert float((ours - dense).abs().max()) > 1e-2


def test_their_printed_thresholds_reach_their_perplexity(ids):
    """The golden run's own thresholds (five digits), read as such a line, give the loss that the authors' code gave."""
    run = next(r for r in golden()["tiny_runs"] if r["strategy"] == "cett" and r["arg"] == 0.1 and "relu" in r["model"])
    model, tokens = golden_model("relu"), ids[run["input"]]
    logits = authors_forward(model, ",".join(map(str, run["thresholds"])), tokens)
    loss = torch.nn.functional.cross_entropy(logits[0, :-1].double(), tokens[0, 1:])
    with torch.no_grad():
        dense = model(tokens).logits
    dense_loss = torch.nn.functional.cross_entropy(dense[0, :-1].double(), tokens[0, 1:])
    assert math.exp(float(loss - dense_loss)) == pytest.approx(run["ppl_ratio"], abs=2e-4)
