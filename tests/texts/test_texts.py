"""Any text can be given: files, directories, tables, datasets, broken encodings, every script, a lot of it."""

import bz2
import codecs
import gzip
import json
import lzma
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import sparsinglib as sl
from sparsinglib.core import arguments
from sparsinglib.texts import corpora

TEXT = "A neuron fires. 神经元放电。 עצב יורה. 🧠🔥 done.\n"


def write(path, text=TEXT):
    path.write_text(text, encoding="utf-8")
    return path


def test_plain_file_and_directory(tmp_path):
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    for name, text in {"b.txt": "second", "a.md": "first", "deep/c.py": "third"}.items():
        write(folder / name, text)
    assert corpora.load(folder) == "first\n\nsecond\n\nthird"
    assert corpora.load(folder / "b.txt") == "second"


def test_jsonl_parquet_and_dataset(tmp_path):
    datasets = pytest.importorskip("datasets")
    expected = f"one\n\n{TEXT}".strip()
    held = datasets.Dataset.from_dict({"text": ["one", None, TEXT], "other": [1, 2, 3]})
    held.to_json(tmp_path / "rows.jsonl")
    held.to_parquet(tmp_path / "rows.parquet")
    held.save_to_disk(tmp_path / "dataset")
    assert {corpora.load(tmp_path / name) for name in ("rows.jsonl", "rows.parquet", "dataset")} == {expected}
    assert corpora.load(held.filter(lambda row: row["text"])["text"]) == expected
    assert corpora.load(held) == corpora.load(held.to_iterable_dataset()) == expected
    for other in (held.remove_columns("text"), held.remove_columns("text").to_iterable_dataset()):
        with pytest.raises(ValueError, match="the dataset has no column text; its columns: other"):
            corpora.load(other)
    unknown = datasets.IterableDataset.from_generator(lambda: iter([{"text": TEXT, "other": 1}]))
    assert unknown.column_names is None and corpora.load(unknown) == TEXT.strip()
    with pytest.raises(ValueError, match="the dataset holds the splits train"):
        corpora.load(datasets.DatasetDict({"train": held}))
    assert corpora.load(pytest.importorskip("pyarrow").table({"text": ["a"]})) == "a"
    for documents in (["a", None], [b"a"], [{"text": "a"}], held.select_columns("other")["other"]):
        with pytest.raises(ValueError, match="documents are strings, got"):
            corpora.load(documents)


ROWS = ["Grüße aus Köln.", "第二行。", 'say "so",\u2028twice']
JOINED = "\n\n".join(ROWS)


def as_lines(**others):
    return "\n".join(json.dumps({"text": row, **others}, ensure_ascii=False) for row in ROWS)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.JSONL", as_lines()),
        ("a.ndjson", as_lines() + "\n\n"),
        ("a.jsonl", as_lines(meta={"x": [1, None]}, date="2024-02-30", id=10**400)),
        ("a.jsonl", as_lines() + '\n{"text": null}\n{"id": 1}'),
        ("a.jsonl", "\n".join(json.dumps(row) for row in ROWS)),
        ("a.json", json.dumps([{"text": row} for row in ROWS], indent=2)),
        ("a.json", json.dumps(ROWS)),
        ("a.json", json.dumps({"text": ROWS, "id": [1, 2, 3]})),
        ("a.json", as_lines()),
        ("a.jsonl", json.dumps([{"text": row} for row in ROWS], indent=2)),
        ("A.CSV", pd.DataFrame({"id": ["007", "", "x"], "text": ROWS}).to_csv(index=False)),
        ("a.csv", pd.DataFrame({"text": ROWS, "id": 1}).to_csv(index=False, sep=";")),
        ("a.tsv", pd.DataFrame({"text": ROWS, "id": 1}).to_csv(index=False, sep="\t")),
        ("a.txt", JOINED),
    ],
)
def test_the_formats_people_have(name, body, tmp_path):
    """Endings in capitals, two names of one format, packed, with the marks of other systems' editors."""
    path = tmp_path / name
    plain = body.encode()
    windows = body.replace("\n", "\r\n").encode()
    for data in (plain, codecs.BOM_UTF8 + plain, body.encode("utf-16"), windows, codecs.BOM_UTF8 + windows):
        path.write_bytes(data)
        assert corpora.load(path) == corpora.load(str(path)) == JOINED
    for ending, pack in ((".gz", gzip.compress), (".BZ2", bz2.compress), (".xz", lzma.compress)):
        packed = tmp_path / f"{name}{ending}"
        packed.write_bytes(pack(plain))
        assert corpora.load(packed) == JOINED
        packed.write_bytes(pack(plain)[:-9])
        with pytest.raises(ValueError, match=f"{name}{ending}: cannot be unpacked"):
            corpora.load(packed)


def test_parquet_beside_columns_of_any_kind(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    odd = {"image": [{"bytes": b"\0", "path": None}] * 3, "when": pd.to_datetime(["2024"] * 3), "list": [[1], [], None]}
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        table = pa.table({"text": pa.array(ROWS, pa.string()).cast(kind), **odd})
        parquet.write_table(table, tmp_path / "train-00000.PARQUET", compression="zstd")
        assert corpora.load(tmp_path) == JOINED
    parquet.write_table(table.drop_columns("text"), tmp_path / "train-00000.PARQUET")
    with pytest.raises(ValueError, match=r"no column text; its columns: image, when, list"):
        corpora.load(tmp_path / "train-00000.PARQUET")


def test_what_is_structured_and_has_no_text_is_refused_or_left_out(tmp_path):
    bad = {"a.json": '{"name": "x"}', "b.csv": "a,b\n1,2\n", "c.JSONL": '{"body": "x"}', "d.ndjson": "[{}]"}
    for name, body in bad.items():
        (tmp_path / name).write_text(body)
        with pytest.raises(ValueError, match=f"{name} has no column text"):
            corpora.load(tmp_path / name)
    (tmp_path / "code.py").write_text("pass")
    with pytest.warns(UserWarning, match=r"left out, since they have no column text: a\.json, b\.csv"):
        assert corpora.load(tmp_path) == "pass"
    for data, word in ((b"%PDF-1.7 text", "PDF"), (b"PK\x03\x04", "zip"), (b"\x28\xb5\x2f\xfd", "zstandard")):
        (tmp_path / "e.txt").write_bytes(data)
        with pytest.raises(ValueError, match=f"a {word} file"):
            corpora.load(tmp_path / "e.txt")


def test_texts_that_are_not_in_files(tmp_path):
    table = pd.DataFrame({"id": range(4), "text": [*ROWS, None]})
    (tmp_path / "a.txt").write_text(JOINED, encoding="utf-8")
    with (tmp_path / "a.txt").open(encoding="utf-8") as text, (tmp_path / "a.txt").open("rb") as data:
        lists = (ROWS, pd.Series(ROWS), np.array(ROWS), iter(ROWS))
        for source in (table, {"text": ROWS}, text, data, *lists):
            assert corpora.load(source, "validation") == JOINED
    for source in (None, 3, b"bytes", table.drop(columns="text"), {"a": ["b"]}):
        with pytest.raises(ValueError, match=r"documents|no column text"):
            corpora.load(source)
    for source in ("", "  "):  # not the folder one is in
        with pytest.raises(ValueError, match="the name of a text is empty"):
            corpora.load(source)
    for source in (TEXT * 500, "no\nsuch", "\0"):  # a text, where a name or path belongs
        with pytest.raises(ValueError, match="no corpus and no file") as error:
            corpora.load(source)
        assert len(str(error.value)) < 500


def test_what_cannot_be_read_is_named(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "broken.jsonl").write_text("{no json")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["x"]})}).save_to_disk(tmp_path / "splits")
    datasets.Dataset.from_dict({"body": ["x"]}).save_to_disk(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text("\n")
    words = {"broken.jsonl": "jsonl", "broken.parquet": "parquet", "picture.txt": "zero bytes"}
    words |= {"splits": "train", "other": "body", "empty": "no text", "blank.txt": "no text"}
    for name, word in words.items():
        with pytest.raises(ValueError, match=word) as error:
            corpora.load(tmp_path / name)
        assert name in str(error.value)


def test_bytes_that_are_not_utf8_are_replaced_and_counted(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("na\u00efve caf\u00e9 \ufffd".encode("latin-1", "ignore") + "\ufffd ok".encode())
    with pytest.warns(UserWarning, match=r"latin\.txt: 2 places"):
        assert corpora.load(path) == "na\ufffdve caf\ufffd \ufffd ok"


@pytest.mark.parametrize("text", [TEXT * 40, "x" * 30_000, "神" * 3000, "🧠" * 1500, "של" * 3000, "\n" * 500 + "a b"])
def test_every_script_is_measured(text, ladder):
    model, tokenizer = ladder
    batches = sl.token_batches(text, tokenizer, 128, 8, 512)
    result = sl.measure(model, batches, sl.FAT(0.1))
    assert result.tokens == sum(batch.numel() for batch in batches)
    assert 0 < result.activation_ratio < 1
    assert "".join(tokenizer.decode(row) for batch in batches for row in batch)[:20] == text[:20]


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
        done = subprocess.run([sys.executable, "-c", MEMORY, thousands], capture_output=True, text=True, check=True)
        return map(int, done.stdout.split()[-2:])

    (few, little), (many, much) = map(run, ("100", "10000"))
    assert few == 100_000 and many == 10_000_000
    # Text and token ids stay: 40 MB of characters and 8 bytes a token, twice while they are put together.
    assert much - little < 600


NAMES = ("a.jl", "a.jsonlines", "a.ldjson", "a.json5", "a.jsonl.txt", "a", "a.txt", "a.md", "a.jsonl.gz", "a.json.xz")


@pytest.mark.parametrize("name", NAMES)
def test_json_lines_are_read_as_such_whatever_they_are_called(name, tmp_path):
    lines = "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in ("one", TEXT.strip()))
    for data in (lines.encode(), gzip.compress(lines.encode()), bz2.compress(lines.encode())):
        (tmp_path / name).write_bytes(data)
        assert corpora.load(tmp_path / name) == f"one\n\n{TEXT.strip()}"


def test_json_in_prose_stays_prose(tmp_path):
    for text in ("{a} is a set.\n", '{"a": 1}\nis JSON, and this is not.', "[1]\n[2]\n", "1\n2\n", "{}\n{}"):
        assert corpora.load(write(tmp_path / "a.txt", text)) == text.strip()


def test_one_json_value_in_a_file_of_any_name_and_as_pandas_writes_it(tmp_path):
    for value in ({"text": {"0": "one", "1": "two"}}, {"text": ["one", "two"]}, [{"text": "one"}, {"text": "two"}]):
        for name in ("a.json", "a.data"):
            assert corpora.load(write(tmp_path / name, json.dumps(value, indent=1))) == "one\n\ntwo"
    with pytest.raises(ValueError, match=r"a\.json: documents are strings, got dict"):
        corpora.load(write(tmp_path / "a.json", json.dumps([{"text": {"a": 1}}, {"text": "b"}])))


def test_a_row_longer_than_the_header_is_refused(tmp_path):
    for body, line in (("text\nGrü,ße aus Köln.\n第二行。\n", 2), ("text\nfine\nnot, fine\n", 3)):
        said = rf"a\.csv, line {line}: 2 fields, but the header names 1; .*double quotes"
        with pytest.raises(ValueError, match=said):
            corpora.load(write(tmp_path / "a.csv", body))
    assert corpora.load(write(tmp_path / "a.csv", 'text\n"Grü,ße"\nzwei\n')) == "Grü,ße\n\nzwei"


PATHS = (
    "wikipedia",
    "mixture",
    "/nowhere/my.log",
    "corpus.dat",
    "my texts/book one.txt",
    "https://example.org/a",
    "~/x",
)
PATHS += ("data/texts", r"C:\texts\a b.txt", "../x", "a.jsonl\n")
SENTENCES = ("The cat sat.", "Yes", "He and/or she went.", "See https://a.org for more.", "1/2 + 1/2 = 1", "3.14")
SENTENCES += ("Is it e.g. so?",)


@pytest.mark.parametrize("given", PATHS)
def test_the_name_of_a_text_is_no_text(ladder, given):
    with pytest.raises(ValueError, match=r"the name of a text.*corpora\.load"):
        sl.token_batches(given, ladder[1])
    with pytest.raises(ValueError, match="the name of a text, not a document: load each"):
        corpora.load([given, given])


@pytest.mark.parametrize("given", SENTENCES)
def test_a_short_sentence_is_a_text(ladder, given):
    assert sl.token_batches(given * 2, ladder[1]) and not arguments.names_a_text(given)
    assert corpora.load([given, "a.txt"]) == f"{given}\n\na.txt"


def test_corpora_are_known_by_the_names_that_are_refused_as_texts():
    assert (*corpora.SOURCES, "mixture") == arguments.CORPORA
