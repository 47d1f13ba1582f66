"""Ablation: run the model without what some heads say, and see what is lost."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.engine import HEADS
from helpers.inputs import (
    expect_activation,
    expect_axes,
    expect_finite,
    expect_index,
    expect_local,
    expect_tokens,
)
from helpers.metrics import Metric

Values = float | Float[Tensor, "n_layers n_heads d_head"] | Mapping  # a cache of another run


@contextmanager
def ablate(
    model,
    heads: Sequence[tuple[int, int]],
    values: Values = 0.0,
    positions: Sequence[int] | None = None,
) -> Iterator[None]:
    """Within the `with`, the output `z` of these heads is replaced, in every row of the batch.

    Works around a plain call, `run_with_cache` and `run_with_hooks`. The hooks are gone afterwards,
    also after an exception.

    Args:
        heads: (layer, head) each.
        values: what stands there instead. A number, 0 for *zero* ablation (crude: no head ever
            says 0); a tensor, each head's mean over other texts, for *mean* ablation; or the cache
            of another run of the same length, whose `z` is taken, for *resample* ablation.
        positions: where, negative ones from the end; None for all.

    Raises:
        TypeError, ValueError: no head, a head or position out of range, values of another shape or
            not finite, a cache of another model or length.
        RuntimeError: the model did not run within the `with`, so nothing was ablated.

    Source: Wang et al. 2022 (arXiv 2211.00593), mean ablation; Chan et al. 2022, "Causal
    scrubbing", resample ablation.
    """
    by_layer: dict[int, list[int]] = {}
    for layer, head in _checked(model, heads):
        by_layer.setdefault(layer, []).append(head)
    source = _source(model, values)
    calls = 0

    def replacing(layer: int, those: list[int]):
        def replace(z: Float[Tensor, "batch pos head d_head"], hook) -> Tensor:
            nonlocal calls
            calls += 1
            places = _places(positions, z.shape[1])
            z = z.clone()
            for head in those:
                z[:, places, head] = source(layer, head, z.shape[1])[places].to(z)
            return z

        return f"blocks.{layer}.{HEADS}", replace

    with model.hooks(fwd_hooks=[replacing(*item) for item in by_layer.items()]):
        yield
    if not calls:
        raise RuntimeError("ablate: the model did not run within the `with`; nothing was ablated")


@torch.no_grad()
def ablate_each(
    model,
    tokens: Int[Tensor, "1 pos"],
    metric: Metric,
    values: Values = 0.0,
    positions: Sequence[int] | None = None,
) -> Float[Tensor, "n_layers n_heads"]:
    """The metric after ablating each head by itself: one run a layer, with a row for each head.

    Arguments as `ablate`; tokens of one prompt; a metric as for `helpers.patching`.

    Returns:
        The metric, in its unit; subtract the metric of the plain run for the effect.

    Raises:
        TypeError, ValueError: as `ablate`; more than one prompt, ids out of range.
    """
    expect_local(model)
    expect_axes("tokens", tokens, "batch pos", batch=1)
    expect_tokens("tokens", tokens, model.cfg.d_vocab)
    source, places = _source(model, values), _places(positions, tokens.shape[1])
    rows = tokens.expand(model.cfg.n_heads, -1)
    effects = []
    for layer in range(model.cfg.n_layers):

        def replace(z, hook, layer=layer):  # row h of the batch runs without head h
            z = z.clone()
            for head in range(model.cfg.n_heads):
                z[head, places, head] = source(layer, head, z.shape[1])[places].to(z)
            return z

        logits = model.run_with_hooks(rows, fwd_hooks=[(f"blocks.{layer}.{HEADS}", replace)])
        effects.append(metric(logits))
    return torch.stack(effects)


def _checked(model, heads: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    expect_local(model)
    heads = list(heads)
    if not heads:
        raise ValueError("heads: expected at least one (layer, head), got none")
    for each in heads:
        if not isinstance(each, tuple | list) or len(each) != 2:
            raise TypeError(f"heads: expected (layer, head) each, got {each!r}")
        expect_index("layer", each[0], model.cfg.n_layers, "layers")
        expect_index("head", each[1], model.cfg.n_heads, "heads")
    return [tuple(each) for each in heads]


def _places(positions: Sequence[int] | None, length: int) -> list[int]:
    places = list(range(length)) if positions is None else list(positions)
    for place in places:
        if not -length <= place < length:
            raise ValueError(f"positions: {place} is out of range for {length} positions")
    return places


def _source(model, values: Values):
    """A function from layer, head and length to what replaces that head, `[pos, d_head]`."""
    c = model.cfg
    if isinstance(values, Tensor):
        expect_axes("values", values, "layer head d_head", layer=c.n_layers, head=c.n_heads)
        expect_axes("values", values, "layer head d_head", d_head=c.d_head)
        expect_finite("values", values)
        return lambda layer, head, length: values[layer, head].expand(length, -1)
    if isinstance(values, int | float) and not isinstance(values, bool):
        number = torch.full((c.d_head,), float(values))
        expect_finite("values", number)
        return lambda layer, head, length: number.expand(length, -1)
    if not hasattr(values, "keys"):
        raise TypeError(
            f"values: expected a number, a tensor or a cache, got {type(values).__name__}"
        )

    def other_run(layer: int, head: int, length: int) -> Tensor:
        z = expect_activation(values, f"blocks.{layer}.{HEADS}", model, batch=1, pos=length)
        return z[0, :, head]

    return other_run
