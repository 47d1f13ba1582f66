"""The engine for every model: each cell is a row of one batch, patched by a hook on its layer. All
rows run from the first layer to the last: a batch that grows at the patched layer fails where a
model keeps something of the input's batch size, as BLOOM's ALiBi or OPT's flattened MLP."""

from functools import partial

from jaxtyping import Float, Int
from torch import Tensor

from helpers.engine import Cell
from helpers.metrics import LastToken, Metric


def measure(
    model, tokens: Int[Tensor, "1 pos"], clean_cache, cells: list[Cell], metric: Metric
) -> Float[Tensor, "cells"]:
    """The metric of each cell's run; RuntimeError where a hook did not run."""
    applied = []

    def patch(name: str, activation, hook):  # (row, pos, …)
        activation, clean = activation.clone(), clean_cache[name][0]
        for row, cell in enumerate(cells):
            if cell.name == name:
                activation[row][cell.index] = clean[cell.index]
                applied.append(row)
        return activation

    names = {cell.name for cell in cells}
    fwd_hooks = [(name, partial(patch, name)) for name in names]  # hook.name may be an alias
    if isinstance(metric, LastToken):
        fwd_hooks.append(("unembed.hook_in", lambda stream, hook: stream[:, -1:]))
    logits = model.run_with_hooks(tokens.expand(len(cells), -1), fwd_hooks=fwd_hooks)
    if sorted(applied) != list(range(len(cells))):
        raise RuntimeError(f"{len(applied)} of {len(cells)} patches applied; a hook did not run")
    return metric(logits)


def bytes_a_cell(model, positions: int, metric: Metric) -> int:
    """About what one more cell adds to the peak of a pass, at most, whatever the metric reads."""
    c = model.cfg
    states = 32 * c.d_model + 8 * (c.d_mlp or 0) + 16 * c.n_heads * positions + 3 * c.d_vocab
    return positions * states * c.dtype.itemsize
