"""Checks of notebook 4's exercises."""

from math import prod
from types import SimpleNamespace

import torch
from jaxtyping import Float
from torch import Tensor

from exercises.grading import (
    Wrong,
    answer,
    compare,
    exercise,
    expect,
    numbers,
    on_model,
    second_model,
    some_layers,
    step,
    value,
)
from helpers.ablation import ablate
from helpers.induction import repeated_tokens
from helpers.metrics import next_token_log_probs
from helpers.models import EMBEDDED, load_model


@exercise("4.1", "Score each row")
def induction_cells(attempt) -> None:
    """Toy heads with a known share in each motif's cell; what is left over is on BOS."""
    shares = torch.tensor([0.2, 0.9, 0.4, 0.6, 0.8, 0.1, 0.7])  # of queries n+1, n+2, …
    for n in (5, 7):
        mine, weaker = shares[:n], shares[:n] / 2
        heads = [{back: mine} for back in (n - 1, n, 1, n - 2)]  # the last a token too far
        mixed = [{n - 1: weaker, n: mine / 3}, {n - 1: weaker, 1: mine / 4}, {n: weaker}, {}]
        pattern = torch.stack([torch.stack([_toy(n, h) for h in row]) for row in (heads, mixed)])

        def stripe(back, start, pattern=pattern):
            return pattern.diagonal(-back, -2, -1)[..., start - back :]

        right = stripe(n - 1, n + 1)
        mistakes = {
            "Off by one: key `j` is the duplicate-token cell. The token that came next stands one "
            "position further.": stripe(n, n + 1).mean(-1),
            "Off by one: this is two positions after the first occurrence, not one.": (
                stripe(n - 2, n + 1).mean(-1)
            ),
            "This is the previous-token cell, one back.": stripe(1, n + 1).mean(-1),
            "The whole diagonal is too long: it starts in the first copy, with BOS as a key, where "
            "there is nothing to continue. Keep the last n queries.": stripe(n - 1, n - 1).mean(-1),
            "The last query of the first copy is counted; start at query n + 1.": (
                stripe(n - 1, n).mean(-1)
            ),
            "The last query is left out: j goes from 1 to n, both counted.": (
                right[..., :-1].mean(-1)
            ),
            "The first query is left out: j goes from 1 to n, both counted.": (
                right[..., 1:].mean(-1)
            ),
            "This is a sum over the queries, not their mean.": right.sum(-1),
            "This is the best query, not the mean over them.": right.amax(-1),
        }
        if n == 5:  # before an answer can be one for blocks of 5 only
            mistakes[
                "All scores are 0: query and key are swapped, the axes are row, head, query, key."
            ] = torch.zeros(2, 4)
        compare(answer(attempt, pattern, n), right.mean(-1), mistakes)


@exercise("4.2", "A threshold from the null")
def above_null(attempt) -> None:
    """Made-up scores around a null that has one high head in one row."""
    scores = torch.tensor(
        [[0.08, 0.1, 0.33, 0.34], [0.12, 0.35, 0.05, 0.5], [0.352, 0.9, 0.02, 0.28]]
    )
    null = torch.full((10, 3, 4), 0.01)
    null[0, 1, 0], null[2, 0, 3], null[3, 2, 2] = 0.06, 0.35, 0.15

    def above(limit):
        places = [tuple(place) for place in (scores > limit).nonzero().tolist()]
        return sorted(places, key=lambda place: -scores[place])

    right, got = above(null.max()), _heads(answer(attempt, scores, null), scores)
    each_own = (
        "Each head is compared with its own null only. Chance has as many tries as there are "
    )
    mistakes = {
        "Layer and head are swapped: give (layer, head).": [place[::-1] for place in right],
        "The order is turned round: the strongest head comes first.": right[::-1],
        "A head with exactly the null's highest score passes; it must be above it.": (
            above(null.max() - 1e-6)
        ),
        "This is the bare threshold of 0.3. The null says how high chance can go.": above(0.3),
        f"{each_own}heads: take the highest score of any head.": above(null.amax(0)),
        "Each layer has a threshold of its own; take the highest score of any layer.": (
            above(null.amax((0, 2))[:, None])
        ),
        "Only the null's first row counts; take the highest of all rows.": above(null[0].max()),
        "The rows are averaged before the maximum: the threshold is the highest score on a single "
        "row.": above(null.mean(0).max()),
    }
    if got != right:
        for message, wrong in mistakes.items():
            other = set(wrong) != set(right)  # of other heads, the order does not matter
            expect(got != wrong and not (other and set(got) == set(wrong)), message)
        expect(
            set(got) != set(right), "The right heads in the wrong order: the strongest comes first."
        )
        low = "Your threshold is too low: a mean, a quantile or mean + 2 sd is exceeded by chance "
        expect(not set(got) > set(right), low + "again and again. Take the null's highest score.")
        expect(False, f"The null goes up to {null.max():.2f}; what is above it is not {got}.")
    low, flat = torch.tensor([[0.01, 0.05], [0.03, 0.06]]), torch.full((2, 2, 2), 0.04)
    expect(
        _heads(answer(attempt, low, flat), low) == [(1, 1), (0, 1)],
        "With other scores, of 2 layers of 2 heads, and a null up to 0.04, 0.06 and 0.05 must "
        "pass: is the threshold read from `null`, and the number of heads from `scores`?",
    )
    flat[1, 1, 0] = 0.055  # in another layer, of another head
    expect(
        _heads(answer(attempt, low, flat), low) == [(1, 1)],
        "The null's highest score counts, whichever row, layer and head has it.",
    )
    expect(
        _heads(answer(attempt, low, flat + 1), low) == [],
        "Where nothing is above the null, the list must be empty.",
    )


@exercise("4.3", "What each head costs")
def costs(attempt) -> None:
    """All heads of two models, the specimen and one of random weights."""
    specimen = load_model(EMBEDDED, device="cpu")
    for model, n in ((specimen, 9), (second_model(specimen), 6)):
        tokens = repeated_tokens(model, n, 3, seed=404)
        mean = _mean_z(model, tokens)
        zero, by_mean = (_losses(model, tokens, values) for values in (0.0, mean))
        plain = -next_token_log_probs(model(tokens), tokens)  # (row, 2n)
        change = zero - plain  # (layer, head, row, 2n)

        def part(loss, start=n + 1, end=None):
            return loss[..., start:end].mean((-1, -2))

        right, many = part(change), change[..., n + 1 :]
        mistakes = {
            "This is the loss without each head; subtract the loss of the plain run.": part(zero),
            "The sign is turned: a head that is needed must cost more than 0.": -right,
            "This is over the whole row; take the second copy only.": part(change, 0),
            "The second copy's first token is counted. Nothing announces it; start at the next.": (
                part(change, n)
            ),
            "The second token of the second copy is left out; only the first is to be.": (
                part(change, n + 2)
            ),
            "This is the first copy, where nothing repeats.": part(change, 0, n),
            "This is a sum over the tokens; wanted is their mean.": many.sum(-1).mean(-1),
            "This is the first row alone; take the mean over all.": many[..., 0, :].mean(-1),
            "Layer and head are swapped: the first axis is the layer.": right.T,
            "This is the mean in place of `z`; wanted is 0.": part(by_mean - plain),
            "All losses are costs here: use no absolute value, a head can be in the way.": (
                right.abs()
            ),
            "Nothing changes: is the hook's name right, does it return the edited z, and at every "
            "position? (The last predicts nothing here.)": 0 * right,
        }
        with on_model(model is specimen):
            compare(answer(attempt, model, tokens, n), right, mistakes, tolerance=1e-2)


@exercise("4.4", "A copying score")
def copying(after_first_block, written, copying_score, model) -> None:
    """Each step against a second route, on the model at hand and on one that shares value heads."""
    models = (model, second_model(model))
    for each in models:
        tokens = repeated_tokens(each, 30, 1, seed=405)[0, 1:31]
        pairs = torch.stack([torch.full_like(tokens, _bos(each)), tokens], dim=1)
        names = [f"blocks.{i}.hook_resid_{end}" for i in range(2) for end in ("pre", "post")]
        names.append("blocks.0.hook_mlp_out")
        _, cache = each.run_with_cache(pairs, names_filter=names)
        _, text = each.run_with_cache(torch.cat([pairs[0, :1], tokens])[None], names_filter=names)
        after = cache["resid_post", 0]
        mistakes = {
            "this is the embedding; wanted is the stream after block 0.": (
                cache["resid_pre", 0][:, 1]
            ),
            "this is position 0, where BOS stands; the token stands at position 1.": after[:, 0],
            "BOS is missing: each token stands behind it, in a row of its own.": (
                each.run_with_cache(tokens[:, None], names_filter=names)[1]["resid_post", 0][:, 0]
            ),
            "this is the stream before block 0's MLP; wanted is the one after it.": (
                after[:, 1] - cache["blocks.0.hook_mlp_out"][:, 1]
            ),
            "this is the stream after block 1.": cache["resid_post", 1][:, 1],
            "the tokens stand in one text, where they see each other; give each a row of its own, "
            "behind BOS.": text["resid_post", 0][0, 1:],
        }
        with step(1, each is model):
            compare(answer(after_first_block, each, tokens), after[:, 1], mistakes, 1e-3)
    generator = torch.Generator().manual_seed(0)
    for each in models:
        heads = 1, each.cfg.n_heads - 1, 0
        for place in zip(some_layers(each), heads, strict=False):
            layer, head = place
            stream = torch.randn(7, each.cfg.d_model, generator=generator).to(each.W_U)
            ov, groups = each.OV[place], each.W_V.shape[1]
            to_vocab = ov.B @ each.W_U
            mistakes = {
                f"values are shared: head {head} has not the value matrix {head % groups}. Of "
                f"{each.cfg.n_heads} heads, {each.cfg.n_heads // groups} in a row share one.": (
                    stream @ each.W_V[layer, head % groups] @ to_vocab
                ),
                f"this is head 0, not {head}.": _written(each, (layer, 0), stream),
                "this is layer 0; use `place`.": _written(each, (0, head), stream),
                "this adds the stream itself; wanted is only what the head writes.": (
                    (stream + stream @ ov.A @ ov.B) @ each.W_U
                ),
                "`b_U` is added, which no head writes: use `W_U` alone.": (
                    _written(each, place, stream) + each.b_U
                ),
                "this is the stream through W_U; the head is missing.": stream @ each.W_U,
                "this is what the head writes; send it through W_U.": stream @ ov.A @ ov.B,
            }
            with step(2, each is model):
                got = answer(written, each, place, stream)
                compare(got, _written(each, place, stream), mistakes, 1e-3)
    for each in models:
        tokens = repeated_tokens(each, 40, 1, seed=406)[0, 1:41]
        pairs = torch.stack([torch.full_like(tokens, _bos(each)), tokens], dim=1)
        _, cache = each.run_with_cache(pairs, names_filter="blocks.0.hook_resid_post")
        for place in ((each.cfg.n_layers - 1, 0), (1, each.cfg.n_heads - 1)):
            logits = _written(each, place, cache["resid_post", 0][:, 1])
            rank = (logits > logits.gather(1, tokens[:, None])).sum(1) + 1
            middle = rank.sort().values[13:15].tolist()
            # The toy's few tokens have ranks that no rounding moves; there k is one of them.
            k = middle[0] if each is not model else sum(middle) // 2

            def share(counted):
                return counted.float().mean()

            mistakes = {
                "off by one: the token with rank k is in the top k.": share(rank < k),
                "off by one: with rank k + 1 a token is not in the top k.": share(rank <= k + 1),
                "this is what another `k` gives, or another stream than step 1's.": (
                    share(rank <= 5)
                ),
                "this is a number of tokens, not their share.": (rank <= k).sum(),
                "this counts from the lowest logit; the largest has rank 1.": (
                    share(logits.shape[1] + 1 - rank <= k)
                ),
                "this is the share outside the top k.": share(rank > k),
            }
            with step(3, each is model):
                got = answer(copying_score, each, place, tokens, k)
                compare(got, share(rank <= k), mistakes, 1e-3)


@exercise("4.5", "Composition by hand, with shared keys")
def composition(expand, k_composition, into, model) -> None:
    """Each step on tensors alone, so that nothing ready-made is in reach."""
    generator = torch.Generator().manual_seed(0)
    for groups, heads in ((2, 6), (3, 3), (1, 4)):
        shared = torch.randn(groups, 5, 4, generator=generator)
        size = heads // groups
        mistakes = {
            "the groups alternate: 0 1 0 1 …; heads that share one stand side by side, 0 0 0 1 1 1 "
            "(`repeat` or `repeat_interleave`?).": shared.repeat(size, 1, 1),
            "divide by nothing: each head has the whole matrix of its group.": (
                shared.repeat_interleave(size, 0) / size
            ),
        }
        with step(1):
            compare(answer(expand, shared, heads), shared.repeat_interleave(size, 0), mistakes)
    for d_model, d_head in ((12, 3), (20, 5)):
        q, k, v = torch.randn(3, d_model, d_head, generator=generator)
        o = torch.randn(d_head, d_model, generator=generator)
        o = o + 2 * (v @ torch.randn(d_head, d_head, generator=generator)).T  # not symmetric
        qk, ov = (q @ k.T).double(), (v @ o).double()
        size = qk.norm() * ov.norm()
        mistakes = {
            "not divided by the sizes of the two matrices.": (qk @ ov.T).norm(),
            "this is Q-composition: the later head's queries read. Wanted are its keys.": (
                (ov @ qk).norm() / size
            ),
            "W_OV is not transposed: keys read what the head *writes*, the last axis of W_OV.": (
                (qk @ ov).norm() / size
            ),
            "this joins the later head's queries with what the earlier one *reads*; wanted are its "
            "keys and what the earlier one writes.": (qk.T @ ov).norm() / size,
            "this is the squared score; take the root.": ((qk @ ov.T).norm() / size) ** 2,
            "this is the largest singular value, not the root of the summed squares.": (
                torch.linalg.matrix_norm(qk @ ov.T, 2)
                / prod(torch.linalg.matrix_norm(m, 2) for m in (qk, ov))
            ),
            "divide by the sizes of W_QK and W_OV, not by those of their four factors.": (
                (qk @ ov.T).norm() / prod(m.norm() for m in (q, k, v, o))
            ),
            "the mean of the squares depends on the width; take their sum.": (
                (qk @ ov.T).square().mean().sqrt()
                / (qk.square().mean() * ov.square().mean()).sqrt()
            ),
        }
        with step(2):
            compare(answer(k_composition, q, k, v, o), (qk @ ov.T).norm() / size, mistakes, 1e-3)
    for each in (model, second_model(model)):
        weights = SimpleNamespace(**{name: getattr(each, name) for name in _WEIGHTS})
        groups = weights.W_K.shape[1]
        layer, last = min(2, each.cfg.n_layers - 1), each.cfg.n_heads - 1
        for place in ((layer, min(1, last)), (1, last)):
            with step(3, each is model):
                _expect_into(into, weights, place, groups)


def _expect_into(into, weights, place: tuple[int, int], groups: int) -> None:
    right = _grid(weights, place)
    wrong_key = _grid(weights, place, later=place[1] % groups)
    mistakes = {
        "Q-composition: the later head's queries read.": _grid(weights, place, queries=True),
        "the later head's key matrix is another group's.": wrong_key,
        "the earlier heads' value matrices are other groups'.": _grid(weights, place, tile=True),
        "both key and value matrices are other groups'.": (
            _grid(weights, place, later=place[1] % groups, tile=True)
        ),
        f"this is into head {place[0]}.0; use `place`.": _grid(weights, (place[0], 0)),
        "the first axis is the layer, the second the head.": right.T,
    }
    got = value(answer(into, weights, place))
    expect(
        numbers(got).shape != weights.W_Q.shape[:2] or len(weights.W_Q) == len(right),
        f"all layers are there; only those before layer {place[0]} can write into its keys.",
    )
    compare(got, right, mistakes, 1e-3)


_WEIGHTS = ("W_Q", "W_K", "W_V", "W_O")


# Second routes


def _toy(n: int, cells: dict[int, Tensor]) -> Float[Tensor, "query key"]:
    """One head: shares `cells[back]` in the second copy's queries; the rest is on BOS."""
    pattern = torch.zeros(2 * n + 1, 2 * n + 1)
    for back, shares in cells.items():
        for query, part in zip(range(n + 1, 2 * n + 1), shares, strict=True):
            pattern[query, query - back] += part
    pattern[:, 0] += 1 - pattern.sum(1)
    return pattern


def _heads(given, scores: Tensor) -> list[tuple[int, int]]:
    """The learner's list as pairs of ints."""
    pairs = given.tolist() if hasattr(given, "tolist") else given
    expect(not isinstance(pairs, set), "Give a list: a set has no order.")
    try:
        return [(int(layer), int(head)) for layer, head in pairs]
    except (TypeError, ValueError):
        raise Wrong(
            "Give a list of pairs (layer, head); a flat index becomes one with "
            f"`divmod(index, {scores.shape[1]})`."
        ) from None


def _mean_z(model, tokens) -> Float[Tensor, "layer head d_head"]:
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]
    _, cache = model.run_with_cache(tokens, names_filter=names)
    return torch.stack([cache[name].mean((0, 1)) for name in names])


def _losses(model, tokens, values) -> Float[Tensor, "layer head row 2*n"]:
    """The loss on each token without each head."""
    every = []
    for place in [(i, j) for i in range(model.cfg.n_layers) for j in range(model.cfg.n_heads)]:
        with ablate(model, [place], values):
            every.append(-next_token_log_probs(model(tokens), tokens))
    return torch.stack(every).unflatten(0, (model.cfg.n_layers, model.cfg.n_heads))


def _bos(model) -> int:
    return model.to_tokens("a", prepend_bos=True)[0, 0].item()


def _written(model, place, stream) -> Float[Tensor, "token d_vocab"]:
    return stream @ model.OV[place].A @ model.OV[place].B @ model.W_U


def _grid(
    weights, place, queries: bool = False, later: int | None = None, tile: bool = False
) -> Float[Tensor, "layer head"]:
    """K-composition of all earlier heads into `place`; the options are typical mistakes."""
    layer, head = place
    n_heads, groups = weights.W_Q.shape[1], weights.W_K.shape[1]
    size = n_heads // groups
    qk = weights.W_Q[place] @ weights.W_K[layer, head // size if later is None else later].T

    def score(i: int, j: int) -> Tensor:
        ov = weights.W_V[i, j % groups if tile else j // size] @ weights.W_O[i, j]
        both = ov @ qk if queries else qk @ ov.T
        return both.norm() / (qk.norm() * ov.norm())

    return torch.stack([torch.stack([score(i, j) for j in range(n_heads)]) for i in range(layer)])
