"""What results are kept by: content of files and of code, never times; and one process makes what two need."""

import os
import shutil
import threading
from functools import partial
from pathlib import PurePosixPath

import pytest
from filelock import Timeout

from sparsinglib import files


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "one.txt").write_text("1")
    (tmp_path / "a" / "deep" / "two.txt").write_text("2")
    return tmp_path / "a"


def test_a_digest_follows_names_and_contents_and_nothing_else(folder):
    seen = [files.content_digest(folder)]
    os.utime(folder / "one.txt", (1, 1))
    assert files.content_digest(folder.rename(folder.with_name("elsewhere"))) == seen[0]
    folder = folder.with_name("elsewhere")
    for change in (
        lambda: (folder / "one.txt").write_text("3"),  # of the same size
        lambda: (folder / "one.txt").rename(folder / "other.txt"),
        lambda: (folder / "added.txt").write_text(""),
        lambda: (folder / "deep" / "two.txt").rename(folder / "two.txt"),
        (folder / "two.txt").unlink,
    ):
        change()
        seen.append(files.content_digest(folder))
    assert len(set(seen)) == 6
    assert files.content_digest(folder / "gone") != files.content_digest(folder / "added.txt")


SOURCES = {
    "core/a.py": "from . import b\nfrom ..laws.c import x",
    "core/b.py": "",
    "core/__init__.py": "",
    "laws/__init__.py": "",
    "laws/c.py": "def f():\n    from .d import y",
    "laws/d.py": "",
    "laws/other.py": "",
}


def test_a_digest_of_code_follows_all_that_is_imported_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PACKAGE", tmp_path / "sparsinglib")
    digest = files.code_digest.__wrapped__
    for name, text in SOURCES.items():
        path = tmp_path / "sparsinglib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    before = digest("sparsinglib.core.a")
    for name, text in SOURCES.items():
        path = tmp_path / "sparsinglib" / name
        path.write_text(text + "\n# changed")
        assert (digest("sparsinglib.core.a") == before) is (name == "laws/other.py"), name
        path.write_text(text)
    assert digest("sparsinglib.core.a") == before


def test_the_cache_is_where_the_reader_says_or_among_their_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.delenv("SPARSINGLIB_CACHE", raising=False)
    assert files.cache_dir() == tmp_path / "home" / ".cache" / "sparsinglib"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_dir() == tmp_path / "xdg" / "sparsinglib"
    monkeypatch.chdir(tmp_path)
    for given, place in (("mine", tmp_path / "mine"), ("~/other", tmp_path / "home" / "other")):
        monkeypatch.setenv("SPARSINGLIB_CACHE", given)
        assert files.cache_dir() == place and place.is_dir()


def test_a_cache_that_cannot_be_says_what_to_set(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for given in (str(tmp_path / "file"), str(tmp_path / "file" / "deeper"), "~nobody-of-this-name/cache"):
        monkeypatch.setenv("SPARSINGLIB_CACHE", given)
        with pytest.raises(OSError, match=r"no cache folder .*set SPARSINGLIB_CACHE to a folder that can be written"):
            files.cache_dir()
    monkeypatch.setenv("SPARSINGLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(files.os, "access", lambda *_: False)  # root may write wherever it likes
    with pytest.raises(PermissionError, match=f"cache folder {tmp_path} cannot be written; set SPARSINGLIB_CACHE"):
        files.cache_dir()


def test_results_of_every_module_that_keeps_them_follow_the_core(tmp_path, monkeypatch):
    copied = shutil.copytree(files.PACKAGE, tmp_path / "sparsinglib")
    monkeypatch.setattr(files, "PACKAGE", copied)
    modules = [f"sparsinglib.{name}" for name in ("suites.survey", "tasks.scoring", "studies.tradeoff.sweep")]
    digest = files.code_digest.__wrapped__
    before = [digest(module) for module in modules]
    with (copied / "core" / "rules.py").open("a") as file:
        file.write("# changed")
    for module, old in zip(modules, before, strict=True):
        assert digest(module) != old, module


def test_a_result_is_made_once_and_one_that_cannot_be_read_again(tmp_path):
    made = []
    for _ in range(2):
        assert files.cached(tmp_path, ("key", 1), lambda: made.append(1) or len(made)) == 1
    (path,) = tmp_path.glob("*.pkl")
    path.write_bytes(b"damaged")
    assert files.cached(tmp_path, ("key", 1), lambda: made.append(1) or len(made)) == 2
    assert files.cached(tmp_path, ("key", 2), lambda: "other") == "other"


class Mine:
    """A reader's own class: its name stays when its code changes."""


def local():
    class Within:
        pass

    return Within()


@pytest.mark.parametrize(
    "part", [Mine(), Mine, local(), lambda: 1, partial(local)], ids=("object", "class", "within", "lambda", "partial")
)
def test_a_key_with_code_of_the_readers_own_keeps_nothing(part, tmp_path):
    assert [files.cached(tmp_path, ("key", {"rule": [part]}), partial(str, n)) for n in range(2)] == ["0", "1"]
    assert not list(tmp_path.glob("*.pkl"))


def test_a_key_with_known_code_keeps(tmp_path):
    key = "key", 0.1, PurePosixPath("a"), files.code_digest, {"set"}
    assert [files.cached(tmp_path, key, partial(str, n)) for n in range(2)] == ["0", "0"]


def test_who_does_not_want_to_wait_is_told_that_another_is_at_work(tmp_path):
    begun, go = threading.Event(), threading.Event()
    other = threading.Thread(target=lambda: files.cached(tmp_path, "key", lambda: begun.set() or go.wait(60)))
    other.start()
    begun.wait(60)
    with pytest.raises(Timeout):
        files.cached(tmp_path, "key", lambda: pytest.fail("made twice"), wait=0)
    go.set()
    assert files.cached(tmp_path, "key", lambda: pytest.fail("made twice")) is True
    other.join()


def test_figures_of_an_installed_package_go_where_the_reader_is_now(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CARRIED", True)
    monkeypatch.delenv(files.OUTPUT, raising=False)
    monkeypatch.chdir(tmp_path)
    assert files.output_dir() == tmp_path / "build" / "figures"
