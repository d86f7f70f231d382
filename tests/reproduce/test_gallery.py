"""The page: it shows everything, each link leads somewhere, each colour can be read, the exhibit was measured."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import nbformat
import numpy as np
import pandas as pd
import pytest
from colours import contrast
from fontTools.ttLib import TTFont

from sparsinglib import laws, paper, suites
from sparsinglib.files import NOTEBOOKS
from sparsinglib.paper import scoreboard, style
from sparsinglib.reproduce import gallery
from sparsinglib.reproduce.runner import Record
from sparsinglib.studies.scaling import limits, trends


class Page(HTMLParser):
    """Links, ids, pictures and text of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.images, self.metas, self.text = [], set(), [], {}, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.links += [found[name] for name in ("href", "src") if name in found and not found[name].startswith("data:")]
        self.ids |= {unquote(found["id"])} if "id" in found else set()
        if tag == "img":
            self.images.append(found.get("alt", ""))
        if tag == "meta" and "name" in found:
            self.metas[found["name"]] = found["content"]

    def handle_data(self, data):
        self.text.append(data)


def broken_links(index):
    """Follow every link from a page; those that leave the folder, need a network or lead nowhere, with their page."""
    seen, todo, broken = set(), [index], []
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        for link in Page(path).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                broken += [] if link.startswith("https://arxiv.org/") else [(path.name, link)]
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_relative_to(index.parent) or not target.is_file():
                broken.append((path.name, link))
            elif target.suffix == ".html":
                todo.append(target)
                if parts.fragment and unquote(parts.fragment) not in Page(target).ids:
                    broken.append((path.name, link))
    return broken


def states():
    rows = []
    for model, active in (("0.4m-relu", 0.2), ("0.4m-silu", 0.5)):
        for p in (0.0, 0.5, 1.0, 5.0):
            for position, piece in enumerate(["The", "·<b>", "ship⏎"]):
                share = active / (1 + p) + position / 100
                rows.append([model, p, p / 10, active / (1 + p), p + 0.01, 0.1, position, piece, share])
    return pd.DataFrame(rows, columns=gallery.EXHIBIT)


def published():
    points = trends.activation("paper")
    return points[points.run.isin(["0.1b-relu", "1.2b-silu"])]


def cells():
    image = nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(b"picture").decode()})
    links = "[the rule](02_two.ipynb) of [03](03_three.ipynb#Checks)"
    table = nbformat.v4.new_output("display_data", {"text/markdown": links})
    code = nbformat.v4.new_code_cell("draw()", outputs=[image, table], execution_count=1)
    return [nbformat.v4.new_markdown_cell("## What is drawn"), code, nbformat.v4.new_markdown_cell("## Checks")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    base = tmp_path_factory.mktemp("page")
    shipped, notebooks, out = base / "shipped", base / "stored", base / "out"
    figure, (ax,) = style.axes(1, 1)
    ax.plot([0, 1])
    style.save(figure, "figure_04", published(), out / "figures")
    style.save_table(limits.fits_by_drop(published()), "fits_by_drop", out / "figures")
    style.save(figure, "unknown_name", pd.DataFrame({"x": [0.0]}), shipped)
    style.save_table(pd.DataFrame({"run": ["<b>"], "a0": [0.0614123]}), "table_02", out / "figures")
    rows = [paper.judge("C01", "paper", "<script>alert(1)</script>")]
    paper.record_verdicts("02_two", rows, out / "figures" / "results")
    scoreboard.save(scoreboard.table(scoreboard.collect([out / "figures" / "results"])), out / "figures")
    notebooks.mkdir()
    for name, title in (("02_two", "# 02 · Two"), ("03_three", "# 03 · Three")):
        document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(title), *cells()])
        nbformat.write(document, notebooks / f"{name}.ipynb")
    drew, ended = dict.fromkeys(("figure_04.png", "figure_04.csv", "table_02.csv"), ""), "2026-01-02T03:04:05Z"
    for run in (
        Record("02_two", "1", {"x": 5}, "abc+", ended, 12.0, drew),
        Record("03_three", "1", {}, "abc+", ended, 12.0, {}, "ZeroDivisionError: <division>"),
    ):
        run.save(out / "notebooks" / "state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "read_states", states)
        patch.setattr(gallery, "INCREASES", (0.0, 0.5, 1.0, 5.0))
        return gallery.write(out, shipped, notebooks)


@pytest.fixture
def html(made):
    return made.read_text(encoding="utf-8")


def test_every_link_leads_to_something_beside_the_page(made):
    assert broken_links(made) == []
    assert any(link.endswith("figure_04.svg") for link in Page(made).links)
    claims = Page(made.parent / "notebooks" / "03_three.html")
    assert {"02_two.html", "03_three.html#Checks", "../index.html"} <= set(claims.links)


def test_every_link_of_the_shipped_notebooks_page_leads_to_something(tmp_path, monkeypatch):
    """Without the slider, whose states take minutes to measure."""
    monkeypatch.setattr(gallery, "read_states", lambda: None)
    index = gallery.write(tmp_path)
    assert len(list(index.parent.glob("notebooks/*.html"))) == len(list(NOTEBOOKS.glob("[0-9]*.ipynb")))
    assert broken_links(index) == []


def test_the_crawler_finds_a_link_that_leads_nowhere(made, tmp_path):
    other = tmp_path / "other.html"
    other.write_text('<p id="here"></p><a href="gone.html">1</a><a href="#there">2</a><a href="https://x.org">3</a>')
    (tmp_path / "index.html").write_text('<a href="other.html#here">1</a><a href="other.html#gone">2</a>')
    assert [link for _, link in broken_links(tmp_path / "index.html")] == [
        "other.html#gone", "gone.html", "#there", "https://x.org"]  # fmt: skip


def test_pages_fit_phones_and_dark_rooms_and_load_nothing_from_elsewhere(made):
    for path in (made, *made.parent.glob("notebooks/*.html")):
        html = path.read_text(encoding="utf-8")
        assert "width=device-width" in Page(path).metas["viewport"]
        assert "@media (prefers-color-scheme: dark)" in html
        assert "invert(" not in html  # captions name colours: "darker: larger"
        assert not re.search(r"(src|url\()\s*=?\s*[\"']?https?:", html)


def test_every_picture_says_what_it_is(made):
    assert Page(made).images == ["Figure 4", "Unknown name"]
    assert Page(made.parent / "notebooks" / "02_two.html").images == ["What is drawn"]


def test_provenance_claims_and_failures_are_shown(made, html):
    text = " ".join(" ".join(Page(made).text).split())
    assert "notebook 02_two · x = 5 · commit abc+ · 2026-01-02T03:04:05Z" in text
    assert "Table 2: the laws' coefficients" in text and "0.06141" in text and "0.061412" not in text
    assert "Unknown name" in text and "not drawn by a run recorded here" in text
    assert "failed : ZeroDivisionError: <division>" in text
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html and "<b>" not in html
    assert str(made.parent) not in html


def test_claims_can_be_filtered_by_what_each_row_carries(made, html):
    selects = dict(re.findall(r'<select name="(\w+)">(.*?)</select>', html))
    choices = {name: re.findall(r"<option>([^<]*)", body) for name, body in selects.items()}
    assert choices["verdict"] == ["holds", "fails", "inconclusive", "no data"] and len(choices) == 3
    assert choices["evidence"] == ["paper", "ladder", "released"] and choices["notebook"] == ["02"]
    rows = re.findall(r'<tr id="(C\d\d)">(.*?)</tr>', html, re.DOTALL)
    assert [name for name, _ in rows] == paper.published.claims().id.tolist()
    data = re.compile(r'data-verdict="([^"]*)" ?data-evidence="([^"]*)" ?data-notebook="([^"]*)"')
    carried = {name: data.findall(body) for name, body in rows}
    assert carried["C01"] == [("no data", "paper", "02")]
    assert all(carried.values())
    assert all(verdict in choices["verdict"] for found in carried.values() for verdict, _, _ in found)
    script = re.search(r"<script>(.*)</script>", html, re.DOTALL)[1]
    assert set(re.findall(r'ById\("(\w+)"\)', script)) <= Page(made).ids


def test_the_laws_on_the_page_are_the_fits_of_the_published_points(html):
    runs = json.loads(re.search(r'id="runs">(.*?)</script>', html, re.DOTALL)[1])
    named = {kind: [run["name"] for run in mine] for kind, mine in runs.items()}
    assert named == {"ReLU": ["0.1B ReLU"], "SiLU": ["1.2B SiLU"]}
    for run, name in ((runs["ReLU"][0], "0.1b-relu"), (runs["SiLU"][0], "1.2b-silu")):
        points = published().query("run == @name").sort_values("d")
        np.testing.assert_allclose(run["points"], points[["d", "activation_ratio"]], rtol=1e-3)
        assert run["printed"] == limits.printed().a0[name]
        assert len(run["fits"]) == len(points) // 3 + 1
        for drop in (0, 3):
            fit = laws.fit(name[-4:], points.d, points.activation_ratio, drop=drop)
            assert run["fits"][drop] == pytest.approx({k: fit[k] for k in laws.COEFFICIENTS[fit.kind]}, rel=1e-2)
    most = max(len(run["fits"]) for mine in runs.values() for run in mine) - 1
    assert f'id="drop" min="0" max="{most}" value="0"' in html


def test_the_slider_shows_the_states_that_were_measured_and_every_token_can_be_read(html):
    """One block for each p, of which the script shows one: nothing is computed in the browser."""
    blocks = re.findall(r'<div class="state" data-label="([^"]*)"( hidden)?>(.*?)</p>\s*</div>', html, re.DOTALL)
    assert [label for label, *_ in blocks] == ["nothing (only exact zeros are left out)", "0.5 %", "1 %", "5 %"]
    assert [not hidden for _, hidden, _ in blocks] == [False, False, True, False]
    assert f'min="0" max="{len(blocks) - 1}" value="2"' in html and '<output id="now" for="p">1 %</output>' in html
    for (_, _, block), (p, expected) in zip(blocks, states().groupby("p_pct"), strict=True):
        found = re.findall(r'background:(#\w{6});color:(#\w{6})[^"]*" title="([\d.]+) % of neurons">([^<]*)<', block)
        assert [float(share) for *_, share, _ in found] == pytest.approx(100 * expected.share.to_numpy(), abs=0.051)
        assert [piece for *_, piece in found] == ["The", "·&lt;b&gt;", "ship⏎"] * 2
        assert min(contrast(ground, ink) for ground, ink, *_ in found) >= 4.5
        assert len({ground for ground, *_ in found}) == 6  # differences are seen at every p
        assert (f"perplexity {p + 0.01:+.2f} ± 0.10 %" in block) == (p > 0)


@pytest.mark.parametrize("room", ["light", "dark"])
def test_texts_of_the_page_can_be_read(html, room):
    blocks = re.findall(r":root \{(.*?)\}", html, re.DOTALL)
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in blocks)
    colours = light | (dark if room == "dark" else {})
    for ink in ("ink", "faint", "link", "holds", "fails"):
        assert min(contrast(colours[ink], colours[ground]) for ground in ("ground", "card")) >= 4.5, ink


def test_chinese_characters_come_with_the_page():
    pytest.importorskip("mplfonts")
    font = gallery.font_for("abc北京")
    assert font
    characters = TTFont(io.BytesIO(base64.b64decode(font))).getBestCmap()
    assert set(characters) == {ord("北"), ord("京")}
    assert len(font) < 20_000


def test_a_variant_of_a_picture_is_named_as_one(tmp_path):
    said = [gallery._caption(name, tmp_path) for name in ("figure_04", "figure_04_mine", "table_02", "own_run")]
    table = "Table 2: the laws' coefficients, printed and fitted again"
    assert said == ["Figure 4", "Figure 4 (mine)", table, "Own run"]


def test_the_exhibit_is_measured_with_the_thresholds_of_each_p(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSINGLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(gallery, "INCREASES", (0.0, 5.0, 50.0))
    monkeypatch.setattr(gallery, "TOKENS", 1024)
    found = gallery.measure_states(suites.read("ladder").pick("0.1M", "relu")[0])
    one = found.drop_duplicates("p_pct").set_index("p_pct")
    assert one.activation_ratio.is_monotonic_decreasing and one.ppl_increase_pct.is_monotonic_increasing
    assert one.ppl_increase_pct[5.0] == pytest.approx(5, abs=1)
    assert one.ppl_increase_pct[0.0] == pytest.approx(0, abs=1e-3)
    assert found.groupby("p_pct").size().nunique() == 1 and found.share.between(0, 1).all()
    assert (found.groupby("p_pct").share.mean().diff().dropna() < 0).all()
