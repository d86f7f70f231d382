"""The suite of the authors' checkpoints end to end, on tiny ones in the layout of the hub, tokenizer included."""

import json
from collections import Counter

import nbformat
import pytest
import released

from sparsinglib import suites
from sparsinglib.files import FIGURES, NOTEBOOKS
from sparsinglib.reproduce import cli as reproduce
from sparsinglib.studies.downstream import scores as downstream
from sparsinglib.suites import suite

SMALL = {"tokens": 8192, "corpora_tokens": 1024, "points": 4, "max_tokens": 4096}
SMALL |= {"examples": 10, "figure_3_examples": 10, "slider_mode": "picture"}
FED = {"00", "01", "06", "07", "08"}  # by final checkpoints


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return released.write(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def run(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSINGLIB_CACHE", str(tmp_path / "cache"))

    def run(*numbers, **settings):
        known = reproduce.plan(reproduce.find_notebooks([], numbers), [], str(hub), tmp_path)
        names = {name for job in known for name in reproduce.papermill.inspect_notebook(str(job.notebook))}
        given = [f"--set={name}={value}" for name, value in (SMALL | settings).items() if name in names]
        arguments = ["--suite", str(hub), "--out", str(tmp_path / "out"), "--jobs", "2", *given]
        shipped = state(FIGURES)
        status = reproduce.main([*arguments, "--notebooks", *numbers] if numbers else arguments)
        assert state(FIGURES) == shipped  # a run of other models leaves what is shipped alone
        return status, tmp_path / "out"

    return run


def state(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def verdicts(out, notebook):
    (file,) = (out / "figures" / "results").glob(f"{notebook}_*.json")
    return json.loads(file.read_text(encoding="utf-8"))["verdicts"]


def said(out, notebook):
    (file,) = (out / "notebooks").glob(f"{notebook}_*.ipynb")
    cells = nbformat.read(file, as_version=4).cells
    return "".join(o.get("text", "") for c in cells if c.cell_type == "code" for o in c.outputs)


def test_two_notebooks_on_two_checkpoints(run):
    status, out = run("00", "09")
    assert status == 0
    first = verdicts(out, "00")
    assert [row["id"] for row in first] == ["C03", "C21"] and {row["evidence"] for row in first} == {"released"}
    assert {row["verdict"] for row in first} == {"no data"}  # cutting random weights raises no perplexity
    text = said(out, "00")
    assert "sparsing-law-1.2b-relu" in text and "sparsing-law-1.2b-silu" in text  # the largest of the suite
    assert "hub/sparsing-law" not in text and "[transformers]" not in text  # no path of this machine, no warning
    assert {row["evidence"] for row in verdicts(out, "09")} == {"paper", "ladder"}  # it knows no other mixtures
    assert (out / "figures" / "figure_01.png").is_file()


@pytest.mark.slow
def test_every_notebook(run):
    status, out = run()
    assert status == 0
    for number in FED:
        kinds = Counter(row["evidence"] for row in verdicts(out, number))
        assert kinds["released"] and not kinds["ladder"] and not kinds["own"], (number, kinds)
    claims = (out / "figures" / "claims.csv").read_text(encoding="utf-8")
    assert ",released," in claims and ",ladder," in claims  # beside what is shipped, not in its place
    assert (out / "gallery" / "index.html").is_file()


def test_a_half_downloaded_checkpoint_is_named_before_anything_runs(tmp_path, capsys):
    folder = released.write(tmp_path / "hub", released.NAMES[:2])
    (folder / released.NAMES[0] / "pytorch_model.bin").unlink()
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (folder / released.NAMES[1] / name).unlink()
    with pytest.raises(SystemExit) as stop:
        reproduce.main(["--suite", str(folder), "--out", str(tmp_path / "out"), "--notebooks", "00"])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert "0.1b-relu has no weights; " in said and "0.1b-silu has no tokenizer. " in said
    assert not (tmp_path / "out").exists()


def test_what_each_notebook_takes_from_a_suite(hub, tmp_path):
    jobs = reproduce.plan(sorted(NOTEBOOKS.glob("[0-9]*.ipynb")), ["compare_with="], str(hub), tmp_path)
    given = {job.name[:2]: job.parameters for job in jobs}
    largest = {a: str(hub / f"sparsing-law-1.2b-{a}") for a in ("relu", "silu")}
    assert given["00"] == {"model": largest["relu"], "compare_with": ""}  # what is set by hand comes first
    assert given["10"] == {"model": largest["relu"]}
    assert all(given[n] == {"suite": str(hub)} for n in ("01", "06", "07", "08"))
    assert all(given[n] == {} for n in ("02", "03", "04", "05", "11"))


def test_models_of_the_suite_are_called_released(hub):
    assert downstream.choose([], str(hub)) == [str(hub / f"sparsing-law-1.2b-{a}") for a in ("relu", "silu")]
    names = [str(hub / released.NAMES[0]), "SparseLLM/sparsing-law-0.8b-silu", "0.4m-relu", "someone/model"]
    assert [suite.evidence(n) for n in names] == ["released", "released", "ladder", "own"]


def test_a_suite_with_a_revision_leaves_the_notebooks_of_single_models_alone(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text('checkpoints: [{name: a, source: someone/a, scale: "1B", activation: relu, revision: abc}]')
    assert suites.two_models(suites.read(file)) == {}
