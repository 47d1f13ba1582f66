"""Figures of the lessons: arrays in, a plotly figure out; no computing. Red to blue, centred on
zero, where the sign means something, else white to blue: safe for the colour-blind. Values are
tensors, arrays or lists; shapes that do not fit are a ValueError."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from numbers import Real
from textwrap import wrap

import numpy as np
import plotly.graph_objects as go
from IPython.display import HTML, display
from ipywidgets import Box, Dropdown, SelectionSlider, interactive_output

SIGNED = ["#b5451c", "#f0906a", "#fbc3a5", "#f7f7f7", "#b2d7e8", "#6fb0d6", "#2166ac"]
AMOUNT = ["#ffffff", "#93d4c3", "#5fb0d8", "#225ea8", "#081d58"]
LINES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555"]  # Okabe & Ito
SHAPES = ["circle", "square", "diamond", "x"]  # none that says plus or minus
MAX_WEIGHTS = 5_000_000  # of an attention view, 7 MB; 32 heads of 256 tokens are 2.9 MB


def heatmap(
    values, *, title, x, y, xlabel, ylabel, unit, signed=True, limit=None, text=None
) -> go.Figure:
    """A map of `values [row, column]`, row 0 on top, numbers on hover. `x` and `y` label columns
    and rows; `unit` says what the colours mean. `signed`: the scale is centred on zero, else starts
    there; `limit` is its end (else the largest value). `text [row, column]` stands in the cells."""
    z = _array("values", values)
    _expect(z.shape == (len(y), len(x)), f"values {z.shape}", f"{len(y)} row and {len(x)} column")
    if np.isnan(z).all() or np.isinf(z).any():
        raise ValueError("values: every cell is NaN, or one is infinite; the colours have no scale")
    if limit is not None and not 0 < limit < np.inf:
        raise ValueError(f"limit: expected a positive number, got {limit}")
    top = limit or float(np.nanmax(np.abs(z))) or 1.0
    look = {"zmin": -top if signed else 0, "zmax": top, "colorscale": SIGNED if signed else AMOUNT}
    hover = "%{y}, %{x}: %{z:.3f}"
    if text is not None:
        _expect(np.shape(text) == z.shape, f"text {np.shape(text)}", f"values {z.shape}")
        words = np.where(np.isnan(z), "", [list(map(_shown, row)) for row in text]).tolist()
        look |= {"text": words, "texttemplate": "%{text}", "textfont_color": "black"}
        look["colorscale"] = SIGNED[1:-1] if signed else AMOUNT[:3]  # all light enough for text
        hover += "<br>%{text}"  # a small cell's words are small
    look |= {"hovertemplate": hover + "<extra></extra>", "colorbar_thickness": 12}
    figure = go.Figure(go.Heatmap(x=_places(x), y=_places(y), z=z.tolist(), **look))
    figure.update_xaxes(**_named(x)).update_yaxes(**_named(y), autorange="reversed")
    height = max(320, min(170 + 30 * len(y), 600), 170 + 15 * len(y) * (text is not None))
    return _finished(figure, title, xlabel, ylabel, height, note=f"colour: {unit}")


def lines(series: Mapping[str, object], *, title, xlabel, ylabel, x=None, spread=None) -> go.Figure:
    """One line a name; `x` defaults to 0, 1, 2 ...; `spread` draws bars of +- that size."""
    spread = spread or {}
    if unknown := set(spread) - set(series):
        raise ValueError(f"spread: there is no line {min(unknown)!r}")
    figure, words = go.Figure(), x is not None and any(isinstance(place, str) for place in x)
    for i, (name, values) in enumerate(series.items()):
        y = _array(name, values)
        places = list(range(y.size)) if x is None else _places(x) if words else list(x)
        _expect(y.shape == (len(places),), f"{name}: shape {y.shape}", "one line over x")
        line = {"color": LINES[i % len(LINES)], "dash": ["solid", "dash", "dot"][i % 3]}
        look = {"mode": "lines+markers", "line": line, "error_y": _error_bars(spread.get(name), y)}
        figure.add_scatter(x=places, y=y.tolist(), name=_shown(name), **look)
    if words:
        figure.update_xaxes(**_named(x))
    elif x is None and max(map(len, series.values()), default=0) < 20:
        figure.update_xaxes(dtick=1)  # half a layer does not exist
    return _finished(figure, title, xlabel, ylabel, legend=len(series) > 1)


def bars(values, labels: Sequence[str], *, title, xlabel, ylabel, spread=None) -> go.Figure:
    """One bar a label, in the order given; `spread` draws error bars of that size."""
    y = _array("values", values)
    _expect(y.shape == (len(labels),), f"values {y.shape}", f"{len(labels)} labels")
    colours = [LINES[0] if value >= 0 else LINES[1] for value in y]
    look = {"marker_color": colours, "error_y": _error_bars(spread, y)}
    figure = go.Figure(go.Bar(x=_places(labels), y=y.tolist(), **look))
    return _finished(figure.update_xaxes(**_named(labels)), title, xlabel, ylabel)


def scatter(x, y, *, title, xlabel, ylabel, groups=None, hover=None, diagonal=False) -> go.Figure:
    """Points, with one of `groups` and `hover` each; `diagonal` adds the line y = x."""
    x, y = _array("x", x), _array("y", y)
    _expect(x.ndim == 1 and x.shape == y.shape, f"x {x.shape}", f"y {y.shape}: one list each")
    for name, labels in (("groups", groups), ("hover", hover)):
        if labels is not None:
            _expect(len(labels) == len(x), f"{name}: {len(labels)} labels", f"{len(x)} points")
    groups, figure = [""] * len(x) if groups is None else list(groups), go.Figure()
    for i, group in enumerate(dict.fromkeys(groups)):
        here = [j for j, name in enumerate(groups) if name == group]
        marker = {"color": LINES[i % len(LINES)], "symbol": SHAPES[i % 4], "size": 8}
        text = None if hover is None else [_shown(hover[j]) for j in here]
        look = {"mode": "markers", "marker": marker, "text": text, "showlegend": bool(group)}
        figure.add_scatter(x=x[here].tolist(), y=y[here].tolist(), name=_shown(group), **look)
    if diagonal and len(x):
        ends = [float(min(x.min(), y.min())), float(max(x.max(), y.max()))]
        look = {"mode": "lines", "line_color": "#888888", "line_dash": "dash"}
        figure.add_scatter(x=ends, y=ends, name="y = x", **look)
    return _finished(figure, title, xlabel, ylabel, legend=len(set(groups)) > 1 or diagonal)


def attention(pattern, tokens: Sequence[str], *, heads: Sequence[str], first=0) -> go.Figure:
    """Attention patterns `[head, query, key]` in whole per cent, a byte a weight; one head at a
    time, the `first` to begin with, chosen in a menu (by keyboard: a choice of `explore`)."""
    pattern, shape = _array("pattern", pattern), (len(heads), len(tokens), len(tokens))
    _expect(pattern.shape == shape, f"pattern {pattern.shape}", f"heads and tokens {shape}")
    fix = f"a notebook, at most {MAX_WEIGHTS:,}: show fewer heads, or one at a time in `explore`"
    _expect(pattern.size <= MAX_WEIGHTS, f"pattern: {pattern.size:,} weights", fix)
    if not ((pattern > -1e-3) & (pattern < 1.001)).all():
        raise ValueError("pattern: expected attention weights, from 0 to 1")
    _expect(first in range(len(heads)), f"first={first}: such places", f"{len(heads)} heads")
    percent = (100 * pattern).round().clip(0, 100).astype(np.uint8)
    title = "Attention" if len(heads) > 1 else f"Attention of {heads[0]}"
    words = {"title": title, "xlabel": "key", "ylabel": "query", "unit": "attention weight"}
    figure = heatmap(percent[first], x=tokens, y=tokens, signed=False, limit=100, **words)
    hover = "query %{y}<br>key %{x}<br>weight %{z} %<extra></extra>"
    figure.update_traces(hovertemplate=hover, colorbar_ticksuffix=" %")
    shown, figure.data = figure.data[0], ()
    figure.add_traces([go.Heatmap(shown, z=z, visible=i == first) for i, z in enumerate(percent)])
    if len(heads) > 1:
        each = [[{"visible": row.tolist()}] for row in np.eye(len(heads), dtype=bool)]
        buttons = [{"label": _shown(h), "args": a} for h, a in zip(heads, each, strict=True)]
        menu = {"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad_b": 8, "active": first}
        figure.update_layout(updatemenus=[menu | {"buttons": buttons}], margin_t=104)
    return figure


def follow_theme() -> HTML:
    """Show it once in a notebook: in JupyterLab, figures are dark where the theme is, and a control
    whose kernel has gone leaves no message beside its picture."""
    return HTML("""<style>
    [data-jp-theme-light="false"] .jp-RenderedPlotly { filter: invert(0.95) hue-rotate(180deg); }
    .lm-Panel.jp-OutputArea-output:not(:has(*)) { display: none; }
    </style>""")


def explore(draw: Callable, *, start: Mapping | None = None, **choices) -> None:
    """A control for each argument of `draw`, which returns a figure or a string. A choice is a list
    of numbers (a slider), or words or a mapping from labels to values (a menu); `start` has the
    first picture's values, else each choice's first. The picture stands alone without a kernel.

        def draw(layer, head):
            return plots.attention(cache["pattern", layer][0, [head]], tokens, heads=["its name"])
        plots.explore(draw, layer=range(n_layers), head=range(n_heads), start={"layer": 1})"""
    controls, start = {}, start or {}
    if unknown := set(start) - set(choices):
        raise ValueError(f"start: there is no choice {min(unknown)!r}")
    for name, choice in choices.items():
        named = choice if isinstance(choice, Mapping) else {str(value): value for value in choice}
        options, values = list(named.items()), list(named.values())
        if not values or start.get(name, values[0]) not in values:
            raise ValueError(f"{name}: {start.get(name)} is not one of the choices {values}")
        slides = named is not choice and all(isinstance(value, Real) for value in values)
        kind = partial(SelectionSlider, continuous_update=False) if slides else Dropdown
        controls[name] = kind(options=options, value=start.get(name, values[0]), description=name)

    def picture() -> dict:
        drawn = draw(**{name: control.value for name, control in controls.items()})
        return {"text/plain": drawn} if isinstance(drawn, str) else drawn._repr_mimebundle_()

    def redraw(_) -> None:
        try:
            drawn = picture()
        except Exception as error:  # it would vanish in a log
            drawn = {"text/plain": f"{type(error).__name__}: {error}"}
        # JupyterLab keeps a plotly figure that is there, so something else comes between.
        place.update({"text/html": '<div style="height: 450px"></div>'}, raw=True)
        place.update(drawn, raw=True)

    row = Box([*controls.values()], layout={"flex_flow": "row wrap"})
    if "google.colab" in sys.modules:  # there a control draws in a place of its own only
        return display(row, interactive_output(lambda **_: display(picture(), raw=True), controls))
    still = {"text/plain": f"Run this cell to choose: {', '.join(choices)}."}
    display(row._repr_mimebundle_() | still, raw=True)
    place = display(picture(), raw=True, display_id=True)
    for control in controls.values():
        control.observe(redraw, "value")


def _expect(fits: bool, what: str, labels: str) -> None:
    if not fits:
        raise ValueError(f"{what} do not fit {labels}")


def _error_bars(spread, y: np.ndarray) -> dict | None:
    size = None if spread is None else _array("spread", spread)
    _expect(size is None or size.shape == y.shape, f"spread {np.shape(size)}", f"values {y.shape}")
    return None if size is None else {"array": size.tolist()}


def _array(name: str, values) -> np.ndarray:
    """A tensor on any device, an array, or a list of them, as an array."""
    try:
        rows = isinstance(values, list | tuple)
        values = values.detach().float().cpu() if hasattr(values, "detach") else values
        return np.asarray([_array(name, row) for row in values] if rows else values, dtype=float)
    except (TypeError, ValueError, NotImplementedError):  # the last: no numbers on "meta"
        raise ValueError(f"{name}: expected numbers, in rows of one length") from None


def _shown(label: str) -> str:
    """A token as it is (plotly would read `<s>` as markup), seen if blank; a zero has no sign."""
    label = re.sub(r"^[-−+](?=0\.?0*$)", "", str(label)).replace("\n", "\\n")
    return escape(label if label.strip() else "␣" * len(label), quote=False)


def _places(labels: Sequence[str]) -> list[str]:
    return [str(i) for i in range(len(labels))]


def _named(labels: Sequence[str]) -> dict:
    """An axis of categories by place, since equal tokens would fall on one; named where it fits."""
    names = dict(zip(_places(labels), map(_shown, labels), strict=True))
    return {"type": "category", "labelalias": names, "showgrid": False}


def _finished(figure, title, xlabel, ylabel, height=380, legend=False, note="") -> go.Figure:
    rows, xlabel, ylabel, note = (  # plotly does not wrap: for the narrowest screen
        [_shown(row) for row in wrap(text, width)]
        for text, width in ((title, 40), (xlabel, 36), (ylabel, 36), (note, 48))
    )
    rows += [f'<span style="font-size: 12px">{row}</span>' for row in note]
    top = 1 - (24 if rows[1:] else 14) / height  # plotly draws several rows higher than one
    corner = {"x": 0.02, "xanchor": "left", "y": top, "yanchor": "top"}
    # Plotly's own template costs 7 kB a figure in the saved notebook; its "Share chart" uploads.
    look = {"template": "none", "height": height, "showlegend": legend}
    look["modebar_remove"] = ["sendChartToCloud"]
    figure.update_layout(
        title={"text": "<br>".join(rows), "font_size": 14, **corner},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
        margin={"l": 60, "r": 20, "t": 22 + 20 * len(rows), "b": 60},
        **look,
    )
    room = {"title_standoff": 12, "title_font_size": 13, "automargin": True}
    figure.update_xaxes(title_text="<br>".join(xlabel), **room)
    return figure.update_yaxes(title_text="<br>".join(ylabel), **room)
