"""Direct logit attribution: which component wrote the answer into the last residual stream."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.inputs import (
    expect_axes,
    expect_cached,
    expect_finite,
    expect_index,
    expect_local,
    expect_plain_logits,
    expect_tokens,
)


@dataclass(frozen=True)
class LogitDiffAttribution:
    """The logit difference at the last position, split over what wrote to the residual stream.

    All in nats, averaged over the batch. `total` is the sum of all parts and equals the model's own
    logit difference.
    """

    embed: Float[Tensor, ""]
    pos_embed: Float[Tensor, ""]
    heads: Float[Tensor, "n_layers n_heads"]
    mlps: Float[Tensor, "n_layers"]
    bias: Float[Tensor, ""]  # attention output biases and the unembedding's

    @property
    def total(self) -> Float[Tensor, ""]:
        return self.embed + self.pos_embed + self.heads.sum() + self.mlps.sum() + self.bias


def attribute_logit_diff(
    model,
    cache,
    answer: Int[Tensor, "batch"],
    distractor: Int[Tensor, "batch"],
) -> LogitDiffAttribution:
    """Split logit(answer) - logit(distractor) into embeddings, heads, MLPs and biases.

    The last residual stream is a sum of what each component wrote. The final LayerNorm centres it
    and divides it by one scale; with that scale held at its cached value the rest is linear, so the
    logit difference is the sum of the components' dot products with one direction. An MLP's part
    includes its output bias.

    Args:
        model: a model from `load_model` (compatibility mode: final LayerNorm folded into W_U).
        cache: all activations of one run.
        answer, distractor: token ids, one each a row of the run.

    Raises:
        TypeError, ValueError: ids out of range, another batch size, a cache of another model or
            with parts missing, a model whose logits are not linear in the normalised stream.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; Wang et al.
    2022 (arXiv 2211.00593). Direct effects only: Janiak et al. 2023 (arXiv 2310.07325).
    """
    expect_local(model)
    layers = range(model.cfg.n_layers)
    outputs = [f"blocks.{layer}.hook_mlp_out" for layer in layers]
    inner = [f"blocks.{layer}.attn.hook_z" for layer in layers]
    embeddings = ["hook_embed"]
    # Rotary models add no position embedding (their `hook_pos_embed` never runs), attention-only
    # models have no MLP: that part is 0.
    if model.cfg.positional_embedding_type == "standard":
        embeddings.append("hook_pos_embed")
    there = [name for name in [*inner, *outputs, *embeddings] if name in model.hook_dict]
    read = _reader(model, cache, answer, distractor, there)

    def written(name: str) -> Tensor:
        return read(cache[name][:, -1]) if name in there else model.W_U.new_zeros(())

    z = torch.stack([cache[name][:, -1] for name in inner])  # (layer, batch, head, d_head)
    by_head = torch.einsum("lbhe,lhed->lhbd", z, model.W_O)  # (layer, head, batch, d_model)
    ids_bias = (model.b_U[answer] - model.b_U[distractor]).mean()
    # Llama's architecture has no such biases, and transformer_lens then raises on `model.b_O`.
    biases = [block.attn.b_O for block in model.blocks if block.attn.b_O is not None]
    parts = LogitDiffAttribution(
        embed=written("hook_embed"),
        pos_embed=written("hook_pos_embed"),
        heads=read(by_head),
        mlps=torch.stack([written(name) for name in outputs]),
        bias=read(sum(biases)[None]) + ids_bias if biases else ids_bias,
    )
    values = [parts.embed, parts.pos_embed, parts.bias - ids_bias, *parts.heads.flatten()]
    last = f"blocks.{layers[-1]}.hook_resid_post"
    _expect_sum(model, cache, read, [*values, *parts.mlps], last)
    return parts


def attribute_neurons(
    model,
    cache,
    layer: int,
    answer: Int[Tensor, "batch"],
    distractor: Int[Tensor, "batch"],
) -> Float[Tensor, "d_mlp"]:
    """Split one MLP's part of the logit difference over its neurons, in nats, batch-averaged.

    A neuron writes its activation times its row of W_out. Together with the MLP's output bias they
    sum to `attribute_logit_diff(...).mlps[layer]`.

    Raises:
        TypeError, ValueError: as `attribute_logit_diff`; a layer out of range.
    """
    expect_local(model)
    expect_index("layer", layer, model.cfg.n_layers, "layers")
    name = f"blocks.{layer}.mlp.hook_post"
    if name not in model.hook_dict:
        raise ValueError(f"{model.cfg.architecture} has no {name}, so no neurons to attribute to")
    read = _reader(model, cache, answer, distractor, [name])
    active = cache[name][:, -1]  # (batch, d_mlp)
    parts = read(torch.einsum("bm,md->mbd", active, model.W_out[layer]))
    bias = model.blocks[layer].mlp.b_out
    values = [*parts] if bias is None else [*parts, read(bias[None])]
    _expect_sum(model, cache, read, values, f"blocks.{layer}.hook_mlp_out")
    return parts


def _expect_sum(model, cache, read, parts: list[Tensor], name: str) -> None:
    """The parts sum to what was written by the run, where the cache has it; else ValueError.

    They do not where an architecture does more between a component and the stream than add: a norm
    of the component's output (Gemma 2 and 3, OLMo 2), a scale (Granite).
    """
    if name in cache and not _agree(model, parts, read(cache[name][:, -1])):
        raise ValueError(
            f"the parts do not sum to {name}: in {model.cfg.architecture} more happens between a "
            "component and the residual stream than a sum (a norm or a scale), or a hook changed "
            "the run that was cached; patch the components instead (helpers.patching), which holds "
            "for any architecture"
        )


def _agree(model, parts: list[Tensor], whole: Tensor) -> bool:
    """Whether the parts sum to the whole, to what the precision of the run allows."""
    values = torch.stack(parts)
    coarse = 0.05 if model.cfg.dtype.itemsize < 4 else 1e-3
    return bool((values.sum() - whole).abs() <= coarse * (values.abs().sum() + whole.abs()))


def _reader(model, cache, answer: Tensor, distractor: Tensor, needed: list[str]):
    """A function from `[..., batch, d_model]` at the last position to its part of the difference.

    It centres, divides by the final scale and takes the dot product with the logit-difference
    direction W_U[:, answer] - W_U[:, distractor], then the mean over the batch.
    """
    scale_name = "ln_final.hook_scale"
    normalises = model.cfg.normalization_type is not None
    expect_cached("cache", cache, [scale_name, *needed] if normalises else needed)
    expect_plain_logits(model)
    some = cache[scale_name if normalises else needed[0]]
    scale = cache[scale_name][:, -1] if normalises else some.new_ones(len(some), 1)  # (batch, 1)
    for name, ids in (("answer", answer), ("distractor", distractor)):
        expect_axes(name, ids, "batch", batch=len(scale))
        expect_tokens(name, ids, model.cfg.d_vocab)
    width = {"hook_z": model.cfg.d_head, "hook_post": model.cfg.d_mlp}
    for name in needed:
        expected = width.get(name.rsplit(".", 1)[-1], model.cfg.d_model)
        if cache[name].shape[-1] != expected:
            raise ValueError(
                f"cache: {name} has {cache[name].shape[-1]} columns, this model {expected}; "
                "the cache is of another model"
            )
        expect_finite(f"cache[{name!r}]", cache[name])
    direction = (model.W_U[:, answer] - model.W_U[:, distractor]).T  # (batch, d_model)
    centred = normalises and "RMS" not in model.cfg.normalization_type  # LayerNorm

    def read(written: Tensor) -> Tensor:
        if centred:
            written = written - written.mean(-1, keepdim=True)
        return (written / scale * direction).sum(-1).mean(-1)

    last, logits = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", "unembed.hook_out"
    if last in cache and logits in cache:
        rows = torch.arange(len(scale), device=scale.device)
        out = cache[logits][:, -1]
        whole = (out[rows, answer] - out[rows, distractor]).mean()
        ids_bias = (model.b_U[answer] - model.b_U[distractor]).mean()
        if not _agree(model, [read(cache[last][:, -1]), ids_bias], whole):
            raise ValueError(
                "the last residual stream, read through W_U, is not the logit difference of this "
                f"{model.cfg.architecture}: its final norm is not folded into W_U (load with "
                "helpers.models.load_model; where the architecture does not allow that, OLMo 2, "
                "patch instead: helpers.patching), or a hook changed the run that was cached"
            )
    return read
