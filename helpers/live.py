"""The fast road of a patching sweep: compute only the states that a patch has changed.

A *state* is what the residual stream holds at one position of one run. In the run of one cell of a
grid most states are those of the corrupted run: all of them before the patched layer, and after it
all at earlier positions, since attention looks back only. The others are *live*, and nothing else
is computed. For a patch of position 2 in layer 1:

    position         0  1  2  3  4
    entering 0       .  .  .  .  .
    entering 1       .  .  x  .  .    the patch
    entering 2       .  .  x  x  x    attention has carried it to every later position
    at the output    .  .  .  .  x    the metric reads only here

The live states of all cells are the rows of one matrix, and a table says which row holds which
state. A state that is not live has no row of its own: the table points to the corrupted run's.
The table is a numpy array: it is small, and need not wait for a GPU.

It runs the model's own layers, without their hooks, and only where `supports_live` knows how they
fit together; `helpers.patching` takes its general road everywhere else.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformer_lens.model_bridge import TransformerBridge
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Attention, GPT2Block
from transformers.pytorch_utils import Conv1D

from helpers.growing import ATTENTION, HEADS, MLP, RESIDUAL, Cell
from helpers.product import product

ACTIVATIONS = {
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
}
MLP_ROWS = 1536


class Patch(NamedTuple):
    """What the cells of one layer and site replace: where `mask` is true, by what the clean run
    has there. Each head's output `z` stands side by side with the others, as in the layer."""

    mask: Bool[np.ndarray, "cells pos width"]
    clean: Float[Tensor, "pos width"]


@dataclass
class Live:
    """The states of all runs: `stream[table[c, p]]` is that of run c at position p.

    Run 0 is the corrupted one and has the first rows; run c > 0 is the one of the c-th cell.
    """

    stream: Float[Tensor, "rows d_model"]
    table: Int[np.ndarray, "runs pos"]

    def join(self, activation: Float[Tensor, "rows width"], patch: Patch | None) -> Tensor:
        """Add the runs that are patched here, and return `activation` with their rows.

        A new run has rows only where its patch reaches. There it has the patched activation, and so
        far the corrupted run's stream.
        """
        if patch is None:
            return activation
        kept = self.table.shape[1]  # all positions, or in the end the last alone
        mask, clean = patch.mask[:, -kept:], patch.clean[-kept:]
        run, position = mask.any(-1).nonzero()
        table = self.table[:1].repeat(len(mask), axis=0)
        table[run, position] = len(activation) + np.arange(len(run))
        self.table = np.concatenate([self.table, table])
        self.stream = torch.cat([self.stream, take(self.stream, position)])
        replaced = torch.from_numpy(mask[run, position]).to(clean.device)
        patched = torch.where(replaced, take(clean, position), take(activation, position))
        return torch.cat([activation, patched])

    def spread(self, z: Float[Tensor, "runs pos width"]) -> Float[Tensor, "rows width"]:
        """Give a row to every state from a run's first live one on, and return the rows of `z`."""
        own = np.logical_or.accumulate(self.table != self.table[0], axis=1)
        own[0] = True  # the corrupted run's rows come first
        self.stream = take(self.stream, self.table[own])
        self.table = self.table[:1].repeat(len(own), axis=0)
        self.table[own] = np.arange(len(self.stream))
        return take(z.flatten(0, 1), np.flatnonzero(own))

    def keep_last(self, z: Float[Tensor, "runs 1 width"]) -> Float[Tensor, "rows width"]:
        """Keep the last position of each run alone, and return the rows of `z`."""
        self.stream = take(self.stream, self.table[:, -1])
        self.table = np.arange(len(z))[:, None]
        return z[:, 0]


def supports_live(model) -> bool:
    """Whether `live_logits` computes what this model does.

    That is GPT-2's architecture (LayerNorm first, learned positions, attention then MLP), in full
    or double precision and on one device, with no hook in place that a run of its own would have to
    call.
    """
    if not isinstance(model, TransformerBridge) or model.training:
        return False
    c = model.cfg
    return (
        c.architecture == "GPT2LMHeadModel"
        and all(map(is_gpt2_block, model.blocks))
        and c.act_fn in ACTIVATIONS
        and not c.scale_attn_by_inverse_layer_idx
        and c.dtype in (torch.float32, torch.float64)
        and not getattr(model.original_model, "hf_device_map", None)  # spread over devices
        and type(plain(model.unembed)) is torch.nn.Linear
        and not hooked(model)
    )


def is_gpt2_block(block) -> bool:
    """Whether it is transformers' own, with transformers' own attention and MLP in it: a part that
    somebody has put in place of one (a transcoder say) computes something else."""
    own = ((block, GPT2Block), (block.attn, GPT2Attention), (block.mlp, GPT2MLP))
    return (
        all(type(getattr(part, "original_component", None)) is kind for part, kind in own)
        and plain(block).attn is block.attn
        and plain(block).mlp is block.mlp
    )


def hooked(model) -> bool:
    """Whether a hook is in place, one of transformer_lens or one of torch on a layer within.

    Those that transformers and transformer_lens put there themselves only look.
    """
    if any(point.fwd_hooks or point.bwd_hooks for point in model.hook_points()):
        return True
    own = ("transformers.", "transformer_lens.")
    return any(
        not str(hook.__module__).startswith(own)
        for module in model.original_model.modules()
        if module._forward_hooks or module._forward_pre_hooks  # torch has no public way to ask
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )


def live_logits(
    model,
    tokens: Int[Tensor, "1 pos"],
    clean_cache,
    cells: list[Cell],
    last_only: bool,
    only_tokens: Int[Tensor, "tokens"] | None = None,
) -> Float[Tensor, "cells _pos d_vocab"]:
    """The logits of each cell's run, at all positions or at the last alone.

    The cells come sorted by layer and, within a layer, by their place in `SITES`. With
    `only_tokens`, all other tokens' logits are 0.
    """
    at_site: dict[tuple[int, str], list[Cell]] = {}
    for cell in cells:
        at_site.setdefault((cell.layer, cell.site), []).append(cell)
    place = torch.arange(tokens.shape[1])
    stream = plain(model.embed)(tokens[0]) + plain(model.pos_embed)(place.to(tokens.device))
    live = Live(stream, place.numpy()[None])
    for layer, block in enumerate(model.blocks):
        at = partial(patch_at, clean_cache, at_site, layer)
        last = last_only and layer == len(model.blocks) - 1
        live.stream = live.join(live.stream, at(RESIDUAL))
        if last:
            z = live.keep_last(attention_of_last(block, live, model.cfg.n_heads))
        else:
            z = live.spread(attention(block, live, model.cfg.n_heads))
        out = linear(block.attn.o, live.join(z, at(HEADS)))
        out = live.join(out, at(ATTENTION))
        live.stream += out
        out = live.join(mlp(block, live.stream, ACTIVATIONS[model.cfg.act_fn]), at(MLP))
        live.stream += out
    return unembed(model, live, only_tokens)


def attention(block, live: Live, n_heads: int) -> Float[Tensor, "runs pos d_model"]:
    """Each run's attention, before the output matrix: `z` of all heads, side by side.

    Queries, keys and values are computed once a row. The table then hands each run its own rows and
    the corrupted run's for the rest.
    """
    x = plain(block.ln1)(live.stream)
    parts = (block.attn.q, block.attn.k, block.attn.v)
    q, k, v = (
        take(linear(part, x), live.table).unflatten(-1, (n_heads, -1)).transpose(1, 2)
        for part in parts
    )
    z = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (runs, head, pos, d_head)
    return z.transpose(1, 2).flatten(2)


def attention_of_last(block, live: Live, n_heads: int) -> Float[Tensor, "runs 1 d_model"]:
    """What the last position alone reads in each run: for one query no key and no value is needed.

    A score q . (W_K x + b_K) is (q W_K) . x and a number that is the same for every x; softmax
    drops it. The mean of the values W_V x + b_V, weighted by the pattern, is W_V (mean of the x)
    + b_V. Source: the QK and OV circuits of Elhage et al. 2021.
    """
    if any(type(plain(part)) is not torch.nn.Linear for part in (block.attn.k, block.attn.v)):
        return attention(block, live, n_heads)[:, -1:]  # somebody's own, with no plain W_K or W_V
    w_k, w_v = (  # (head, d_head, d_model)
        plain(part).weight.unflatten(0, (n_heads, -1)) for part in (block.attn.k, block.attn.v)
    )
    x = plain(block.ln1)(live.stream)
    q = linear(block.attn.q, take(x, live.table[:, -1])).unflatten(-1, (n_heads, -1))
    asked = (q.transpose(0, 1) @ w_k).transpose(0, 1)  # (runs, head, d_model)
    x = take(x, live.table)  # (runs, pos, d_model)
    pattern = (asked @ x.mT / q.shape[-1] ** 0.5).softmax(-1)  # (runs, head, pos)
    z = ((pattern @ x).transpose(0, 1) @ w_v.mT).transpose(0, 1)  # (runs, head, d_head)
    return z.flatten(1)[:, None] + plain(block.attn.v).bias


def mlp(block, stream: Float[Tensor, "rows d_model"], activation) -> Float[Tensor, "rows d_model"]:
    """The MLP's output; its hidden states, the widest of all, are made for some rows at a time."""
    into, out = getattr(block.mlp, "in"), block.mlp.out
    parts = plain(block.ln2)(stream).split(MLP_ROWS)
    return torch.cat([linear(out, activation(linear(into, rows))) for rows in parts])


def unembed(
    model, live: Live, only_tokens: Int[Tensor, "tokens"] | None
) -> Float[Tensor, "cells _pos d_vocab"]:
    """The logits of all runs but the corrupted one, a block of the vocabulary at a time.

    One product as wide as GPT-2's vocabulary takes half as long again (measured on a CPU).
    """
    x, unembedding = plain(model.ln_final)(live.stream), plain(model.unembed)
    weight, bias, table = unembedding.weight, unembedding.bias, live.table[1:]
    if only_tokens is not None:
        logits = x.new_zeros(*table.shape, len(weight))
        logits[..., only_tokens] = take(F.linear(x, weight[only_tokens], bias[only_tokens]), table)
        return logits
    blocks = zip(weight.split(1024), bias.split(1024), strict=True)
    return take(torch.cat([product(x, w.T, b) for w, b in blocks], dim=-1), table)


def patch_at(
    clean_cache, at_site: dict[tuple[int, str], list[Cell]], layer: int, site: str
) -> Patch | None:
    """The patch of the cells that belong here, in their order."""
    here = at_site.get((layer, site))
    if here is None:
        return None
    clean = clean_cache[f"blocks.{layer}.{site}"][0]  # (pos, d_model) or (pos, head, d_head)
    mask = np.zeros((len(here), *clean.shape), dtype=bool)
    for row, cell in zip(mask, here, strict=True):
        row[cell.index] = True
    return Patch(mask.reshape(*mask.shape[:2], -1), clean.flatten(1))


def take(
    rows: Float[Tensor, "rows width"], index: Int[np.ndarray, "*axes"]
) -> Float[Tensor, "*axes width"]:
    """`rows[index]`, in a quarter of its time on a CPU; all rows in order are not even copied."""
    if index.size == len(rows) and np.array_equal(index.ravel(), np.arange(len(rows))):
        return rows.view(*index.shape, -1)
    return F.embedding(torch.from_numpy(index).to(rows.device), rows)


def linear(module, x: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows d_out"]:
    """What a linear layer of the model gives, without its hooks."""
    layer = plain(module)
    if type(layer) is Conv1D:  # GPT-2's own layers keep their weights the other way round
        return product(x, layer.weight, layer.bias)
    if type(layer) is torch.nn.Linear:
        return product(x, layer.weight.T, layer.bias)
    return layer(x)  # one that somebody put in its place, with an adapter say


def plain(module) -> torch.nn.Module:
    """A layer of the model without its hooks."""
    return module.original_component
