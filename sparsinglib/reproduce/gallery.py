"""One static page over everything that the notebooks made.

It needs no server: pictures, data and notebooks as HTML lie beside it, and all links are relative.
"""

import base64
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import numpy as np
import pandas as pd
from fontTools import subset
from matplotlib import font_manager
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

from ..core.search import thresholds_for_cett
from ..files import FIGURES, NOTEBOOKS, write_atomically
from ..paper import scoreboard, style
from ..paper.rules import Verdict
from ..studies.checkpoint import slider
from ..studies.scaling import limits
from ..suites import read as read_suite
from ..suites import survey
from ..suites.suite import Checkpoint
from .runner import Record, commit, load

TITLE = "Sparsing Law, measured again"
TABLES = {
    1: "mean scores on tasks, dense and at three tolerances",
    2: "the laws' coefficients, printed and fitted again",
    3: "training settings",
    4: "commonsense reasoning, one column a benchmark",
    5: "reading comprehension, one column a benchmark",
    6: "complex benchmarks",
}
MOST_ROWS = 200  # of a table; all of them are in its CSV
START = 1.0  # p at which the slider stands first, in percent
MODELS = ("0.4m-relu", "0.4m-silu")  # of the exhibit
INCREASES = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)  # percent of perplexity; 0: only zeros left out
LENGTH, TOKENS = 256, 12_288  # of the held-out text that thresholds are found on
EXHIBIT = ["model", "p_pct", "cett", "activation_ratio", "ppl_increase_pct", "increase_se_pct"]
EXHIBIT += ["position", "piece", "share"]  # columns of its data
CLASSES = {Verdict.HOLDS: "holds", Verdict.FAILS: "fails"}


def write(out: Path, figures: Path = FIGURES, notebooks: Path = NOTEBOOKS) -> Path:
    """Write ``out/gallery/index.html`` and what it links to; gives its path.

    ``out`` is the folder of a run: its figures take the place of the shipped ones in ``figures``, its executed copies
    that of the stored ``notebooks``, and its records say how each notebook ended.
    """
    folder = out / "gallery"
    shown = folder / "figures"
    shutil.rmtree(shown, ignore_errors=True)
    for source in (figures, out / "figures"):
        if source.is_dir():
            shutil.copytree(source, shown, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    shown_notebooks = {}
    for path in sorted(notebooks.glob("[0-9]*.ipynb")):
        run = load(out / "notebooks" / "state", path.stem)
        copy = out / "notebooks" / path.name
        shown_notebooks[path.stem] = {"title": _convert(copy if copy.is_file() else path, folder), "run": run}
    played = read_states()
    if played is not None:
        style.save_table(played, "exhibit", shown)
    runs = _runs_and_fits(shown)
    page = _render(
        title=TITLE,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=commit(),
        exhibit=[] if played is None else _playable(played),
        start=INCREASES.index(START),
        tokens=f"{TOKENS:,}",
        font="" if played is None else font_for("".join(played.piece.unique())),
        runs=runs,
        most=max((len(run["fits"]) for part in runs.values() for run in part), default=1) - 1,
        groups=list(_groups(shown, shown_notebooks)),
        notebooks=shown_notebooks,
        **_claims(shown),
    )
    write_atomically(folder / "index.html", page)
    return folder / "index.html"


def _runs_and_fits(figures: Path) -> dict[str, list[dict[str, Any]]]:
    """The published runs' points with their least-squares fits by the number of dropped points, by activation.

    What the page's script draws Figure 4 from; nothing if the tables are not there.
    """
    files = [figures / f"{name}.csv" for name in ("figure_04", "fits_by_drop")]
    runs: dict[str, list[dict[str, Any]]] = {}
    if not all(file.is_file() for file in files):
        return runs
    points, fits = map(pd.read_csv, files)
    known = limits.printed().a0
    for run, part in fits.groupby("run", sort=False):
        mine = points[points.run == run].sort_values("d")
        row = {"name": style.name(run), "colour": style.look_of(run)["color"], "printed": known[run]}
        row |= {"points": mine[["d", "activation_ratio"]].to_numpy().tolist()}
        row |= {"fits": [r.dropna().to_dict() for _, r in part[["alpha", "b", "c", "a0"]].iterrows()]}
        runs.setdefault(style.ACTIVATION_LABELS[part.activation.iloc[0]], []).append(row)
    return runs


def _render(**values: Any) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    environment = jinja2.Environment(loader=loader, autoescape=True)
    return environment.get_template("page.html.j2").render(**values)


def _convert(notebook: Path, folder: Path) -> str:
    """Write a notebook as HTML that reads like the page; gives its title."""
    document = nbformat.read(notebook, as_version=4)
    heading = title = notebook.stem
    for cell in document.cells:
        if cell.cell_type == "markdown" and (found := re.search(r"^#+ +(.+)", cell.source, re.MULTILINE)):
            heading = found[1]
            title = heading if title == notebook.stem else title
        for output in cell.get("outputs", []):  # a picture without a text of its own is called as its section
            for kind in output.get("metadata", {}).keys() | output.get("data", {}).keys() & {"image/png"}:
                output.metadata.setdefault(kind, nbformat.NotebookNode()).setdefault("alt", heading)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(document)
    body = re.sub(r'(href="[^":]*)\.ipynb', r"\1.html", body)
    colours = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    code_style = f"{colours}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n.highlight {{ background: none; }}"
    page = _render(title=title, body=body, code_style=code_style)
    write_atomically(folder / "notebooks" / f"{notebook.stem}.html", page)
    return title


def _groups(figures: Path, notebooks: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Pictures and tables under the notebook that wrote them; what no run recorded here wrote comes last."""
    names = sorted(
        path.stem for path in figures.glob("*.csv") if path.stem not in ("claims", "exhibit", "fits_by_drop")
    )
    ran = {name: n["run"] for name, n in notebooks.items() if n["run"]}
    owner = {Path(output).stem: name for name, run in ran.items() for output in run.outputs}
    for notebook, run in ran.items():
        if mine := [_item(figures, name, run) for name in names if owner.get(name) == notebook]:
            yield {"title": notebooks[notebook]["title"], "link": f"notebooks/{notebook}.html", "items": mine}
    if others := [_item(figures, name, None) for name in names if name not in owner]:
        yield {"title": "Shipped with the package", "link": "", "items": others}


def _item(figures: Path, name: str, run: Record | None) -> dict[str, Any]:
    drawn = (figures / f"{name}.png").is_file() and (figures / f"{name}.svg").is_file()
    rows = style.rounded(pd.read_csv(figures / f"{name}.csv")).head(MOST_ROWS)
    table = None if drawn else rows.to_html(index=False, border=0, na_rep="", float_format="{:.10g}".format)
    return {"name": name, "caption": _caption(name, figures), "table": table, "run": run}


def _caption(name: str, figures: Path) -> str:
    """What the picture says, after its number in the paper and, of a variant, its ending (``figure_04_mine``)."""
    found = re.match(r"(figure|table)_(\d\d)(?:_(.+))?$", name)
    if not found:
        return style.caption(name, figures) or name.replace("_", " ").capitalize()
    kind, number, variant = found[1], int(found[2]), found[3]
    said = style.caption(name, figures) if kind == "figure" else TABLES.get(number, "")
    return f"{kind.capitalize()} {number}" + (f" ({variant})" if variant else "") + (f": {said}" if said else "")


def _claims(figures: Path) -> dict[str, Any]:
    """What the page says about claims; nothing if there is no table of them yet."""
    if not (figures / "claims.csv").is_file():
        return {"claims": []}
    claims = scoreboard.read(figures / "claims.csv")
    notebook = {}
    for path in sorted((figures / "results").glob("*.json")):
        for row in json.loads(path.read_text(encoding="utf-8"))["verdicts"]:
            notebook[row["id"], row["evidence"]] = path.stem
    claims["notebook"] = [notebook.get(key, "") for key in zip(claims.id, claims.evidence, strict=True)]
    claims["css"] = claims.verdict.map(lambda said: CLASSES.get(said, "faint"))
    listed = []
    for claim, group in claims.groupby("id", sort=False):
        rows = {kind: group[group.evidence == kind].to_dict("records") for kind in scoreboard.EVIDENCE}
        silent = "" if any(rows.values()) else group.why.iloc[0]
        texts = group.iloc[0][["claim", "where", "paper_value"]].to_dict()
        listed.append({"id": claim, **texts, "rows": rows, "silent": silent})
    choices = {
        "verdict": [str(verdict) for verdict in Verdict],
        "evidence": list(scoreboard.EVIDENCE),
        "notebook": sorted({name[:2] for name in claims.notebook if name}),
    }
    counts = scoreboard.counts(claims).reset_index().to_html(index=False, border=0)
    return {"claims": listed, "choices": choices, "kinds": scoreboard.EVIDENCE, "counts": counts}


def measure_states(checkpoint: Checkpoint) -> pd.DataFrame:
    """The sample text of one model at each p (``slider.recoloured``): ``EXHIBIT``, a row for each p and token.

    activation_ratio (a fraction) and ppl_increase_pct are those of the held-out text that thresholds are found on.
    """
    model, tokenizer = survey.loaded(checkpoint)
    zeros = thresholds_for_cett(model, survey.batches(survey.Text("mixture", TOKENS, LENGTH), tokenizer), 0.0)
    found = [survey.thresholds(checkpoint, survey.PPLIncrease(p), LENGTH, TOKENS) if p else zeros for p in INCREASES]
    states = slider.recoloured(checkpoint, found, LENGTH).drop(columns=["activation_ratio", "ppl_increase_pct"])
    states = states.rename(columns={"mixture_ratio": "activation_ratio", "mixture_increase_pct": "ppl_increase_pct"})
    return states.assign(p_pct=np.repeat(INCREASES, len(states) // len(INCREASES)))[EXHIBIT]


def read_states() -> pd.DataFrame | None:
    """The states of both models, measured (a minute or two) or from disk; None if a model is missing."""
    chosen = [c for c in read_suite("ladder").checkpoints if c.name in MODELS]
    if len(chosen) < len(MODELS):
        return None
    return pd.concat(survey.run(measure_states, chosen, min(len(MODELS), os.cpu_count() or 1)), ignore_index=True)


def _playable(states: pd.DataFrame) -> list[dict[str, Any]]:
    """For each p, the text of both models on one scale of colours, with its numbers."""
    shown = []
    for p, of_p in states.groupby("p_pct"):
        most = float(of_p.share.max())
        models = []
        for name, tokens in of_p.groupby("model", sort=False):
            first = tokens.iloc[0]
            rise = f" · perplexity {first.ppl_increase_pct:+z.2f} ± {first.increase_se_pct:.2f} %" if p else ""
            numbers = f"{100 * first.activation_ratio:.1f} % of neurons active{rise} · CETT {first.cett:.3f}"
            models.append({"name": name, "numbers": numbers, "text": style.text_html(tokens.piece, tokens.share, most)})
        label = f"{p:g} %" if p else "nothing (only exact zeros are left out)"
        shown.append({"label": label, "most": f"{100 * most:.0f}", "models": models})
    return shown


def font_for(text: str) -> str:
    """The few Chinese characters of ``text`` as a font in base64; "" without such a font (see ``style.monospace``).

    Many machines have no font for them, and a page from a file can fetch none.
    """
    if not (names := style.monospace()[1:]):
        return ""
    options = subset.Options(flavor="woff", layout_features=[], hinting=False, notdef_outline=True)
    font = subset.load_font(font_manager.findfont(names[0]), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(text="".join(c for c in text if ord(c) > 0x2E7F))
    subsetter.subset(font)
    file = io.BytesIO()
    subset.save_font(font, file, options)
    return base64.b64encode(file.getvalue()).decode()
