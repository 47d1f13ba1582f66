"""Checks of notebook 5's exercises."""

from math import log

import torch

from exercises.grading import answer, exercise, expect, value
from helpers.lens import logit_lens


@exercise("5.1", "Decode one stream")
def decode_stream(attempt, model) -> None:
    """Second route: put the stream in place of what leaves the last block, and run on."""
    tokens = model.to_tokens("The capital of Italy is")
    _, cache = model.run_with_cache(tokens)
    stream = cache["resid_pre", model.cfg.n_layers // 2] + 1  # its mean is not 0, as a raw one's
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    wanted = model.run_with_hooks(tokens, fwd_hooks=[(last, lambda resid, hook: stream)])
    got = _given(attempt, model, stream, like=wanted)
    if _close(got, wanted):
        return
    expect(
        not _close(got, wanted.softmax(-1)) and not _close(got, wanted.log_softmax(-1)),
        "These are probabilities, or their logarithms; give the logits as the head makes them.",
    )
    expect(
        not _close(got, wanted - model.b_U),
        "The unembedding's bias is missing: add `b_U`.",
    )
    centred = stream - stream.mean(-1, keepdim=True)
    unscaled = [stream @ model.W_U, centred @ model.W_U]
    expect(
        not any(_close(got, raw) or _close(got, raw + model.b_U) for raw in unscaled),
        "The final LayerNorm is missing, or centres and does not divide.",
    )
    root = (stream.square().mean(-1, keepdim=True) + model.cfg.eps).sqrt()
    expect(
        not _close(got, stream / root @ model.W_U + model.b_U),
        "LayerNorm centres first: take each stream's mean off before you square.",
    )
    whole = centred / centred.square().mean().sqrt()
    expect(
        not _close(got, whole @ model.W_U + model.b_U),
        "One spread for the whole prompt: LayerNorm takes that of each position, over the last "
        "axis.",
    )
    miss = (got - wanted).abs().max().item()
    expect(
        False,
        f"With this stream after its last block the model's logits differ from yours by up to "
        f"{miss:.2g}. By hand: the variance is the mean of the squares (`.std()` divides by one "
        "less), and `model.cfg.eps` is added to it.",
    )


@exercise("5.2", "How undecided is a row?")
def undecided(attempt) -> None:
    """Planted distributions, each probability a power of one half."""
    even, skew, other = [2.0, 2.0, 2.0, 2.0], [1.0, 2.0, 3.0, 3.0], [3.0, 3.0, 2.0, 1.0]
    halvings = torch.tensor([[even, skew, other], [other, even, even]])
    level = torch.tensor([[3.0, -2.0, 5.0], [0.0, 1.0, -4.0]])  # no softmax sees it
    logits = level[..., None] - halvings * log(2)  # (row, position, token)
    wanted = torch.tensor([[2.0, 1.75, 1.75], [1.75, 2.0, 2.0]]) * log(2)
    got = _given(attempt, logits, like=wanted)
    expect(not _close(got, -wanted), "Entropy is never negative: the minus sign is missing.")
    expect(
        not _close(got, wanted / log(2)),
        "This is in bits: a base of 2. Nats need the natural logarithm.",
    )
    expect(not _close(got, wanted / 4), "This is a mean over the tokens; entropy is their sum.")

    alone = _given(attempt, logits[1:, 2:], like=wanted[1:, 2:])
    expect(
        _close(alone, got[1:, 2:]),
        "A row's entropy changes with its neighbours: softmax over the last axis, the tokens.",
    )
    expect(
        _close(_given(attempt, logits + 3, like=wanted), got),
        "Adding 3 to all logits changes no probability, but it changes your result: logits are "
        "not yet log-probabilities; `log_softmax` makes them so.",
    )
    certain = _given(attempt, torch.tensor([[[30.0, 0.0, 0.0, 0.0]]]), like=wanted[:1, :1]).item()
    expect(
        abs(certain) < 0.01,
        f"A row that is certain has entropy 0, yours {certain:.2f}: have you taken a softmax of "
        "probabilities?",
    )
    expect(_close(got, wanted), f"Four tokens alike should give {log(4):.3f}, not {got[0, 0]:.3f}.")
    # A probability too small for a float is 0, and 0 * log 0 is NaN: `value` tells.
    _given(attempt, torch.tensor([[[500.0, 0.0, 0.0, 0.0]]]), like=wanted[:1, :1])


@exercise("5.3", "The rank of the answer")
def rank_of(attempt) -> None:
    """Planted rows, in which token 2 comes second, first and last."""
    rows = torch.tensor(
        [
            [4.0, 0.5, 3.0, 2.0, 1.0, -1.0],
            [0.0, -2.0, 5.0, 1.0, -3.0, 2.0],
            [-1.0, -2.0, -9.0, -4.0, -3.0, -5.0],
        ]
    )
    got = _given(attempt, rows, 2, like=torch.zeros(3)).tolist()
    expect(got != [1, 0, 5], "Off by one: the most likely token has rank 1, not 0.")
    expect(
        got not in ([5, 6, 1], [4, 5, 0]), "Counted from the wrong end: the largest logit ranks 1."
    )
    expect(
        got not in ([3, 3, 4], [4, 4, 5]),
        "`argsort(...)[:, answer]` is the token that stands at place `answer`; wanted is the "
        "place at which the token `answer` stands.",
    )
    expect(got == [2, 1, 6], f"Token 2 comes second, first and last of six; you say {got}.")
    first = _given(attempt, rows, 0, like=torch.zeros(3)).tolist()
    expect(first == [1, 4, 1], "Right for token 2 only; use the argument `answer`.")
    tied = _given(attempt, torch.tensor([[1.0, 1, 1, 0], [3.0, 1, 1, 1]]), 2, like=torch.zeros(2))
    expect(
        tied.tolist() == [1, 2],
        "Tokens with exactly the answer's logit stand beside it, not before it: count only those "
        "with more.",
    )


@exercise("5.4", "First, and first for good")
def settled_after(attempt) -> None:
    """Planted ranks: found and lost, never, always, lost at the end, found late."""
    ranks = torch.tensor(
        [
            [9, 1, 1, 4, 1, 1, 1, 1],
            [3, 2, 2, 2, 2, 2, 2, 2],
            [1, 1, 1, 1, 1, 1, 1, 1],
            [5, 1, 1, 1, 1, 1, 1, 2],
            [8, 6, 3, 2, 7, 1, 1, 1],
        ]
    ).T  # (row, prompt)
    got = _given(attempt, ranks, like=torch.zeros(5)).tolist()
    lost, late = got[0], got[4]
    expect(
        lost != 1,
        "This is the first row with rank 1. The answer is lost again after it: 9 1 1 4 1 1 1 1 "
        "should give 4.",
    )
    expect((lost, late) != (3, 4), "Off by one: this is the last row in which it is not yet first.")
    expect(
        (lost, late) != (4, 3), "This is how many rows the last stretch has, not where it starts."
    )
    expect(
        (lost, late) not in ((2, 5), (6, 3)),
        "You count rows wherever they stand; a stretch ends where the rank is not 1.",
    )
    expect((lost, late) == (4, 5), f"9 1 1 4 1 1 1 1 should give 4; you say {lost:g}.")
    expect(got[2] == 0, f"Rank 1 in every row means 0 blocks; you say {got[2]:g}.")
    expect(
        (got[1], got[3]) == (8, 8),
        "Not first in the last row means never settled: give the number of rows, 8. You say "
        f"{got[1]:g} where it is never first, {got[3]:g} where only the last row loses it.",
    )


@exercise("5.5", "Fool the lens")
def early_prompt(attempt, model) -> None:
    """The lens on the learner's prompt: right before any block has run."""
    value(attempt)
    expect(isinstance(attempt, str), f"Give the prompt as a string, not {type(attempt).__name__}.")
    tokens = model.to_tokens(attempt)
    words = tokens.shape[1] - 1  # without BOS
    expect(words >= 5, f"Tokens after BOS: {words}; use at least 5, so that there is context.")
    _, cache = model.run_with_cache(tokens)
    last = {name: stream[:, -1:] for name, stream in cache.items() if "resid" in name}
    best = logit_lens(model, last)[:, 0, 0].softmax(-1).max(-1)  # values and indices (row)
    start, end = (model.to_string(best.indices[row][None]) for row in (0, -1))
    sure = best.values[-1].item()
    repeats = best.indices[0] == tokens[0, -1]
    what = "the token that it has just read" if repeats else "although it has read another one"
    expect(
        start == end,
        f"The embedding row names {start!r}, {what}; the model ends with {end!r}. The two must be "
        "the same token.",
    )
    expect(
        sure >= 0.5,
        f"The model is not sure itself: it gives its top token {end!r} only {sure:.2f}. Give it a "
        "clearer case.",
    )


def _given(attempt, *arguments, like: torch.Tensor) -> torch.Tensor:
    """`answer` as a tensor of the kind of `like`, so that no dtype is wrong."""
    return torch.as_tensor(answer(attempt, *arguments, like=like)).to(like)


def _close(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    return torch.allclose(got, wanted, rtol=1e-4, atol=1e-3)
