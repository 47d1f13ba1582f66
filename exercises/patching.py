"""Checks of notebook 2's exercises."""

import torch

from exercises.grading import answer, exercise, expect, value
from helpers import patching
from helpers.metrics import normalise
from helpers.prompts import CAPITAL_PAIRS, CITY_PAIRS, PairTokens


@exercise("2.1", "Put a result on the scale")
def on_scale(attempt) -> None:
    """Planted shares of the way from one baseline to the other, beyond both ends too."""
    shares = torch.tensor([[0.0, 1.0, 0.5], [-0.25, 1.25, 0.75]])
    clean, corrupted = 6.0, -2.0
    values = corrupted + shares * (clean - corrupted)
    got = _given(attempt, values, clean, corrupted, like=shares)
    expect(
        not _close(got, 1 - shares),
        "Clean and corrupted are swapped: the corrupted run must give 0, the clean run 1.",
    )
    expect(
        not _close(got, values / clean) and not _close(got, values / (clean - corrupted)),
        f"The corrupted value {corrupted:g} must give 0: subtract it before you divide.",
    )
    expect(
        not _close(got, (values - corrupted) / clean),
        "You divide by the clean value; the scale is as long as from corrupted to clean.",
    )
    expect(
        not _close(got, shares.clamp(0, 1)),
        "You cut at 0 or 1. A patch can overshoot, and that is part of the result.",
    )
    expect(not _close(got, -shares), "The sign is wrong: from corrupted to clean is upwards.")
    expect(
        _close(got, shares),
        f"With clean {clean:g} and corrupted {corrupted:g}, a value of 2 is half-way; you give "
        f"{got[0, 2]:.3g}.",
    )
    turned = _given(attempt, -values, -clean, -corrupted, like=shares)
    expect(
        _close(turned, shares),
        "With the sign of all three turned, the result must stay; use no absolute value.",
    )


@exercise("2.2", "One number from the logits")
def preference(attempt) -> None:
    """Planted logits; what all tokens share must cancel."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 5, 7, generator=generator) * 2
    one, two = 4, 2
    wanted = torch.tensor([3.0, -1.5, 0.25])
    logits[:, -1, one] = logits[:, -1, two] + wanted
    got = _given(attempt, logits, one, two, like=wanted)
    if not _close(got, wanted):
        each = logits[..., one] - logits[..., two]  # (row, position)
        probs = logits.softmax(-1)
        expect(
            not _close(got, (probs[..., one] - probs[..., two])[:, -1]),
            "This is a difference of probabilities, which hides what happens near 0 and 1. Take "
            "the logits.",
        )
        expect(not _close(got, -wanted), "The sign: positive must mean that `one` is preferred.")
        expect(
            not _close(got, each.mean(1)) and not _close(got, each.sum(1)),
            "You mix all positions; the answer is read at one.",
        )
        for position in range(4):
            expect(
                not _close(got, each[:, position]),
                f"The wrong position: you read position {position} of 5, and the next token is "
                "predicted at the last one.",
            )
        alone = logits[:, -1, one]
        expect(
            not _close(got, alone) and not _close(got, logits.log_softmax(-1)[:, -1, one]),
            "This looks at `one` alone; subtract what `two` gets.",
        )
        expect(False, f"Row 0 prefers `one` by 3 nats; you give {got[0]:.3g}.")
    other = _given(attempt, logits, 1, 6, like=wanted)
    expect(
        _close(other, logits[:, -1, 1] - logits[:, -1, 6]),
        "Right for one pair of tokens only; use the arguments `one` and `two`.",
    )


@exercise("2.3", "Patch one cell")
def patch_cell(attempt, model) -> None:
    """Second routes: entering layer 0, a patch is another token; deeper, the helper's map."""
    # Random words, so that the two prompts differ at every position but BOS.
    words = torch.randperm(model.cfg.d_vocab - 1, generator=torch.Generator().manual_seed(3))[:14]
    ids = (words + (words >= model.tokenizer.bos_token_id)).view(2, 1, 7).to(model.cfg.device)
    clean_ids, other_ids = torch.cat(
        [torch.full_like(ids[:, :, :1], model.tokenizer.bos_token_id), ids], -1
    )
    t = PairTokens(clean_ids, other_ids, clean_ids[:, -1], other_ids[:, -1])
    _, cache = model.run_with_cache(t.clean)
    before, clean = model(t.corrupted), model(t.clean)
    position = 4
    mixed = t.corrupted.clone()
    mixed[:, position] = t.clean[:, position]
    wanted = model(mixed)

    def patched(layer, where):
        try:
            return _given(attempt, model, t.corrupted, cache, layer, where, like=wanted)
        finally:
            left = not _close(model(t.corrupted), before)
            model.reset_hooks()
            expect(
                not left,
                "After your function, the model's own output has changed: a hook was left on it. "
                "`run_with_hooks` takes its hooks off again.",
            )

    got = patched(0, position)
    if not _close(got, wanted):
        expect(
            not _close(got, before),
            "Nothing has changed. Does your hook return the patched tensor, are the values from "
            "`cache`, and is it `prompt` that you run?",
        )
        expect(
            not _close(got, clean),
            "This is the clean run: you patched all positions, or ran the clean prompt. Only one "
            "position may change.",
        )
        for other in range(t.clean.shape[1]):
            stray = mixed.clone()
            stray[:, position] = t.corrupted[:, position]
            stray[:, other] = t.clean[:, other]
            expect(
                other == position or not _close(got, model(stray)),
                f"Position {position} was asked for, and you patched position {other}.",
            )
        _expect_site(got, model, t, cache, position)
        others = t.clean.clone()
        others[:, position] = t.corrupted[:, position]
        expect(
            not _close(got, model(others)),
            "The wrong way round: all positions are clean but this one. Patch into `prompt`.",
        )
        expect(
            False,
            "Entering layer 0, a patched position is the same as the clean token in its place; "
            "your logits are not those of that prompt.",
        )
    truth = patching.patch_residual(model, t.corrupted, cache, t.logit_diff)
    for layer, where in ((model.cfg.n_layers // 2, -1), (model.cfg.n_layers - 1, position)):
        said, exact = t.logit_diff(patched(layer, where)).item(), truth[layer, where].item()
        expect(
            abs(said - exact) < 1e-2,
            f"Right entering layer 0. Entering layer {layer} at position {where} the logit "
            f"difference must be {exact:.2f}, yours is {said:.2f}: do you use the argument "
            "`layer`, in the hook's name and for the cache?",
        )


def _expect_site(got, model, t, cache, position) -> None:
    """Tell a patch at another place of block 0 from one of what enters it."""
    for site in ("hook_resid_post", "hook_attn_out", "hook_mlp_out", "hook_resid_mid"):
        name = f"blocks.0.{site}"

        def patch(stream, hook, name=name):
            stream = stream.clone()
            stream[:, position] = cache[name][:, position]
            return stream

        logits = model.run_with_hooks(t.corrupted, fwd_hooks=[(name, patch)])
        expect(
            not _close(got, logits),
            f"This patches `{site}`; what enters the block is `hook_resid_pre`.",
        )


@exercise("2.4", "Average by role")
def by_role(attempt) -> None:
    """Planted maps of three lengths, in which no two cells are alike."""
    tail = 4
    generator = torch.Generator().manual_seed(4)
    maps = [torch.randn(3, n, generator=generator) for n in (7, 9, 8)]

    def mean(column):
        return torch.stack([each[:, column] for each in maps]).mean(0)

    wanted = torch.stack([mean(-tail - 1), mean(-1)], dim=1)
    got = _given(attempt, [each.clone() for each in maps], tail, like=wanted)
    expect(not _close(got, wanted.flip(1)), "The two columns are swapped: landmark first.")
    expect(not _close(got, wanted * len(maps)), "This is a sum over pairs; divide by their number.")
    expect(
        not any(_close(got, each[:, [-tail - 1, -1]]) for each in maps),
        "This is one pair's map; average over all of them.",
    )
    for column in range(7):
        same = mean(column)
        expect(
            not _close(got[:, 0], same) and not _close(got[:, 1], same),
            f"You take column {column} of every map, counted from the start. The prompts differ "
            "in length: count from the end.",
        )
    expect(
        not _close(got[:, 0], mean(-tail)),
        f"Off by one: column -{tail} is the first of the last {tail} tokens, so it is already "
        "behind the landmark.",
    )
    expect(
        not _close(got[:, 0], mean(-tail - 2)),
        "Off by one: this is the token before the landmark's last.",
    )
    expect(not _close(got[:, 1], mean(-2)), "The second column is the token before the last.")
    expect(_close(got[:, 1], wanted[:, 1]), "The second column is not the mean of the last tokens.")
    expect(
        _close(got[:, 0], wanted[:, 0]),
        "The first column is not the mean, over pairs, of the one position right before the tail.",
    )
    other = _given(attempt, [each.clone() for each in maps], 2, like=wanted)
    expect(
        _close(other[:, 0], mean(-3)), "Right for one length of the tail; use the argument `tail`."
    )


@exercise("2.5", "Find the head that capitals need")
def needed_head(attempt, model) -> None:
    """All heads, noised at the last position in all pairs of capitals."""
    value(attempt)
    expect(
        isinstance(attempt, tuple | list) and len(attempt) == 2,
        f"Give the pair (layer, head), not {attempt!r}; `divmod(index, n_heads)` makes one of an "
        "index.",
    )
    layer, head = (int(number) for number in attempt)
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    expect(
        0 <= layer < n_layers and 0 <= head < n_heads,
        f"There is no head {layer}.{head}: {n_layers} layers of {n_heads} heads, counted from 0.",
    )
    capitals, landmarks = (_broken(model, pairs) for pairs in (CAPITAL_PAIRS, CITY_PAIRS[:4]))
    yours, most = capitals[layer, head].item(), capitals.max().item()
    if yours > most - 1e-3:
        return
    told = f"Noised at the last position, head {layer}.{head} breaks {yours:.3f} of the preference"
    expect(
        (layer, head) != divmod(landmarks.argmax().item(), n_heads),
        f"{told}, and another head breaks {most:.2f}. Yours is the one that *landmarks* need; "
        "measure it for `CAPITAL_PAIRS`. (Or did you swap layer and head?)",
    )
    expect(
        not (head < n_layers and layer < n_heads) or capitals[head, layer] < most - 1e-3,
        f"{told}. Swapped: the layer comes first.",
    )
    expect(
        yours > capitals.min() + 1e-4,
        f"{told}: the least of all. Noising lowers the logit difference, so the head that is "
        "needed most leaves the *smallest* one.",
    )
    more = (capitals > yours).sum().item()
    expect(False, f"{told}, averaged over the pairs; heads that break more: {more}.")


def _broken(model, pairs) -> torch.Tensor:
    """Share of the preference that noising each head at the last position breaks: (layer, head)."""
    shares = []
    for pair in pairs:
        t = pair.tokens(model)
        logits, cache = model.run_with_cache(t.corrupted)
        ends = t.logit_diff(logits).item(), t.logit_diff(model(t.clean)).item()
        grid = patching.patch_head_positions(model, t.clean, cache, t.logit_diff)
        shares.append(normalise(grid[..., -1], *ends))  # 0 as clean, 1 as corrupted
    return torch.stack(shares).mean(0)


def _given(attempt, *arguments, like: torch.Tensor) -> torch.Tensor:
    """`answer` as a tensor of the kind of `like`, so that no dtype is wrong."""
    return torch.as_tensor(answer(attempt, *arguments, like=like)).to(like)


def _close(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    return torch.allclose(got, wanted, rtol=1e-4, atol=1e-3)
