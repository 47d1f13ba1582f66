"""`helpers.plots`: every figure shows what it is given and says what it shows."""

from html import unescape
from types import SimpleNamespace

import numpy as np
import plotly.io as pio
import pytest
import torch

from helpers import plots

WORDS = ["<bos>", "the", "cat", "the"]  # one token twice
NASTY = ["<s>", "<b>bold</b>", "<!--", '"', "\\", "it's", "</SCRIPT >", "&amp;", " Paris"]
SAYS = {"title": "What it shows", "xlabel": "position (token)", "ylabel": "layer"}
VALUES = np.array([[1.0, -3.0, 0.5, 0.0], [0.0, 2.0, 0.0, 1.0]])


def names(axis) -> list[str]:
    """What stands at the places 0, 1, 2, ... of an axis of categories."""
    assert axis.type == "category"
    return [axis.labelalias[str(i)] for i in range(len(axis.labelalias))]


def a_heatmap(values=VALUES, **options):
    rows = [f"layer {i}" for i in range(len(values))]
    settings = {"x": WORDS, "y": rows, "unit": "logit difference (nats)"} | options
    return plots.heatmap(values, **settings, **SAYS)


def test_every_figure_is_small_and_has_a_title_and_named_axes():
    figures = [a_heatmap(), plots.lines({"a": [1, 2, 3]}, **SAYS)]
    figures += [plots.bars([1, -2, 3, 0], WORDS, **SAYS), plots.scatter([1, 2], [3, 2], **SAYS)]
    for figure in figures:
        assert figure.layout.title.text.startswith("What it shows")
        said = (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text)
        assert said == ("position (token)", "layer") and len(figure.to_json()) < 3000


def test_tokens_are_shown_as_they_are():
    """FIELD-CASES 9: plotly would read `<s>` as markup; it shows what `unescape` gives."""
    x, y = np.arange(9.0), np.arange(9.0)
    (menu,) = plots.attention([[[1]]] * 9, ["a"], heads=NASTY).layout.updatemenus
    texts = [
        names(a_heatmap(np.ones((1, 9)), x=NASTY).layout.xaxis),
        names(plots.bars(y, NASTY, **SAYS).layout.xaxis),
        names(plots.attention(np.eye(9)[None], NASTY, heads=["0.0"]).layout.yaxis),
        [button.label for button in menu.buttons],
        a_heatmap(np.ones((1, 9)), x=NASTY, text=[NASTY]).data[0].text[0],
        plots.scatter(x, y, hover=NASTY, **SAYS).data[0].text,
        [line.name for line in plots.lines({name: [1.0] for name in NASTY}, **SAYS).data],
        [trace.name for trace in plots.scatter(x, y, groups=NASTY, **SAYS).data],
    ]
    for shown in texts:
        assert [unescape(text) for text in shown] == NASTY
        assert not any("<" in text for text in shown)
    blank = names(a_heatmap(x=[" ", "\xa0", "  ", ""]).layout.xaxis)
    assert blank == ["␣", "␣", "␣␣", ""]


def test_a_heat_map_has_its_values_in_place_and_a_scale_that_fits_them():
    figure = a_heatmap(text=[["a", "b", "c", "d"], ["e", "f", "g", "h"]])
    (trace,) = figure.data
    assert np.array(trace.z).tolist() == VALUES.tolist()
    assert figure.layout.yaxis.autorange == "reversed"  # row 0 on top
    assert names(figure.layout.xaxis)[2] == "cat" and names(figure.layout.yaxis)[1] == "layer 1"
    assert np.array(trace.text).tolist() == [list("abcd"), list("efgh")] and trace.texttemplate
    assert "logit difference (nats)" in figure.to_json()
    gap = np.array([[np.nan, -2.0, 1.0, 0.0]])
    maps = [a_heatmap(), a_heatmap(signed=False), a_heatmap(limit=5), a_heatmap(gap)]
    scales = [(figure.data[0].zmin, figure.data[0].zmax) for figure in maps]
    assert scales == [(-3, 3), (0, 3), (-5, 5), (-2, 2)]
    assert maps[0].data[0].colorscale != maps[1].data[0].colorscale
    flat = a_heatmap(np.zeros((2, 4))).data[0]
    assert flat.zmin < 0 < flat.zmax


def test_repeated_tokens_keep_a_place_each():
    """plotly would draw equal labels as one column."""
    lines = plots.lines({"a": VALUES[0]}, x=WORDS, **SAYS)
    for figure in (a_heatmap(), plots.bars([1, -2, 3, 0], WORDS, **SAYS), lines):
        assert list(figure.data[0].x) == list("0123")
        assert [unescape(name) for name in names(figure.layout.xaxis)] == WORDS


def test_gaps_are_empty_and_zero_has_no_sign():
    text = [["−0.00", "-0.0", "+0", "-1"], ["0.00", "a", "\n", "-0.01"]]
    (trace,) = a_heatmap(np.where(VALUES == 2, np.nan, VALUES), text=text).data
    assert list(trace.text[0]) == ["0.00", "0.0", "0", "-1"]
    assert list(trace.text[1]) == ["0.00", "", "\\n", "-0.01"]
    assert trace.z[1][1] is None or np.isnan(trace.z[1][1])


def luminance(colour) -> float:
    """Relative luminance, WCAG 2.2, of red, green and blue from 0 to 255."""
    c = np.asarray(colour) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def in_the_dark(colour) -> np.ndarray:
    """What `follow_theme` makes of a colour: CSS invert(0.95), then hue-rotate(180deg)."""
    inverted = 0.95 * 255 - 0.9 * np.asarray(colour)
    return np.clip(2 * inverted @ [0.213, 0.715, 0.072] - inverted, 0, 255)


@pytest.mark.parametrize("signed", [True, False])
def test_text_in_cells_has_contrast_on_every_colour_light_and_dark(signed):
    (trace,) = a_heatmap(signed=signed, text=[WORDS] * 2).data
    ends = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for _, c in trace.colorscale])
    assert trace.textfont.color == "black"
    for part in np.linspace(0, len(ends) - 1, 101):
        ground = [np.interp(part, np.arange(len(ends)), column) for column in ends.T]
        for seen in (np.asarray, in_the_dark):
            dark, light = sorted(luminance(seen(colour)) for colour in ([0, 0, 0], ground))
            assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_lines_and_bars_have_their_names_places_signs_and_spreads():
    both = {"a": [1, 2], "b": torch.tensor([3.0, 4.0])}
    figure = plots.lines(both, x=[10, 20], spread={"b": [0.1, 0.2]}, **SAYS)
    first, second = figure.data
    assert (first.name, list(first.x), list(first.y)) == ("a", [10, 20], [1, 2])
    assert (second.name, list(second.x), list(second.y)) == ("b", [10, 20], [3, 4])
    assert first.error_y.array is None and list(second.error_y.array) == [0.1, 0.2]
    assert first.line.color != second.line.color and first.line.dash != second.line.dash
    alone = plots.lines({"a": [1, 2, 3]}, **SAYS)
    assert list(alone.data[0].x) == [0, 1, 2]
    assert figure.layout.showlegend and not alone.layout.showlegend
    (bars,) = plots.bars([1, -2, 3, 0], WORDS, spread=[1, 1, 2, 1], **SAYS).data
    above, below, *others = bars.marker.color
    assert others == [above, above] and below != above
    assert list(bars.y) == [1, -2, 3, 0] and list(bars.error_y.array) == [1, 1, 2, 1]


def test_points_fall_into_their_groups():
    figure = plots.scatter(
        [1, 2, 3], [4, 5, 9], groups=["a", "b", "a"], hover=list("xyz"), diagonal=True, **SAYS
    )
    one, other, line = figure.data
    assert (one.name, list(one.x), list(one.y), list(one.text)) == ("a", [1, 3], [4, 9], ["x", "z"])
    assert (other.name, list(other.x), list(other.y)) == ("b", [2], [5])
    assert one.marker.color != other.marker.color and one.marker.symbol != other.marker.symbol
    assert list(line.x) == list(line.y) == [1, 9] and line.name == "y = x"


def test_arrays_of_any_kind_are_taken():
    ones = torch.ones(2, 4, requires_grad=True)
    for values in (ones, ones.bfloat16(), np.ones((2, 4), dtype=int), [[1] * 4] * 2):
        assert np.array(a_heatmap(values).data[0].z).tolist() == [[1] * 4] * 2


REFUSED = [
    (lambda: a_heatmap(np.ones((2, 3))), r"values \(2, 3\) do not fit"),
    (lambda: a_heatmap(text=[["a"]]), r"text \(1, 1\) do(es)? not fit"),
    (lambda: a_heatmap(np.full((2, 4), np.nan)), "values: every cell is NaN"),
    (lambda: a_heatmap(np.full((2, 4), np.inf)), "values: .* one is infinite"),
    (lambda: a_heatmap(limit=0), "limit: expected a positive number"),
    (lambda: plots.scatter([1, 2], [1, 2], groups=["a"], **SAYS), "groups: 1 labels do not"),
    (lambda: plots.lines({"b": [1, 2]}, x=[1], **SAYS), r"b: shape \(2,\) do(es)? not fit"),
    (lambda: plots.lines({"b": [1]}, spread={"a": [1]}, **SAYS), "spread: .* no line 'a'"),
    (lambda: plots.bars([1, 2], WORDS, **SAYS), r"values \(2,\) do not fit 4 labels"),
    (lambda: plots.bars([1], ["a"], spread=[1, 2], **SAYS), r"spread \(2,\) do"),
    (lambda: plots.scatter([1, 2], [1], **SAYS), r"x \(2,\) do not fit y \(1,\)"),
    (lambda: plots.attention(np.ones((2, 4, 4)), WORDS, heads=["0.0"]), r"pattern \(2, 4, 4\)"),
    (lambda: plots.attention(np.broadcast_to(1.0, (96, 256, 256)), ["a"] * 256, heads=["h"] * 96),
     "do not fit a notebook, at most"),
    (lambda: plots.attention([np.eye(4)], WORDS, heads=["h"], first=1), "first=1: .* 1 heads"),
    (lambda: plots.attention(2 * np.ones((1, 4, 4)), WORDS, heads=["h"]), "pattern: .* 0 to 1"),
    (lambda: plots.explore(str, word=[]), r"word: .* choices \[\]"),
    (lambda: plots.explore(str, n=[1, 2], start={"n": 3}), r"n: 3 is not .* \[1, 2\]"),
    (lambda: plots.explore(str, n=[1, 2], start={"m": 1}), "start: there is no choice 'm'"),
]  # fmt: skip


@pytest.mark.parametrize(("draw", "words"), REFUSED)
def test_what_does_not_fit_is_refused(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()


def test_attention_shows_one_head_at_a_time_and_takes_a_byte_a_weight():
    n = 64
    pattern = np.tril(np.ones((3, n, n))) / np.arange(1, n + 1)[:, None]
    pattern[1] = np.eye(n)
    figure = plots.attention(pattern, ["a"] * n, heads=["0.0", "0.1", "0.2"])
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("key", "query")
    assert [trace.visible is not False for trace in figure.data] == [True, False, False]
    for i, button in enumerate(figure.layout.updatemenus[0].buttons):
        assert button.label == f"0.{i}" and button.method in (None, "restyle")
        assert [j for j, on in enumerate(button.args[0]["visible"]) if on] == [i]
        assert np.abs(figure.data[i].z - 100 * pattern[i]).max() <= 0.5
    assert "query %{y}<br>key %{x}<br>weight %{z} %" in figure.data[2].hovertemplate
    assert len(figure.to_json()) < 3 * n * n * 4 / 3 + 9_000  # FIELD-CASES 14
    assert figure.layout.height <= 600
    third = plots.attention(pattern, ["a"] * n, heads=["0.0", "0.1", "0.2"], first=2)
    assert [trace.visible for trace in third.data] == [False, False, True]
    assert third.layout.updatemenus[0].active == 2
    assert np.array_equal(third.data[1].z, 100 * pattern[1])
    assert not plots.attention(pattern[:1], ["a"] * n, heads=["0.0"]).layout.updatemenus


@pytest.fixture
def shown(monkeypatch):
    """What `explore` shows, in order, later the updates; and the controls that it makes."""
    outputs, controls = [], []
    place = SimpleNamespace(update=lambda bundle, raw: outputs.append(bundle))
    monkeypatch.setattr(plots, "display", lambda bundle, **_: outputs.append(bundle) or place)
    box = plots.Box
    keep = lambda rows, **look: controls.extend(rows) or box(rows, **look)  # noqa: E731
    monkeypatch.setattr(plots, "Box", keep)
    return outputs, controls


def test_explore_draws_again_with_what_is_chosen(shown):
    outputs, controls = shown

    draw = lambda layer, word, place: f"{layer} {word} {1 / place:.1f}"  # noqa: E731
    places = {"first": 1, "none": 0}
    plots.explore(draw, layer=range(3), word=["a", "b"], place=places, start={"layer": 1})
    assert [type(c).__name__ for c in controls] == ["SelectionSlider", "Dropdown", "Dropdown"]
    assert "layer, word, place" in outputs[0]["text/plain"]  # what a page without a kernel says
    assert outputs[1:] == [{"text/plain": "1 a 1.0"}]  # and shows
    # An error is seen, and the next choice is drawn.
    changes = [(0, 2, "2 a 1.0"), (1, "b", "2 b 1.0")]
    changes += [(2, 0, "ZeroDivisionError: division by zero"), (2, 1, "2 b 1.0")]
    for control, value, drawn in changes:
        controls[control].value = value
        assert outputs[-1] == {"text/plain": drawn}


def test_the_picture_of_explore_is_an_ordinary_figure(shown, monkeypatch):
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")  # as in a notebook
    plots.explore(lambda scale: a_heatmap(scale * VALUES), scale=[1, 2])
    stored = shown[0][1]["application/vnd.plotly.v1+json"]
    assert stored["data"][0]["z"] == VALUES.tolist() and len(str(shown[0])) < 4_000
