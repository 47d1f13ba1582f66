"""The general road of a patching sweep, right on every model: a batch that grows.

Before the patched layer nothing differs from the corrupted run, so a cell of the grid need not be
computed there. One forward pass starts with the corrupted prompt alone (row 0). At each layer it
appends a copy of row 0 for every cell to be patched in that layer and overwrites the patched
activation in that copy; from there on the copies run along as further rows, and the logits of all
cells come out together:

    entering layer 0    corrupted | cells of layer 0
    entering layer 1    corrupted | cells of layer 0 | cells of layer 1

Hooks do all of it, so it holds whatever a layer computes.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

RESIDUAL, HEADS, ATTENTION, MLP = SITES = (  # in the order in which a block comes to them
    "hook_resid_pre",
    "attn.hook_z",
    "hook_attn_out",
    "hook_mlp_out",
)


class Cell(NamedTuple):
    """One entry of a grid: which part of which activation is replaced."""

    layer: int
    site: str  # the hook's name within its block
    index: tuple  # into one row of the activation, [pos, ...]


def grown_logits(
    model, tokens: Int[Tensor, "1 pos"], clean_cache, cells: list[Cell], last_only: bool
) -> Float[Tensor, "cells _pos d_vocab"]:
    """The logits of each cell's run by the growing batch, at all positions or at the last alone.

    The cells come sorted by layer.
    """
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
    if last_only:
        hooks.append(("unembed.hook_in", lambda stream, hook: stream[:, -1:]))

    logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
    if sorted(applied) != list(row_of):
        raise RuntimeError(f"{len(applied)} of {len(cells)} patches applied; a hook did not run")
    return logits[1:]
