"""The engine for known blocks: compute only the states that a patch has changed.

A *state* is what the residual stream holds at one position of one run. Most are those of the
corrupted run: all before the patched layer, and after it all at earlier positions, since attention
looks back only. Only the others, *live* ones, are computed. For a patch of position 2, layer 1:

    position         0  1  2  3  4
    entering 0       .  .  .  .  .
    entering 1       .  .  x  .  .    the patch
    entering 2       .  .  x  x  x    attention has carried it to every later position
    at the output    .  .  .  .  x    a LastToken metric reads only here

The live states of all runs are the rows of one matrix; a table says which row holds which state
(the corrupted run's, where one is not live). Norm, MLP and unembedding act on each position, so
the model's own modules take rows; for attention, which mixes them, the table puts runs together."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformer_lens.model_bridge import TransformerBridge

from helpers import architecture
from helpers.architecture import plain
from helpers.engine import ATTENTION, HEADS, MLP, RESIDUAL, Cell
from helpers.metrics import LastToken, Metric

ROWS = 512  # that an MLP takes at a time: its hidden states, the widest of all, stay in the cache


@dataclass
class Live:
    """The states of all runs: `stream[table[r, p]]` is that of run r at position p. Run 0, the
    corrupted one, has the first rows; run r > 0 is that of the r-th cell to come."""

    stream: Float[Tensor, "rows d_model"]
    table: Int[np.ndarray, "runs pos"]
    at: Int[np.ndarray, "rows"]  # the position of each row

    def join(
        self, activation: Tensor, mask: Bool[np.ndarray, "cells pos width"], clean: Tensor
    ) -> Float[Tensor, "more_rows width"]:
        """Add the runs that are patched here, and return `activation [rows, width]` with their rows
        from `clean [pos, width]`: a new run has rows only where its patch reaches."""
        kept = self.table.shape[1]  # all positions, or in the end the last alone
        mask, clean = mask[:, -kept:], clean[-kept:]
        run, position = mask.any(-1).nonzero()
        own = self.table[:1].repeat(len(mask), axis=0)
        own[run, position] = len(activation) + np.arange(len(run))
        base = self.table[0, position]  # the corrupted run's rows
        self.table = np.concatenate([self.table, own])
        self.at = np.concatenate([self.at, position])
        self.stream = torch.cat([self.stream, take(self.stream, base)])
        replaced = torch.from_numpy(mask[run, position]).to(clean.device)
        patched = torch.where(replaced, take(clean, position), take(activation, base))
        return torch.cat([activation, patched])

    def spread(self, z: Float[Tensor, "runs queries width"]) -> Float[Tensor, "rows width"]:
        """Give a row to every state that attention has changed: a run's first live one and all
        after it (of one query a run: the last alone). Return the rows of `z`."""
        if z.shape[1] == 1:
            last = self.table[:, -1]
            self.stream, self.at = take(self.stream, last), self.at[last]
            self.table = np.arange(len(z))[:, None]
            return z[:, 0]
        own = np.logical_or.accumulate(self.table != self.table[0], axis=1)
        own[0] = True  # the corrupted run's rows come first
        self.stream, self.at = take(self.stream, self.table[own]), own.nonzero()[1]
        self.table = self.table[:1].repeat(len(own), axis=0)
        self.table[own] = np.arange(len(self.stream))
        return take(z.flatten(0, 1), own.ravel().nonzero()[0])


def supports(model, positions: int) -> bool:
    """Whether `measure` is right: a known block, float32 or float64, one device, nobody's hooks."""
    return (
        isinstance(model, TransformerBridge)
        and not model.training
        and architecture.unknown(model, positions) is None
        and model.cfg.dtype in (torch.float32, torch.float64)
        and not getattr(model.original_model, "hf_device_map", None)  # spread over devices
        and type(plain(model.unembed)) is torch.nn.Linear
        and type(plain(model.ln_final)) is type(plain(model.blocks[0].ln1))
        and not _hooked(model)
    )


def measure(
    model, tokens: Int[Tensor, "1 pos"], clean_cache, cells: list[Cell], metric: Metric
) -> Float[Tensor, "cells"]:
    """The metric of each cell's run. The cells come sorted by layer and, within one, as `SITES`."""
    positions = np.arange(tokens.shape[1])
    live = Live(architecture.embed(model, tokens[0]), positions[None], positions)

    def patched(activation: Tensor, layer: int, site: str) -> Tensor:
        if not (here := [cell for cell in cells if (cell.layer, cell.site) == (layer, site)]):
            return activation
        clean = clean_cache[here[0].name][0]  # (pos, d_model) or (pos, head, d_head)
        mask = np.zeros((len(here), *clean.shape), dtype=bool)
        for row, cell in zip(mask, here, strict=True):
            row[cell.index] = True
        return live.join(activation, mask.reshape(*mask.shape[:2], -1), clean.flatten(1))

    last_layer = len(model.blocks) - 1
    for layer, block in enumerate(model.blocks):
        live.stream = patched(live.stream, layer, RESIDUAL)
        z = attention(model, layer, live, isinstance(metric, LastToken) and layer == last_layer)
        out = plain(block.attn.o)(patched(live.spread(z), layer, HEADS))
        out = patched(out, layer, ATTENTION)
        entered, live.stream = live.stream, live.stream + out
        x = plain(block.ln2)(entered if architecture.parallel(model) else live.stream)
        out = patched(torch.cat([plain(block.mlp)(rows) for rows in x.split(ROWS)]), layer, MLP)
        live.stream = live.stream + out
    return read(model, live, metric)


def attention(model, layer: int, live: Live, last_only: bool) -> Float[Tensor, "run query width"]:
    """Each run's `z`, heads side by side: at every position, or at the last alone. Queries, keys
    and values are computed once a row; the table hands them to the runs."""
    at = torch.from_numpy(live.at).to(live.stream.device)
    heads = architecture.query_key_value(model, layer, live.stream[None], at)
    q, k, v = (each[0].transpose(0, 1).flatten(1) for each in heads)  # (row, head * d_head)
    asked = live.table[:, -1:] if last_only else live.table
    q, k, v = (
        take(rows, table).unflatten(-1, (model.cfg.n_heads, -1)).transpose(1, 2)
        for rows, table in ((q, asked), (k, live.table), (v, live.table))
    )  # (run, head, pos, d_head)
    z = F.scaled_dot_product_attention(q, k, v, is_causal=not last_only)
    return z.transpose(1, 2).flatten(2)


def read(model, live: Live, metric: Metric) -> Float[Tensor, "cells"]:
    """The metric of all runs but the corrupted one, from the logits that it reads."""
    final, unembed = plain(model.ln_final), plain(model.unembed)
    if not isinstance(metric, LastToken):
        return metric(take(unembed(final(live.stream)), live.table[1:]))
    last = final(take(live.stream, live.table[1:, -1]))
    if metric.tokens is None:
        return metric.function(unembed(last))
    bias = None if unembed.bias is None else unembed.bias[metric.tokens]
    return metric.function(F.linear(last, unembed.weight[metric.tokens], bias))


def take(rows: Tensor, index: Int[np.ndarray, "*axes"]) -> Float[Tensor, "*axes width"]:
    """`rows[index]`; an embedding look-up is the fastest way to it on a CPU."""
    return F.embedding(torch.from_numpy(index).to(rows.device), rows)


def bytes_a_cell(model, positions: int, metric: Metric) -> int:
    """About what one more cell adds to the peak of a pass."""
    c, logits = model.cfg, 1 if isinstance(metric, LastToken) else 3 * positions
    return (positions * (10 * c.d_model + (c.d_mlp or 0)) + logits * c.d_vocab) * c.dtype.itemsize


def _hooked(model) -> bool:
    """Whether a hook is in place, one of transformer_lens or one of torch on a layer within (those
    that the libraries put there themselves only look)."""
    kinds = ("_forward_hooks", "_forward_pre_hooks")  # torch has no public way to ask
    modules = model.original_model.modules()
    hooks = [hook for m in modules for kind in kinds for hook in getattr(m, kind).values()]
    own = ("transformers.", "transformer_lens.")
    foreign = not all(str(hook.__module__).startswith(own) for hook in hooks)
    return foreign or any(point.fwd_hooks or point.bwd_hooks for point in model.hook_points())
