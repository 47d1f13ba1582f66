"""Checks of notebook 4's exercises."""

from math import log

import torch

from exercises.grading import answer, exercise, expect, value
from helpers.induction import induction_scores, repeated_tokens
from helpers.metrics import next_token_log_probs


@exercise("4.1", "Build the rows")
def repeat_rows(attempt) -> None:
    """Properties of what is drawn, from ids that are no positions in their own list."""
    ids, bos, n, batch = torch.tensor([11, 13, 17, 19, 23, 29, 31, 37]), 5, 6, 50
    rows = torch.as_tensor(answer(attempt, ids, bos, n, batch))
    expect(rows.ndim == 2, f"Two axes are expected, row and position; you give {rows.ndim}.")
    width = rows.shape[1]
    expect(
        width != 2 * n,
        "BOS is missing: a row is one token longer than its two blocks.",
    )
    expect(
        width != 2 * n + 2,
        "One token too many: BOS stands at the start only, not between the blocks.",
    )
    expect(width != n + 1, "There is only one block; the same block must follow it.")
    value(rows, like=torch.zeros(batch, 2 * n + 1))
    expect(not rows.is_floating_point(), "Token ids are whole numbers; yours are floats.")
    expect(bool((rows[:, 0] == bos).all()), "Position 0 of every row must hold BOS.")

    first, second = rows[:, 1 : n + 1], rows[:, n + 1 :]
    if not torch.equal(first, second):
        expect(
            not torch.equal(rows[:, 1::2], rows[:, 2::2]),
            "Each token stands there twice in a row, A A B B; wanted is A B A B. "
            "`repeat_interleave` repeats tokens, `cat` or `repeat` repeats blocks.",
        )
        same = torch.equal(first.sort(1).values, second.sort(1).values)
        expect(
            not same, "The second block has the right tokens in another order: nothing to continue."
        )
        expect(False, "The second block is drawn anew; put the same block there again.")
    expect(bool((first != first[:1]).any()), "All rows have the same block; draw one for each.")
    expect(
        bool((first != first[:, :1]).any()), "A block is one token again and again; draw n tokens."
    )
    allowed = torch.isin(rows[:, 1:], ids.to(rows.device))
    expect(
        bool(allowed.all()) or bool((rows[:, 1:] >= len(ids)).any()),
        "These are places in `ids`, 0, 1, 2, …, not the ids that stand there.",
    )
    expect(bool(allowed.all()), "A block holds a token that is not among `ids`.")
    missing = set(ids.tolist()) - set(rows[:, 1:].flatten().tolist())
    expect(
        not missing,
        f"In {batch} rows these ids never come up: {sorted(missing)}. The upper bound of `randint` "
        "is already left out.",
    )


@exercise("4.2", "Score each row")
def induction_cells(attempt) -> None:
    """Planted heads with a known share in each motif's cell; what is left over is on BOS."""
    n = 5
    share = torch.tensor([0.2, 0.9, 0.4, 0.6, 0.8])  # of queries n+1 .. 2n; its mean is 0.58
    strong = torch.tensor([1.0, 0.5, 1.0, 1.0, 0.75])  # 0.85
    rows = [
        # an induction, a duplicate-token, a previous-token head, one that looks a token too far;
        # then three induction heads, and one that does two things
        [_plant(n, {back: share}) for back in (n - 1, n, 1, n - 2)],
        [_plant(n, {n - 1: strong})] * 3 + [_plant(n, {n - 1: share / 2, n: share / 2})],
    ]
    pattern = torch.stack([torch.stack(row) for row in rows])  # (row, head, query, key)
    wanted = torch.tensor([[0.58, 0, 0, 0], [0.85, 0.85, 0.85, 0.29]])
    got = _given(attempt, pattern, n, like=wanted)

    def stripe(back, start=n + 1):
        return pattern.diagonal(-back, -2, -1)[..., start - back :]

    if not _close(got, wanted):
        right = stripe(n - 1)
        expect(
            not _close(got, stripe(n).mean(-1)),
            "Off by one: key `j` is the duplicate-token cell. The token that came next stands one "
            "position further.",
        )
        expect(
            not _close(got, stripe(n - 2).mean(-1)),
            "Off by one: this is two positions after the first occurrence, not one.",
        )
        expect(not _close(got, stripe(1).mean(-1)), "This is the previous-token cell, one back.")
        expect(
            not _close(got, stripe(n - 1, n - 1).mean(-1)),
            "The whole diagonal is too long: it starts in the first copy, with BOS as a key, where "
            "there is nothing to continue. Keep the last n queries.",
        )
        expect(
            not _close(got, stripe(n - 1, n).mean(-1)),
            "The last query of the first copy is counted; start at query n + 1.",
        )
        expect(
            not _close(got, right[..., :-1].mean(-1)) and not _close(got, right[..., 1:].mean(-1)),
            "One query of the second copy is left out: j goes from 1 to n, both counted.",
        )
        expect(not _close(got, right.sum(-1)), "This is a sum over the queries, not their mean.")
        expect(not _close(got, right.amax(-1)), "This is the best query, not the mean over them.")
        expect(
            bool((got != 0).any()),
            "All scores are 0: query and key are swapped, and no head can look ahead. "
            "The order of the axes is row, head, query, key.",
        )
        expect(
            False,
            f"A head with 0.2, 0.9, 0.4, 0.6 and 0.8 in its five cells scores 0.58, not "
            f"{got[0, 0]:.2f}.",
        )
    short = torch.stack([_plant(3, {2: share[:3]}), _plant(3, {3: share[:3]})])[None]
    expect(
        _close(_given(attempt, short, 3, like=short[..., 0, 0]), torch.tensor([[0.5, 0.0]])),
        "Right for blocks of 5 tokens only; use the argument `n`.",
    )


@exercise("4.3", "The loss on the second copy")
def copy_loss(attempt) -> None:
    """Planted predictions: each position gives its next token a power of one half."""
    halvings = torch.tensor([[3, 2, 5, 4, 6, 1, 2, 4, 3], [4, 6, 3, 5, 2, 2, 3, 5, 1]]).float()
    block = torch.tensor([[3, 1, 4, 2], [6, 5, 2, 7]])
    logits, tokens, n = _predict(halvings, block)
    wanted = halvings[:, n + 1 : 2 * n].mean(1) * log(2)
    got = _given(attempt, logits, tokens, n, like=wanted)
    log_probs = logits.log_softmax(-1)

    def loss(start, shift):  # mean over targets start .. 2n, read `shift` positions earlier
        targets = tokens[:, start:, None]
        return -log_probs[:, start - shift : 2 * n + 1 - shift].gather(-1, targets).mean((1, 2))

    if not _close(got, wanted):
        expect(
            not _close(got, -wanted), "A loss is minus the log-probability: the sign is missing."
        )
        expect(not _close(got, wanted / log(2)), "This is in bits: base 2. Nats need base e.")
        expect(
            not _close(got, wanted * (n - 1)),
            "This is a sum over the tokens; wanted is their mean.",
        )
        expect(
            not any(_close(got, loss(start, 0)) for start in (n + 1, n + 2)),
            "Off by one: position i predicts token i + 1. You ask each position for its own token.",
        )
        expect(
            not any(_close(got, loss(start, 2)) for start in (n + 1, n + 2)),
            "Off by one, the other way: you read two positions before the token, not one.",
        )
        expect(
            not _close(got, loss(n + 1, 1)),
            "The second copy's first token is counted. Nothing announces it; start at position "
            "n + 2.",
        )
        expect(not _close(got, loss(1, 1)), "This is the mean over the whole row, both copies.")
        raw = logits[:, n + 1 : 2 * n].gather(-1, tokens[:, n + 2 :, None]).mean((1, 2))
        expect(
            not _close(got, raw) and not _close(got, -raw),
            "These are logits: make log-probabilities of them with `log_softmax`.",
        )
        probs = (-halvings[:, n + 1 : 2 * n] * log(2)).exp().mean(1)
        expect(
            not _close(got, probs) and not _close(got, -probs.log()),
            "Take the logarithm of each probability, and the mean after it.",
        )
        expect(
            not _close(got, wanted.mean().expand(2)),
            "The mean is over tokens; keep the rows apart.",
        )
        expect(False, f"Row 0 should have {wanted[0]:.3f} nats; you give {got[0]:.3f}.")
    short = _predict(halvings[:, :7], block[:, :3])
    expect(
        _close(_given(attempt, *short, like=wanted), halvings[:, 4:6].mean(1) * log(2)),
        "Right for blocks of 4 tokens only; use the argument `n`.",
    )


@exercise("4.4", "A threshold from the null")
def above_null(attempt) -> None:
    """Planted scores around a null that has one high head in one row."""
    scores = torch.tensor([[0.08, 0.10, 0.33, 0.34], [0.12, 0.35, 0.05, 0.50], [0.38, 0.9, 0, 0.2]])
    null = torch.full((4, 3, 4), 0.01)
    null[0, 1, 0], null[2, 0, 3], null[3, 2, 2] = 0.06, 0.35, 0.15
    wanted = [(2, 1), (1, 3), (2, 0)]
    got = _heads(answer(attempt, scores, null), scores)
    if got != wanted:
        swapped = [(head, layer) for layer, head in wanted]
        expect(got != swapped, "Layer and head are swapped: give (layer, head).")
        expect(got != wanted[::-1], "The order is turned round: the strongest head comes first.")
        expect(
            sorted(got) != sorted(wanted),
            "The right heads in the wrong order: sort by score, the strongest first.",
        )
        expect(
            set(got) != {*wanted, (1, 1)},
            "A head with exactly the null's highest score passes; it must be above it.",
        )

        def above(limit):
            return {tuple(place) for place in (scores > limit).nonzero().tolist()}

        limits = {
            "This is the bare threshold of 0.3. The null says how high chance can go.": 0.3,
            "Each head is compared with its own null only. Chance has as many tries as there are "
            "heads: take the highest score of any head.": null.amax(0),
            "Only the null's first row counts; take the highest of all rows.": null[0].max(),
            "The rows are averaged before the maximum: the threshold is the highest score on a "
            "single row.": null.mean(0).max(),
            "This is the null's mean. Chance goes above its own mean again and again.": null.mean(),
            "Mean and standard deviation fit a bell curve. This null is not one: take its highest "
            "score.": null.mean() + 2 * null.std(),
        }
        for reason, limit in limits.items():
            expect(set(got) != above(limit), reason)
        expect(False, f"The null goes up to {null.max():.2f}; above it are {wanted}, not {got}.")
    flat = torch.full((2, 2, 2), 0.04)
    low = torch.tensor([[0.01, 0.05], [0.03, 0.06]])
    expect(
        _heads(answer(attempt, low, flat), low) == [(1, 1), (0, 1)],
        "With a null up to 0.04, scores of 0.06 and 0.05 must pass: the threshold is not read "
        "from `null`.",
    )
    expect(
        _heads(answer(attempt, low, flat + 1), low) == [],
        "Where nothing is above the null, the list must be empty.",
    )


@exercise("4.5", "The costliest head")
def costliest(attempt, model) -> None:
    """Measure the named head, the others (24, where there are many), and their scores."""
    got = answer(attempt, model)
    shape = (model.cfg.n_layers, model.cfg.n_heads)
    expect(
        isinstance(got, (tuple, list)) and len(got) == 2,
        f"Give (layer, head), not {type(got).__name__}; `divmod(index, model.cfg.n_heads)` makes "
        "a pair of a flat index.",
    )
    layer, head = place = tuple(int(part) for part in got)
    inside = 0 <= layer < shape[0] and 0 <= head < shape[1]
    expect(inside, f"There is no head {layer}.{head} here: {shape[0]} layers, {shape[1]} heads.")

    n = 16
    tokens = repeated_tokens(model, n, 8, seed=404)
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith("pattern"))
    looks = torch.stack([induction_scores(cache["pattern", i], n) for i in range(shape[0])])
    looker = divmod(looks.argmax().item(), shape[1])
    places = [(i, j) for i in range(shape[0]) for j in range(shape[1])]
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0)).tolist()
    tried = {place, looker, *(places[i] for i in order[:24])}
    intact = _second_copy(model, tokens, n, [])
    costs = {one: _second_copy(model, tokens, n, [one]) - intact for one in tried}
    most = max(costs, key=costs.get)
    if costs[place] >= 0.9 * costs[most] - 0.01:  # heads as costly as each other pass alike
        return
    mine = f"{layer}.{head} costs {costs[place]:.2f} nats"
    expect(
        place != looker,
        f"{mine}; it has the highest induction score. Where a head looks is not how much it is "
        "needed: silence each head and measure.",
    )
    expect(
        costs.get((head, layer), 0) < 0.9 * costs[most],
        f"{mine}, {head}.{layer} far more: are layer and head swapped?",
    )
    expect(
        costs[place] > 0.001,
        f"Without {layer}.{head} the loss does not grow ({costs[place]:+.4f} nats): is the least "
        "picked, or the loss with the wrong sign?",
    )
    expect(
        False,
        f"{mine} on the second copy, another head {costs[most]:.2f}. Do you measure the second "
        "copy only, and silence one head at a time, at every position?",
    )


def _plant(n: int, cells: dict[int, torch.Tensor]) -> torch.Tensor:
    """One head (query, key): shares `cells[back]` in the second copy; the rest is on BOS."""
    pattern = torch.zeros(2 * n + 1, 2 * n + 1)
    for back, shares in cells.items():
        for query, part in zip(range(n + 1, 2 * n + 1), shares, strict=True):
            pattern[query, query - back] += part
    pattern[:, 0] += 1 - pattern.sum(1)
    return pattern


def _predict(halvings: torch.Tensor, block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Logits that give each next token 2 ** -halvings, tokens, n. No level of logits is 0."""
    rows, n, vocabulary = *block.shape, 9
    tokens = torch.cat([torch.zeros(rows, 1).long(), block, block], dim=1)
    following = tokens.roll(-1, 1)[..., None]
    chance = 0.5**halvings
    # The rest of the probability goes to the other tokens, each with a share of its own.
    weights = torch.arange(1.0, vocabulary + 1).expand(*tokens.shape, vocabulary).clone()
    weights.scatter_(-1, following, 0.0)
    probs = weights / weights.sum(-1, keepdim=True) * (1 - chance)[..., None]
    probs.scatter_(-1, following, chance[..., None])
    level = torch.arange(tokens.shape[1]) * 0.7 - 2
    return probs.log() + level[:, None], tokens, n


def _heads(given, scores: torch.Tensor) -> list[tuple[int, int]]:
    """The learner's list as pairs of ints."""
    value(given)
    given = given.tolist() if isinstance(given, torch.Tensor) else list(given)
    pairs = all(isinstance(place, (tuple, list)) and len(place) == 2 for place in given)
    expect(
        pairs,
        "Give a list of pairs (layer, head); a flat index becomes one with "
        f"`divmod(index, {scores.shape[1]})`.",
    )
    return [(int(layer), int(head)) for layer, head in given]


def _second_copy(model, tokens: torch.Tensor, n: int, heads: list[tuple[int, int]]) -> float:
    """Mean loss on tokens 2 .. n of the second copy, with the output of these heads at zero."""

    def silence(head):
        def replace(z, hook):
            z = z.clone()
            z[:, :, head] = 0.0
            return z

        return replace

    hooks = [(f"blocks.{layer}.attn.hook_z", silence(head)) for layer, head in heads]
    logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
    return -next_token_log_probs(logits, tokens)[:, n + 1 :].mean().item()


def _given(attempt, *arguments, like: torch.Tensor) -> torch.Tensor:
    """`answer` as a tensor of the kind of `like`, so that no dtype is wrong."""
    return torch.as_tensor(answer(attempt, *arguments, like=like)).to(like)


def _close(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    return torch.allclose(got, wanted, rtol=1e-4, atol=1e-4)
