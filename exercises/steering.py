"""Checks of notebook 6's exercises."""

from collections.abc import Callable
from math import log

import torch
from jaxtyping import Float, Int
from torch import Tensor

from exercises import toy
from exercises.grading import (
    Wrong,
    answer,
    compare,
    exercise,
    expect,
    on_model,
    second_model,
    some_layers,
    step,
)
from helpers.prompts import tokenize
from helpers.steering import steering_vector

TEXTS = ("The movie was absolutely", "I love this! It's absolutely wonderful and", "It was raining")


@exercise("6.1", "The contrast over several prompts")
def contrast(attempt) -> None:
    """Streams whose mean is known: BOS far away, words scattered around a point of each prompt."""
    bos = torch.tensor([90.0, -60.0, 30.0, 0.0])
    points = torch.tensor([[1.0, 2, 4, 0], [5, 0, 1, 3], [3, 1, -2, 5], [0, 7, 2, -4]])
    scatter = torch.tensor([[1.0, 0, 2, 1], [-3, 1, 0, 1], [2, -1, -2, -2]])  # rows sum to 0
    pair = torch.stack([scatter[1], -scatter[1]])
    a, c = (torch.cat([bos[None], point + scatter]) for point in points[[0, 2]])
    b, d = (torch.cat([bos[None], point + pair]) for point in points[[1, 3]])
    more, fewer = [a, b], [c, d, b]
    right = points[:2].mean(0) - points[1:].mean(0)

    def by(mean: Callable[[list[Tensor]], Tensor]) -> Tensor:
        return mean(more) - mean(fewer)

    def each(one: Callable[[Tensor], Tensor]) -> Callable[[list[Tensor]], Tensor]:
        return lambda streams: torch.stack([one(stream) for stream in streams]).mean(0)

    mistakes = {
        "The sign is swapped: this leads from the positive to the negative prompts.": -right,
        "BOS is counted: start each prompt's mean at position 1.": by(each(lambda x: x.mean(0))),
        "BOS is left out of the sum but still counted in the mean.": by(
            each(lambda x: x[1:].sum(0) / len(x))
        ),
        "The last position is left out, not BOS.": by(each(lambda x: x[:-1].mean(0))),
        "All positions are pooled, so a longer prompt weighs more: take each prompt's own mean "
        "first, then the mean over prompts.": by(lambda s: torch.cat([x[1:] for x in s]).mean(0)),
        "All positions are pooled, BOS too: take each prompt's own mean, from position 1.": by(
            lambda s: torch.cat(s).mean(0)
        ),
        "This sums over prompts: three prompts a side would push three times as far.": by(
            lambda s: torch.stack([x[1:].mean(0) for x in s]).sum(0)
        ),
        "This sums over positions: take the mean.": by(each(lambda x: x[1:].sum(0))),
        "This is the last position alone; take all but BOS.": by(each(lambda x: x[-1])),
        "Only the first prompt of each side is used.": a[1:].mean(0) - c[1:].mean(0),
        "The positive side alone; subtract the negative one.": points[:2].mean(0),
        "Half of the way: subtract the two means, no more.": right / 2,
        "Do not scale it to length 1.": right / right.norm(),
    }
    compare(answer(attempt, more, fewer), right, mistakes)
    compare(answer(attempt, [b], [a]), points[1] - points[0])
    longest = {"Leave out position 0, not the longest of a prompt.": points[1] - points[0]}
    compare(answer(attempt, [b.flip(0)], [a]), b[:2].mean(0) - points[0], longest)


@exercise("6.2", "Push the last position only")
def steer_last(attempt, model) -> None:
    """Second route: a run with the finished stream put in its place; on two models."""
    for each, row in _both(model):
        tokens = torch.cat([row, torch.cat([row[:, :1], row[:, 1:].flip(1)], 1)])
        for layer in some_layers(each):
            vector, right, mistakes = _pushes(each, tokens, layer)
            with on_model(each is model):
                compare(answer(attempt, each, tokens, vector, layer), right, mistakes, 1e-3)


def _pushes(model, tokens, layer: int) -> tuple[Tensor, Tensor, Callable]:
    """A vector, the logits with it at the last position, and those of known mistakes."""
    site, before = (f"blocks.{layer}.hook_resid_{where}" for where in ("post", "pre"))
    _, cache = model.run_with_cache(tokens, names_filter=[site, before])
    stream, vector = cache[site], _direction(model, cache[site])
    at_last = torch.zeros_like(stream)
    at_last[:, -1] = vector

    def run(edited, at=site):
        return model.run_with_hooks(tokens, fwd_hooks=[(at, lambda x, hook: edited.to(x))])

    def mistakes() -> dict[str, Tensor]:
        replaced = torch.cat([stream[:, :-1], at_last[:, -1:]], 1)
        first_row = torch.cat([at_last[:1], 0 * at_last[1:]])
        to_second = at_last.roll(2 - tokens.shape[1], 1)
        return {
            "Nothing has changed: does the hook return the edited tensor, and do you run with "
            "it?": run(stream),
            "The vector is added at every position: write to `stream[:, -1]`.": run(
                stream + vector
            ),
            "The vector is added in the first row only; all rows are to be steered.": run(
                stream + first_row
            ),
            "The stream is replaced by the vector: add it (`+=`), do not set it.": run(replaced),
            "The vector is subtracted: the sign is swapped.": run(stream - at_last),
            "The vector is added twice.": run(stream + 2 * at_last),
            "The vector is scaled to length 1; add it as it is.": run(
                stream + at_last / vector.norm()
            ),
            "The vector is added at position 1, not at the last one: index -1 of axis 1.": run(
                stream + to_second
            ),
            f"You add to the stream *entering* block {layer}, not to the one after it.": run(
                cache[before] + at_last, at=before
            ),
        }

    return vector, run(stream + at_last), mistakes


@exercise("6.3", "The price of a push")
def price_of_push(attempt) -> None:
    """Distributions whose divergence is known by hand, whatever is added to a row of logits."""
    p, q, r = (torch.tensor([a, 1 - a]) for a in (1 / 4, 3 / 4, 1 / 8))
    level = torch.tensor([[3.0], [-2.0], [5.0]])  # a softmax does not see it
    plain = torch.stack([torch.tensor([1 / 16, 15 / 16]), p, p]).log() + level
    steered = torch.stack([torch.tensor([15 / 16, 1 / 16]), q, r]).log() - level
    at_bos = 7 / 8 * log(15)
    there = log(3) / 2 + log(2) / 4 + log(6 / 7) * 3 / 4  # sum of P log(P / Q)
    back = log(3) / 2 + log(1 / 2) / 8 + log(7 / 6) * 7 / 8  # Q log(Q / P)
    raw = (plain.softmax(-1) * (plain - steered)).sum(-1)[1:].mean()
    mistakes = {
        "The arguments are swapped: the weights, and the first log, are those of the unsteered "
        "model.": back / 2,
        "The sign is wrong: KL is never below 0. It is log P minus log Q, weighted by P.": -there
        / 2,
        "Position 0 is counted: what follows BOS alone is any beginning of any text.": (
            (at_bos + there) / 3
        ),
        "Position 0 is left out of the sum but still counted in the mean.": there / 3,
        "This is the sum over positions; take the mean, so that long texts cost no more.": there,
        "This is the sum over positions, position 0 too; take the mean of the others.": (
            at_bos + there
        ),
        "This is the largest of the positions; take their mean.": log(3) / 2,
        "This is the mean of both directions.": (there + back) / 4,
        "This is the cross-entropy; take the entropy of P off.": (
            there / 2 + log(4) / 4 + log(4 / 3) * 3 / 4
        ),
        "Each difference of logs is weighted by P, before the sum.": log(12 / 7) / 2,
        "The mean is taken over the vocabulary, too: sum over it, and mean over positions.": (
            there / 4
        ),
        "This is in bits (log2); use nats (log).": there / 2 / log(2),
        "Logits are no log-probabilities: take `log_softmax` of both first.": raw,
    }
    compare(answer(attempt, plain, steered), there / 2, mistakes)
    compare(answer(attempt, plain, plain), 0.0)
    plain, steered = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)).log_softmax(
        -1
    )
    every = torch.nn.functional.kl_div(steered, plain, reduction="none", log_target=True)
    compare(answer(attempt, plain, steered), every.sum(-1)[1:].mean())


@exercise("6.4", "The most for the money")
def best_within(attempt) -> None:
    """A table in which the largest effect, the lowest cost and the best ratio are elsewhere."""
    effects = torch.tensor([[0.5, 1, 2, 9], [-8, 2.95, 3, 6], [2.8, 2.6, 2.7, 2.9]])
    costs = torch.tensor([[2e-4, 0.5, 0.5, 2.0], [0.02, 0.05, 0.125, 0.9], [0.01, 0.02, 5e-4, 0.1]])
    mistakes = {
        "This is the largest effect of all, which is over the budget; or `argmax` over "
        "`effects[costs <= budget]`, whose places are not those of the table.": [0, 3],
        "This is the cheapest, not the one with the largest effect.": [0, 0],
        "This is the largest effect in absolute value: it turns the other way.": [1, 0],
        "This layer has the largest sum; ask for the largest single effect.": [2, 3],
        "This is the best effect per cost; ask for the largest effect within the budget.": [2, 2],
        "A cost that is equal to the budget is within it.": [1, 1],
        "Swapped: (layer, column), in this order.": [2, 1],
        "`argmax` counts through the flattened table: turn it into (layer, column).": 6,
        "This is the effect; wanted is its place, (layer, column).": 3.0,
        "Divide the flat place by the number of columns, not of layers.": [2, 0],
    }
    compare(answer(attempt, effects, costs, 0.125), [1, 2], mistakes)
    dearest = {"This is the most that the budget buys; ask for the largest effect.": [0, 1]}
    compare(answer(attempt, effects, costs, 0.5), [1, 2], dearest)
    compare(answer(attempt, effects[:, :2], costs[:, :2], 0.02), [2, 0])
    compare(answer(attempt, effects[:2].T, costs[:2].T, 4.0), [3, 0])
    dear = {"What is too dear must not win where all else is below 0: `-torch.inf`, not 0.": [0, 0]}
    effects = -400 * effects[::2].flip(1)  # below any number that one would put for "too dear"
    compare(answer(attempt, effects, costs[::2].flip(1), 0.5), [0, 3], dear)


@exercise("6.5", "A null of unrelated differences")
def unrelated_null(prompt_means, differences, p_value, model) -> None:
    """Step by step: means on two models, differences and p-value on numbers known by hand."""
    for each, rows in _both(model):
        rows = [rows, rows[:, :-2]]  # of unequal lengths
        caches = [each.run_with_cache(row)[1] for row in rows]
        for layer in some_layers(each):
            before, streams = (
                [cache[name, layer][0] for cache in caches] for name in ("resid_pre", "resid_post")
            )
            mistakes = {
                "BOS is counted: start the mean at position 1.": _rows(streams, 0),
                "this is the stream that enters the block: `hook_resid_post`.": _rows(before, 1),
                "this is the last position alone: mean over all but BOS.": torch.stack(
                    [stream[-1] for stream in streams]
                ),
            }
            with step(1, each is model):
                got = answer(prompt_means, each, rows, layer)
                compare(got, _rows(streams, 1), mistakes, 1e-3)

    means = torch.tensor([[3.0, 0, 0], [0, 4, 0], [0, 0, 12], [3, 0, 5]])
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    raw = torch.stack([means[i] - means[j] for i, j in pairs])
    unit = raw / raw.norm(dim=-1, keepdim=True)
    told = "give each pair once, i before j, in the order (0, 1), (0, 2) … (1, 2) …"
    mistakes = {
        "they are not scaled: divide each row by its own norm, then multiply.": raw,
        "they are unit vectors: multiply by the norm asked for.": unit,
        "together they have that norm: take each row's own (`dim=-1`).": (2 * raw / raw.norm()),
        "the sign is swapped: prompt i minus prompt j, where i comes first.": -2 * unit,
        "the columns are scaled, not the rows.": 2 * raw / raw.norm(dim=0),
    }
    with step(2):
        given = answer(differences, means, 2.0)
        expect(hasattr(given, "__len__") and len(given) == len(pairs), f"{told}, six of 4 prompts.")
        compare(given, 2 * unit, mistakes)
        compare(answer(differences, means[1:], 5.0), 5 * unit[3:])

    null = torch.tensor([0.5, -3.0, 1.0, -0.2, 2.0, 0.1, -1.0, 0.0, -4.0])
    for effect, n in ((1.0, 9), (2.0, 9), (-2.5, 9), (5.0, 9), (0.0, 9), (1.0, 6)):
        size, given = abs(effect), null[:n]
        far, above = int((given.abs() >= size).sum()), int((given >= effect).sum())
        right = (1 + far) / (1 + n)
        mistakes = {
            "add 1 to both counts: the vector itself is one of the directions, so p is "
            "never 0.": far / n,
            "both signs count: compare absolute values.": (1 + above) / (1 + n),
            "both signs count, and 1 is added to both counts.": above / n,
            "both signs count; twice one side is another number.": (
                2 * (1 + int((given >= size).sum())) / (1 + n)
            ),
            "an equal effect counts as well: `>=`.": (
                (1 + int((given.abs() > size).sum())) / (1 + n)
            ),
            "this is the share that does less.": 1 - far / n,
            "this is 1 minus p.": 1 - right,
            "this counts who does at most as much.": (
                (1 + int((given.abs() <= size).sum())) / (1 + n)
            ),
            "1 is added to one of the two counts only.": (1 + far) / n,
            "1 is added to one of the two counts only. ": far / (1 + n),
        }
        known = {message: p for message, p in mistakes.items() if abs(p - right) > 1e-6}
        with step(3):
            compare(answer(p_value, effect, given), right, known)


@exercise("6.6", "Steering, or a logit bias?")
def steering_or_bias(changes, explained, verdict, model) -> None:
    """Step by step; truths: a table of equal rows, one of opposite rows, and a linear network."""
    generator = torch.Generator().manual_seed(0)
    linear = toy.linear_network()  # whatever enters, a vector moves all logits by the same
    rows = torch.randint(1, 10, (3, 6), generator=generator)
    # Only in toys have changes a mean over the vocabulary: `load_model` centres W_U. In the linear
    # one it is the same for all contexts, with a norm each has its own.
    for each, tokens in (
        *_both(model),
        (linear, rows),
        (toy.random_network(n_heads=2, seed=2), rows),
    ):
        layer = each.cfg.n_layers // 2
        stream = each.run_with_cache(tokens)[1]["resid_post", layer]
        vector = _direction(each, stream)
        raw = _pushed(each, tokens, vector, layer) - each(tokens)
        right = raw[:, 1:].flatten(0, 1)
        mistakes = {
            "take each context's mean over the vocabulary off; softmax does not see it.": right,
            "one mean for all is taken off; take each context's own.": right - right.mean(),
            "position 0 is counted: leave BOS out.": _level(raw.flatten(0, 1)),
            "the vector is added at BOS, too; only what happens there is not counted.": _level(
                (_pushed(each, tokens, vector, layer, start=1) - each(tokens))[:, 1:].flatten(0, 1)
            ),
            "the sign is swapped: steered minus unsteered.": -_level(right),
            "these are the steered logits: subtract the unsteered ones.": _level(
                _pushed(each, tokens, vector, layer)[:, 1:].flatten(0, 1)
            ),
            "the mean over contexts is taken off; it should be that over the vocabulary.": (
                right - right.mean(0)
            ),
            "nothing has changed: did the model run inside the `with`?": 0 * right,
        }
        with step(1, each is model):
            got = answer(changes, each, tokens, vector, layer)
            compare(got, _level(right), mistakes, 1e-3)

    table, guess = (torch.randn(6, 5, generator=generator) for _ in range(2))
    off = table - guess
    mistakes = {
        "this is the share that is *missed*; subtract it from 1.": (
            off.square().sum() / table.square().sum()
        ),
        "divide by the squares of the changes, not by their spread around the mean.": (
            1 - off.square().sum() / (table - table.mean(0)).square().sum()
        ),
        "squares, not absolute values.": 1 - off.abs().sum() / table.abs().sum(),
        "this is the mean of shares; sum over contexts first, then divide.": (
            1 - (off.square().sum(1) / table.square().sum(1)).mean()
        ),
        "the root is too much: squares, summed, are enough.": (1 - off.norm() / table.norm()),
    }
    with step(2):
        right = 1 - off.square().sum() / table.square().sum()
        compare(answer(explained, table, guess), right, mistakes)
        right = 1 - (table - table[0]).square().sum() / table.square().sum()
        compare(answer(explained, table, table[0]), right)

    for each, tokens in (*_both(model), (linear, rows)):  # in the linear one a constant is all
        layer = 0 if each is linear else each.cfg.n_layers // 2
        vector = _direction(each, each.run_with_cache(tokens)[1]["resid_post", layer])
        right, mistakes = _verdict(each, tokens, vector, layer)
        with step(3, each is model):
            got = _two(answer(verdict, each, tokens, vector, layer))
            compare(got, right, mistakes, 1e-3)
    layer = model.cfg.n_layers // 2
    sides = TEXTS[1], "I hate this! It's absolutely terrible and"
    tokens = tokenize(model, "The movie was good. The story was bad, and the music was")
    constant, direct = _two(verdict(model, tokens, steering_vector(model, *sides, layer), layer))
    print(f"Layer {layer} here: a constant explains {constant:.0%}, the last stream {direct:.0%}")


def _verdict(model, tokens, vector, layer) -> tuple[list[float], dict[str, list[float]]]:
    """The two shares, and what they are for a learner who makes a known mistake."""

    def share(changes, guess):
        return (1 - (changes - guess).square().sum() / changes.square().sum()).item()

    def moved(where):
        return _level((_pushed(model, tokens, vector, where) - model(tokens))[:, 1:].flatten(0, 1))

    mine, direct = moved(layer), moved(model.cfg.n_layers - 1)
    fitted, held_out = mine[::2], mine[1::2]
    constant, straight = share(held_out, fitted.mean(0)), share(mine, direct)
    return [constant, straight], {
        "the constant is judged on the contexts that it was fitted on: fit on every other "
        "one (0, 2, …), judge on the rest.": [share(mine, mine.mean(0)), straight],
        "fit on contexts 0, 2, 4 …, and judge on 1, 3, 5 …": [
            share(fitted, held_out.mean(0)),
            straight,
        ],
        "the mean of contexts 0, 2, 4 … is one number for each token; this is one for all.": [
            share(held_out, fitted.mean()),
            straight,
        ],
        "the two shares are swapped.": [straight, constant],
        "the last stream is judged on the last stream's own changes; how much of *this "
        "layer's* changes does it explain?": [constant, share(direct, mine)],
    }


def _two(got) -> list[float]:
    try:
        first, second = (float(each) for each in got)
    except (TypeError, ValueError):
        raise Wrong("return two numbers: (by a constant, by the last stream).") from None
    return [first, second]


def _level(changes: Float[Tensor, "context d_vocab"]) -> Float[Tensor, "context d_vocab"]:
    return changes - changes.mean(-1, keepdim=True)


def _pushed(model, tokens, vector, layer, start=0) -> Float[Tensor, "batch pos d_vocab"]:
    at = torch.arange(tokens.shape[1], device=tokens.device)[:, None] >= start
    hook = (f"blocks.{layer}.hook_resid_post", lambda x, hook: x + at * vector.to(x))
    return model.run_with_hooks(tokens, fwd_hooks=[hook])


def _both(model) -> list[tuple[object, Int[Tensor, "1 pos"]]]:
    """The model at hand and a random one, each with a prompt of its own length."""
    return [
        (each, tokenize(each, text))
        for each, text in ((model, TEXTS[0]), (second_model(model), TEXTS[1]))
    ]


def _direction(model, stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "d_model"]:
    """A random vector, 0.7 times as long as the stream at the last position."""
    vector = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(1)).to(stream)
    return 0.7 * stream[0, -1].norm() / vector.norm() * vector


def _rows(streams: list[Tensor], start: int) -> Float[Tensor, "prompt d_model"]:
    return torch.stack([stream[start:].mean(0) for stream in streams])
