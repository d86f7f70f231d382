"""The gallery: a page that shows everything, with links that work from a file, and an exhibit that was measured."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import nbformat
import numpy as np
import pandas as pd
import pytest
from fontTools.ttLib import TTFont

from sparsinglib import paper
from sparsinglib.files import FIGURES
from sparsinglib.paper import scoreboard, style
from sparsinglib.reproduce import exhibit, gallery, run_state


class Page(HTMLParser):
    """Links, ids and text of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.metas, self.text = [], set(), {}, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.links += [found[name] for name in ("href", "src") if name in found]
        self.ids |= {found["id"]} if "id" in found else set()
        if tag == "meta" and "name" in found:
            self.metas[found["name"]] = found["content"]

    def handle_data(self, data):
        self.text.append(data)


def states():
    rows = []
    for model, active in (("0.4m-relu", 0.2), ("0.4m-silu", 0.5)):
        for p in (0.0, 1.0, 5.0):
            for position, piece in enumerate(["The", "·<b>", "ship⏎"]):
                share = active / (1 + p) + position / 100
                rows.append([model, p, p / 10, active / (1 + p), 20 + p, p, 0.1, position, piece, share])
    columns = ["model", "p_pct", "cett", "activation_ratio", "ppl", "ppl_increase_pct", "increase_se_pct"]
    return pd.DataFrame(rows, columns=[*columns, "position", "piece", "share"])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    base = tmp_path_factory.mktemp("gallery")
    figures, notebooks, copies = base / "figures", base / "stored", base / "out" / "notebooks"
    figure, (ax,) = style.axes(1, 1)
    ax.plot([0, 1])
    style.save(figure, "figure_04", pd.DataFrame({"x": [0.0, 1.0]}), figures)
    style.save(figure, "unknown_name", pd.DataFrame({"x": [0.0]}), figures)
    style.save_table(states(), "exhibit", figures)
    style.save_table(pd.DataFrame({"run": ["0.1b-relu"], "a0": [0.0614]}), "table_02", figures)
    (figures / "results").mkdir()
    row = paper.claims.Row("C18", "paper", "<script>alert(1)</script>", paper.Verdict.HOLDS, "a & b")
    paper.record_verdicts("02_two", [row], figures / "results")
    scoreboard.save(scoreboard.table(scoreboard.collect([figures / "results"])), figures)
    notebooks.mkdir()
    for name, title in (("02_two", "# 02 · Two"), ("03_three", "# 03 · Three")):
        cells = [nbformat.v4.new_markdown_cell(title), nbformat.v4.new_markdown_cell("## Checks")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), notebooks / f"{name}.ipynb")
    run = run_state.Record("02_two", "1", {"x": 5}, "released", "abc+", "0123456789ab", "2026-01-02T03:04:05Z", 12.0)
    drew = [str(figures / "figure_04.png"), str(figures / "figure_04.csv"), str(figures / "table_02.csv")]
    run_state.Record(**{**run.__dict__, "outputs": drew}).save(copies / "state")
    failed = {"notebook": "03_three", "error": "ZeroDivisionError: <division>"}
    run_state.Record(**{**run.__dict__, **failed}).save(copies / "state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exhibit, "read", lambda folder: states())
        path = gallery.write(base / "out" / "gallery", copies, figures, notebooks)
        before = {p: p.stat().st_mtime_ns for p in path.parent.rglob("notebooks/*.html")}
        gallery.write(base / "out" / "gallery", copies, figures, notebooks)
    assert {p: p.stat().st_mtime_ns for p in before} == before and len(before) == 2  # converted once
    return path


def test_every_link_leads_to_something_beside_the_page(made):
    page = Page(made)
    assert any(link.endswith("figure_04.svg") for link in page.links)
    for link in page.links:
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https" and parts.netloc == "arxiv.org"
            continue
        assert not parts.path.startswith("/")
        target = made.parent / unquote(parts.path) if parts.path else made
        assert target.is_file(), link
        if parts.fragment:
            assert parts.fragment in Page(target).ids, link


def test_it_is_made_for_phones_and_dark_rooms_and_loads_nothing_from_elsewhere(made):
    html = made.read_text(encoding="utf-8")
    assert "width=device-width" in Page(made).metas["viewport"]
    assert "@media (prefers-color-scheme: dark)" in html
    assert not re.search(r"(src|url\()\s*=?\s*[\"']?https?:", html)
    assert not re.search(r'<(script|link)[^>]+(src|href)="https?:', (made.parent / "notebooks/02_two.html").read_text())


def test_provenance_captions_claims_and_failures_are_shown(made):
    text = " ".join(" ".join(Page(made).text).split())
    assert "notebook 02_two · suite released · x = 5 · commit abc+ · data 0123456789 · 2026-01-02T03:04:05Z" in text
    assert "Figure 4: activation ratio against training tokens" in text
    assert "Unknown name" in text and "not drawn by a run recorded here" in text
    assert "failed : ZeroDivisionError: <division>" in text
    assert text.count("no data: no notebook recorded it") == 34 and "no data: ill-posed" in text
    assert "0.0614" in text
    html = made.read_text(encoding="utf-8")
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html
    assert str(made.parent) not in html


def test_the_exhibit_holds_what_was_measured(made):
    html = made.read_text(encoding="utf-8")
    data = json.loads(re.search(r"const exhibit = (.*);\n", html)[1])
    assert data["increases"] == [0.0, 1.0, 5.0] and data["start"] == 1
    relu, silu = data["models"]
    assert (relu["name"], silu["name"]) == ("0.4m-relu", "0.4m-silu")
    assert relu["pieces"] == ["The", "·<b>", "ship⏎"]
    assert relu["states"][1] == {
        "activation_ratio": 0.1,
        "ppl": 21.0,
        "cett": 0.1,
        "increase": 1.0,
        "se": 0.1,
        "shares": [0.1, 0.11, 0.12],
    }


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs the program chromium")
def test_the_slider_recolours_the_text_in_a_browser(made):
    moved = made.with_name("moved.html")
    script = "<script>slider.value = 2; slider.dispatchEvent(new Event('input'));</script></body>"
    moved.write_text(made.read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8")
    doms = []
    for page in (made, moved):
        call = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
        doms.append(subprocess.run(call, capture_output=True, text=True, timeout=120, check=True).stdout)
    before, after = (re.findall(r'<span title="([^"]*)" style="background: (rgb[^;]*);', dom) for dom in doms)
    assert [title for title, _ in before] == [f"{n} % of neurons" for n in (10, 11, 12, 25, 26, 27)]
    assert [title for title, _ in after] == [f"{n} % of neurons" for n in (3, 4, 5, 8, 9, 10)]
    assert not {colour for _, colour in before} & {colour for _, colour in after[:3]}
    assert "10.0 % of neurons active · perplexity 21.00" in doms[0] and "1 %</output>" in doms[0]
    assert "3.3 % of neurons active · perplexity 25.00" in doms[1] and "5 %</output>" in doms[1]


def test_a_variant_of_a_picture_has_its_caption():
    captions = {"figure_04": "Four.", "figure_04_b": "Four b."}
    names = ("figure_04", "figure_04_mine", "mine_figure_04", "figure_04_b", "figure_041")
    said = [gallery._caption(name, captions) for name in names]
    assert said == ["Four.", "Four. (mine)", "Four. (mine)", "Four b.", "Figure 041"]


def test_chinese_characters_come_with_the_page():
    font = gallery.font_for("abc北京")
    if not font:
        pytest.skip("needs the font in the package mplfonts")
    characters = TTFont(io.BytesIO(base64.b64decode(font))).getBestCmap()
    assert set(characters) == {ord("北"), ord("京")}
    assert len(font) < 20_000


class Quadratic:
    """A trial whose perplexity rises as 2 CETT²."""

    def refine(self, grid):
        self.grid = list(grid)

    def evaluate(self, cett):
        assert cett in self.grid
        return type("Point", (), {"log_ratio": 2 * cett**2})


def test_cett_for_each_p_is_read_off_the_measured_curve():
    found = exhibit._cetts(Quadratic())
    wanted = np.sqrt(np.log1p(np.array(exhibit.INCREASES) / 100) / 2)
    assert found == pytest.approx(wanted, rel=0.02)
    assert (np.diff(found) > 0).all()


def test_the_shipped_exhibit_is_measured_on_the_shipped_models_and_reads_as_the_paper_says():
    shipped = FIGURES / "exhibit.csv"
    if not exhibit.inputs():
        pytest.skip(f"needs {' and '.join(exhibit.MODELS)}")
    noted = (FIGURES / "exhibit.sha256").read_text(encoding="utf-8").strip()
    assert noted == exhibit.inputs(), "the models or the text changed: run python -m sparsinglib.reproduce.gallery"
    states = pd.read_csv(shipped, keep_default_na=False)
    one = states.drop_duplicates(["model", "p_pct"]).set_index(["model", "p_pct"])
    for model in exhibit.MODELS:
        assert (np.diff(one.loc[model].activation_ratio) < 0).all()
        assert (np.diff(one.loc[model].ppl) > 0).all()
        reached = one.loc[model].iloc[1:]
        off = (reached.ppl_increase_pct - reached.index).abs()
        assert (off < 0.15 * reached.index + 0.1).all(), reached  # CETT is interpolated between measured points
        tokens = states[states.model == model].groupby("p_pct").size()
        assert tokens.nunique() == 1
    assert states.share.between(0, 1).all()
    relu, silu = (one.loc[model].activation_ratio for model in exhibit.MODELS)
    assert (relu[:10.0] < silu[:10.0]).all()  # beyond a rise of 10 % the two meet on the ladder
