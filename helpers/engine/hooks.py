"""The engine for every model: each cell is a row of one batch, patched by a hook on its layer.

All rows run from the first layer to the last, so nothing has to be known of a layer. (A batch that
grows at the patched layer computes less, but fails where attention keeps something of the input's
batch size, as ALiBi's bias in BLOOM or the flattened MLP of OPT.)"""

from functools import partial

from jaxtyping import Float, Int
from torch import Tensor

from helpers.engine import Cell
from helpers.metrics import LastToken, Metric


def measure(
    model, tokens: Int[Tensor, "1 pos"], clean_cache, cells: list[Cell], metric: Metric
) -> Float[Tensor, "cells"]:
    """The metric of each cell's run; RuntimeError where a hook did not run."""
    by_name: dict[str, list[int]] = {}
    for row, cell in enumerate(cells):
        by_name.setdefault(cell.name, []).append(row)
    applied = []

    def patch(name: str, activation, hook):  # (row, pos, …)
        activation, clean = activation.clone(), clean_cache[name][0]
        for row in by_name[name]:
            activation[row][cells[row].index] = clean[cells[row].index]
            applied.append(row)
        return activation

    fwd_hooks = [(name, partial(patch, name)) for name in by_name]  # hook.name may be an alias
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
