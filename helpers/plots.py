"""Figures of the lessons: arrays in, a plotly figure or a circuitsvis view out; no computing.

Red to blue, centred on zero, where the sign means something; viridis elsewhere: both can be told
apart with the common forms of colour blindness. Values are tensors on any device, arrays or lists;
shapes that do not fit the labels are a ValueError. Titles and labels are strings."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from textwrap import wrap
from uuid import uuid4

import numpy as np
import plotly.graph_objects as go
from circuitsvis.utils.convert_props import convert_props
from IPython.display import HTML

SIGNED, AMOUNT = "RdBu", "Viridis"
LINES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555"]  # Okabe & Ito
MAX_ENTRIES = 120_000  # of an attention view, about 1 MB in the notebook


def heatmap(
    values, *, title, x, y, xlabel, ylabel, unit, signed=True, limit=None, text=None
) -> go.Figure:
    """A map of `values [row, column]`, row 0 on top, with the numbers on hover.

    `x` and `y` have one label a column and a row; `unit` says what the colours mean. `signed`: the
    scale is centred on zero, else it starts there; `limit` is its end (default: the largest value).
    `text [row, column]` is written into the cells."""
    z = _array("values", values)
    _expect(z.shape == (len(y), len(x)), f"values {z.shape}", f"{len(y)} row and {len(x)} column")
    if text is not None:
        _expect(np.shape(text) == z.shape, f"text {np.shape(text)}", f"values {z.shape}")
    if np.isnan(z).all() or np.isinf(z).any():
        raise ValueError("values: every cell is NaN, or one is infinite; the colours have no scale")
    if limit is not None and not 0 < limit < np.inf:
        raise ValueError(f"limit: expected a positive number, got {limit}")
    top = limit or float(np.nanmax(np.abs(z))) or 1.0
    trace = go.Heatmap(
        z=z.tolist(),
        **({} if text is None else {"text": list(map(list, text)), "texttemplate": "%{text}"}),
        customdata=[[[_shown(column), _shown(row)] for column in x] for row in y],
        hovertemplate="%{customdata[1]}, %{customdata[0]}: %{z:.3f}<extra></extra>",
        colorscale=SIGNED if signed else AMOUNT,
        zmin=-top if signed else 0,
        zmax=top,
        colorbar={"thickness": 15},
    )
    figure = go.Figure(trace).update_xaxes(**_named(x))
    figure.update_yaxes(**_named(y), autorange="reversed")
    # The unit stands under the title, since along a low colour bar it would be cut off.
    height = max(320, 30 * len(y) + 170)
    return _finished(figure, title, xlabel, ylabel, height, note=f"colour: {unit}")


def lines(series: Mapping[str, object], *, title, xlabel, ylabel, x=None, spread=None) -> go.Figure:
    """One line a name; `x` defaults to 0, 1, 2 ...; `spread` draws bars of +- that size."""
    spread = spread or {}
    if unknown := set(spread) - set(series):
        raise ValueError(f"spread: there is no line {min(unknown)!r}")
    figure = go.Figure()
    for i, (name, values) in enumerate(series.items()):
        y = _array(name, values)
        fits = y.ndim == 1 and (x is None or len(x) == len(y))
        _expect(fits, f"{name}: shape {y.shape}", "one line over x")
        line = {"color": LINES[i % len(LINES)], "dash": ["solid", "dash", "dot"][i % 3]}
        error, places = _error_bars(spread.get(name), y), list(range(len(y)) if x is None else x)
        look = {"mode": "lines+markers", "line": line, "error_y": error}
        figure.add_scatter(x=places, y=y.tolist(), name=_shown(name), **look)
    return _finished(figure, title, xlabel, ylabel, legend=len(series) > 1)


def bars(values, labels: Sequence[str], *, title, xlabel, ylabel, spread=None) -> go.Figure:
    """One bar a label, in the order given; `spread` draws error bars of that size."""
    y = _array("values", values)
    _expect(y.shape == (len(labels),), f"values {y.shape}", f"{len(labels)} labels")
    colours = [LINES[0] if value >= 0 else LINES[1] for value in y]
    error, places = _error_bars(spread, y), list(range(len(y)))
    figure = go.Figure(go.Bar(x=places, y=y.tolist(), error_y=error, marker_color=colours))
    return _finished(figure.update_xaxes(**_named(labels)), title, xlabel, ylabel)


def scatter(x, y, *, title, xlabel, ylabel, groups=None, hover=None, diagonal=False) -> go.Figure:
    """Points, with one of `groups` and `hover` each; `diagonal` adds the line y = x."""
    x, y = _array("x", x), _array("y", y)
    _expect(x.ndim == 1 and x.shape == y.shape, f"x {x.shape}", f"y {y.shape}: one list each")
    for name, labels in (("groups", groups), ("hover", hover)):
        fits = labels is None or len(labels) == len(x)
        _expect(fits, f"{name}: {len(labels or ())} labels", f"{len(x)} points")
    groups = [""] * len(x) if groups is None else list(groups)
    figure = go.Figure()
    for i, group in enumerate(dict.fromkeys(groups)):
        here = [j for j, name in enumerate(groups) if name == group]
        marker = {"color": LINES[i % len(LINES)], "symbol": i % 8, "size": 8}
        text = None if hover is None else [_shown(hover[j]) for j in here]
        look = {"mode": "markers", "marker": marker, "text": text}
        figure.add_scatter(x=x[here].tolist(), y=y[here].tolist(), name=_shown(group), **look)
    if diagonal and len(x):
        ends = [float(min(x.min(), y.min())), float(max(x.max(), y.max()))]
        line = {"color": "#888888", "dash": "dash"}
        figure.add_scatter(x=ends, y=ends, mode="lines", line=line, name="y = x")
    return _finished(figure, title, xlabel, ylabel, legend=len(set(groups)) > 1 or diagonal)


def load_views() -> HTML:
    """Put circuitsvis' program into the page, once (in the set-up cell), from the installed
    package: no network. `attention` then draws with a few kB each."""
    program = (files("circuitsvis") / "dist" / "cdn" / "iife.js").read_text(encoding="utf-8")
    program = program.replace("</script", "<\\/script")
    return HTML(
        f"<script>if (!window.CircuitsVis) {{{program}\nwindow.CircuitsVis = CircuitsVis}}</script>"
    )


def attention(pattern, tokens: Sequence[str], *, heads: Sequence[str]) -> HTML:
    """Attention patterns `[head, query, key]` to be explored: hover a token, click a head."""
    pattern, shape = _array("pattern", pattern), (len(heads), len(tokens), len(tokens))
    _expect(pattern.shape == shape, f"pattern {pattern.shape}", f"heads and tokens {shape}")
    if pattern.size > MAX_ENTRIES:
        fix = f"show fewer heads or a shorter text, at most {MAX_ENTRIES:,} entries"
        what = f"pattern: {pattern.size:,} entries would make the notebook megabytes larger"
        raise ValueError(f"{what}; {fix}")
    # Three digits are all that can be seen, and keep the notebook small.
    props = {"attention": pattern.round(3), "tokens": list(tokens), "attentionHeadNames": [*heads]}
    safe = convert_props(props).replace("<", "\\u003c")  # no token ends the script it stands in
    place, view = f"circuits-vis-{uuid4().hex[:12]}", "CircuitsVis.AttentionHeads"
    missing = json.dumps("This view needs the set-up cell: run it, then this cell again.")
    return HTML(
        f'<div id="{place}" style="margin: 15px 0; background: white; color: black"></div><script>'
        f"if (window.CircuitsVis) CircuitsVis.render({place!r}, {view}, {safe});"
        f"else document.getElementById({place!r}).textContent = {missing};</script>"
    )


def _expect(fits: bool, what: str, labels: str) -> None:
    if not fits:
        raise ValueError(f"{what} do not fit {labels}")


def _error_bars(spread, y: np.ndarray) -> dict | None:
    if spread is None:
        return None
    sizes = _array("spread", spread)
    _expect(sizes.shape == y.shape, f"spread {sizes.shape}", f"values {y.shape}")
    return {"array": sizes.tolist()}


def _array(name: str, values) -> np.ndarray:
    """A tensor on any device, an array or a list, as an array."""
    try:
        if hasattr(values, "detach"):
            values = values.detach().float().cpu()
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError, NotImplementedError):  # the last: no numbers on "meta"
        raise ValueError(f"{name}: expected numbers, in rows of one length") from None


def _shown(label: str) -> str:
    """A token as it is: plotly would read `<s>` as markup."""
    return escape(str(label), quote=False)


def _named(labels: Sequence[str]) -> dict:
    """Axis ticks by place, not by name: repeated tokens would otherwise fall on one tick."""
    return {"tickvals": list(range(len(labels))), "ticktext": [_shown(label) for label in labels]}


def _finished(
    figure: go.Figure, title, xlabel, ylabel, height=380, legend=False, note=""
) -> go.Figure:
    rows = [*map(_shown, wrap(title, 80)), *([f"<sup>{_shown(note)}</sup>"] if note else [])]
    figure.update_layout(
        template="none",  # plotly's own look costs 7 kB a figure in the saved notebook
        title={"text": "<br>".join(rows), "x": 0.02, "xanchor": "left"},
        height=height,
        showlegend=legend,
        margin={"l": 80, "r": 30, "t": 40 + 20 * len(rows), "b": 80},
        **dict.fromkeys(("paper_bgcolor", "plot_bgcolor"), "white"),
    )
    figure.update_xaxes(title=_shown(xlabel), automargin=True)
    figure.update_yaxes(title={"text": _shown(ylabel), "standoff": 12}, automargin=True)
    return figure
