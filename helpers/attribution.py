"""Direct logit attribution: which component wrote the answer into the last residual stream.

`transformer_lens.tools.analysis.direct_logit_attribution` gives the same numbers for heads. It
leaves out the unembedding's bias and neurons; the split here is complete and checks that it is."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from helpers import architecture, inputs
from helpers.architecture import Unsupported
from helpers.metrics import Ids


@dataclass(frozen=True)
class LogitDiffAttribution:
    """The logit difference at the last position, split over what wrote to the residual stream: in
    nats, averaged over the batch. `total` equals the model's own logit difference."""

    embed: Float[Tensor, ""]
    pos_embed: Float[Tensor, ""]  # 0 where position is not added to the stream
    heads: Float[Tensor, "n_layers n_heads"]
    mlps: Float[Tensor, "n_layers"]
    bias: Float[Tensor, ""]  # attention output biases and the unembedding's

    @property
    def total(self) -> Float[Tensor, ""]:
        return self.embed + self.pos_embed + self.heads.sum() + self.mlps.sum() + self.bias


def attribute_logit_diff(model, cache, answer: Ids, distractor: Ids) -> LogitDiffAttribution:
    """Split logit(answer) - logit(distractor) into embeddings, heads, MLPs and biases.

    The last residual stream is a sum of what each component wrote. The final norm (centres it and)
    divides it by one scale; with that scale held at its cached value the rest is linear, so the
    logit difference is the sum of the components' dot products with one direction. An MLP's share
    includes its output bias. TypeError or ValueError where cache (all activations of one run) and
    token ids do not fit; `Unsupported` where more happens on the way to the logits than a sum.
    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; Wang et al.
    2022 (arXiv 2211.00593). Direct effects only: Janiak et al. 2023 (arXiv 2310.07325)."""
    read, ids_bias = _reader(model, cache, answer, distractor)
    layers = range(model.cfg.n_layers)
    start = architecture.embeddings(model, cache)
    zero = model.W_U.new_zeros(())
    z = torch.stack([_at_end(cache, f"blocks.{i}.attn.hook_z", model) for i in layers])
    by_head = torch.einsum("lbhe,lhed->lhbd", z, model.W_O)  # (layer, head, batch, d_model)
    outputs = [f"blocks.{i}.hook_mlp_out" for i in layers]
    mlps = [read(_at_end(cache, o, model)) if o in model.hook_dict else zero for o in outputs]
    split = LogitDiffAttribution(
        embed=read(start["token"][:, -1]),
        pos_embed=read(start["position"][:, -1]) if "position" in start else zero,
        heads=read(by_head),
        mlps=torch.stack(mlps),
        bias=read(architecture.attention_bias(model).sum(0)[None]) + ids_bias,
    )
    parts = [split.embed, split.pos_embed, split.bias - ids_bias, *split.heads.flatten(), *mlps]
    _expect_sum(model, parts, read(_at_end(cache, _last(model), model)), _last(model))
    return split


def attribute_neurons(
    model, cache, layer: int, answer: Ids, distractor: Ids
) -> Float[Tensor, "d_mlp"]:
    """Split one MLP's share of the logit difference over its neurons, in nats, batch-averaged.

    A neuron writes its activation times its row of W_out. Together with the MLP's output bias they
    sum to `attribute_logit_diff(...).mlps[layer]`. Raises as that, and for a mixture of experts."""
    inputs.expect_local(model)
    inputs.expect_index("layer", layer, model.cfg.n_layers, "layers")
    name, out = f"blocks.{layer}.mlp.hook_post", f"blocks.{layer}.hook_mlp_out"
    experts = getattr(model.cfg, "num_experts", None)
    if experts or name not in model.hook_dict:
        why = f"a mixture of {experts} experts" if experts else f"has no {name}"
        raise Unsupported(f"{model.cfg.architecture}: {why}, so no one row of neurons writes")
    read, _ = _reader(model, cache, answer, distractor)
    active, rows = _at_end(cache, name, model), model.W_out[layer]  # (batch, d_mlp), (d_mlp, …)
    if active.shape[-1] != len(rows):
        raise ValueError(f"cache: {name} has {active.shape[-1]} neurons, this model {len(rows)}")
    neurons = read(torch.einsum("bm,md->mbd", active, rows))
    bias = read(architecture.mlp_bias(model)[layer][None])
    _expect_sum(model, [*neurons, bias], read(_at_end(cache, out, model)), out)
    return neurons


def _reader(model, cache, answer: Tensor, distractor: Tensor):
    """A function from `[..., batch, d_model]` at the last position to its share of the difference
    (centred, divided by the final scale, its dot product with the difference of two columns of W_U,
    the mean over the batch), and the share of the unembedding's bias."""
    inputs.expect_local(model)
    architecture.expect_plain_logits(model)
    last = _at_end(cache, _last(model), model)  # (batch, d_model)
    for name, ids in (("answer", answer), ("distractor", distractor)):
        inputs.expect_axes(name, ids, "batch", batch=len(last))
        inputs.expect_tokens(name, ids, model.cfg.d_vocab)
    direction = (model.W_U[:, answer] - model.W_U[:, distractor]).T  # (batch, d_model)
    ids_bias = (model.b_U[answer] - model.b_U[distractor]).mean()
    scale = architecture.scale(model, last)  # (batch, 1)

    def read(written: Tensor) -> Tensor:
        return (architecture.centre(model, written) / scale * direction).sum(-1).mean(-1)

    if "unembed.hook_out" in cache:
        rows, out = torch.arange(len(last), device=last.device), cache["unembed.hook_out"][:, -1]
        two = torch.stack([out[rows, answer].mean(), out[rows, distractor].mean()])
        parts, whole = [read(last), ids_bias], two[0] - two[1]
        _expect_sum(model, parts, whole, "the logit difference", two.abs().sum())
    return read, ids_bias


def _last(model) -> str:
    return f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"


def _at_end(cache, name: str, model) -> Float[Tensor, "batch *width"]:
    return inputs.expect_activation(cache, name, model)[:, -1]


def _expect_sum(
    model, parts: list[Tensor], whole: Tensor, name: str, size: float | Tensor = 0
) -> None:
    """The parts sum to the whole, to what the run's precision allows for numbers of their size (and
    of `size`, where the whole is a difference of larger ones); else `Unsupported`."""
    values = torch.stack(parts)
    coarse = 0.05 if model.cfg.dtype.itemsize < 4 else 1e-3
    rounding = 4 * torch.finfo(model.cfg.dtype).eps * size
    limit = coarse * (values.abs().sum() + whole.abs()) + rounding
    if (values.sum() - whole).abs() > limit:
        raise Unsupported(
            f"the parts do not sum to {name}: in {model.cfg.architecture} more happens on the way "
            "than a sum (a norm of a component's output, a scale, a final norm that is not folded "
            "into W_U: load with helpers.models.load_model), or a hook changed the cached run; "
            "patch the components instead (helpers.patching), which holds for any architecture"
        )
