"""The offline tasks: examples checked against the held-out text and by arithmetic, answers judged, programs limited."""

import json
import re

import pandas as pd
import pytest

from sparsinglib import paper
from sparsinglib.tasks import harness, offline, offline_scoring
from sparsinglib.texts import corpora


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
    assert offline.chance(four) == {"acc": 0.25}
    answers = [{"query": "", "answer": a} for a in ("x", "x", "y", "z")]
    assert offline.chance(answers) == {"acc": 0.5}
    numbers = [{"query": "", "answer": " 12", "candidates": ["12", "13", "45", "21"]}]
    assert offline.chance(numbers) == {"f1": (1 + 0.5 + 0 + 1) / 4, "acc": 0.25}


def test_floors_are_the_chance_of_the_examples_that_were_built(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSINGLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(offline, "make", lambda task: [{"query": task, "choices": ["a", "b"], "gold": 0}] * 3)
    floors = offline.floors().set_index("task")
    assert set(floors.index) == set(offline.MAKERS)
    assert set(floors.itertuples(index=False, name=None)) == {("acc", 3, 0.5, 1.0)}


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
        ("import os\nassert not os.listdir()", True),
        ("import pandas", False),
        ("x = '\\0'", True),
        ("x = 1\0", False),
    ],
)
def test_limits_of_generated_programs(program, right):
    assert offline_scoring.runs(program) is right


def test_f1_by_hand():
    assert offline_scoring.f1("123", "123") == 1
    assert offline_scoring.f1("12", "123") == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))
    assert offline_scoring.f1("-5", "5") == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert offline_scoring.f1("none", "5") == 0
