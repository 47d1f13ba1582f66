"""Steering by activation addition: a direction from contrast pairs, added while the model runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.inputs import (
    expect_axes,
    expect_finite,
    expect_index,
    expect_local,
    expect_number,
)
from helpers.prompts import tokenize


@torch.no_grad()
def steering_vector(
    model, positive: str | Sequence[str], negative: str | Sequence[str], layer: int
) -> Float[Tensor, "d_model"]:
    """Mean `resid_post` of the positive prompts minus that of the negative ones.

    Each prompt counts once: the mean over its positions first, BOS left out (its stream is an
    outlier and the same in every prompt), then over prompts.

    Args:
        positive, negative: one prompt or several a side; best as pairs that differ in one thing.
        layer: whose `resid_post` is read.

    Returns:
        A vector in the units of the residual stream; compare its norm with the stream's.

    Raises:
        TypeError, ValueError: no prompt, one that `helpers.prompts.tokenize` refuses, a layer out
            of range, a vector of zero (the two sides are the same).

    Source: Turner et al. 2023 (arXiv 2308.10248), who keep a difference for each position; averaged
    over pairs, Rimsky et al. 2023 (arXiv 2312.06681).
    """
    expect_index("layer", layer, model.cfg.n_layers, "layers")
    name = f"blocks.{layer}.hook_resid_post"

    def mean(side: str, prompts: str | Sequence[str]) -> Tensor:
        if not isinstance(prompts, Sequence):  # a string is one, too
            raise TypeError(f"{side}: expected a prompt or a list, got {type(prompts).__name__}")
        means = []
        for prompt in [prompts] if isinstance(prompts, str) else prompts:
            tokens = tokenize(model, prompt, side)
            _, cache = model.run_with_cache(tokens, names_filter=name)
            means.append(cache[name][0, 1:].mean(0))  # (d_model): without BOS
        if not means:
            raise ValueError(f"{side}: expected at least one prompt, got none")
        return torch.stack(means).mean(0)

    vector = mean("positive", positive) - mean("negative", negative)
    if not vector.any():
        raise ValueError("positive and negative give the same activations; the vector is zero")
    return vector


@contextmanager
def steer(
    model, vector: Float[Tensor, "d_model"], layer: int, coefficient: float
) -> Iterator[None]:
    """Within the `with`, coefficient * vector is added to `resid_post` at every position.

    Works around a plain call and around `model.generate`, with its key-value cache or without. The
    hook is gone afterwards, also after an exception.

    Args:
        vector: a direction, in the units of the residual stream.
        layer: where it is added.
        coefficient: how much of it; 0 changes nothing, a negative one steers the other way.

    Raises:
        TypeError, ValueError: a vector of another width, NaN or infinity in vector or coefficient,
            a layer out of range.
        RuntimeError: the model did not run within the `with`, so nothing was steered.

    Source: Turner et al. 2023 (arXiv 2308.10248).
    """
    expect_local(model)
    expect_index("layer", layer, model.cfg.n_layers, "layers")
    expect_axes("vector", vector, "d_model", d_model=model.cfg.d_model)
    addition = expect_number("coefficient", coefficient) * vector
    expect_finite(f"coefficient {coefficient!r} * vector", addition)
    calls = []

    def add(stream: Float[Tensor, "batch pos d_model"], hook) -> Tensor:
        calls.append(hook.layer())
        return stream + addition.to(stream)

    with model.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_post", add)]):
        yield
    if not calls:
        raise RuntimeError("steer: the model did not run within the `with`, so nothing was steered")
