"""The logit lens: what each layer's residual stream would predict if it were the last one."""

import torch
from jaxtyping import Float
from torch import Tensor

from helpers import architecture, inputs


@torch.no_grad()
def logit_lens(model, cache) -> Float[Tensor, "{model.cfg.n_layers}+1 batch pos d_vocab"]:
    """Decode the residual stream before every block, and after the last, with the model's own head.

    Row l is final norm and unembedding, with its bias, applied to `resid_pre` of layer l; the last
    row to `resid_post` of the last layer, which gives the model's own logits. The norm is computed
    again for each row. ValueError where residual streams are missing from the cache, of another
    width, NaN or infinite, and for a model that caps or scales its logits.
    Source: nostalgebraist 2020, "interpreting GPT: the logit lens"."""
    inputs.expect_local(model)
    architecture.expect_plain_logits(model)
    last = model.cfg.n_layers - 1
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(last + 1)]
    names.append(f"blocks.{last}.hook_resid_post")
    streams = [inputs.expect_activation(cache, name, model) for name in names]
    return torch.stack([model.unembed(model.ln_final(stream)) for stream in streams])
