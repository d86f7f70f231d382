"""Any text can be given: files, directories, tables, datasets, broken encodings, every script, a lot of it."""

import json
import subprocess
import sys

import pandas as pd
import pytest

import sparsinglib as sl
from sparsinglib.texts import corpora

TEXT = "A neuron fires. 神经元放电。 עצב יורה. 🧠🔥 done.\n"


@pytest.fixture(scope="module")
def ladder():
    return sl.load("0.4m-relu")


def write(path, text=TEXT):
    path.write_text(text, encoding="utf-8")
    return path


def test_plain_file_and_directory(tmp_path):
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    write(folder / "b.txt", "second")
    write(folder / "a.md", "first")
    write(folder / "deep" / "c.py", "third")
    write(folder / ".hidden", "never")
    assert corpora.load(folder) == "first\n\nsecond\n\nthird"
    assert corpora.load(folder / "b.txt") == "second"


def test_jsonl_parquet_and_dataset(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = ["one", None, TEXT]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": r}) for r in rows), encoding="utf-8")
    pd.DataFrame({"text": rows}).to_parquet(tmp_path / "rows.parquet")
    datasets.Dataset.from_dict({"text": rows}).save_to_disk(tmp_path / "dataset")
    expected = f"one\n\n{TEXT}".strip()
    assert {corpora.load(tmp_path / name) for name in ("rows.jsonl", "rows.parquet", "dataset")} == {expected}
    held = datasets.Dataset.from_dict({"text": ["one", None, TEXT], "other": [1, 2, 3]})
    assert corpora.load(held.filter(lambda row: row["text"])["text"]) == expected
    assert corpora.load(held) == corpora.load(held.to_iterable_dataset()) == expected
    for other in (held.remove_columns("text"), held.remove_columns("text").to_iterable_dataset()):
        with pytest.raises(ValueError, match="the dataset has no column text; its columns: other"):
            corpora.load(other)
    unknown = datasets.IterableDataset.from_generator(lambda: iter([{"text": TEXT, "other": 1}]))
    assert unknown.column_names is None and corpora.load(unknown) == TEXT.strip()
    with pytest.raises(ValueError, match="the dataset holds the splits train"):
        corpora.load(datasets.DatasetDict({"train": held}))
    table = pytest.importorskip("pyarrow").table({"text": ["a"]})
    for documents in (table, ["a", None], [b"a"], [{"text": "a"}], held.select_columns("other")["other"]):
        with pytest.raises(ValueError, match="documents are strings, got"):
            corpora.load(documents)


def test_what_cannot_be_read_is_named(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "broken.jsonl").write_text("{no json")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["x"]})}).save_to_disk(tmp_path / "splits")
    datasets.Dataset.from_dict({"body": ["x"]}).save_to_disk(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    words = {"broken.jsonl": "jsonl", "broken.parquet": "parquet", "picture.txt": "zero bytes"}
    words |= {"splits": "train", "other": "body", "empty": "no text"}
    for name, word in words.items():
        with pytest.raises(ValueError, match=word) as error:
            corpora.load(tmp_path / name)
        assert name in str(error.value)


def test_bytes_that_are_not_utf8_are_replaced_and_counted(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("na\u00efve caf\u00e9 \ufffd".encode("latin-1", "ignore") + "\ufffd ok".encode())
    with pytest.warns(UserWarning, match=r"latin\.txt: 2 places"):
        assert corpora.load(path) == "na\ufffdve caf\ufffd \ufffd ok"


def test_byte_order_mark_and_line_ends_of_other_systems(tmp_path):
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    assert corpora.load(path) == "one\ntwo"


@pytest.mark.parametrize("text", [TEXT * 40, "x" * 30_000, "神" * 3000, "🧠" * 1500, "של" * 3000, "\n" * 500 + "a b"])
def test_every_script_is_measured(text, ladder):
    model, tokenizer = ladder
    batches = sl.token_batches(text, tokenizer, 128, 8, 512)
    result = sl.measure(model, batches, sl.FAT(0.1))
    assert result.tokens == sum(batch.numel() for batch in batches)
    assert 0 < result.activation_ratio < 1
    assert "".join(tokenizer.decode(row) for batch in batches for row in batch)[:20] == text[:20]


def test_one_token_is_too_few(ladder):
    with pytest.raises(ValueError, match="at least 2"):
        sl.token_batches("a", ladder[1])


MEMORY = """
import resource, sys, torch
import sparsinglib as sl
torch.set_num_threads(1)
torch.manual_seed(0)
from transformers import LlamaConfig, LlamaForCausalLM
model = LlamaForCausalLM(LlamaConfig(vocab_size=2048, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
    num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=512)).eval()
_, tokenizer = sl.load("0.4m-relu")
text = sl.corpora.load("code", "validation")[:200_000]
text = text * (1 + 3_500 * int(sys.argv[1]) // len(text))
batches = sl.token_batches(text, tokenizer, 512, 16, int(sys.argv[1]) * 1000)
sl.measure(model, batches, sl.FAT(0.1), kl=False)
print(sum(b.numel() for b in batches), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_hardly_grows_with_the_text():
    def run(thousands):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(thousands)], capture_output=True, text=True, check=True
        )
        return map(int, done.stdout.split()[-2:])

    few, little = run(100)
    many, much = run(10_000)
    assert few == 100_000 and many == 10_000_000
    # Text and token ids stay: 40 MB of characters and 8 bytes a token, twice while they are put together.
    assert much - little < 600
