"""The logit lens: what each layer's residual stream would predict if it were the last one."""

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.architecture import expect_plain_logits
from helpers.inputs import expect_activation, expect_local


@torch.no_grad()
def logit_lens(model, cache) -> Float[Tensor, "{model.cfg.n_layers}+1 batch pos d_vocab"]:
    """Decode the residual stream before every block, and after the last, with the model's own head.

    Row l is final LayerNorm and unembedding, with its bias, applied to `resid_pre` of layer l; the
    last row to `resid_post` of the last layer, which gives the model's own logits. The LayerNorm is
    computed anew for each row.

    Args:
        model: the model of the cache.
        cache: residual streams of one run; other activations are not needed.

    Raises:
        ValueError: residual streams missing from the cache, of another width, NaN or infinite; a
            model that caps or scales its logits.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    expect_local(model)
    expect_plain_logits(model)
    last = model.cfg.n_layers - 1
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(last + 1)]
    names.append(f"blocks.{last}.hook_resid_post")
    streams = [expect_activation(cache, name, model) for name in names]
    return torch.stack([model.unembed(model.ln_final(stream)) for stream in streams])
