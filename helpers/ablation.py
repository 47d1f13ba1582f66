"""Ablation: run the model without what some heads say, and see what is lost."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import ActivationCache

from helpers import inputs
from helpers.engine import HEADS
from helpers.metrics import Metric, measured

# A number, each head's mean, or another run's cache.
Values = float | Float[Tensor, "n_layers n_heads d_head"] | Mapping | ActivationCache
Places = Sequence[int] | None


@contextmanager
def ablate(
    model, heads: Iterable[tuple[int, int]], values: Values = 0.0, positions: Places = None
) -> Iterator[None]:
    """Within the `with`, the output `z` of these (layer, head) is replaced, in every row. `values`
    stand there instead: a number, 0 for *zero* ablation (crude: no head ever says 0); a tensor,
    each head's mean over other texts, for *mean* ablation (Wang et al. 2022, arXiv 2211.00593); or
    the cache of another run of the same length, whose `z` is taken, for *resample* ablation (Chan
    et al. 2022, "Causal scrubbing"). `positions`: where, negative ones from the end of all rows,
    padding included; None for all. The hooks are gone afterwards, also after an exception. A
    TypeError or ValueError for what is empty, out of range or unfit; RuntimeError for no run."""
    those: dict[int, list] = {}  # by layer, (all rows, head)
    for each in inputs.expect_list("heads", heads, of="(layer, head)"):
        layer, head = inputs.expect_list("heads", each, of="ints, (layer, head)", size=2)
        layer = inputs.expect_int("layer", layer, 0, model.cfg.n_layers - 1)
        head = inputs.expect_int("head", head, 0, model.cfg.n_heads - 1)
        those.setdefault(layer, []).append((slice(None), head))
    replace, calls = _replacement(model, values, positions), []

    def hook_function(z: Float[Tensor, "batch pos head d_head"], hook) -> Tensor:
        calls.append(hook.layer())
        return replace(z, hook.layer(), those[hook.layer()])

    with model.hooks(fwd_hooks=[(f"blocks.{layer}.{HEADS}", hook_function) for layer in those]):
        yield
    if not calls:
        raise RuntimeError("ablate: the model did not run within the `with`; nothing was ablated")


@torch.no_grad()
def ablate_each(
    model, tokens: Int[Tensor, "1 pos"], metric: Metric, values: Values = 0.0, positions=None
) -> Float[Tensor, "n_layers n_heads"]:
    """The metric after ablating each head alone, in its unit: one run a layer, a row for each head.
    Subtract the plain run's for the effect. `metric` as in `helpers.patching`, else as `ablate`."""
    inputs.expect_prompt("tokens", tokens, model)
    replace, n = _replacement(model, values, positions), model.cfg.n_heads

    def hook_function(z, hook):  # row h of the batch runs without head h
        return replace(z, hook.layer(), [(head, head) for head in range(n)])

    effects = []
    for layer in tqdm(range(model.cfg.n_layers), unit="layer", delay=2, leave=False):
        hooks = [(f"blocks.{layer}.{HEADS}", hook_function)]
        logits = model.run_with_hooks(tokens.expand(n, -1), fwd_hooks=hooks)
        effects.append(measured(metric(logits), n))
    return torch.stack(effects)


def _replacement(model, values: Values, positions: Places):
    """A function from `z`, a layer and some (row, head) to a copy of `z` with these replaced."""
    cfg, of_a_run = model.cfg, hasattr(values, "keys")
    at = None if positions is None else inputs.expect_list("positions", positions, of="ints")
    if isinstance(values, Tensor) and values.ndim:
        sizes = {"layer": cfg.n_layers, "head": cfg.n_heads, "d_head": cfg.d_head}
        inputs.expect_axes("values", values, "layer head d_head", **sizes)
        inputs.expect_finite("values", values)
    elif not of_a_run:
        values = torch.full((cfg.n_layers, cfg.n_heads, 1), inputs.expect_number("values", values))

    def replace(z: Tensor, layer: int, those: list[tuple[int | slice, int]]) -> Tensor:
        size, name = z.shape[1], f"blocks.{layer}.{HEADS}"
        places = [inputs.expect_int("positions", p, -size, size - 1) for p in at or range(size)]
        if of_a_run:
            new = inputs.expect_activation(values, name, model, batch=1, pos=size)[0]
        else:
            new = values[layer].expand(size, -1, -1)
        z = z.clone()
        for row, head in those:
            z[row, places, head] = new[places, head].to(z)
        return z

    return replace
