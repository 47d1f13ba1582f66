"""Direct logit attribution: which component wrote the answer into the last residual stream. The
library's `tools.analysis.direct_logit_attribution` gives the same numbers for heads, without the
unembedding's bias and neurons; the split here is complete and checks that it is."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from helpers import architecture, inputs
from helpers.architecture import Unsupported
from helpers.metrics import Ids, Mask, at_last


@dataclass(frozen=True)
class LogitDiffAttribution:
    """The logit difference at the last token, split over what wrote to the residual stream: in
    nats, averaged over the batch. `total` equals the model's own logit difference."""

    embed: Float[Tensor, ""]
    pos_embed: Float[Tensor, ""]  # 0 where position is not added to the stream
    heads: Float[Tensor, "n_layers n_heads"]
    mlps: Float[Tensor, "n_layers"]
    bias: Float[Tensor, ""]  # attention output biases and the unembedding's

    @property
    def total(self) -> Float[Tensor, ""]:
        return self.embed + self.pos_embed + self.heads.sum() + self.mlps.sum() + self.bias


def attribute_logit_diff(
    model, cache, answer: Ids, distractor: Ids, mask: Mask = None
) -> LogitDiffAttribution:
    """Split logit(answer) - logit(distractor) into embeddings, heads, MLPs and biases. The last
    residual stream is a sum of what each component wrote. The final norm (centres it and) divides
    it by one scale; with that held at its cached value the rest is linear, so each share is a dot
    product with one direction. An MLP's includes its output bias. `mask` as in `helpers.metrics`.
    TypeError or ValueError where cache (all activations of one run) and ids do not fit, or a row
    ends in padding and no mask says so; `Unsupported` where more happens than a sum. Source: Wang
    et al. 2022 (arXiv 2211.00593); what it cannot show, Janiak et al. 2023 (arXiv 2310.07325)."""
    read, at_end, ids_bias, whole = _reader(model, cache, answer, distractor, mask)
    layers = range(model.cfg.n_layers)
    start = {key: at_last(x, mask) for key, x in architecture.embeddings(model, cache).items()}
    zero = model.W_U.new_zeros(())
    z = torch.stack([at_end(f"blocks.{i}.attn.hook_z") for i in layers])
    by_head = torch.einsum("lbhe,lhed->lhbd", z, model.W_O)  # (layer, head, batch, d_model)
    outputs = [f"blocks.{i}.hook_mlp_out" for i in layers]
    mlps = [read(at_end(name)) if name in model.hook_dict else zero for name in outputs]
    embed, pos_embed = (read(start[key]) if key in start else zero for key in ("token", "position"))
    bias = read(architecture.attention_bias(model).sum(0)[None])
    parts = [embed, pos_embed, bias, *(heads := read(by_head)).flatten(), *mlps]
    _expect_sum(model, parts, whole, "what the last residual stream says")
    return LogitDiffAttribution(embed, pos_embed, heads, torch.stack(mlps), bias + ids_bias)


def attribute_neurons(
    model, cache, layer: int, answer: Ids, distractor: Ids, mask: Mask = None
) -> Float[Tensor, "d_mlp"]:
    """Split one MLP's share of the logit difference over its neurons, in nats, batch-averaged: each
    writes its activation times its row of W_out. With the MLP's output bias they sum to
    `attribute_logit_diff(...).mlps[layer]`. Raises as that, and for a mixture of experts."""
    layer = inputs.expect_int("layer", layer, 0, model.cfg.n_layers - 1)
    name, out = f"blocks.{layer}.mlp.hook_post", f"blocks.{layer}.hook_mlp_out"
    architecture.expect_neurons(model, name)
    read, at_end, *_ = _reader(model, cache, answer, distractor, mask)
    active, rows = at_end(name), model.W_out[layer]  # (batch, d_mlp), (d_mlp, d_model)
    if active.shape[-1] != len(rows):
        raise ValueError(f"cache: {name} has {active.shape[-1]} neurons, this model {len(rows)}")
    neurons = read(torch.einsum("bm,md->mbd", active, rows))
    bias = read(architecture.mlp_bias(model)[layer][None])
    _expect_sum(model, [*neurons, bias], read(at_end(out)), out)
    return neurons


def _reader(model, cache, answer: Tensor, distractor: Tensor, mask: Mask):
    """Functions from what was written `[..., batch, d_model]` at the last token to its share of the
    difference, and from an activation's name to its values there; the shares of b_U and of all."""
    architecture.expect_plain_logits(model)
    pad = getattr(model.tokenizer, "pad_token_id", None)
    if mask is None and pad is not None and "hook_embed" in cache:
        ends = inputs.expect_activation(cache, "hook_embed", model)[:, -1]
        if rows := (ends == model.W_E[pad]).all(-1).nonzero().flatten().tolist():
            raise ValueError(f"cache: row {rows[0]} ends in padding (token id {pad}); give `mask`")

    def at_end(name: str) -> Float[Tensor, "batch *width"]:
        return at_last(inputs.expect_activation(cache, name, model), mask)

    last = at_end(f"blocks.{model.cfg.n_layers - 1}.hook_resid_post")  # (batch, d_model)
    inputs.expect_ids(model.cfg.d_vocab, len(last), answer=answer, distractor=distractor)
    direction = (model.W_U[:, answer] - model.W_U[:, distractor]).T  # (batch, d_model)
    ids_bias = (model.b_U[answer] - model.b_U[distractor]).mean()
    scale = architecture.scale(model, last)  # (batch, 1)

    def read(written: Tensor) -> Tensor:
        return (architecture.centre(model, written) / scale * direction).sum(-1).mean(-1)

    if "unembed.hook_out" in cache:
        out = at_last(cache["unembed.hook_out"], mask)
        one, other = (out.gather(1, ids[:, None]).mean() for ids in (answer, distractor))
        size, parts = one.abs() + other.abs(), [read(last), ids_bias]
        _expect_sum(model, parts, one - other, "the logit difference", size)
    return read, at_end, ids_bias, read(last)


def _expect_sum(model, parts: list[Tensor], whole: Tensor, name: str, size=0) -> None:
    """The parts sum to the whole, to what the run's precision allows for numbers of their size (and
    of `size`, where the whole is a difference of larger ones); else `Unsupported`."""
    values = torch.stack(parts)
    coarse = 0.05 if model.cfg.dtype.itemsize < 4 else 1e-3
    limit = coarse * (values.abs().sum() + whole.abs())
    if (values.sum() - whole).abs() > limit + 4 * torch.finfo(model.cfg.dtype).eps * size:
        why = "more happens on the way (a norm, a scale), or a hook changed the run; patch instead"
        raise Unsupported(f"the parts do not sum to {name}: in {model.cfg.architecture} {why}")
