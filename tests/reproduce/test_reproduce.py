"""The command that runs the notebooks: goes on where it was stopped, keeps what worked, refuses what cannot work."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import psutil
import pytest
from filelock import FileLock
from made_up import PARAMETERS, write_notebook

from sparsinglib import files
from sparsinglib.files import FIGURES, NOTEBOOKS
from sparsinglib.reproduce import cli, runner
from sparsinglib.suites import survey


def until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def digest(path, **parameters):
    return runner.Job(path, parameters, path.parent).inputs


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_killed_and_started_again_it_goes_on_and_repeats_only_what_changed(tmp_path, out, capsys):
    ran, go, pid = tmp_path / "ran", tmp_path / "go", tmp_path / "pid"
    count = f"with open({str(ran)!r}, 'a') as file: print(x, file=file)"
    wait = "import os, time, pathlib\n"
    wait += f"pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
    wait += f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.05)"
    first = write_notebook(tmp_path / "01_first.ipynb", count)
    second = write_notebook(tmp_path / "02_second.ipynb", wait, count)
    options = [str(first), str(second), "--out", str(out), "--jobs", "1"]
    process = subprocess.Popen([sys.executable, "-m", "sparsinglib.reproduce", *options], stdout=subprocess.DEVNULL)
    until(lambda: pid.is_file() and pid.read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert runner.load(out / "notebooks" / "state", "01_first").error == ""
    until(lambda: not psutil.pid_exists(int(pid.read_text())), 20)  # no kernel goes on without its reader
    go.touch()
    assert cli.main(options) == 0
    assert "01_first: unchanged" in capsys.readouterr().out
    assert ran.read_text() == "1\n1\n"  # each once: the first was not run again, the second had not got so far
    assert not list((out / "notebooks").glob(".*.ipynb"))

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.ipynb")}
    assert cli.main(options) == 0
    assert ran.read_text() == "1\n1\n"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.ipynb")} == before

    assert not cli.plan([first], ["x=5"], "", out)[0].current


def test_a_branch_of_the_hub_that_moved_makes_its_notebook_old(tmp_path, monkeypatch):
    first = write_notebook(tmp_path / "01_first.ipynb")
    commit = ["a" * 40]
    monkeypatch.setattr(survey, "hub_commit", lambda name: f"{name} {commit[0]}")
    suite = tmp_path / "mine.yaml"
    suite.write_text("checkpoints:\n- {name: mine, source: owner/name, scale: 1B, activation: relu}\n")
    for value in ("owner/name", str(suite), "released"):
        before = digest(first, x=value)
        assert digest(first, x=value) == before
        commit[0] = chr(ord(commit[0][0]) + 1) * 40
        assert digest(first, x=value) != before


def test_a_failure_keeps_the_others_and_the_claims_come_last(tmp_path, out):
    written = out / "figures" / "drawn.csv"
    bad = write_notebook(tmp_path / "01_bad.ipynb", "print('so far')", "raise RuntimeError('broken on purpose')")
    draw = "import os, time; from sparsinglib import files; time.sleep(1)\n"
    draw += "files.write_atomically(files.output_dir() / 'drawn.csv', os.environ['OMP_NUM_THREADS'])"
    good = write_notebook(tmp_path / "02_good.ipynb", draw)
    claims = write_notebook(tmp_path / "11_claims.ipynb", f"print(open({str(written)!r}).read().strip(), 'thread')")
    options = [*map(str, (claims, bad, good)), "--out", str(out), "--jobs", "3"]
    command = [sys.executable, "-m", "sparsinglib.reproduce", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "RuntimeError: broken on purpose" in done.stdout + done.stderr
    folder = out / "notebooks"
    assert nbformat.read(folder / "11_claims.ipynb", 4).cells[-1].outputs[0]["text"] == "1 thread\n"
    kept = [o.get("text") for c in nbformat.read(folder / bad.name, 4).cells for o in c.get("outputs", [])]
    assert "so far\n" in kept
    assert "broken on purpose" in (folder / "01_bad.log").read_text()
    failed, drawn = (runner.load(folder / "state", name) for name in ("01_bad", "02_good"))
    assert failed.error == "RuntimeError: broken on purpose"
    assert list(drawn.outputs) == ["drawn.csv"]
    jobs = {job.name: job for job in cli.plan([bad, good], [], "", out)}
    assert jobs["02_good"].current and not jobs["01_bad"].current
    written.write_text("other")
    assert not jobs["02_good"].current  # what it drew was overwritten
    written.unlink()
    assert not jobs["02_good"].current


def test_a_process_that_dies_is_an_error_of_its_notebook(tmp_path, monkeypatch):
    script = tmp_path / "dies.py"
    script.write_text("import os; os._exit(3)")
    monkeypatch.setattr(runner, "PROCESS", script)
    (job,) = cli.plan([write_notebook(tmp_path / "01_a.ipynb")], [], "", tmp_path / "out")
    job.state.mkdir(parents=True)
    (record,) = runner.run([job], 1, os.environ)
    assert "status 3" in record.error and "01_a.log" in record.error
    assert runner.load(job.state, "01_a") == record


def test_a_suite_goes_to_the_notebooks_that_have_one_and_changes_only_those(tmp_path):
    both = f'{PARAMETERS}\nsuite: str = "ladder"  # which checkpoints'
    with_suite = write_notebook(tmp_path / "01_with.ipynb", "print(suite)", parameters=both)
    without = write_notebook(tmp_path / "02_without.ipynb", "print(x)")
    file = tmp_path / "mine.yaml"
    entry = 'checkpoints: [{name: 0.4m-relu, scale: "0.4M", activation: relu}]'
    file.write_text(entry)

    def planned(suite):
        return cli.plan([with_suite, without], ["x=3"], suite, tmp_path / "out")

    before, after = planned(""), planned(str(file))
    assert [job.parameters for job in after] == [{"suite": str(file), "x": 3}, {"x": 3}]
    assert [a.inputs != b.inputs for a, b in zip(before, after, strict=True)] == [True, False]
    file.write_text(entry + "\ntokens: 4096")
    assert planned(str(file))[0].inputs != after[0].inputs  # the suite counts with its content


def test_a_second_run_beside_the_first_is_refused(tmp_path, out, capsys):
    (out / "notebooks").mkdir(parents=True)
    path = write_notebook(tmp_path / "01_a.ipynb")
    with FileLock(out / "notebooks" / ".01_a.lock"), pytest.raises(SystemExit) as stop:
        cli.main([str(path), "--out", str(out)])
    assert stop.value.code == 2
    assert "another run is at work on 01_a" in capsys.readouterr().err


def test_numbers_name_notebooks_and_two_of_one_name_are_refused(tmp_path):
    one = cli.find_notebooks([], ["2"])
    assert one == cli.find_notebooks([], ["02"]) == cli.find_notebooks([], ["02_data_scaling"])
    assert [path.stem for path in one] == ["02_data_scaling"]
    assert set(one) < set(cli.find_notebooks([], []))
    (tmp_path / "b").mkdir()
    paths = [write_notebook(tmp_path / "01_a.ipynb"), write_notebook(tmp_path / "b" / "01_a.ipynb")]
    with pytest.raises(ValueError, match="01_a"):
        cli.find_notebooks(paths, [])


def test_the_digest_follows_cells_parameters_and_files_but_not_outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_notebook(tmp_path / "01_a.ipynb", "print(x)")
    text = tmp_path / "text.txt"
    text.write_text("one")
    before = digest(path, file="text.txt")
    notebook = nbformat.read(path, 4)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="1\n")]
    notebook.cells[-1].execution_count = 7
    nbformat.write(notebook, path)
    assert digest(path, file="text.txt") == before
    assert digest(path, file="other.txt") != before
    times = text.stat()
    text.write_text("two")  # as long as before, and with its times
    os.utime(text, ns=(times.st_atime_ns, times.st_mtime_ns))
    changed = digest(path, file="text.txt")
    assert changed != before
    notebook.cells[-1].source = "print(x + 1)"
    nbformat.write(notebook, path)
    assert digest(path, file="text.txt") not in (before, changed)


def test_the_digest_follows_what_a_suite_names_and_a_model_below_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write_notebook(tmp_path / "01_a.ipynb", "print(x)")
    suite, text, model = tmp_path / "mine.yaml", tmp_path / "text.txt", tmp_path / "model"
    entry = "{name: mine, source: model, scale: a, activation: relu}"
    suite.write_text(f"corpora: [text.txt]\ncheckpoints:\n  - {entry}\n")
    model.mkdir()
    text.write_text("one")
    (model / "gone").symlink_to(tmp_path / "nowhere")
    seen, alone = [digest(path, suite=str(suite))], digest(path, model="~/model")
    assert digest(path, suite=str(suite)) == seen[0]
    text.write_text("two")
    seen.append(digest(path, suite=str(suite)))
    (model / "model.safetensors").write_text("weights")
    seen.append(digest(path, suite=str(suite)))
    assert len(set(seen)) == 3 and digest(path, model="~/model") != alone


def test_the_digest_of_the_claims_follows_the_results_of_the_others(tmp_path):
    results = tmp_path / "figures" / "results"
    results.mkdir(parents=True)
    claims, other = (write_notebook(tmp_path / f"{name}.ipynb") for name in ("11_claims", "02_other"))
    before = digest(claims), digest(other)
    (results / "02_other.json").write_text("{}")
    assert digest(claims) != before[0] and digest(other) == before[1]
    before = digest(claims)
    (results / "11_claims.json").write_text("{}")  # its own
    assert digest(claims) == before


def test_the_longest_is_started_first_and_the_claims_last(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "SECONDS", tmp_path / "seconds.json")
    runner.SECONDS.write_text('{"01_short": 5, "03_long": 300}')
    script, started = tmp_path / "notes.py", tmp_path / "started"
    note = f"import sys; open({str(started)!r}, 'a').write(sys.argv[1] + '\\n')"
    script.write_text(f'{note}; print(\'{{"error": ""}}\')')
    monkeypatch.setattr(runner, "PROCESS", script)
    names = ("11_claims", "01_short", "02_unknown", "03_long")
    jobs = [runner.Job(write_notebook(tmp_path / f"{name}.ipynb"), {}, tmp_path / "out") for name in names]
    jobs[0].state.mkdir(parents=True)
    runner.run(jobs, 1, os.environ)
    order = [Path(json.loads(line)["notebook"]).stem for line in started.read_text().splitlines()]
    assert order == ["03_long", "02_unknown", "01_short", "11_claims"]


def test_a_record_that_was_not_written_whole_counts_as_none(tmp_path):
    for text in ('{"notebook": "01_a"', '{"notebook": "01_a", "new_field": 1}'):
        (tmp_path / "01_a.json").write_text(text)
        assert runner.load(tmp_path, "01_a") is None


DRAW = """
import pandas as pd
from sparsinglib import paper
from sparsinglib.paper import style
style.save_table(pd.DataFrame({"x": [x / 3]}), "test_only")
paper.record_verdicts("test_only", [])
"""


def test_no_run_writes_on_tracked_files_but_the_one_that_stores(tmp_path, monkeypatch, capsys):
    """However it is started: by hand, with papermill, by this command."""
    shipped = tmp_path / "shipped"
    monkeypatch.delenv(files.OUTPUT, raising=False)
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(cli, "OUT", tmp_path / "build")
    monkeypatch.setattr(runner, "FIGURES", shipped)
    path = write_notebook(tmp_path / "01_a.ipynb", DRAW)
    exec(f"x = 2\n{DRAW}", {})
    drawn = pd.read_csv(tmp_path / "build" / "figures" / "test_only.csv")
    assert drawn.x.tolist() == [0.6667]
    papermill.execute_notebook(str(path), None, {"x": 5}, progress_bar=False)
    for left in (FIGURES.parent / "build" / "figures").rglob("test_only.*"):  # papermill's kernel does not see ROOT
        left.unlink()
    for x, third in (("7", 2.333), ("8", 2.667), ("7", 2.333)):
        assert cli.main([str(path), "--set", f"x={x}"]) == 0
        (folder,) = (tmp_path / "build" / "own").glob(f"x={x}-*")
        assert pd.read_csv(folder / "figures" / "test_only.csv").x.tolist() == [third]
        said = capsys.readouterr().out
        assert str(folder) in said
    assert "01_a: unchanged" in said  # the run between took nothing of the first one's place
    assert cli.main([str(path)]) == 0
    assert not shipped.exists() and not list(FIGURES.rglob("test_only*")) + list(NOTEBOOKS.rglob("test_only*"))
    assert cli.main([str(path), "--store"]) == 0
    assert pd.read_csv(shipped / "test_only.csv").x.tolist() == [0.3333]
    assert (shipped / "results" / "test_only.json").is_file()
    stored = nbformat.read(path, as_version=4)
    assert stored.cells[-1].outputs and "papermill" not in json.dumps(stored)


def test_each_set_of_parameters_has_a_folder_of_its_own(tmp_path, monkeypatch):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "mine.txt").touch()
    monkeypatch.chdir(tmp_path / "a")
    settings = [["x=1"], ["x=2"], ["x=1", "y=/"], ["t=mine.txt"], ["t=mine:txt"], ["t=other.txt"]]
    found = [*(cli.own_folder("", one) for one in settings), *(cli.own_folder("ladder", one) for one in ([], ["x=1"]))]
    monkeypatch.chdir(tmp_path / "b")
    found.append(cli.own_folder("", ["t=mine.txt"]))  # another file of that name
    assert len(set(found)) == len(found)
    assert cli.own_folder("ladder", ["y=2", "x=3", "x=1"]) == cli.own_folder("ladder", ["x=1", "y=2"])
    assert cli.own_folder("ladder", ["x=1"]).parent == cli.OUT / "own"
    before = cli.own_folder("", ["t=later.txt", "name=later"])
    (tmp_path / "b" / "later.txt").touch()
    (tmp_path / "b" / "later").mkdir()
    assert cli.own_folder("", ["t=later.txt", "name=later"]) == before


def test_kernels_are_told_where_tasks_run():
    given = cli.kernel_environment(2, "tcp://host:8786")
    assert (given["SPARSINGLIB_DASK"], given["OMP_NUM_THREADS"]) == ("tcp://host:8786", "1")


KINDS = """
text_file = ""  # a text
model = "0.4m-relu"  # a model
my_csv: str = ""  # a table
label = "a"  # some text
tokens: float = 1e9  # a number
bands: list = [0.005, 0.01]  # some numbers
size = 16_384  # a whole number
live = False  # a truth value
"""


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A notebook with parameters of all kinds, which is not where the reader is, and the reader's files."""
    (tmp_path / "book").mkdir()
    path = write_notebook(tmp_path / "book" / "01_a.ipynb", "print(open(text_file).read())", parameters=KINDS)
    (tmp_path / "mine.txt").write_text("my own text")
    (tmp_path / "ckpt" / "mine").mkdir(parents=True)
    (tmp_path / "ckpt" / "mine" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return path


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("label=123", "123"), ("tokens=1e6", 1e6), ("tokens=7", 7), ("size=1e6", 1_000_000), ("size=2_000", 2000),
     ("bands=[1e-3, 2]", [0.001, 2]), ("bands=[one, two]", ["one", "two"]), ("live=true", True), ("live=True", True),
     ("model=ckpt/mine", "ckpt/mine"), ("text_file=mine.txt", "mine.txt")],
)  # fmt: skip
def test_values_are_read_as_the_notebook_writes_them(reader, setting, expected):
    assert cli.parse_settings([setting], [reader]) == {setting.partition("=")[0]: expected}


@pytest.mark.parametrize("setting", ["size=1.5", "size=True", "live=1", "tokens=many", "bands=0.1", "bands=[1"])
def test_values_of_another_kind_are_refused(reader, setting):
    with pytest.raises(ValueError, match="takes a value like"):
        cli.parse_settings([setting], [reader])


@pytest.mark.parametrize(("setting", "where"), [("text_file=gone.txt", "gone.txt"), ("my_csv=a/gone.csv", "a/gone.csv"),
                                                ("model=gone", "gone")])  # fmt: skip
def test_what_is_not_there_is_said_at_once_with_the_place(reader, setting, where):
    with pytest.raises(ValueError, match=rf"[Ll]ooked for {reader.parents[1] / where}"):
        cli.parse_settings([setting], [reader])


def test_paths_are_those_of_the_readers_folder(reader, out):
    assert cli.main([str(reader), "--set", "text_file=mine.txt", "--out", str(out)]) == 0
    assert nbformat.read(out / "notebooks" / "01_a.ipynb", 4).cells[-1].outputs[0]["text"] == "my own text\n"
