"""Activation patching: copy one clean activation into the corrupted run and read the metric.

Every cell of a grid is one patched run, and all runs of a sweep are computed side by side. There
are two roads to their logits: `helpers.growing` works by hooks on any model, and `helpers.live`
computes less on the models it knows (GPT-2's architecture). The model decides which is taken.

The order of the arguments is that of `transformer_lens.patching`; the metric is one number a row.
Mark it with `helpers.metrics.reads_last` where it reads the last position only, or a few tokens
there, as a pair's own `logit_diff` is: then no other logits are computed.
"""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from helpers.growing import ATTENTION, HEADS, MLP, RESIDUAL, SITES, Cell, grown_logits
from helpers.inputs import (
    FLOATS,
    IDS,
    expect_axes,
    expect_cached,
    expect_finite,
    expect_local,
    expect_tokens,
)
from helpers.live import live_logits, supports_live
from helpers.metrics import Metric

MAX_BYTES = 512 * 2**20  # the memory that one pass may take, beside the model and the cache


def patch_residual(
    model,
    corrupted_tokens: Int[Tensor, "1 pos"],
    clean_cache,
    metric: Metric,
    *,
    max_bytes: int = MAX_BYTES,
) -> Float[Tensor, "n_layers pos"]:
    """Patch the residual stream entering each block (`resid_pre`), one position at a time.

    Args:
        model: a model from `load_model`.
        corrupted_tokens: the run that is patched; one prompt (average over prompts in a loop).
        clean_cache: every activation of the clean run, of the same length.
        metric: from logits `[rows, pos, d_vocab]` to one number a row, in any unit.
        max_bytes: about how much memory a pass may take; the cells are split into as many passes
            as that needs, of one cell at least.

    Returns:
        The metric after patching layer l, position p, in the metric's unit. Denoising: what
        suffices to bring the clean answer back (Heimersheim & Nanda 2024, arXiv 2404.15255). For
        noising, pass the clean tokens and the corrupted cache.

    Raises:
        TypeError, ValueError: more than one prompt, token ids out of range, a cache of another
            model or length, a metric that does not give one finite number a row.

    Source: causal tracing of Meng et al. 2022 (arXiv 2202.05262); Wang et al. 2022
    (arXiv 2211.00593).
    """
    layers, positions = model.cfg.n_layers, _length(corrupted_tokens)
    cells = [Cell(layer, RESIDUAL, (p,)) for layer in range(layers) for p in range(positions)]
    return sweep(model, corrupted_tokens, clean_cache, metric, cells, max_bytes).view(
        layers, positions
    )


def patch_blocks(
    model,
    corrupted_tokens: Int[Tensor, "1 pos"],
    clean_cache,
    metric: Metric,
    *,
    max_bytes: int = MAX_BYTES,
) -> Float[Tensor, "3 n_layers pos"]:
    """Patch `resid_pre`, the attention's output and the MLP's output, in that order.

    The first grid is `patch_residual`; the other two say which *part* of the block wrote what the
    residual stream then carries. Arguments, unit, errors and source as there.
    """
    layers, positions = model.cfg.n_layers, _length(corrupted_tokens)
    cells = [
        Cell(layer, site, (p,))
        for site in (RESIDUAL, ATTENTION, MLP)
        for layer in range(layers)
        for p in range(positions)
    ]
    return sweep(model, corrupted_tokens, clean_cache, metric, cells, max_bytes).view(
        3, layers, positions
    )


def patch_heads(
    model,
    corrupted_tokens: Int[Tensor, "1 pos"],
    clean_cache,
    metric: Metric,
    *,
    max_bytes: int = MAX_BYTES,
) -> Float[Tensor, "n_layers n_heads"]:
    """Patch the output of each head (`z`) at all positions together.

    Arguments, unit, errors and source as `patch_residual`.
    """
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    everywhere = slice(None)
    cells = [Cell(layer, HEADS, (everywhere, h)) for layer in range(layers) for h in range(heads)]
    return sweep(model, corrupted_tokens, clean_cache, metric, cells, max_bytes).view(layers, heads)


def patch_head_positions(
    model,
    corrupted_tokens: Int[Tensor, "1 pos"],
    clean_cache,
    metric: Metric,
    *,
    max_bytes: int = MAX_BYTES,
) -> Float[Tensor, "n_layers n_heads pos"]:
    """Patch the output of each head (`z`), one position at a time.

    Arguments, unit, errors and source as `patch_residual`.
    """
    layers, heads, positions = model.cfg.n_layers, model.cfg.n_heads, _length(corrupted_tokens)
    cells = [
        Cell(layer, HEADS, (p, h))
        for layer in range(layers)
        for h in range(heads)
        for p in range(positions)
    ]
    grid = sweep(model, corrupted_tokens, clean_cache, metric, cells, max_bytes)
    return grid.view(layers, heads, positions)


@torch.no_grad()
def sweep(
    model,
    corrupted_tokens: Int[Tensor, "1 pos"],
    clean_cache,
    metric: Metric,
    cells: list[Cell],
    max_bytes: int = MAX_BYTES,
) -> Float[Tensor, "cells"]:
    """The metric after patching each cell by itself, in the order of `cells`.

    As many cells a pass as `max_bytes` allows. A bar shows how far it is once two seconds have
    passed. Arguments and errors as `patch_residual`.
    """
    _check(model, corrupted_tokens, clean_cache, {(c.layer, c.site) for c in cells})
    fast = supports_live(model) and all(cell.site in SITES for cell in cells)
    last_only = getattr(metric, "reads_last", False)
    only_tokens = _tokens_read(metric, model.cfg.d_vocab) if last_only else None
    logits_of = partial(live_logits, only_tokens=only_tokens) if fast else grown_logits
    at_once = max(1, max_bytes // _bytes_a_cell(model, corrupted_tokens, fast, last_only))
    # The order in which a model comes to them; a pass adds its rows in it.
    place = {site: i for i, site in enumerate(SITES)}
    order = sorted(range(len(cells)), key=lambda i: (cells[i].layer, place.get(cells[i].site, 0)))
    values = []
    one_pass = len(cells) <= at_once
    with tqdm(total=len(cells), unit="cell", delay=2, leave=False, disable=one_pass) as bar:
        for start in range(0, len(cells), at_once):
            chunk = [cells[i] for i in order[start : start + at_once]]
            logits = logits_of(model, corrupted_tokens, clean_cache, chunk, last_only)
            if last_only and not values:
                _expect_no_more_read(metric, logits[0, -1], corrupted_tokens.shape[1], only_tokens)
            values.append(_measured(metric, logits))
            bar.update(len(chunk))
    rows = torch.cat(values)
    return torch.empty_like(rows).index_copy(0, torch.tensor(order, device=rows.device), rows)


def attribution_patch(
    model,
    corrupted_tokens: Int[Tensor, "1 pos"],
    clean_cache,
    metric: Metric,
) -> Float[Tensor, "n_layers pos"]:
    """The linear estimate of `patch_residual` minus the corrupted metric, from one backward pass.

    (clean - corrupted) . d metric / d activation, with the gradient taken in the corrupted run: the
    first term of a Taylor series. One forward and one backward pass in place of n_layers * pos
    forward passes (and one more forward for the clean cache). A screen to be verified: it fails
    where the model between here and the metric is far from linear, above all in the first layers.

    Arguments and errors as `patch_residual`.

    Returns:
        The estimated change of the metric, in its unit.

    Source: Nanda 2023, "Attribution patching"; where it fails: Kramar et al. 2024
    (arXiv 2403.00745).
    """
    names = [f"blocks.{layer}.{RESIDUAL}" for layer in range(model.cfg.n_layers)]
    _check(model, corrupted_tokens, clean_cache, {(i, RESIDUAL) for i in range(len(names))})
    streams: list[Tensor] = []

    def keep(stream, hook):
        if not streams:  # the parameters are frozen, so the graph starts at the first stream
            stream = stream.detach().requires_grad_()
        streams.append(stream)
        return stream

    with torch.enable_grad():
        logits = model.run_with_hooks(corrupted_tokens, fwd_hooks=[(name, keep) for name in names])
        gradients = torch.autograd.grad(_measured(metric, logits).sum(), streams)
    return torch.stack(
        [
            ((clean_cache[name][0] - stream.detach()[0]) * gradient[0]).sum(-1)
            for name, stream, gradient in zip(names, streams, gradients, strict=True)
        ]
    )


def _length(tokens: Tensor) -> int:
    """The number of positions of one prompt, `[1, pos]`."""
    expect_axes("corrupted_tokens", tokens, "batch pos")
    if len(tokens) != 1:
        raise ValueError(
            f"corrupted_tokens: expected one prompt, got {len(tokens)}; sweep each prompt in a "
            "loop and average the grids"
        )
    return tokens.shape[1]


def _check(model, tokens: Tensor, cache, sites: set[tuple[int, str]]) -> None:
    """The prompt is of this model's tokens, and the cache is of its shape."""
    expect_local(model)
    positions = _length(tokens)
    expect_tokens("corrupted_tokens", tokens, model.cfg.d_vocab)
    names = [f"blocks.{layer}.{site}" for layer, site in sorted(sites)]
    expect_cached("clean_cache", cache, names)
    width = {RESIDUAL: (model.cfg.d_model,), HEADS: (model.cfg.n_heads, model.cfg.d_head)}
    for name in names:
        site = name.split(".", 2)[2]
        expected = (1, positions, *width.get(site, width[RESIDUAL]))
        if tuple(cache[name].shape) != expected:
            raise ValueError(
                f"clean_cache: {name} has shape {tuple(cache[name].shape)}, expected {expected}; "
                "it must come from one prompt of the same length, on the same model"
            )
        expect_finite(f"clean_cache[{name!r}]", cache[name])


def _bytes_a_cell(model, tokens: Tensor, fast: bool, last_only: bool) -> int:
    """About what one more cell adds to the peak of a pass."""
    c, positions = model.cfg, tokens.shape[1]
    if fast:  # factors as measured at 11, 128 and 1,024 tokens, see tools/benchmarks/
        states = 8 * c.d_model + (c.d_mlp or 0)
    else:
        states = 32 * c.d_model + 8 * (c.d_mlp or 0) + 16 * c.n_heads * positions
    numbers = positions * states + 3 * (1 if last_only else positions) * c.d_vocab
    return numbers * c.dtype.itemsize


def _tokens_read(metric: Metric, d_vocab: int) -> Int[Tensor, "tokens"] | None:
    """The tokens that the metric is marked to read, None for all."""
    tokens = getattr(metric, "reads_tokens", None)
    if tokens is not None:
        expect_axes("the tokens that the metric is marked to read", tokens, "tokens")
        expect_tokens("the tokens that the metric is marked to read", tokens, d_vocab)
    return tokens


def _expect_no_more_read(
    metric: Metric,
    last: Float[Tensor, "d_vocab"],
    positions: int,
    only_tokens: Int[Tensor, "tokens"] | None,
) -> None:
    """A marked metric says the same whatever the logits are that it does not read."""
    read = slice(None) if only_tokens is None else only_tokens
    row = last.new_zeros(1, positions, len(last))
    row[0, -1, read] = last[read]
    value = _measured(metric, row).clone()  # it may be a view of the row
    row[:, :-1] = torch.nan
    row[0, -1, ::2], row[0, -1, 1::2] = 1e4, -1e4  # some on either side of what is read
    row[0, -1, read] = last[read]
    again = metric(row)
    if not torch.equal(value, again):
        raise ValueError(
            "metric: it is marked `reads_last`, but reads more than the mark says, other positions "
            f"or other tokens: it changes from {value.tolist()} to {again.tolist()} where nothing "
            "but these does; take the mark away, or name all tokens that it reads"
        )


def _measured(metric: Metric, logits: Tensor) -> Float[Tensor, "rows"]:
    """The metric of each row, checked to be one finite number a row."""
    values = metric(logits)
    if not isinstance(values, Tensor) or tuple(values.shape) != (len(logits),):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"metric: expected one number for each of the {len(logits)} rows, got {shape}; "
            "do not average over rows or call .item()"
        )
    expect_finite("metric", values, [*FLOATS, *IDS])  # a rank is a whole number
    return values
