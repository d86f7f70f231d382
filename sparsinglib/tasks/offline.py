"""Eight small tasks, after the kinds of the paper's benchmarks, built from held-out text when first asked for.

What lm-eval reads (one JSONL and one YAML file a task) is written to the cache directory; the YAML templates are in
``data/tasks``. No example is stored in this repository, and none was in the training text of the ladder.
"""

import ast
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any, TypeGuard

import joblib
import pandas as pd
import yaml

from ..files import DATA, SUITES, cache_dir, content_digest, write_atomically
from ..texts import corpora
from . import offline_scoring as scoring

TEMPLATES = DATA / "tasks"
BENCHMARKS = SUITES / "benchmarks.yaml"
RECORD = "record.json"  # of the cache folder: hash, number of examples and chance of each task
SEED = 2411_02335
EXAMPLES = 300  # made of each task, where the held-out text has as many
CONTEXT, ENDING = 100, 50  # characters of a passage and of what may follow it
ENDINGS = 4  # of the continuation task, one of them the true one
MIDDLE = (200, 1500)  # characters of a paragraph that is long enough to cut and is not a table
AGREEMENT = {"is": "are", "was": "were", "has": "have", "a": "an", "its": "their", "this": "these"}
# Stands in for every name that a class under test is given: an object that says how it was made.
GIVEN = """class Given:
    def __init__(self, text): self._text = text
    def __getattr__(self, name): return Given(f"{self._text}.{name}")
    def __call__(self, *a, **k): return Given(f"{self._text}({a}, {sorted(k.items())})")
    def __repr__(self): return self._text
"""
Example = dict[str, Any]


def table() -> pd.DataFrame:
    """The offline tasks: task, group, like (the paper's benchmark it follows), metric, scoring, chance (words)."""
    return pd.DataFrame(yaml.safe_load(BENCHMARKS.read_text(encoding="utf-8"))["offline"])


def names() -> list[str]:
    """Names of the offline tasks, for ``tasks.evaluate``."""
    return list(dict.fromkeys(table().task))


@cache
def _paragraphs(corpus: str) -> tuple[tuple[int, str], ...]:
    """(document, paragraph) of one held-out set, in a fixed random order."""
    found = [
        (number, " ".join(part.split()))
        for number, text in enumerate(corpora.documents(corpus, "validation"))
        for part in text.split("\n")
        if MIDDLE[0] <= len(part) <= MIDDLE[1]
    ]
    random.Random(SEED).shuffle(found)
    return tuple(found)


def _piece(r: random.Random, text: str) -> tuple[str, str]:
    """A context of about ``CONTEXT`` characters and the ``ENDING`` characters after it; ("", "") if too short."""
    room = len(text) - CONTEXT - ENDING - 40
    if room < 1:
        return "", ""
    start = r.randrange(room)
    middle = text.find(" ", start + CONTEXT)
    return (text[start:middle], text[middle : middle + ENDING]) if middle > 0 else ("", "")


def continuation(r: random.Random) -> Iterator[Example]:
    """A passage of an article or of a program, with what follows it and what follows three passages of other ones."""
    pools = [_paragraphs("wikipedia"), tuple(enumerate(corpora.documents("code", "validation")))]
    for turn in itertools.count():
        (document, text), *others = r.sample(pools[turn % 2], 3 * ENDINGS)
        strangers = [other for number, other in others if number != document][: ENDINGS - 1]
        pieces = [_piece(r, passage) for passage in (text, *strangers)]
        endings = [ending for _, ending in pieces]
        # Rulers of dashes and the like are no endings.
        words = [sum(map(str.isalpha, ending)) for ending in endings]
        if len(set(endings)) == ENDINGS and min(map(len, endings)) == ENDING and min(words) > ENDING / 4:
            yield _shuffled(r, pieces[0][0], endings)


def word_order(r: random.Random) -> Iterator[Example]:
    """A passage, and the same with two neighbouring words swapped."""
    while True:
        words = r.choice(_paragraphs("wikipedia"))[1].split()
        at = r.randrange(8, max(9, len(words) - 5))
        first, second = words[at : at + 2] if at + 5 <= len(words) else ("", "")
        if first.isalpha() and second.isalpha() and first.islower() and second.islower() and first != second:
            rest = " ".join(words[at + 2 : at + 4])
            choices = [f" {first} {second} {rest}", f" {second} {first} {rest}"]
            yield _shuffled(r, " ".join(words[max(0, at - 12) : at]), choices)


def agreement(r: random.Random) -> Iterator[Example]:
    """A passage, and the same with one word in the wrong form: is/are, was/were, has/have, a/an …"""
    other = AGREEMENT | {wrong: right for right, wrong in AGREEMENT.items()}
    places = [
        (text, match)
        for _, text in _paragraphs("wikipedia")
        for match in re.finditer(rf" ({'|'.join(other)}) \w+ \w+", text)
        if match.start() > 60
    ]
    r.shuffle(places)
    for text, match in places:
        word, found = match[1], match[0]
        start = max(0, text.find(" ", max(0, match.start() - 80)))  # where a word begins
        yield _shuffled(r, text[start : match.start()].strip(), [found, found.replace(word, other[word], 1)])


def _shuffled(r: random.Random, query: str, choices: list[str]) -> Example:
    """The first of ``choices`` is the true one."""
    order = r.sample(range(len(choices)), len(choices))
    return {"query": query, "choices": [choices[i] for i in order], "gold": order.index(0)}


@cache
def _problems() -> tuple[str, ...]:
    return tuple(line for sheet in corpora.documents("math", "validation") for line in sheet.split("\n"))


def true_false(r: random.Random) -> Iterator[Example]:
    """A comparison with its working, to be answered yes or no; as many of one as of the other."""
    lines = [line for line in _problems() if re.match(r"Is -?\d+ greater", line)]
    by_answer = [r.sample(part, len(part)) for part in ([x for x in lines if x.endswith(a)] for a in ("yes", "no"))]
    for pair in zip(*by_answer, strict=False):
        for gold, line in enumerate(pair):
            yield {"query": line.rpartition(" ")[0], "choices": [" yes", " no"], "gold": gold}


def last_word(r: random.Random) -> Iterator[Example]:
    """The last word of a passage of a program, which ends with a line."""
    places = [
        (text[match.start() - CONTEXT : match.start()], match[0])
        for text in corpora.documents("code", "validation")
        for match in re.finditer(r"(?<=[ .(_])[a-zA-Z]+(?=\n)", text)
        if match.start() > CONTEXT
    ]
    for passage, word in r.sample(places, len(places)):
        yield {"query": passage, "answer": word}


def span(r: random.Random) -> Iterator[Example]:
    """The number that a passage of a few numbers asks for: the largest of a list, or the result of worked steps."""
    asked = re.compile(r"(Which is the largest of .*\?|What is \d+ \+.*\.|How many .*\?.*\.) Answer: (-?\d+)$")
    found = [match for match in map(asked.match, _problems()) if match and match[2] in match[1]]
    for match in r.sample(found, len(found)):
        numbers = re.findall(r"(?<!\d)-?\d+", match[1])
        yield {"query": f"{match[1]} Answer:", "answer": f" {match[2]}", "candidates": numbers}


def arithmetic(r: random.Random) -> Iterator[Example]:
    """A problem whose working and answer, a number, are to be written."""
    asked = re.compile(
        r"(What is \(?\d+ [-+].*?\?|Work out .*?\.|Solve .*? for \w\.|How many .*?\?) .*Answer: (?:\w = )?(-?\d+)$"
    )
    found = [match for match in map(asked.match, _problems()) if match]
    for match in r.sample(found, len(found)):
        yield {"query": match[1], "answer": match[2]}


def code_line(r: random.Random) -> Iterator[Example]:
    """The rest of a line that stores a value in an object, to be written and executed."""
    texts = (text for text in corpora.documents("code", "validation") if "def __init__" in text)
    found = [example for text in texts for example in _initialisers(text)]
    yield from r.sample(found, len(found))


def _initialisers(text: str) -> Iterator[Example]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            stores = [line for line in node.body if _is_store(line)]
            for last in range(1, len(stores)):
                yield _class_to_complete(node, stores[max(0, last - 3) : last + 1])


def _is_store(line: ast.stmt) -> TypeGuard[ast.Assign]:
    """Whether a statement is ``self.name = value``, the value made of names, attributes, constants and calls."""
    if not isinstance(line, ast.Assign) or not re.match(r"self\.(?!__)\w+ = (?!.*\bself\b)", ast.unparse(line)):
        return False
    simple = (ast.Name, ast.Attribute, ast.Call, ast.keyword, ast.Constant, ast.Load)
    return all(isinstance(node, simple) for node in ast.walk(line.value)) and len(ast.unparse(line)) < 80


def _class_to_complete(method: ast.FunctionDef, stores: Sequence[ast.Assign]) -> Example:
    """A class that makes ``stores``, without the end of the last one, and a test of what its objects then hold."""
    used = {node.id for line in stores for node in ast.walk(line) if isinstance(node, ast.Name)} - {"self"}
    arguments = [a.arg for a in method.args.args[1:] + method.args.kwonlyargs if a.arg in used]
    lines = [f"        {ast.unparse(line)}" for line in stores]
    prompt = "\n".join(["class Module:", f"    def __init__({', '.join(['self', *arguments])}):", *lines])
    answer = " " + ast.unparse(stores[-1].value)
    names = "; ".join(f"{name} = Given({name!r})" for name in sorted(used))
    wanted = {ast.unparse(line.targets[0]).removeprefix("self."): ast.unparse(line.value) for line in stores}
    test = f"{GIVEN}{names or 'pass'}\nheld = vars(Module({', '.join(arguments)}))\n"
    # What is wanted is evaluated too: f(a, b=1) and f(a,b = 1) are the same.
    test += f"assert {{k: repr(v) for k, v in held.items()}} == {{k: repr(eval(v)) for k, v in {wanted!r}.items()}}"
    return {"query": prompt.removesuffix(answer), "answer": answer, "test": test}


MAKERS: dict[str, Callable[[random.Random], Iterator[Example]]] = {
    f"offline_{make.__name__}": make
    for make in (continuation, word_order, agreement, true_false, last_word, span, arithmetic, code_line)
}


def make(task: str, examples: int = EXAMPLES) -> list[Example]:
    """The first ``examples`` distinct examples of a task, the same on every machine; fewer if the text has no more."""
    found: dict[str, Example] = {}
    for example in MAKERS[task](random.Random(f"{SEED} {task}")):
        found.setdefault(json.dumps(example, ensure_ascii=False), example)
        if len(found) == examples:
            break
    return list(found.values())


def build(folder: Path | None = None) -> Path:
    """Write the tasks for lm-eval, one JSONL and one YAML file each, and return their folder (in the cache directory).

    What is there already is kept if its hashes are the recorded ones and it was not moved. Raises ModuleNotFoundError,
    as ``corpora`` does, if a package that holds the text is not installed.
    """
    # What all examples follow from: this code, the templates and the texts.
    recipe = content_digest(Path(__file__), *TEMPLATES.glob("*.yaml")), [corpora.SHA256[c] for c in corpora.SHARES]
    folder = folder or cache_dir() / "tasks" / joblib.hash(recipe)[:16]
    if not _complete(folder):
        record = {}
        for task in MAKERS:
            examples, data = make(task), folder / f"{task}.jsonl"
            write_atomically(data, "".join(json.dumps(example, ensure_ascii=False) + "\n" for example in examples))
            write_atomically(folder / f"{task}.yaml", _yaml(folder, task))
            record[task] = {"hash": content_digest(data), "n": len(examples), "chance": chance(examples)}
        write_atomically(folder / RECORD, json.dumps(record, indent=1))
    return folder


def _complete(folder: Path) -> bool:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        same = all(content_digest(folder / f"{task}.jsonl") == entry["hash"] for task, entry in record.items())
        return same and all((folder / f"{t}.yaml").read_text(encoding="utf-8") == _yaml(folder, t) for t in MAKERS)
    except (OSError, ValueError):
        return False


def _yaml(folder: Path, task: str) -> str:
    """The task's YAML file with the place of its examples, which lm-eval takes as a whole path only."""
    place = json.dumps({"data_files": {"test": str(folder / f"{task}.jsonl")}})
    shipped = TEMPLATES / f"{task.removeprefix('offline_')}.yaml"
    return f"{shipped.read_text(encoding='utf-8')}dataset_kwargs: {place}\n"


def chance(examples: Sequence[Example]) -> dict[str, float]:
    """Score (0 to 1) by metric of a reader who knows the form of the answers and not the text: see benchmarks.yaml."""
    if "choices" in examples[0]:
        return {"acc": mean(1 / len(example["choices"]) for example in examples)}
    if "candidates" in examples[0]:
        scores = [[scoring.span(e, [number]) for number in e["candidates"]] for e in examples]
        return {metric: mean(mean(s[metric] for s in row) for row in scores) for metric in scores[0][0]}
    commonest = Counter(example["answer"] for example in examples).most_common(1)[0][1]
    return {"pass" if "test" in examples[0] else "acc": commonest / len(examples)}


def floors() -> pd.DataFrame:
    """Chance of each offline task (built if need be): task, metric, n (examples), chance and ceiling (0 to 1)."""
    record = json.loads((build() / RECORD).read_text(encoding="utf-8"))
    rows = [
        (t, metric, entry["n"], value, 1.0) for t, entry in record.items() for metric, value in entry["chance"].items()
    ]
    return pd.DataFrame(rows, columns=["task", "metric", "n", "chance", "ceiling"])
