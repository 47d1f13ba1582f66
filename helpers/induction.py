"""Detectors of attention motifs on repeated random tokens: tensors in, one score a head out. All
use the same layout: BOS at position 0, a block of n random tokens at 1 .. n, and the same block
again at n+1 .. 2n. At query n+j the token is the one of position j, so

    key j      the same token, one copy earlier       duplicate-token cell
    key j+1    the token that followed it back then   induction cell

`transformer_lens.head_detector` has no null; for previous- and duplicate-token heads it agrees."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers import inputs
from helpers.metrics import Mask

Pattern = Float[Tensor, "batch head query key"]


def repeated_tokens(model, n: int, batch: int, seed: int) -> Int[Tensor, "{batch} 2*{n}+1"]:
    """BOS, then n random tokens twice: the text on which only looking back can help. Every token
    but the special ones is equally likely; every row has its own block; `seed` is of a generator of
    its own. TypeError or ValueError where these are no ints, n < 2, batch < 1, or 2n + 1 tokens do
    not fit the context. Source: Elhage et al. 2021; Olsson et al. 2022 (arXiv 2209.11895)."""
    n = inputs.expect_int("n", n, 2, (model.cfg.n_ctx - 1) // 2)  # 2n + 1 tokens must fit
    batch = inputs.expect_int("batch", batch, 1, 2**31)
    seed = inputs.expect_int("seed", seed, 0, 2**63 - 1)
    bos = model.to_tokens("a", prepend_bos=True)[0, 0].item()
    left_out = {bos, *model.tokenizer.all_special_ids}
    size = min(len(model.tokenizer), model.cfg.d_vocab)  # the model's vocabulary may be padded
    ids = torch.tensor([i for i in range(size) if i not in left_out])
    generator = torch.Generator().manual_seed(seed)
    block = ids[torch.randint(len(ids), (batch, n), generator=generator)]
    return torch.cat([torch.full((batch, 1), bos), block, block], dim=1).to(model.cfg.device)


def induction_scores(pattern: Pattern, n: int) -> Float[Tensor, "head"]:
    """Mean attention from the second copy to the token *after* the first occurrence: to key query -
    n + 1, over queries n+1 .. 2n and the batch. TypeError or ValueError for wrong axes, no row,
    NaN, a length that is not 2n + 1. Source: Olsson et al. 2022 (arXiv 2209.11895)."""
    return _stripe(pattern, n, later=1)


def duplicate_token_scores(pattern: Pattern, n: int) -> Float[Tensor, "head"]:
    """Mean attention from the second copy to the *same* token in the first: to key query - n.
    Raises as `induction_scores`. Source: Wang et al. 2022 (arXiv 2211.00593), section 3."""
    return _stripe(pattern, n, later=0)


def previous_token_scores(pattern: Pattern, mask: Mask = None) -> Float[Tensor, "head"]:
    """Mean attention to the position just before, over each row's tokens from the third on: the
    first has none before it, the second only BOS, where many heads rest. Any text of 3 tokens will
    do; `mask` as in `helpers.metrics`. Raises as `induction_scores`. Source: Elhage et al. 2021."""
    batch, _, length, _ = _checked(pattern).shape
    mask = torch.ones(batch, length, dtype=torch.bool) if mask is None else mask
    real = inputs.expect_mask(mask, batch, length).to(pattern.device)
    counted = (real & (real.cumsum(1) > 2))[:, 1:]  # (batch, query 1 ..)
    if not counted.any(1).all():
        raise ValueError(f"pattern: expected 3 tokens or more in each row, got {length} positions")
    return pattern.diagonal(-1, -2, -1).transpose(1, 2)[counted].mean(0)


def _stripe(pattern: Tensor, n: int, later: int) -> Float[Tensor, "head"]:
    """Mean attention of the second copy's queries to the key at query - n + `later`."""
    length = _checked(pattern).shape[-1]
    n = inputs.expect_int("n", n, 2, length)
    if length != 2 * n + 1:
        what = f"BOS, then a block of n = {n} tokens twice"
        raise ValueError(f"pattern has {length} positions, expected 2n + 1 = {2 * n + 1}: {what}")
    return pattern.diagonal(later - n, -2, -1)[..., -n:].mean((0, -1))  # of the last n queries


def _checked(pattern: Tensor) -> Tensor:
    inputs.expect_axes("pattern", pattern, "batch head query key")
    if pattern.shape[-1] != pattern.shape[-2]:
        raise ValueError(f"pattern: expected as many queries as keys, got {tuple(pattern.shape)}")
    inputs.expect_finite("pattern", pattern)
    return pattern
