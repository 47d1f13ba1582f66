"""Steering by activation addition: a direction from contrast pairs, added while the model runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from helpers import inputs
from helpers.prompts import tokenize


@torch.no_grad()
def steering_vector(
    model, positive: str | Sequence[str], negative: str | Sequence[str], layer: int
) -> Float[Tensor, "d_model"]:
    """Mean `resid_post` of the positive prompts minus that of the negative ones: one or several a
    side, best as pairs that differ in one thing. Each counts once: the mean over its positions
    first, BOS left out (its stream is an outlier and the same in every prompt), then over prompts.
    In the stream's unit: compare the norms. TypeError or ValueError for no prompt, one that
    `tokenize` refuses, a layer out of range, or equal sides. Source: Turner et al. 2023 (arXiv
    2308.10248), for each position; averaged over pairs, Rimsky et al. 2023 (arXiv 2312.06681)."""
    layer = inputs.expect_int("layer", layer, 0, model.cfg.n_layers - 1)
    name = f"blocks.{layer}.hook_resid_post"

    def mean(side: str, prompts: str | Sequence[str]) -> Tensor:
        means = []
        for prompt in inputs.expect_list(side, [prompts] if isinstance(prompts, str) else prompts):
            _, cache = model.run_with_cache(tokenize(model, prompt, side), names_filter=name)
            means.append(cache[name][0, 1:].mean(0))  # (d_model): without BOS
        return torch.stack(means).mean(0)

    vector = mean("positive", positive) - mean("negative", negative)
    if not vector.any():
        raise ValueError("positive and negative give the same activations; the vector is zero")
    return vector


@contextmanager
def steer(model, vector: Float[Tensor, "d_model"], layer: int, coefficient: float) -> Iterator:
    """Within the `with`, coefficient * vector is added to `resid_post` at every position, also in
    `model.generate`; the hook is gone afterwards, also after an exception. A negative coefficient
    steers the other way. TypeError or ValueError for another width, NaN, infinity, no such layer;
    RuntimeError where the model did not run. Source: Turner et al. 2023 (arXiv 2308.10248)."""
    layer = inputs.expect_int("layer", layer, 0, model.cfg.n_layers - 1)
    inputs.expect_axes("vector", vector, "d_model", d_model=model.cfg.d_model)
    addition, calls = inputs.expect_number("coefficient", coefficient) * vector, []
    inputs.expect_finite(f"coefficient {coefficient!r} * vector", addition)

    def add(stream: Float[Tensor, "batch pos d_model"], hook) -> Tensor:
        calls.append(hook.layer())
        return stream + addition.to(stream)

    with model.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_post", add)]):
        yield
    if not calls:
        raise RuntimeError("steer: the model did not run within the `with`, so nothing was steered")
