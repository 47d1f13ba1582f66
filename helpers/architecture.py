"""What differs between model families, asked here and nowhere else.

    family     norm                             position         keys, values   biases
    GPT-2      LayerNorm: centre, then divide   added            one a head     everywhere
    GPT-NeoX   LayerNorm                        rotates q, k     one a head     everywhere
    Llama      RMSNorm: divide                  rotates q, k     one a group    none or few

Streams and biases work on any model; `query_key_value` and the sparse engine on `KNOWN` ones."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.models.llama.modeling_llama import rotate_half

KNOWN = {  # transformers' block, attention and MLP; a family with the same block is one more line
    "GPT2LMHeadModel": ("GPT2Block", "GPT2Attention", "GPT2MLP"),
    "LlamaForCausalLM": ("LlamaDecoderLayer", "LlamaAttention", "LlamaMLP"),
    "MistralForCausalLM": ("MistralDecoderLayer", "MistralAttention", "MistralMLP"),
    "Qwen2ForCausalLM": ("Qwen2DecoderLayer", "Qwen2Attention", "Qwen2MLP"),
    "GPTNeoXForCausalLM": ("GPTNeoXLayer", "GPTNeoXAttention", "GPTNeoXMLP"),
}


class Unsupported(ValueError):
    """This architecture does not allow it; the text says why. A notebook shows it in the cell."""


def embeddings(model, cache) -> dict[str, Float[Tensor, "batch pos d_model"]]:
    """What the stream starts from: "token" and, where one is added, "position". They sum to
    `cache["resid_pre", 0]`; else `Unsupported` (a scale or a norm before the first block)."""
    names = {"token": "hook_embed", "position": "hook_pos_embed"}
    parts = {key: cache[name] for key, name in names.items() if name in cache}
    start = cache["blocks.0.hook_resid_pre"]
    if not parts or not torch.allclose(sum(parts.values()), start, rtol=1e-3, atol=1e-3):
        why = "scaled or normalised, or the cache has no hook_embed: no sum enters the first block"
        raise Unsupported(f"{model.cfg.architecture}: embeddings are {why}")
    return parts


def embed(model, tokens: Int[Tensor, "pos"]) -> Float[Tensor, "pos d_model"]:
    """What the stream starts from, by the model's own layers: a row for each position."""
    start, positions = plain(model.embed)(tokens), torch.arange(len(tokens), device=tokens.device)
    return start + plain(model.pos_embed)(positions) if hasattr(model, "pos_embed") else start


def layer_norm(model) -> bool:
    """Whether the norms subtract the mean; RMSNorm does not."""
    return "LN" in (model.cfg.normalization_type or "")


def centre(model, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
    """Minus the mean over d_model for LayerNorm (Ba et al. 2016, arXiv 1607.06450); else `x`."""
    return x - x.mean(-1, keepdim=True) if layer_norm(model) else x


def scale(model, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes 1"]:
    """What the norm divides `centre(model, x)` by, its root mean square. The logits are
    `centre / scale @ W_U + b_U` unless `expect_plain_logits` raises. Source: arXiv 1910.07467."""
    if model.cfg.normalization_type is None:
        return x.new_ones(*x.shape[:-1], 1)
    wide = centre(model, x.to(torch.promote_types(x.dtype, torch.float32)))  # a square may overflow
    return (wide.pow(2).mean(-1, keepdim=True) + model.cfg.eps).sqrt().to(x.dtype)


def attention_bias(model) -> Float[Tensor, "n_layers d_model"]:
    """What each layer's attention adds after its heads, `b_O`; zeros where there is none."""
    return _biases(model, "attn", "b_O")


def mlp_bias(model) -> Float[Tensor, "n_layers d_model"]:
    """What each MLP adds after its neurons, `b_out`; zeros where there is none."""
    return _biases(model, "mlp", "b_out")


def query_key_value(
    model, layer: int, stream: Float[Tensor, "batch pos d_model"], positions: Tensor | None = None
) -> tuple[Float[Tensor, "batch head pos d_head"], ...]:
    """Queries, keys and values of a layer, from the stream that enters it (`resid_pre`). Position
    is in them, and shared keys and values are repeated, one for each query head: so
    softmax(q kᵀ / √d_head) over the past is the pattern, and pattern @ v is `z`. `positions [pos]`
    are those in `stream`, None for 0, 1, 2, …; `Unsupported` for a block not in `KNOWN`.
    Source: Su et al. 2021 (arXiv 2104.09864), rotary; Ainslie et al. 2023 (arXiv 2305.13245)."""
    if why := unknown(model, 0 if positions is not None else stream.shape[1]):
        raise Unsupported(f"{model.cfg.architecture}: {why}")
    block = model.blocks[layer]
    x = plain(block.ln1)(stream)
    q, k, v = (
        plain(part)(x).unflatten(-1, (-1, model.cfg.d_head)).transpose(1, 2)
        for part in (block.attn.q, block.attn.k, block.attn.v)
    )  # (batch, head or group, pos, d_head)
    if hasattr(model, "rotary_emb"):
        at = torch.arange(stream.shape[1], device=x.device) if positions is None else positions
        angles = plain(model.rotary_emb)(x, at[None])  # (1, pos, rotated) each
        q, k = (_rotated(each, *angles) for each in (q, k))
    shared = model.cfg.n_heads // k.shape[1]  # query heads that share a key
    return q, k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)


def unknown(model, positions: int = 0) -> str | None:
    """Why the model's blocks are none of `KNOWN`, on so many positions, or None."""
    if (kinds := KNOWN.get(model.cfg.architecture)) is None:
        return f"only these blocks are known: {', '.join(KNOWN)}"
    if any(_kinds(each) != kinds for each in model.blocks):
        return "a block, its attention or its MLP has been replaced"
    if _setting(model, "scale_attn_by_inverse_layer_idx"):
        return "attention is scaled by the layer's number"
    if positions > (window := _setting(model, "sliding_window") or positions):
        return f"it attends to no more than {window} positions"
    rope = (_setting(model, "rope_parameters") or {}).get("rope_type", "default")
    fixed = rope in ("default", "linear", "llama3")
    return None if fixed else f"its rotation ({rope}) depends on the length of the text"


def expect_neurons(model, name: str) -> None:
    """The MLP whose activations have this name is one row of neurons; else `Unsupported`."""
    if (experts := getattr(model.cfg, "num_experts", None)) or name not in model.hook_dict:
        why = f"a mixture of {experts} experts" if experts else f"has no {name}"
        raise Unsupported(f"{model.cfg.architecture}: {why}, so no one row of neurons writes")


def expect_plain_logits(model) -> None:
    """The logits are `centre / scale @ W_U + b_U` of the last stream; else `Unsupported`."""
    x, norm = model.W_U.T[:4], getattr(model, "ln_final", torch.nn.Identity())  # any four vectors
    if (after := model.adapter.apply_output_logits_transform(torch.tensor(99.0)).item()) != 99:
        why = f"turns a logit of 99 into {after:.3g}"  # Gemma 2 caps, Granite divides
    elif torch.allclose(plain(norm)(x), centre(model, x) / scale(model, x), 0.02, 0.02):
        return
    else:
        why = "has a final norm that is not folded into W_U (load_model does if it can), or none"
    raise Unsupported(f"{model.cfg.architecture} {why}, so its logits are no sum; patch instead")


def parallel(model) -> bool:
    """Whether attention and MLP of a block both read the stream that enters it (GPT-NeoX)."""
    return type(model.blocks[0]).__name__ == "ParallelBlockBridge"


def plain(module) -> torch.nn.Module:
    """transformers' own layer under transformer_lens' (without its hooks)."""
    return getattr(module, "original_component", None) or module


def _setting(model, name: str):
    """A setting of transformers' own configuration; None where there is none."""
    config = getattr(getattr(model, "original_model", None), "config", None)
    return getattr(config, name, None)


def _kinds(block) -> tuple[str, ...]:
    """The classes of a block, its attention and its MLP, as they are in place."""
    inner = plain(block)
    names = ("attn", "self_attn", "attention")  # GPT-2, Llama, GPT-NeoX
    attention = next((getattr(inner, name) for name in names if hasattr(inner, name)), None)
    norms = {type(plain(norm)).__module__.split(".")[0] for norm in (block.ln1, block.ln2)}
    kept = attention is block.attn and inner.mlp is block.mlp
    if not kept or not norms <= {"torch", "transformers"}:
        return ("replaced",)
    return tuple(type(plain(part)).__name__ for part in (block, block.attn, block.mlp))


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Float[Tensor, "batch head pos d_head"]:
    """Rotate the first entries of each head, as many as there are angles (GPT-NeoX: a part)."""
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    return torch.cat([turned * cos[:, None] + rotate_half(turned) * sin[:, None], rest], dim=-1)


def _biases(model, part: str, name: str) -> Tensor:
    zeros = model.W_U.new_zeros(model.cfg.d_model)
    mine = [getattr(getattr(block, part, None), name, None) for block in model.blocks]
    return torch.stack([zeros if bias is None else bias for bias in mine])
