"""Windows of a text against slices made by hand: consecutive or overlapping, with start tokens and without."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

import sparsinglib as sl
from sparsinglib.core import token_batches as windows
from sparsinglib.core.checkpoints import LADDER_TOKENIZER
from sparsinglib.core.forward import TokenBatches
from sparsinglib.core.token_batches import token_batches

TEXT = "The river ran low that summer, and the mill stood still.\n" * 40


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(LADDER_TOKENIZER, trust_remote_code=False)


@pytest.fixture
def marked(tokenizer):
    """The ladder's tokenizer, told to begin each text with a start token, id 0."""
    start = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    tokenizer.backend_tokenizer.post_processor = start
    return tokenizer


class Words:
    """A tokenizer that can be followed by hand: one id for each word, start tokens first if it has some."""

    def __init__(self, *start):
        self.start = list(start)
        self.bos_token_id = start[0] if start else None

    def __call__(self, text, add_special_tokens=True, **_):
        words = [int(word) if word.isdigit() else 77 for word in text.split()]
        return {"input_ids": self.start * add_special_tokens + words}


def counted_words(count):
    return " ".join(map(str, range(count)))


def test_windows_are_consecutive_and_the_rest_is_its_own_batch():
    batches = token_batches(counted_words(23), Words(), length=4, batch_size=2)
    assert [b.tolist() for b in batches] == [
        [[0, 1, 2, 3], [4, 5, 6, 7]],
        [[8, 9, 10, 11], [12, 13, 14, 15]],
        [[16, 17, 18, 19]],
        [[20, 21, 22]],
    ]
    assert all(b.dtype == torch.long for b in batches)


def test_each_window_begins_with_the_tokenizers_start_tokens():
    """Two of them, as GLM has: windows of five hold three tokens of text, and a last single one is predicted."""
    batches = token_batches(counted_words(7), Words(98, 99), length=5, batch_size=2)
    assert [b.tolist() for b in batches] == [[[98, 99, 0, 1, 2], [98, 99, 3, 4, 5]], [[98, 99, 6]]]
    none = token_batches(counted_words(7), Words(98, 99), length=5, start_token=False)
    assert [b.tolist() for b in none] == [[[0, 1, 2, 3, 4]], [[5, 6]]]


def test_a_start_token_where_the_tokenizer_sets_none():
    silent = Words()
    with pytest.raises(ValueError, match="no start token"):
        token_batches(counted_words(7), silent, length=5, start_token=True)
    silent.bos_token_id = 99
    assert token_batches("1 2", silent)[0].tolist() == [[1, 2]]
    assert token_batches("1 2", silent, start_token=True)[0].tolist() == [[99, 1, 2]]


def test_a_text_that_begins_with_the_start_token_gets_no_second(marked):
    text = "<|endoftext|>" + TEXT
    assert all(torch.equal(a, b) for a, b in zip(*(token_batches(t, marked, 64) for t in (TEXT, text)), strict=True))
    rows = [row for batch in token_batches(text, marked, 64) for row in batch.tolist()]
    assert len(rows) > 5 and all(row[0] == 0 and 0 not in row[1:] for row in rows)


@pytest.mark.parametrize("before", ["\n", "  ", "\ufeff", "\ufeff\r\n\t"])
def test_blanks_before_the_start_token_of_a_text_do_not_double_it(marked, before):
    text = "The river ran low that summer, and the mill stood still."
    rendered = token_batches(f"{before}<|endoftext|>{text}", marked)
    assert torch.equal(rendered[0], token_batches(text, marked)[0])
    assert not torch.equal(token_batches(f"\n {text}", marked)[0], rendered[0])  # blanks of a text without one stay


@given(words=st.integers(1, 60), length=st.integers(2, 9), batch=st.integers(1, 5), start=st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_token_is_lost_but_a_single_last_one(words, length, batch, start):
    if words + start < 2:
        return
    batches = token_batches(counted_words(words), Words(*[99] * start), length, batch)
    ids = [token for b in batches for row in b.tolist() for token in row[start:]]
    expected = list(range(words))
    assert ids in (expected, expected[:-1])
    assert (len(ids) < len(expected)) == (not start and words % length == 1)
    assert all(b.shape[0] <= batch and b.shape[1] <= length for b in batches)


def test_overlapping_windows_by_hand():
    batches = token_batches(counted_words(9), Words(99), length=5, batch_size=2, stride=2)
    assert [b["input_ids"].tolist() for b in batches] == [
        [[99, 0, 1, 2, 3], [99, 2, 3, 4, 5]],
        [[99, 4, 5, 6, 7]],
        [[99, 6, 7, 8]],
    ]
    assert [b["counted"].int().tolist() for b in batches] == [
        [[1, 1, 1, 1, 1], [0, 0, 0, 1, 1]],
        [[0, 0, 0, 1, 1]],
        [[0, 0, 0, 1]],
    ]


@given(words=st.integers(2, 60), length=st.integers(3, 12), stride=st.integers(1, 11), start=st.booleans())
@settings(max_examples=80, deadline=None)
def test_overlapping_windows_count_each_token_once_and_give_it_context(words, length, stride, start):
    room = length - start
    if stride > room:
        return
    seen = []
    for batch in token_batches(counted_words(words), Words(*[99] * start), length, 3, stride=stride):
        for ids, counted in zip(batch["input_ids"].tolist(), batch["counted"].tolist(), strict=True):
            new = [i for i, c in zip(ids, counted, strict=True) if c and i != 99]
            assert not seen or ids.index(new[0]) >= length - stride
            seen += new
    assert seen in (list(range(words)), list(range(words - 1)))
    assert len(seen) == words or (stride == room and not start)


def test_perplexity_of_overlapping_windows_token_by_token(marked):
    """Each token once, in a pass of its own, after what the first window with it shows; lower than without overlap."""
    model, _ = sl.load("0.1m-relu", device_map="cpu")
    ids = marked(TEXT, add_special_tokens=False)["input_ids"][:400]
    losses = []
    for place, token in enumerate(ids):
        begin = max(0, math.ceil((place - 62) / 16) * 16)  # a window holds 63 tokens of text, the next begins 16 later
        with torch.no_grad():
            chances = model(torch.tensor([[0, *ids[begin:place]]])).logits[0, -1].log_softmax(-1)
        losses.append(-float(chances[token]))
    plain = math.exp(sum(losses) / 400)
    batches = token_batches(TEXT, marked, 64, 8, 400, stride=16)
    measured = sl.measure(model, batches, sl.FAT(0.0))
    assert measured.tokens == 401 and TokenBatches(model, batches).targets == 400
    assert measured.dense_ppl == pytest.approx(plain, rel=1e-5)
    apart = sl.measure(model, token_batches(TEXT, marked, 64, 8, 400), sl.FAT(0.0))
    assert measured.dense_ppl < apart.dense_ppl


def test_a_search_on_overlapping_windows_counts_each_token_once(quiet):
    model, tokenizer = sl.load("0.1m-relu", device_map="cpu")
    found = sl.find_thresholds(model, token_batches(TEXT, tokenizer, 64, 8, 500, stride=32), 5.0)
    again = sl.measure(model, token_batches(TEXT, tokenizer, 64, 3, 500, stride=32), found)
    assert found.tokens == again.tokens == 500
    assert again.ppl_ratio == pytest.approx(found.ppl_ratio, rel=1e-5)
    assert again.activation_ratio == pytest.approx(found.activation_ratio, rel=1e-6)


def test_text_longer_than_the_context_is_windows_without_a_warning(tokenizer, recwarn, capfd):
    text = "What is 12 + 30? Answer: 42\n" * 200
    batches = token_batches(text, tokenizer, length=64, batch_size=4)
    assert tokenizer.decode([t for b in batches for row in b for t in row]) == text
    assert sum(b.numel() for b in batches) > tokenizer.model_max_length
    assert not recwarn.list
    assert "longer" not in capfd.readouterr().err


def test_the_default_length_fits_a_shipped_model(tokenizer):
    assert {b.shape[1] for b in token_batches(TEXT, tokenizer, max_tokens=512)} == {256}
    assert {b.shape[1] for b in token_batches(counted_words(1024), Words())} == {512}


def test_max_tokens(tokenizer):
    batches = token_batches("one two three " * 100, tokenizer, length=16, batch_size=2, max_tokens=40)
    assert [tuple(b.shape) for b in batches] == [(2, 16), (1, 8)]


def test_a_long_text_in_pieces_gives_the_tokens_of_the_whole(tokenizer, monkeypatch):
    text = sl.corpora.load("code", "validation")[:60_000]
    whole = token_batches(text, tokenizer, 256, 8)
    monkeypatch.setattr(windows, "PIECE", 7_000)
    given = []

    def noted(piece, **options):
        given.append(piece)
        return tokenizer(piece, **options)

    pieces = token_batches(text, noted, 256, 8)
    given = [piece for piece in given if piece != "a"]  # which only asks for start tokens
    assert "".join(given) == text and len(given) == 9 and all(piece[0] in " \n" for piece in given[1:])
    flat = [[int(i) for batch in batches for i in batch.reshape(-1)] for batches in (whole, pieces)]
    assert flat[0] != flat[1] and tokenizer.decode(flat[0]) == tokenizer.decode(flat[1]) == text
    assert abs(len(flat[0]) - len(flat[1])) <= 9  # a token or so at each of the nine cuts


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("", {}, "empty"),
        (" \n ", {}, "empty"),
        ("some text", {"length": 1}, "length"),
        ("some text", {"batch_size": 0}, "batch_size"),
        ("some text", {"max_tokens": 1}, "max_tokens"),
        ("some text", {"stride": 0}, "stride"),
        ("some text", {"length": 8, "stride": 9}, "stride"),
        ("some text", {"start_token": "no"}, "start_token"),
        ("a", {}, "at least 2"),
        (["some text"], {}, "list"),
        (b"some text", {}, "bytes"),
        (None, {}, "NoneType"),
    ],
)
def test_bad_sizes_and_texts(tokenizer, text, options, says):
    with pytest.raises(ValueError, match=says):
        token_batches(text, tokenizer, **options)


@pytest.mark.parametrize("tokenizer", [None, "gpt2", ("model", "tokenizer"), torch.nn.Linear(1, 1)], ids=str)
def test_no_tokenizer(tokenizer):
    with pytest.raises(ValueError, match="tokenizer"):
        token_batches("text", tokenizer)


def test_a_path_is_no_text(tokenizer, tmp_path):
    path = tmp_path / "my text"
    path.write_text("What the file holds.")
    for other in (str(path), path, str(tmp_path), "no_such.txt", "runs/here.JSONL", "data.parquet"):
        with pytest.raises(ValueError, match=r"corpora\.load"):
            token_batches(other, tokenizer)
    for text in ("A note on my.txt and others.", "3.14159 2.71828", "See README.md\n"):
        assert token_batches(text, tokenizer)
