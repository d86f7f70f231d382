"""Texts of a reader's own, in the files that people have: prose, JSON, tables, packed or not, in any encoding."""

import bz2
import gzip
import io
import itertools
import json
import lzma
import os
import re
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

PACKED = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ\0": lzma.decompress}
NO_TEXT = {b"%PDF": "PDF", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstandard", b"\xd0\xcf\x11\xe0": "old Office"}
PACKERS = (".gz", ".gzip", ".bz2", ".xz", ".lzma")  # endings of their files
MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
LINES = (".jsonl", ".ndjson", ".jl", ".jsonlines", ".ldjson")
JSON = (".json", ".json5", *LINES)
TABLES = (".csv", ".tsv")


class NoColumn(ValueError):
    """A structured file without a column ``text``: refused if it was named, left out if it lies in a directory."""


def documents(source: str | os.PathLike[str], corpora: Sequence[str] = ()) -> list[Any]:
    """Documents of a file, a directory of files or a dataset saved to disk; ``corpora`` are other names for errors.

    Raises ValueError, naming the file and the reason.
    """
    path = Path(source).expanduser()
    if not str(source).strip():
        raise ValueError(f"the name of a text is empty; corpora: {', '.join(corpora)}")
    if len(str(path)) > 4096 or "\0" in str(path) or not os.path.exists(path):
        shown = f"{str(source)[:200]!r}" if "\n" in str(source) or len(str(source)) > 200 else source
        raise ValueError(f"no corpus and no file of that name: {shown}; corpora: {', '.join(corpora)}")
    if not path.is_dir():
        return _file(path)
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        import datasets

        return _column(datasets.load_from_disk(str(path)), str(path))
    found = {file: file.relative_to(path).parts for file in path.rglob("*") if file.is_file()}
    texts, without = [], []
    for file in sorted(file for file, parts in found.items() if not any(part.startswith(".") for part in parts)):
        try:
            texts += _file(file)
        except NoColumn:
            without.append(file.name)
    if without:
        warnings.warn(f"{path}: left out, since they have no column text: {', '.join(without)}", stacklevel=3)
    return texts


def documents_of(source: Any) -> list[Any]:
    """Documents of what is no path: a dataset, a DataFrame, a mapping of columns, an open file, an iterable."""
    if hasattr(source, "select_columns"):
        return _column(source, "the dataset")
    if hasattr(source, "read"):
        data = source.read()
        return [_text(data, "the file") if isinstance(data, bytes) else data]
    if hasattr(source, "to_pydict"):  # a table of Arrow
        source = source.to_pydict()
    if hasattr(source, "columns") and hasattr(source, "loc"):
        source = {name: source[name].dropna().tolist() for name in source.columns}
    if isinstance(source, Mapping):
        return list(_records([source], "the table", columns=True))
    if isinstance(source, bytes) or not hasattr(source, "__iter__"):
        raise ValueError(f"a text is given as a path or as documents, got {type(source).__name__}: {source!r:.100}")
    return list(source)


def _file(path: Path) -> list[Any]:
    data, name = _unpacked(path)
    kind = Path(name).suffix
    if kind == ".parquet" or data.startswith(b"PAR1"):
        return _parquet(path, data)
    if foreign := next((kind for mark, kind in NO_TEXT.items() if data.startswith(mark)), ""):
        raise ValueError(f"{path}: a {foreign} file, not a text; unpack or convert it first")
    text = _text(data, str(path))
    if kind in TABLES:
        return _table(text, path)
    if kind in JSON or (kind := _kind_of_json(text)):
        lines = kind in LINES
        return list(_records(_json(text, path, lines_first=lines), str(path), columns=not lines))
    return [text]


def _kind_of_json(text: str) -> str:
    """The ending that a file of this content should have: JSON lines, one JSON value, or "" for prose."""
    first = list(itertools.islice((line for line in io.StringIO(text, newline="\n") if line.strip()), 5))
    for kind, parts in ((".jsonl", first), (".json", [text] if text.lstrip().startswith(("{", "[")) else [])):
        with suppress(ValueError, RecursionError):
            values = [json.loads(part) for part in parts]
            values = values[0] if kind == ".json" and values and isinstance(values[0], list) else values
            if values and all(isinstance(value, dict) and value for value in values):
                return kind
    return ""


def read(path: Path) -> str:
    """Text of a file, packed or not, in UTF-8 or as its byte order mark says; a warning counts what is neither."""
    return _text(_unpacked(path)[0], str(path))


def _unpacked(path: Path) -> tuple[bytes, str]:
    """Bytes of a file, and its name in small letters without the ending of a packed one."""
    data, name = path.read_bytes(), path.name.lower()
    for mark, unpack in PACKED.items():
        if data.startswith(mark):
            try:
                data = unpack(data)
                break
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                raise ValueError(f"{path}: cannot be unpacked ({error})") from error
    # What unpacks a file on its way here may leave its name as it was.
    return data, name.removesuffix(Path(name).suffix) if Path(name).suffix in PACKERS else name


def _text(data: bytes, name: str) -> str:
    for mark, encoding in MARKS.items():
        if data.startswith(mark):
            return data.decode(encoding, errors="replace").replace("\r\n", "\n")
    if b"\0" in data[:4096]:
        raise ValueError(f"{name}: holds zero bytes, so it is not a text in UTF-8")
    text = data.decode("utf-8", errors="replace").removeprefix("\ufeff")
    if broken := text.count("\ufffd") - data.count("\ufffd".encode()):
        warnings.warn(f"{name}: {broken} places are not UTF-8 and were replaced; is it another encoding?", stacklevel=5)
    return text.replace("\r\n", "\n")


def _json(text: str, path: Path, lines_first: bool) -> list[Any]:
    """Values of a JSON file, one a line or one in all; each is read as the other too, as both endings are used so."""
    reasons = []
    for lines in (lines_first, not lines_first):
        try:
            # Not splitlines: a JSON string may hold other line ends as they are.
            return [json.loads(line) for line in text.split("\n") if line.strip()] if lines else [json.loads(text)]
        except (ValueError, RecursionError) as error:
            reasons.append(str(error)[:200])
    raise ValueError(f"{path}: cannot be read as {'JSON lines' if lines_first else 'JSON'} ({reasons[0]})")


def _records(values: Iterable[Any], name: str, columns: bool) -> Iterable[Any]:
    """Documents in JSON values: strings, objects with ``text``, lists of these; ``columns``: one object's is a list."""
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    objects = [item for item in flat if isinstance(item, Mapping)]
    if objects and not any("text" in item for item in objects):
        raise NoColumn(f"{name} has no column text; its columns: {', '.join(map(str, objects[0]))[:200]}")
    for item in flat:
        text = item.get("text") if isinstance(item, Mapping) else item
        if columns and isinstance(text, Mapping) and len(flat) == 1:  # as a DataFrame's to_json writes a column
            text = list(text.values())
        parts = text if columns and isinstance(text, list) and len(flat) == 1 else [text]
        yield from (part for part in parts if part is not None)


def _table(text: str, path: Path) -> list[str]:
    table = read_table(text, path, keep_default_na=False)
    if "text" not in table:
        raise NoColumn(f"{path} has no column text; its columns: {', '.join(table.columns)[:200]}")
    return [row for row in table["text"] if row]


def read_table(text: str, path: Path, **options: Any) -> Any:
    """A DataFrame of strings from a table whose header names every field; ``options`` go to pandas.

    Between its columns stands what of comma, semicolon, tab and bar is the commonest in the first line. Raises
    ValueError, naming file, line and remedy, for a row of more fields than the header, and for what is no table.
    """
    import pandas as pd

    between = max(",;\t|", key=text.partition("\n")[0].count)
    try:
        table = pd.read_csv(io.StringIO(text), sep=between, dtype=str, **options)
    except ValueError as error:
        if long := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error)):
            raise _long_row(path, int(long[2]), int(long[3]), int(long[1]), between) from error
        raise ValueError(f"{path}: cannot be read as a table ({str(error)[:200]})") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes what the first row has too many for row names
        width = len(table.columns)
        raise _long_row(path, 2, width + table.index.nlevels, width, between)
    return table


def _long_row(path: Path, line: int, fields: int, named: int, between: str) -> ValueError:
    return ValueError(
        f"{path}, line {line}: {fields} fields, but the header names {named}; a field that holds {between!r} itself, "
        f'such as 1,000 or a sentence, must stand in double quotes: "1,000"'
    )


def _parquet(path: Path, data: bytes) -> list[Any]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(f"{path}: reading parquet needs pyarrow; pip install pyarrow") from error
    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        names = file.schema_arrow.names
        column = file.read(columns=["text"])["text"].to_pylist() if "text" in names else None
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as parquet ({str(error)[:200]})") from error
    if column is None:
        raise NoColumn(f"{path} has no column text; its columns: {', '.join(names)[:200]}")
    return [text for text in column if text is not None]


def _column(found: Any, name: str) -> list[Any]:
    """The column ``text`` of a Hugging Face dataset."""
    if isinstance(found.column_names, dict):
        raise ValueError(f"{name} holds the splits {', '.join(found)}: give one of them")
    names = found.column_names or list(next(iter(found), {}))  # a stream may not know them
    if "text" not in names:
        raise ValueError(f"{name} has no column text; its columns: {', '.join(names)}")
    return [row["text"] for row in found.select_columns("text") if row["text"] is not None]
