"""Figures of the lessons: arrays in, a plotly figure or a circuitsvis view out; no computing.

Colours: red to blue where the sign means something, always centred on zero; viridis elsewhere. Both
can be told apart with the common forms of colour blindness.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from uuid import uuid4

import numpy as np
import plotly.graph_objects as go
from circuitsvis.utils.convert_props import convert_props
from IPython.display import HTML

SIGNED, AMOUNT = "RdBu", "Viridis"
LINES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555"]  # Okabe & Ito


def heatmap(
    values,
    *,
    title: str,
    x: Sequence[str],
    y: Sequence[str],
    xlabel: str,
    ylabel: str,
    unit: str,
    signed: bool = True,
    limit: float | None = None,
    text=None,
) -> go.Figure:
    """A map of `values [row, column]`, row 0 on top, with the numbers on hover.

    Args:
        x, y: one label a column, a row; repeated tokens may repeat.
        unit: what the colours mean, with its unit.
        signed: True for a scale centred on zero, False for amounts that start at 0.
        limit: the value at the end of the scale; default: the largest present.
        text: strings `[row, column]` to write into the cells.
    """
    z = _array("values", values)
    if z.shape != (len(y), len(x)):
        raise ValueError(f"values {z.shape} do not fit {len(y)} row and {len(x)} column labels")
    if text is not None and np.shape(text) != z.shape:
        raise ValueError(f"text {np.shape(text)} does not fit values {z.shape}")
    if np.isnan(z).all():
        raise ValueError("values: every cell is NaN, so there is nothing to draw")
    if np.isinf(z).any():
        raise ValueError("values: one is infinite, so the colours have no scale")
    if limit is not None and not 0 < limit < np.inf:
        raise ValueError(f"limit: expected a positive number, got {limit}")
    top = limit if limit is not None else float(np.nanmax(np.abs(z))) or 1.0
    trace = go.Heatmap(
        z=z.tolist(),
        text=[list(row) for row in text] if text is not None else None,
        texttemplate="%{text}" if text is not None else None,
        customdata=[[[column, row] for column in x] for row in y],
        hovertemplate="%{customdata[1]}, %{customdata[0]}: %{z:.3f}<extra></extra>",
        colorscale=SIGNED if signed else AMOUNT,
        zmin=-top if signed else 0,
        zmax=top,
        colorbar={"thickness": 15},
    )
    figure = go.Figure(trace)
    figure.update_xaxes(**_named(x))
    figure.update_yaxes(**_named(y), autorange="reversed")
    # The unit stands under the title, since along a low colour bar it would be cut off.
    title = f"{title}<br><sup>colour: {unit}</sup>"
    return _finished(figure, title, xlabel, ylabel, height=max(320, 30 * len(y) + 170))


def lines(
    series: Mapping[str, object],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    x: Sequence | None = None,
    spread: Mapping[str, object] | None = None,
) -> go.Figure:
    """One line a name; `x` defaults to 0, 1, 2 ...; `spread` draws bars of +- that size."""
    if not isinstance(series, Mapping):
        raise TypeError(f"series: expected a dict of lines by name, got {type(series).__name__}")
    if unknown := set(spread or {}) - set(series):
        raise ValueError(f"spread: there is no line {min(unknown)!r}")
    figure = go.Figure()
    for i, (name, values) in enumerate(series.items()):
        y = _array(name, values)
        if y.ndim != 1 or (x is not None and len(x) != len(y)):
            raise ValueError(f"{name}: shape {y.shape} does not fit one line over x")
        error = _error_bars(spread[name], y) if spread and name in spread else None
        figure.add_scatter(
            x=list(x) if x is not None else list(range(len(y))),
            y=y.tolist(),
            name=name,
            mode="lines+markers",
            error_y=error,
            line={"color": LINES[i % len(LINES)], "dash": ["solid", "dash", "dot"][i % 3]},
        )
    return _finished(figure, title, xlabel, ylabel, legend=len(series) > 1)


def bars(
    values,
    labels: Sequence[str],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    spread=None,
) -> go.Figure:
    """One bar a label, in the order given; `spread` draws error bars of that size."""
    y = _array("values", values)
    if y.shape != (len(labels),):
        raise ValueError(f"values {y.shape} do not fit {len(labels)} labels")
    error = _error_bars(spread, y) if spread is not None else None
    colours = [LINES[0] if value >= 0 else LINES[1] for value in y]
    figure = go.Figure(
        go.Bar(x=list(range(len(y))), y=y.tolist(), error_y=error, marker_color=colours)
    )
    figure.update_xaxes(**_named(labels))
    return _finished(figure, title, xlabel, ylabel)


def scatter(
    x,
    y,
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    groups: Sequence[str] | None = None,
    hover: Sequence[str] | None = None,
    diagonal: bool = False,
) -> go.Figure:
    """Points, coloured by group; `diagonal` adds the line y = x where two routes should agree."""
    x, y = _array("x", x), _array("y", y)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"x {x.shape} and y {y.shape} should be two lists of one length")
    for name, labels in (("groups", groups), ("hover", hover)):
        if labels is not None and len(labels) != len(x):
            raise ValueError(f"{name}: {len(labels)} labels do not fit {len(x)} points")
    groups = list(groups) if groups is not None else [""] * len(x)
    figure = go.Figure()
    for i, group in enumerate(dict.fromkeys(groups)):
        here = [j for j, name in enumerate(groups) if name == group]
        figure.add_scatter(
            x=x[here].tolist(),
            y=y[here].tolist(),
            text=[hover[j] for j in here] if hover is not None else None,
            name=group,
            mode="markers",
            marker={"color": LINES[i % len(LINES)], "symbol": i % 8, "size": 8},
        )
    if diagonal and len(x):
        ends = [float(min(x.min(), y.min())), float(max(x.max(), y.max()))]
        line = {"color": "#888888", "dash": "dash"}
        figure.add_scatter(x=ends, y=ends, mode="lines", line=line, name="y = x")
    return _finished(figure, title, xlabel, ylabel, legend=len(set(groups)) > 1 or diagonal)


def load_views() -> HTML:
    """Put circuitsvis' program into the page, once, from the installed package: no network.

    Show it in the set-up cell; `attention` and `tokens` then draw with a few kB each.
    """
    program = (files("circuitsvis") / "dist" / "cdn" / "iife.js").read_text(encoding="utf-8")
    program = program.replace("</script", "<\\/script")
    return HTML(
        f"<script>if (!window.CircuitsVis) {{{program}\nwindow.CircuitsVis = CircuitsVis}}</script>"
    )


def attention(pattern, tokens: Sequence[str], *, heads: Sequence[str]) -> HTML:
    """Attention patterns `[head, query, key]` to be explored: hover a token, click a head."""
    pattern = _array("pattern", pattern)
    if pattern.shape != (len(heads), len(tokens), len(tokens)):
        raise ValueError(
            f"pattern {pattern.shape} does not fit {len(heads)} heads and {len(tokens)} tokens"
        )
    # Three digits are all that can be seen, and keep the notebook small.
    return _view(
        "AttentionHeads",
        attention=pattern.round(3),
        tokens=list(tokens),
        attentionHeadNames=list(heads),
    )


def tokens(strings: Sequence[str], values) -> HTML:
    """Text with each token coloured by its value (negative red, positive blue)."""
    values = _array("values", values)
    if values.shape != (len(strings),):
        raise ValueError(f"values {values.shape} do not fit {len(strings)} tokens")
    return _view("ColoredTokens", tokens=list(strings), values=values.round(3))


def _view(element: str, **props) -> HTML:
    """A circuitsvis element; its text cannot end the script it stands in."""
    place = f"circuits-vis-{uuid4().hex[:12]}"
    safe = convert_props(props).replace("<", "\\u003c")
    missing = json.dumps("This view needs the set-up cell: run it, then this cell again.")
    return HTML(
        f'<div id="{place}" style="margin: 15px 0; background: white; color: black"></div><script>'
        f"if (window.CircuitsVis) CircuitsVis.render({place!r}, CircuitsVis.{element}, {safe});"
        f"else document.getElementById({place!r}).textContent = {missing};</script>"
    )


def _error_bars(spread, y: np.ndarray) -> dict:
    sizes = _array("spread", spread)
    if sizes.shape != y.shape:
        raise ValueError(f"spread {sizes.shape} does not fit values {y.shape}")
    return {"array": sizes.tolist()}


def _array(name: str, values) -> np.ndarray:
    """A tensor on any device, an array or a list, as an array."""
    if getattr(values, "is_meta", False):
        raise ValueError(f"{name}: it is on the device 'meta', where tensors hold no numbers")
    if hasattr(values, "detach"):
        values = values.detach().float().cpu()
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected numbers, in rows of one length") from None


def _named(labels: Sequence[str]) -> dict:
    """Axis ticks by place, not by name: repeated tokens would else fall on one tick."""
    return {"tickvals": list(range(len(labels))), "ticktext": [str(label) for label in labels]}


def _finished(
    figure: go.Figure, title: str, xlabel: str, ylabel: str, height: int = 380, legend: bool = False
) -> go.Figure:
    figure.update_layout(
        template="none",  # plotly's own look costs 7 kB a figure in the saved notebook
        title={"text": title, "x": 0.02, "xanchor": "left"},
        height=height,
        showlegend=legend,
        margin={"l": 80, "r": 30, "t": 70, "b": 80},
        paper_bgcolor="white",
        plot_bgcolor="white",
    )
    figure.update_xaxes(title=xlabel, automargin=True)
    figure.update_yaxes(title={"text": ylabel, "standoff": 12}, automargin=True)
    return figure
