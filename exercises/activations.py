"""Checks of notebook 1's exercises."""

import torch

from exercises.grading import answer, exercise, expect
from helpers.induction import previous_token_scores, repeated_tokens


@exercise("1.1", "Norms without BOS")
def mean_norm(attempt) -> None:
    """Planted streams: every vector's length is known."""
    lengths = torch.tensor([[900.0, 3.0, 5.0], [700.0, 2.0, 2.0]])  # BOS first
    direction = torch.tensor([0.6, 0.0, 0.8])
    got = answer(attempt, lengths[..., None] * direction, like=torch.zeros(2))
    expect(
        not _close(got, torch.tensor([908 / 3, 704 / 3])), "BOS is counted: start at position 1."
    )
    expect(
        not _close(got, torch.tensor([8 / 3, 4 / 3])),
        "BOS is left out of the sum but still counted in the mean.",
    )
    expect(
        not _close(got, torch.tensor([34**0.5, 8**0.5])),
        "This is one norm over all positions; take the norm of each position, then the mean.",
    )
    expect(
        _close(got, torch.tensor([4.0, 2.0])),
        "Streams of length 3 and 5 after BOS should give 4. Norm over the last axis, mean over the "
        "positions from 1 on.",
    )


@exercise("1.2", "Where does each head look?")
def looks_at(attempt) -> None:
    """A planted pattern: head 0 rests on BOS and else looks at 2, head 1 looks at 1."""
    pattern = torch.zeros(2, 4, 4)
    pattern[:, 0, 0] = pattern[:, 1, 1] = 1.0
    pattern[0, 3] = torch.tensor([0.6, 0.1, 0.3, 0.0])
    pattern[1, 3] = torch.tensor([0.1, 0.5, 0.2, 0.2])
    pattern[:, 2] = torch.tensor([0.0, 0.2, 0.8, 0.0])
    got = answer(attempt, pattern, 3, like=torch.zeros(2)).tolist()
    expect(
        got != [0, 1], "Head 0 puts 0.6 on BOS; leave position 0 out before you take the largest."
    )
    expect(
        got != [1, 0],
        "Off by one: after cutting BOS off, index 0 means position 1. Add what you cut off.",
    )
    expect(got not in ([1, 3], [0, 3]), "Keys and queries are swapped: rows (axis 1) are queries.")
    expect(got == [2, 1], f"From query 3 the heads look at positions 2 and 1; you say {got}.")
    earlier = answer(attempt, pattern, 2, like=torch.zeros(2)).tolist()
    expect(earlier == [2, 2], "Right for query 3 only; use the argument `query`.")


@exercise("1.3", "Rebuild the stream")
def rebuild(attempt, model, cache) -> None:
    """The sum must be the cached stream after every block."""
    for layer in range(model.cfg.n_layers):
        wanted = cache["resid_post", layer]
        got = answer(attempt, cache, layer, like=wanted)
        if _close(got, wanted):
            continue
        expect(
            not _close(got, wanted - cache["hook_pos_embed"]),
            "The position embedding is missing: the stream starts as token plus position.",
        )
        expect(
            not _close(got, cache["resid_pre", layer]),
            f"This is the stream *entering* block {layer}: `range(layer)` stops one too early.",
        )
        half = wanted - cache["mlp_out", layer]
        expect(not _close(got, half), f"The MLP of block {layer} is missing.")
        miss = (got - wanted).abs().max().item()
        expect(False, f"After block {layer} your sum misses the stream by up to {miss:.2g}.")


@exercise("1.4", "Silence a head at one position")
def silence_last(attempt, model, tokens) -> None:
    """Second route: the same head, silenced by setting its output weights to zero."""
    layer, head = 1, model.cfg.n_heads - 1
    untouched = model(tokens)
    got = answer(attempt, model, tokens, layer, head, like=untouched)
    expect(
        not torch.allclose(got, untouched, atol=1e-5),
        "Nothing has changed: does the hook return the edited tensor, and is its name right?",
    )
    expect(
        torch.allclose(got[:, :-1], untouched[:, :-1], atol=1e-4),
        "Predictions before the last position have changed: `z[:, :, head]` is every position; "
        "write to the last one only.",
    )

    wanted = _silenced(model, tokens, layer, [head])
    every = _silenced(model, tokens, layer, range(model.cfg.n_heads))
    expect(
        not torch.allclose(got[:, -1], every[:, -1], atol=1e-4),
        "All heads of the layer are silent: axis 2 of z chooses the head.",
    )
    expect(
        torch.allclose(got[:, -1], wanted[:, -1], rtol=1e-3, atol=1e-3),
        f"The last prediction is not the one without head {layer}.{head}; is it another head, "
        "another layer, or a value other than 0?",
    )


def _silenced(model, tokens, layer: int, heads) -> torch.Tensor:
    """Logits with these heads' share taken off the attention's output at the last position."""
    _, cache = model.run_with_cache(tokens)
    z, out = cache["z", layer][:, -1], model.blocks[layer].attn.W_O
    share = torch.stack([z[:, h] @ out[h] for h in heads]).sum(0)  # (batch, d_model)

    def less(attn_out, hook):
        attn_out = attn_out.clone()
        attn_out[:, -1] -= share
        return attn_out

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.hook_attn_out", less)])


@exercise("1.5", "Find the head that looks one back")
def previous_token_head(attempt, model) -> None:
    """The found head's score is the largest, or all but."""
    found = answer(attempt, model)
    expect(
        isinstance(found, tuple) and len(found) == 2 and all(isinstance(i, int) for i in found),
        "Return (layer, head), two ints; `divmod(index, n_heads)` and `.item()` help.",
    )
    layer, head = found
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    expect(
        0 <= layer < layers and 0 <= head < heads,
        f"There is no head {layer}.{head}: layers run to {layers - 1}, heads to {heads - 1}. Have "
        "you swapped the two?",
    )
    tokens = repeated_tokens(model, 20, 8, seed=1)
    _, cache = model.run_with_cache(tokens)
    scores = torch.stack([previous_token_scores(cache["pattern", i]) for i in range(layers)])
    to_self = torch.stack(
        [
            cache["pattern", i].diagonal(dim1=-2, dim2=-1)[..., 1:].mean((0, 2))
            for i in range(layers)
        ]
    )
    to_bos = torch.stack([cache["pattern", i][:, :, 2:, 0].mean((0, 2)) for i in range(layers)])
    if scores[layer, head] < 0.9 * scores.max():
        diagonal = divmod(to_self.argmax().item(), heads)
        sink = divmod(to_bos.argmax().item(), heads)
        expect(
            found != diagonal, "This head looks at the token itself: use the diagonal one below."
        )
        expect(found != sink, "This head rests on BOS; the first key is always position 0. Offset!")
        expect(
            False,
            f"Head {layer}.{head} gives the previous token {scores[layer, head]:.2f} of its "
            f"attention on random tokens; another gives it {scores.max():.2f}.",
        )


def _close(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    return torch.allclose(got, wanted, rtol=1e-4, atol=1e-3)
