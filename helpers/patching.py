"""Activation patching: copy one clean activation into the corrupted run and read the metric. The
four sweeps of `transformer_lens.patching` run the whole model once a cell; the ones here give the
same numbers in a small part of the time (tools/benchmarks) and check their input."""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from helpers import inputs
from helpers.engine import ATTENTION, HEADS, MLP, RESIDUAL, SITES, Cell, hooks, sparse
from helpers.metrics import LastToken, Metric, measured

MAX_BYTES = 512 * 2**20  # the memory that one pass may take, beside the model and the cache


def patch_residual(
    model, corrupted_tokens: Int[Tensor, "1 pos"], clean_cache, metric: Metric, **options
) -> Float[Tensor, "n_layers pos"]:
    """Patch the residual stream entering each block (`resid_pre`), one position at a time.

    `corrupted_tokens` is the run that is patched (average over prompts in a loop), `clean_cache`
    holds every activation of the clean run, of the same length. `metric` goes from logits `[rows,
    pos, d_vocab]` to one number a row; of a `helpers.metrics.LastToken`, such as a pair's
    `logit_diff`, only the logits that it reads are computed. `options`: `max_bytes`, as `sweep`.
    Returns the metric after patching layer l, position p, in its unit. Denoising: what suffices to
    bring the clean answer back (Heimersheim & Nanda 2024, arXiv 2404.15255); for noising exchange
    the runs. TypeError or ValueError for more than one prompt, padding, ids out of range, another
    model's cache, a metric that does not give one finite number a row.
    Source: Meng et al. 2022 (arXiv 2202.05262); Wang et al. 2022 (arXiv 2211.00593)."""
    return _swept("residual", model, corrupted_tokens, clean_cache, metric, **options)


def patch_blocks(
    model, corrupted_tokens: Int[Tensor, "1 pos"], clean_cache, metric: Metric, **options
) -> Float[Tensor, "3 n_layers pos"]:
    """Patch `resid_pre` (as `patch_residual`), the attention's output and the MLP's output: which
    component of a block wrote what the stream then carries. The rest as `patch_residual`."""
    return _swept("blocks", model, corrupted_tokens, clean_cache, metric, **options)


def patch_heads(
    model, corrupted_tokens: Int[Tensor, "1 pos"], clean_cache, metric: Metric, **options
) -> Float[Tensor, "n_layers n_heads"]:
    """Patch each head's output (`z`) at all positions. The rest as `patch_residual`."""
    return _swept("heads", model, corrupted_tokens, clean_cache, metric, **options)


def patch_head_positions(
    model, corrupted_tokens: Int[Tensor, "1 pos"], clean_cache, metric: Metric, **options
) -> Float[Tensor, "n_layers n_heads pos"]:
    """Patch each head's output (`z`), one position at a time. The rest as `patch_residual`."""
    return _swept("head_positions", model, corrupted_tokens, clean_cache, metric, **options)


def attribution_patch(
    model, corrupted_tokens: Int[Tensor, "1 pos"], clean_cache, metric: Metric, what="residual"
) -> Float[Tensor, "*grid"]:
    """The linear estimate of a sweep minus the corrupted metric, from one backward pass: (clean -
    corrupted) . d metric / d activation, with the gradient of the corrupted run, in the metric's
    unit. A screen, to be verified: it fails where the model from here on is far from linear, above
    all in the first layers (Kramar et al. 2024, arXiv 2403.00745). The library's
    `attribution_patch` estimates nodes and edges; this one gives the exact sweep's own grid. `what`
    is "residual", "blocks", "heads" or "head_positions"; the rest as `patch_residual`.
    Source: Nanda 2023, "Attribution patching"; Syed et al. 2023 (arXiv 2310.10348)."""
    cells, shape = grid(model, corrupted_tokens, what)
    names = _check(model, corrupted_tokens, clean_cache, metric, cells)
    kept: dict[str, Tensor] = {}

    def keep(name: str, activation, hook):
        if not activation.requires_grad:  # parameters may be frozen: the graph starts here
            activation = activation.detach().requires_grad_()
        kept[name] = activation
        return activation

    fwd_hooks = [(name, partial(keep, name)) for name in names]  # hook.name may be an alias
    with torch.enable_grad():
        logits = model.run_with_hooks(corrupted_tokens, fwd_hooks=fwd_hooks)
        total = measured(metric(logits), len(logits)).sum()
        gradients = torch.autograd.grad(total, list(kept.values()))
    slopes = dict(zip(kept, gradients, strict=True))
    gain = {n: ((clean_cache[n] - at.detach()) * slopes[n])[0] for n, at in kept.items()}
    return torch.stack([gain[cell.name][cell.index].sum() for cell in cells]).view(shape)


@torch.no_grad()
def sweep(
    model, corrupted_tokens: Int[Tensor, "1 pos"], clean_cache, metric, cells, max_bytes=MAX_BYTES
) -> Float[Tensor, "cells"]:
    """The metric after patching each of a list of `Cell` by itself, in the order of `cells`. The
    model decides which engine computes it. `max_bytes` is about how much memory a pass may take;
    there are as many passes as that needs. The rest and errors as `patch_residual`."""
    _check(model, corrupted_tokens, clean_cache, metric, cells)
    max_bytes = inputs.expect_int("max_bytes", max_bytes, 1, 2**63)
    positions = corrupted_tokens.shape[1]
    engine = sparse if sparse.supports(model, positions) else hooks
    at_once = max(1, max_bytes // engine.bytes_a_cell(model, positions, metric))
    # In the order in which a model comes to them:
    order = sorted(range(len(cells)), key=lambda i: (cells[i].layer, SITES.index(cells[i].site)))
    values = []
    starts = range(0, len(cells), at_once)
    for start in tqdm(starts, unit="pass", delay=2, leave=False, disable=len(starts) < 2):
        chunk = [cells[i] for i in order[start : start + at_once]]
        found = engine.measure(model, corrupted_tokens, clean_cache, chunk, metric)
        values.append(measured(found, len(chunk)))
    return torch.cat(values)[torch.tensor(order).argsort()]


def grid(model, tokens: Int[Tensor, "1 pos"], what: str) -> tuple[list[Cell], tuple[int, ...]]:
    """The cells of a sweep in its grid's order, and that shape; ValueError for no such `what`."""
    inputs.expect_prompt("corrupted_tokens", tokens, model)
    layers, heads, positions = model.cfg.n_layers, range(model.cfg.n_heads), range(tokens.shape[1])
    at, sizes = [(p,) for p in positions], (len(heads), len(positions))
    kinds = {
        "residual": ([RESIDUAL], at, (layers, len(at))),
        "blocks": ([RESIDUAL, ATTENTION, MLP], at, (3, layers, len(at))),
        "heads": ([HEADS], [(slice(None), h) for h in heads], (layers, len(heads))),
        "head_positions": ([HEADS], [(p, h) for h in heads for p in positions], (layers, *sizes)),
    }
    if not isinstance(what, str) or what not in kinds:
        raise ValueError(f"what: expected one of {', '.join(kinds)}; got {what!r}")
    sites, indices, shape = kinds[what]
    return [Cell(i, s, index) for s in sites for i in range(layers) for index in indices], shape


def _swept(what: str, model, tokens: Tensor, cache, metric: Metric, **options) -> Tensor:
    cells, shape = grid(model, tokens, what)
    return sweep(model, tokens, cache, metric, cells, **options).view(shape)


def _check(model, tokens: Tensor, cache, metric: Metric, cells: list[Cell]) -> list[str]:
    """One prompt of this model's tokens, and a cache of its shape; the activations' names."""
    inputs.expect_prompt("corrupted_tokens", tokens, model)
    if not callable(metric):
        raise TypeError(f"metric: expected a function of logits, got {type(metric).__name__}")
    if isinstance(metric, LastToken) and metric.tokens is not None:
        inputs.expect_ids(model.cfg.d_vocab, tokens=metric.tokens)
    names = list(dict.fromkeys(cell.name for cell in cells))
    for name in names:
        inputs.expect_activation(cache, name, model, batch=1, pos=tokens.shape[1])
    return names
