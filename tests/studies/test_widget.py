"""The slider's states, its page and its links; the picture where no slider can be shown."""

import itertools
import re

import pytest
import torch

import sparsinglib as sl
from sparsinglib import suites
from sparsinglib.paper import style
from sparsinglib.studies.checkpoint import slider as widget
from sparsinglib.suites import survey

TEXT = "Solve 3*x < 7 & y. The number <b>of</b> neurons\nis 12."


@pytest.fixture(scope="module")
def suite():
    checkpoint = suites.Checkpoint(name="0.4m-relu", source="0.4m-relu", scale="0.4M", activation="relu")
    return suites.Suite("mine", "own", ("mixture",), 64, 512, (checkpoint,))


@pytest.fixture(scope="module")
def found(suite):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(widget, "FITTED_ON", 256)
        return widget.states(suite, "0.4m-relu", TEXT, (0.0, 0.1, 0.4))


def test_states_are_the_library_s_own_measurements(found, suite, ladder):
    model, tokenizer = ladder
    fit = survey.batches(survey.Text("mixture", 256, 64), tokenizer)
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    direct = sl.measure(model, [ids], sl.thresholds_for_cett(model, fit, 0.4))
    table = widget.table(found).set_index("cett")
    assert table.activation_ratio[0.4] == pytest.approx(direct.activation_ratio)
    assert found[found.cett == 0.4].share.to_numpy() == pytest.approx(direct.token_activation.mean(axis=0))
    assert table.sparse_ppl[0.4] == pytest.approx(direct.sparse_ppl)
    assert table.ppl_increase_pct[0.0] == pytest.approx(0, abs=1e-4)
    assert table.activation_ratio.is_monotonic_decreasing


def test_the_page_shows_every_token_and_escapes_the_text(found):
    page = widget.page(found, 0.1)
    spans = re.findall(r'<span style="[^"]*" title="([\d.]+) % of neurons">(.*?)</span>', page)
    tokens = found[found.cett == 0.1]
    assert len(spans) == len(tokens)
    assert "<b>of" not in page
    assert "&lt;" in page and "&amp;" in page
    shares = [float(share) for share, _ in spans]
    assert shares == pytest.approx(100 * tokens.share.to_numpy(), abs=0.051)
    assert f"{100 * tokens.activation_ratio.iloc[0]:.1f} % of neurons active" in page


def test_more_neurons_are_never_darker(found):
    need = found[found.cett == 0.1].share.to_numpy()
    grounds = re.findall(r"background:#(..)(..)(..)", widget.page(found, 0.1))
    light = [0.299 * int(r, 16) + 0.587 * int(g, 16) + 0.114 * int(b, 16) for r, g, b in grounds]
    order = need.argsort(kind="stable")
    assert all(light[i] <= light[j] + 1 for i, j in itertools.pairwise(order))


def test_the_slider_turns_the_pages_in_the_browser(found):
    ipywidgets = pytest.importorskip("ipywidgets")
    handle, pages = widget.slider(found).children
    assert list(handle.options) == ["0.00", "0.10", "0.40"]
    assert handle.index == pages.selected_index == 1
    assert [p.value for p in pages.children] == [widget.page(found, cett) for cett in (0.0, 0.1, 0.4)]
    links = [w for w in ipywidgets.widgets.widget._instances.values() if type(w).__name__ == "Link"]
    assert any(link.source == (handle, "index") and link.target == (pages, "selected_index") for link in links)


@pytest.mark.parametrize(
    ("mode", "session", "expected"),
    [("auto", None, False), ("auto", "", False), ("auto", "x.ipynb", True), ("slider", None, True),
     ("picture", "x", False)],
)  # fmt: skip
def test_a_slider_only_where_a_server_opened_the_notebook(monkeypatch, mode, session, expected):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    if session is not None:
        monkeypatch.setenv("JPY_SESSION_NAME", session)
    assert widget.live(mode) is expected


def test_elsewhere_the_picture_is_shown(found, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    picture = widget.show(found)
    assert isinstance(picture, style.Picture)
    assert [ax.get_title("left") for ax in picture.axes[:-1]] == [
        f"CETT {r.cett:.2f}: {100 * r.activation_ratio:.1f} % active, perplexity of the mixture "
        f"{r.mixture_increase_pct:+.1f} %"
        for r in widget.table(found).itertuples()
    ]
