"""One static page over everything that the notebooks made: ``python -m sparsinglib.reproduce.gallery``.

It needs no server: pictures, data and notebooks as HTML lie beside it, and all links are relative.
"""

import argparse
import base64
import hashlib
import io
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import pandas as pd
import yaml
from fontTools import subset
from matplotlib import font_manager
from nbconvert import HTMLExporter

from ..files import FIGURES, NOTEBOOKS, ROOT, write_atomically
from ..paper import scoreboard, style
from ..paper.claims import Verdict
from . import exhibit, run_state
from .run_state import Record

TEMPLATES = Path(__file__).with_name("templates")
COPIES = ROOT / "build" / "notebooks"
OWN_SECTION = ("claims", "exhibit")
START = 1.0  # p at which the slider stands first, in percent
CLASSES = {Verdict.HOLDS: "holds", Verdict.FAILS: "fails", Verdict.INCONCLUSIVE: "none", Verdict.NO_DATA: "none"}


def write(
    folder: Path,
    copies: Path = COPIES,
    figures: Path = FIGURES,
    notebooks: Path = NOTEBOOKS,
    own: Path | None = None,
) -> Path:
    """Write ``folder/index.html`` and what it links to; gives its path.

    ``copies`` holds executed notebooks and, in ``state``, the records of their runs (``run_state.Record``); notebooks
    that did not run there are shown as they are stored in ``notebooks``. ``own`` holds what a run drew: each figure
    takes the place of the shipped one of its name.
    """
    files = sorted(notebooks.glob("[0-9]*.ipynb"))
    runs = {path.stem: record for path in files if (record := run_state.load(copies / "state", path.stem))}
    titles = {path.stem: _convert(path, copies, folder / "notebooks") for path in files}
    played = exhibit.read(figures)  # before the copying, since it may be measured now
    shown = folder / "figures"
    shutil.rmtree(shown, ignore_errors=True)
    for source in (figures, own):
        if source and source.is_dir():
            shutil.copytree(source, shown, dirs_exist_ok=True, ignore=shutil.ignore_patterns("results", ".*"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("gallery.html.j2").render(
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=run_state.commit(),
        exhibit=None if played is None else playable(played),
        font="" if played is None else font_for("".join(played.piece.unique())),
        claims=_claims(shown / "claims.csv"),
        groups=list(_groups(shown, runs, titles)),
        notebooks=[{"name": name, "title": title, "run": runs.get(name)} for name, title in titles.items()],
    )
    write_atomically(folder / "index.html", page)
    return folder / "index.html"


def _convert(notebook: Path, copies: Path, folder: Path) -> str:
    """Write a notebook as HTML, its executed copy if there is one, unless it is there already; gives its title."""
    source = copies / notebook.name if (copies / notebook.name).is_file() else notebook
    document = nbformat.read(source, as_version=4)
    first = next((cell.source for cell in document.cells if cell.cell_type == "markdown"), "")
    title = first.splitlines()[0].lstrip("# ") if first.startswith("#") else notebook.stem
    page = folder / f"{notebook.stem}.html"
    if not page.is_file() or page.stat().st_mtime < source.stat().st_mtime:
        # Nothing is fetched from elsewhere: the page reads the same without a network.
        offline = dict.fromkeys(("mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url"), "")
        html, _ = HTMLExporter(**offline).from_notebook_node(document, {"metadata": {"name": title}})
        write_atomically(page, html)
    return title


def _groups(figures: Path, runs: Mapping[str, Record], titles: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Pictures and tables under the notebook that wrote them; what no run recorded here wrote comes last."""
    names = sorted(path.stem for path in figures.glob("*.csv") if path.stem not in OWN_SECTION)
    captions = yaml.safe_load((TEMPLATES / "captions.yaml").read_text(encoding="utf-8"))
    owner = {Path(output).stem: record for record in runs.values() for output in record.outputs}
    for name, record in runs.items():
        if mine := [_item(figures, n, captions, record) for n in names if owner.get(n) == record]:
            yield {"title": titles[name], "link": f"notebooks/{name}.html", "items": mine}
    if others := [_item(figures, n, captions, None) for n in names if n not in owner]:
        yield {"title": "Shipped with the package", "link": "", "items": others}


def _item(figures: Path, name: str, captions: Mapping[str, str], run: Record | None) -> dict[str, Any]:
    data = figures / f"{name}.csv"
    drawn = (figures / f"{name}.png").is_file() and (figures / f"{name}.svg").is_file()
    return {
        "name": name,
        "caption": _caption(name, captions),
        "digest": hashlib.sha256(data.read_bytes()).hexdigest()[:10],
        "table": None if drawn else pd.read_csv(data, dtype=str, keep_default_na=False),
        "run": run,
    }


def _caption(name: str, captions: Mapping[str, str]) -> str:
    """The caption of ``name``, or of the picture of which it is a variant (``figure_04_mine``, ``mine_figure_04``)."""
    known = [base for base in captions if f"_{base}_" in f"_{name}_"]
    if not known:
        return name.replace("_", " ").capitalize()
    base = max(known, key=len)
    variant = f"_{name}_".replace(f"_{base}_", "_", 1).strip("_")
    return captions[base] + (f" ({variant})" if variant else "")


def _claims(path: Path) -> dict[str, Any] | None:
    """The scoreboard as the template wants it; None if there is none yet."""
    if not path.is_file():
        return None
    claims = scoreboard.read(path)
    rows = []
    for claim, group in claims.groupby("id", sort=False):
        checks = {
            kind: [{**row, "css": CLASSES[row["verdict"]]} for row in group[group.evidence == kind].to_dict("records")]
            for kind in scoreboard.EVIDENCE
        }
        texts = group.iloc[0][["claim", "where", "paper_value"]].to_dict()
        silent = group[group.evidence == ""].why
        rows.append({"id": claim, **texts, "checks": checks, "silent": silent.iloc[0] if len(silent) else ""})
    return {"counts": scoreboard.counts(claims), "rows": rows}


def playable(states: pd.DataFrame) -> dict[str, Any]:
    """The exhibit's states (``exhibit.states``) as the page's script reads them."""
    increases = sorted(float(p) for p in states.p_pct.unique())
    models = []
    for name, of_model in states.groupby("model", sort=False):
        activation = {"relu": "ReLU", "silu": "SiLU"}.get(str(name).rpartition("-")[2], "")
        found = []
        for p in increases:
            tokens = of_model[of_model.p_pct == p].sort_values("position")
            first = tokens.iloc[0]
            numbers = {key: round(float(first[key]), 4) for key in ("activation_ratio", "ppl", "cett")}
            error = {"increase": round(float(first.ppl_increase_pct), 3), "se": round(float(first.increase_se_pct), 3)}
            found.append({**numbers, **error, "shares": [round(float(x), 3) for x in tokens.share]})
        pieces = of_model[of_model.p_pct == increases[0]].sort_values("position").piece
        models.append({"name": name, "label": f"{activation} ({name})", "pieces": list(pieces), "states": found})
    start = increases.index(START) if START in increases else 0
    return {"increases": increases, "start": start, "models": models, "tokens": exhibit.TOKENS}


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m sparsinglib.reproduce.gallery", description=__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        help="directory that sparsinglib.reproduce wrote to; the page goes into its folder gallery (default: build)",
    )
    given = parser.parse_args(arguments).out
    out = (given or COPIES.parent).resolve()
    print(write(out / "gallery", out / "notebooks", own=out / "figures"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
