"""`helpers.plots`: every figure shows what it is given and says what it shows."""

import json
import re
from html import unescape
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest
import torch

from helpers import plots

WORDS = ["<bos>", "the", "cat", "the"]  # one token twice
NASTY = ["</script>", "<b>bold</b>", "<!--", '"', "\\", "\u2028", "it's", "</SCRIPT >", "&amp;"]
SAYS = {"title": "What it shows", "xlabel": "position (token)", "ylabel": "layer"}
VALUES = np.array([[1.0, -3.0, 0.5, 0.0], [0.0, 2.0, 0.0, 1.0]])


def a_heatmap(values=VALUES, **options):
    rows = [f"layer {i}" for i in range(len(values))]
    settings = {"x": WORDS, "y": rows, "unit": "logit difference (nats)"} | options
    return plots.heatmap(values, **settings, **SAYS)


FIGURES = {
    "heatmap": a_heatmap,
    "lines": lambda: plots.lines({"a": [1, 2, 3]}, **SAYS),
    "bars": lambda: plots.bars([1, -2, 3, 0], WORDS, **SAYS),
    "scatter": lambda: plots.scatter([1, 2, 3], [3, 2, 1], **SAYS),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_every_figure_is_small_and_has_a_title_and_named_axes(draw):
    layout = draw().layout
    assert layout.title.text.startswith("What it shows")
    assert layout.xaxis.title.text == "position (token)"
    assert layout.yaxis.title.text == "layer"
    assert len(draw().to_json()) < 3000


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("heatmap", ([[1.0]],)), ("lines", ({"a": [1.0]},)), ("bars", ([1.0], ["a"])),
     ("scatter", ([1.0], [1.0]))],
)  # fmt: skip
def test_the_words_are_not_optional(name, arguments):
    with pytest.raises(TypeError, match=r"missing .* 'title'.* 'xlabel'.* 'ylabel'"):
        getattr(plots, name)(*arguments)


def test_tokens_are_shown_as_they_are():
    """FIELD-CASES 9: plotly would read `<s>` as markup; it shows what `unescape` gives."""
    x, y = np.arange(9.0), np.arange(9.0)
    texts = [
        a_heatmap(np.ones((1, 9)), x=NASTY).layout.xaxis.ticktext,
        plots.bars(y, NASTY, **SAYS).layout.xaxis.ticktext,
        plots.scatter(x, y, hover=NASTY, **SAYS).data[0].text,
        [line.name for line in plots.lines({name: [1.0] for name in NASTY}, **SAYS).data],
        [trace.name for trace in plots.scatter(x, y, groups=NASTY, **SAYS).data],
    ]
    for shown in texts:
        assert [unescape(text) for text in shown] == NASTY
        assert not any("<" in text for text in shown)


# Heat map


def test_a_signed_scale_is_centred_on_0_and_an_amount_starts_there():
    (signed,), (amount,) = a_heatmap().data, a_heatmap(signed=False).data
    assert (signed.zmin, signed.zmax) == (-3, 3) and (amount.zmin, amount.zmax) == (0, 3)
    assert signed.colorscale != amount.colorscale
    assert "logit difference (nats)" in a_heatmap().to_json()


def test_a_limit_makes_maps_comparable_and_a_flat_map_still_has_a_scale():
    assert (a_heatmap(limit=5).data[0].zmin, a_heatmap(limit=5).data[0].zmax) == (-5, 5)
    flat = a_heatmap(np.zeros((2, 4))).data[0]
    assert flat.zmin < 0 < flat.zmax
    gap = a_heatmap(np.array([[np.nan, -2.0, 1.0, 0.0]])).data[0]
    assert (gap.zmin, gap.zmax) == (-2, 2)


def test_the_values_are_where_they_belong():
    figure = a_heatmap(text=[["a", "b", "c", "d"], ["e", "f", "g", "h"]])
    (trace,) = figure.data
    assert np.array(trace.z).tolist() == VALUES.tolist()
    assert figure.layout.yaxis.autorange == "reversed"  # row 0 on top
    assert tuple(np.array(trace.customdata)[1, 2]) == ("cat", "layer 1")  # column, row on hover
    assert np.array(trace.text).tolist() == [list("abcd"), list("efgh")] and trace.texttemplate


def test_repeated_tokens_keep_a_tick_each():
    """plotly would draw equal labels as one column."""
    for figure in (a_heatmap(), FIGURES["bars"]()):
        assert tuple(figure.layout.xaxis.tickvals) == (0, 1, 2, 3)
        assert [unescape(text) for text in figure.layout.xaxis.ticktext] == WORDS
        x = figure.data[0].x
        assert x is None or list(x) == [0, 1, 2, 3]  # placed by number, not by name


# Lines, bars, points


def test_lines_have_their_names_places_and_bars():
    figure = plots.lines(
        {"a": [1, 2], "b": torch.tensor([3.0, 4.0])}, x=[10, 20], spread={"b": [0.1, 0.2]}, **SAYS
    )
    first, second = figure.data
    assert (first.name, list(first.x), list(first.y)) == ("a", [10, 20], [1, 2])
    assert (second.name, list(second.x), list(second.y)) == ("b", [10, 20], [3, 4])
    assert first.error_y.array is None and list(second.error_y.array) == [0.1, 0.2]
    assert figure.layout.showlegend
    assert first.line.color != second.line.color and first.line.dash != second.line.dash
    alone = FIGURES["lines"]()
    assert list(alone.data[0].x) == [0, 1, 2] and not alone.layout.showlegend


def test_bars_show_the_sign_and_the_spread():
    (trace,) = plots.bars([1, -2, 3, 0], WORDS, spread=[1, 1, 2, 1], **SAYS).data
    colours = trace.marker.color
    assert colours[0] == colours[2] == colours[3] != colours[1]
    assert list(trace.y) == [1, -2, 3, 0] and list(trace.error_y.array) == [1, 1, 2, 1]


def test_points_fall_into_their_groups():
    figure = plots.scatter(
        [1, 2, 3], [4, 5, 9], groups=["a", "b", "a"], hover=list("xyz"), diagonal=True, **SAYS
    )
    one, other, line = figure.data
    assert (one.name, list(one.x), list(one.y), list(one.text)) == ("a", [1, 3], [4, 9], ["x", "z"])
    assert (other.name, list(other.x), list(other.y)) == ("b", [2], [5])
    assert one.marker.color != other.marker.color and one.marker.symbol != other.marker.symbol
    assert list(line.x) == list(line.y) == [1, 9] and line.name == "y = x"


@pytest.mark.parametrize(
    "values",
    [torch.ones(2, 4, requires_grad=True), torch.ones(2, 4, dtype=torch.bfloat16),
     np.ones((2, 4), dtype=int), [[1] * 4] * 2],
    ids=["gradient", "bfloat16", "integers", "lists"],
)  # fmt: skip
def test_arrays_of_any_kind_are_taken(values):
    assert np.array(a_heatmap(values).data[0].z).tolist() == [[1] * 4] * 2


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: a_heatmap(np.ones((2, 3))), r"values \(2, 3\) do not fit"),
        (lambda: a_heatmap(text=[["a"]]), r"text \(1, 1\) do(es)? not fit"),
        (lambda: a_heatmap(np.full((2, 4), np.nan)), "values: every cell is NaN"),
        (lambda: a_heatmap(np.full((2, 4), np.inf)), "values: .* one is infinite"),
        (lambda: a_heatmap(limit=0), "limit: expected a positive number"),
        (lambda: plots.scatter([1, 2], [1, 2], groups=["a"], **SAYS), "groups: 1 labels do not"),
        (lambda: plots.scatter([1, 2], [1, 2], hover="abc", **SAYS), "hover: 3 labels do not fit"),
        (lambda: plots.lines({"a": [[1, 2]]}, **SAYS), r"a: shape \(1, 2\) do(es)? not fit"),
        (lambda: plots.lines({"b": [1, 2]}, x=[1], **SAYS), r"b: shape \(2,\) do(es)? not fit"),
        (lambda: plots.lines({"b": [1]}, spread={"a": [1]}, **SAYS), "spread: .* no line 'a'"),
        (lambda: plots.bars([1, 2], WORDS, **SAYS), r"values \(2,\) do not fit 4 labels"),
        (lambda: plots.bars([1], ["a"], spread=[1, 2], **SAYS), r"spread \(2,\) do"),
        (lambda: plots.scatter([1, 2], [1], **SAYS), r"x \(2,\) do not fit y \(1,\)"),
        (lambda: plots.attention(np.ones((2, 4, 4)), WORDS, heads=["0.0"]), r"pattern \(2, 4, 4\)"),
        (lambda: plots.attention(np.ones((8, 128, 128)), ["a"] * 128, heads=["h"] * 8),
         "show fewer heads or a shorter text"),  # FIELD-CASES 14: 14 MB without a word
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()


# Views


class Page(HTMLParser):
    """The elements of a piece of HTML, as a browser splits it: what stands in which."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.elements, self.inside = [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside.append("")

    def handle_data(self, data):
        self.inside[-1] += data

    def handle_comment(self, data):
        raise AssertionError(f"a comment was opened: {data}")


def view(strings):
    n = len(strings)
    pattern = np.tril(np.ones((2, n, n))) / np.arange(1, n + 1)[:, None]
    return plots.attention(pattern, strings, heads=["<i>0.0", "0.1</script>"])


def props(script: str) -> dict:
    """What the script hands to circuitsvis."""
    return json.loads(re.search(r"CircuitsVis\.\w+, (\{.*\})\);else", script, re.S)[1])


def test_no_token_can_break_out_of_a_view():
    """Whatever the tokens hold, there is one place, one script, and nothing else."""
    page = Page(view(NASTY).data)
    assert [tag for tag, _ in page.elements] == ["div", "script"]
    assert page.inside[0] == ""
    assert props(page.inside[1])["tokens"] == NASTY  # and they arrive unchanged
    assert view(NASTY).data.count("<") == 4  # <div>, </div>, <script>, </script>


def test_a_view_draws_its_values_into_its_own_place():
    places = set()
    for page in (Page(view(WORDS).data), Page(view(WORDS).data)):
        place, script = page.elements[0][1]["id"], page.inside[1]
        assert script.count(f"'{place}'") == 2  # render there, or say there what is missing
        assert "This view needs the set-up cell" in script.split("else ")[1]
        places.add(place)
        drawn = props(script)
        assert np.shape(drawn["attention"]) == (2, 4, 4)
        assert drawn["attention"][1][2] == [0.333, 0.333, 0.333, 0]
        assert drawn["attentionHeadNames"] == ["<i>0.0", "0.1</script>"]
    assert len(places) == 2 and len(view(WORDS).data) < 2_000


def test_the_program_is_the_installed_one_once_and_whole():
    """In one script element, which its own text does not end, loaded at most once a page."""
    page = Page(plots.load_views().data)
    assert page.elements == [("script", {})]  # in particular no src: no network
    program = (files("circuitsvis") / "dist" / "cdn" / "iife.js").read_text(encoding="utf-8")
    (script,) = page.inside
    start, end = "if (!window.CircuitsVis) {", "\nwindow.CircuitsVis = CircuitsVis}"
    assert script.startswith(start) and script.endswith(end)
    assert script[len(start) : -len(end)].replace("<\\/script", "</script") == program
    assert len(program) > 1_000_000 and "<!--" not in program
