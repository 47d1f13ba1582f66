"""Activation patching: copy one clean activation into the corrupted run and read the metric.

All sweeps share one idea, the *growing batch*. Before the patched layer nothing differs from the
corrupted run, so a cell of the grid need not be computed there. One forward pass starts with the
corrupted prompt alone (row 0). At each layer it appends a copy of row 0 for every cell to be
patched in that layer and overwrites the patched activation in that copy; from there on the copies
run along as further rows, and the logits of all cells come out together:

    entering layer 0    corrupted | cells of layer 0
    entering layer 1    corrupted | cells of layer 0 | cells of layer 1

The order of the arguments is that of `transformer_lens.patching`; the metric is one number a row.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.inputs import expect_axes, expect_cached, expect_finite, expect_tokens

Metric = Callable[[Float[Tensor, "rows pos d_vocab"]], Float[Tensor, "rows"]]

RESIDUAL, ATTENTION, MLP, HEADS = "hook_resid_pre", "hook_attn_out", "hook_mlp_out", "attn.hook_z"
CELLS_AT_ONCE = (
    128  # bounds the memory: a pass carries at most so many rows, plus the corrupted one
)


class Cell(NamedTuple):
    """One entry of a grid: which part of which activation is replaced."""

    layer: int
    site: str  # the hook's name within its block
    index: tuple  # into one row of the activation, [pos, ...]


def patch_residual(
    model,
    corrupted_tokens: Int[Tensor, "1 pos"],
    clean_cache,
    metric: Metric,
) -> Float[Tensor, "n_layers pos"]:
    """Patch the residual stream entering each block (`resid_pre`), one position at a time.

    Args:
        model: a model from `load_model`.
        corrupted_tokens: the run that is patched; one prompt (average over prompts in a loop).
        clean_cache: every activation of the clean run, of the same length.
        metric: from logits `[rows, pos, d_vocab]` to one number a row, in any unit.

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
    return sweep(model, corrupted_tokens, clean_cache, metric, cells).view(layers, positions)


def patch_blocks(
    model,
    corrupted_tokens: Int[Tensor, "1 pos"],
    clean_cache,
    metric: Metric,
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
    return sweep(model, corrupted_tokens, clean_cache, metric, cells).view(3, layers, positions)


def patch_heads(
    model,
    corrupted_tokens: Int[Tensor, "1 pos"],
    clean_cache,
    metric: Metric,
) -> Float[Tensor, "n_layers n_heads"]:
    """Patch the output of each head (`z`) at all positions together.

    Arguments, unit, errors and source as `patch_residual`.
    """
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    everywhere = slice(None)
    cells = [Cell(layer, HEADS, (everywhere, h)) for layer in range(layers) for h in range(heads)]
    return sweep(model, corrupted_tokens, clean_cache, metric, cells).view(layers, heads)


def patch_head_positions(
    model,
    corrupted_tokens: Int[Tensor, "1 pos"],
    clean_cache,
    metric: Metric,
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
    grid = sweep(model, corrupted_tokens, clean_cache, metric, cells)
    return grid.view(layers, heads, positions)


@torch.no_grad()
def sweep(
    model,
    corrupted_tokens: Int[Tensor, "1 pos"],
    clean_cache,
    metric: Metric,
    cells: list[Cell],
) -> Float[Tensor, "cells"]:
    """The metric after patching each cell by itself, in the order of `cells`.

    The growing batch of this module's docstring, `CELLS_AT_ONCE` cells a pass. Arguments and errors
    as `patch_residual`.
    """
    _check(model, corrupted_tokens, clean_cache, {(c.layer, c.site) for c in cells})
    values = []
    for start in range(0, len(cells), CELLS_AT_ONCE):
        chunk = cells[start : start + CELLS_AT_ONCE]
        order = sorted(range(len(chunk)), key=lambda i: chunk[i].layer)  # the order rows are added
        logits = _grown_logits(model, corrupted_tokens, clean_cache, [chunk[i] for i in order])
        rows = _measured(metric, logits)
        place = torch.tensor(order, device=rows.device)
        values.append(torch.empty_like(rows).index_copy(0, place, rows))
    return torch.cat(values)


def _grown_logits(model, tokens, clean_cache, cells: list[Cell]) -> Tensor:
    """Logits `[cells, pos, d_vocab]`; the cells come sorted by layer."""
    row_of = dict(enumerate(cells, start=1))  # row 0 is the corrupted run
    hooks, applied = [], []

    for layer in sorted({cell.layer for cell in cells}):
        rows = {row: cell for row, cell in row_of.items() if cell.layer == layer}

        def grow(stream, hook, rows=rows):
            return torch.cat([stream, stream[:1].expand(len(rows), *stream.shape[1:])])

        hooks.append((f"blocks.{layer}.{RESIDUAL}", grow))
        for site in {cell.site for cell in rows.values()}:
            here = {row: cell for row, cell in rows.items() if cell.site == site}

            name = f"blocks.{layer}.{site}"

            def patch(activation, hook, here=here, clean=clean_cache[name][0]):
                patched = activation.clone()
                for row, cell in here.items():
                    patched[row][cell.index] = clean[cell.index]
                    applied.append(row)
                return patched

            hooks.append((name, patch))

    logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
    if sorted(applied) != list(row_of):
        raise RuntimeError(f"{len(applied)} of {len(cells)} patches applied; a hook did not run")
    return logits[1:]


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


def _measured(metric: Metric, logits: Tensor) -> Float[Tensor, "rows"]:
    """The metric of each row, checked to be one finite number a row."""
    values = metric(logits)
    if not isinstance(values, Tensor) or tuple(values.shape) != (len(logits),):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"metric: expected one number for each of the {len(logits)} rows, got {shape}; "
            "do not average over rows or call .item()"
        )
    expect_finite("metric", values)
    return values
