"""Checks of notebook 3's exercises."""

import torch
from torch.nn.functional import cosine_similarity, layer_norm

from exercises.grading import Wrong, answer, exercise, expect, value
from helpers.metrics import logit_diff


@exercise("3.1", "Two words, one direction")
def towards(attempt, model) -> None:
    """Second route: the model's own unembedding of random streams, less that of no stream."""
    for one, two in ((" Paris", " Rome"), (" Madrid", " Berlin")):
        columns = "W_U has one column a token, so `W_U[:, id]`: rows are dimensions of the stream."
        try:
            got = answer(attempt, model, one, two)
        except IndexError as error:
            raise Wrong(f"{error}. {columns}") from error
        expect(model.cfg.d_vocab not in getattr(got, "shape", ()), columns)
        streams = torch.randn(8, model.cfg.d_model, generator=torch.Generator().manual_seed(1))
        streams = streams - streams.mean(-1, keepdim=True)  # as the unembedding gets them
        got = value(got, like=streams[0])
        said = streams @ got
        zero = torch.zeros_like(streams)
        logits = (model.unembed(streams[None]) - model.unembed(zero[None]))[0]
        for_one, for_two = (logits[:, model.to_single_token(word)] for word in (one, two))
        if _close(said, for_one - for_two):
            continue
        expect(
            said.abs().max() > 1e-6,
            f"This direction is zero: {one!r} and {two!r} became the same token. `to_tokens` puts "
            "BOS in front of each; `to_single_token` does not.",
        )
        expect(
            not _close(said, for_two - for_one),
            f"Swapped: this points from {one!r} to {two!r}; answer minus contrast.",
        )
        expect(not _close(said, for_one), f"The contrast is missing: {two!r} must be subtracted.")
        expect(
            not _close(said, for_one + for_two),
            "This is the sum of the two columns; take the difference.",
        )
        expect(
            cosine_similarity(said, for_one - for_two, 0) < 0.99,
            "The direction is right, its length is not: without it the result is not in nats. Do "
            "not normalise.",
        )
        expect(
            False,
            f"A stream's product with your direction is not its logit of {one!r} minus its logit "
            f"of {two!r}. Are these the right two columns of W_U?",
        )


@exercise("3.2", "Nothing left over")
def split_all(attempt) -> None:
    """Planted parts: what each is worth follows from a LayerNorm that holds its scale."""
    generator = torch.Generator().manual_seed(3)
    written = torch.randn(4, 8, generator=generator) + torch.tensor([[2.0], [0.0], [-1.0], [0.0]])
    W_U, b_U = (torch.randn(*shape, generator=generator) for shape in ((8, 6), (6,)))
    one, two = 1, 4
    stream = written.sum(0)
    scale = (stream.var(unbiased=False) + 1e-5).sqrt()[None]  # (1), as in the cache
    along = W_U[:, one] - W_U[:, two]

    logits = layer_norm(stream, (8,)) @ W_U + b_U
    whole, bias = logits[one] - logits[two], b_U[one] - b_U[two]

    def with_bias(parts, last=bias):
        return torch.cat([parts, last[None]])

    centred = written - written.mean(-1, keepdim=True)
    parts = centred / scale @ along
    got = answer(attempt, written, scale, W_U, b_U, one, two)
    expect(
        tuple(getattr(got, "shape", ())) != (4,),
        "Four parts wrote, but five numbers are wanted: the last is what b_U adds.",
    )
    got = value(got, like=torch.zeros(5))
    own = centred / (written.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() @ along
    wrong = {
        "The scale is forgotten: every part is divided by it.": with_bias(centred @ along),
        "Not centred: subtract each part's mean over d_model before the dot product.": with_bias(
            written / scale @ along
        ),
        "Neither centred nor divided by the scale: this is the quick way of Round 1.": with_bias(
            written @ along
        ),
        "b_U is divided by the scale; it is added after the division.": with_bias(
            parts, bias / scale[0]
        ),
        "b_U counts as a difference too: the answer's minus the contrast's.": with_bias(
            parts, b_U[one]
        ),
        "The contrast is missing.": with_bias(centred / scale @ W_U[:, one], b_U[one]),
        "Swapped: answer minus contrast.": -with_bias(parts),
        "Each part has a scale of its own here; divide all by the one final `scale`.": with_bias(
            own
        ),
    }
    for reason, values in wrong.items():
        expect(not _close(got, values), reason)
    expect(
        _close(got.sum(), whole),
        f"Your parts sum to {got.sum():.3f}, the logit difference is {whole:.3f}.",
    )
    expect(
        _close(got, with_bias(parts)),
        "The sum is right, the parts are not: a part is worth what the difference loses when the "
        "part is taken out and the scale stays as it was; b_U comes last.",
    )


@exercise("3.3", "One head, many prompts")
def head_effect(attempt, model, tokens) -> None:
    """Second route: what attention writes with the head and without it."""
    _, cache = model.run_with_cache(tokens)
    along = _london_over_prague(model)
    final = cache["ln_final.hook_scale"][:, -1, 0]  # (batch)
    for layer, head in ((model.cfg.n_layers // 2, 0), (1, model.cfg.n_heads - 1)):
        place = f"Head {layer}.{head}: "
        written = _written(model, tokens, cache, layer, head, slice(None))  # (batch, pos, d_model)
        got = answer(attempt, model, cache, layer, head, along)
        shape = tuple(getattr(got, "shape", ()))
        expect(
            shape != (len(tokens), len(tokens)),
            f"You give {shape}: numbers [batch] divided by a scale [batch, 1] make a table. Divide "
            "the vectors, then take the dot product.",
        )
        expect(
            shape != tuple(tokens.shape),
            f"You give {shape}, a number for every position: only the last is read.",
        )
        got = value(got, like=final)
        wanted = _said(written[:, -1], final[:, None], along)
        if _close(got, wanted):
            continue
        first, second = (
            cache[f"blocks.{layer}.ln{i}.hook_scale"].reshape(*tokens.shape, -1)[:, -1, 0]
            for i in (1, 2)
        )
        expect(
            not _close(got, wanted * final),
            place + "the scale is forgotten: divide by `ln_final.hook_scale` at the last position.",
        )
        for own in (first, second):
            expect(
                not _close(got, wanted * final / own),
                place + "this is the scale of the layer's own LayerNorm; the unembedding reads "
                "every part through the final one.",
            )
        expect(
            not _close(got, wanted * final / final[0]),
            place + "all prompts are divided by the first one's scale; each has its own.",
        )
        expect(not _close(got, -wanted), place + "right but for its sign.")
        for spot, name in ((0, "at BOS"), (-2, "one before the last position")):
            at = written[:, spot]
            scales = (final, cache["ln_final.hook_scale"][:, spot, 0])
            here = any(_close(got, _said(at, s[:, None], along)) for s in scales)
            expect(not here, place + f"this is what it writes {name}; only the last is read.")
        every = sum(
            _written(model, tokens, cache, layer, h, slice(None)) for h in range(model.cfg.n_heads)
        )
        expect(
            not _close(got, _said(every[:, -1], final[:, None], along)),
            place + "all heads of the layer are in it: choose one, in `z` and in `W_O`.",
        )
        should, is_now = (", ".join(f"{x:.3f}" for x in t.tolist()) for t in (wanted, got))
        expect(
            False,
            place + f"it adds {should} nats, you say {is_now}. Is it this head's z times its own "
            "W_O?",
        )


@exercise("3.4", "Where did the head get it?")
def by_source(attempt, model, tokens) -> None:
    """Second route: what attention writes with and without the value at one position."""
    _, cache = model.run_with_cache(tokens)
    along = _london_over_prague(model)
    final = cache["ln_final.hook_scale"][:, -1]  # (batch, 1)
    for layer, head in ((model.cfg.n_layers // 2, 0), (1, model.cfg.n_heads - 1)):
        place = f"Head {layer}.{head}: "
        got = answer(attempt, model, cache, layer, head, along, like=torch.zeros(tokens.shape))
        sources = [
            _written(model, tokens, cache, layer, head, spot)[:, -1]
            for spot in range(tokens.shape[1])
        ]
        wanted = torch.stack([_said(s, final, along) for s in sources], dim=1)
        if _close(got, wanted):
            continue
        pattern, v = cache["pattern", layer][:, head], cache["v", layer][:, :, head]
        looks = pattern[:, -1]  # (batch, source)
        held = _said(v @ model.W_O[layer, head], final[..., None], along)  # (batch, source)
        expect(
            not _close(got, looks),
            place + "this is where it looks. What it moves from there is the value `v`, through "
            "`W_O`.",
        )
        expect(
            not _close(got, held),
            place + "every position counts in full: weigh the values with the attention.",
        )
        expect(
            not _close(got, held * pattern[:, :, -1]),
            place + "keys and queries are swapped; the row of the last query is "
            "`pattern[:, head, -1]`.",
        )
        expect(
            not _close(got, wanted.sum(1, keepdim=True) * looks),
            place + "its effect is shared out by attention alone; but two positions with the same "
            "attention can hold different values.",
        )
        expect(
            not _close(got, wanted * final),
            place + "the scale is forgotten: divide by `ln_final.hook_scale` at the last position.",
        )
        expect(
            not _close(got, wanted * final / cache["ln_final.hook_scale"][..., 0]),
            place + "you divide by the scale of each source; all of it is read at the last "
            "position, with that one's scale.",
        )
        miss = (got.sum(1) - wanted.sum(1)).abs().max().item()
        expect(
            _close(got.sum(1), wanted.sum(1)),
            place + f"your numbers miss the head's direct effect by {miss:.2g} nats; over all "
            "sources they must sum to it.",
        )
        expect(False, place + "the sum is right, but single positions are not.")


@exercise("3.5", "Find the head that attribution cannot see")
def unseen_head(attempt, model, tokens, right, contrast) -> None:
    """The found head's silence before the last position costs the most, or all but."""
    found = answer(attempt, model, tokens, right, contrast)
    expect(
        isinstance(found, tuple) and len(found) == 2 and all(type(i) is int for i in found),
        "Return (layer, head), two ints; `divmod(index, n_heads)` and `.item()` help.",
    )
    layer, head = found
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    expect(
        0 <= layer < layers and 0 <= head < heads,
        f"There is no head {layer}.{head}: layers run to {layers - 1}, heads to {heads - 1}. Have "
        "you swapped the two?",
    )
    lost = _lost(model, tokens, right, contrast, slice(0, -1))
    best, here = lost.max().item(), lost[layer, head].item()
    if best - here <= 0.1 * abs(best):
        return
    place = f"Head {layer}.{head} "
    expect(
        found != divmod(lost.argmin().item(), heads),
        place + "is the one whose silence *raises* the difference: a loss is before minus after.",
    )
    for positions in (slice(-1, None), slice(None)):
        elsewhere = _lost(model, tokens, right, contrast, positions)
        expect(
            found != divmod(elsewhere.argmax().item(), heads),
            place + "costs most when the last position is silent, alone or with the others. "
            "Attribution looks there; leave it as it was.",
        )
    expect(
        False,
        place + f"silent before the last position costs {here:.2f} nats, another {best:.2f}.",
    )


def _lost(model, tokens, right, contrast, positions) -> torch.Tensor:
    """Mean loss of the logit difference with each head silent at `positions`: (layer, head)."""
    rows, heads = len(tokens), model.cfg.n_heads
    base = logit_diff(model(tokens), right, contrast)
    of_head = torch.arange(heads).repeat_interleave(rows)  # (head * row)
    lost = []
    for layer in range(model.cfg.n_layers):

        def silence(z, hook):
            z = z.clone()
            for row, head in enumerate(of_head):
                z[row, positions, head] = 0.0
            return z

        changed = model.run_with_hooks(
            tokens.repeat(heads, 1), fwd_hooks=[(f"blocks.{layer}.attn.hook_z", silence)]
        )
        after = logit_diff(changed, right.repeat(heads), contrast.repeat(heads))
        lost.append((base - after.view(heads, rows)).mean(1))  # (head)
    return torch.stack(lost)


def _london_over_prague(model) -> torch.Tensor:
    return (
        model.W_U[:, model.to_single_token(" London")]
        - model.W_U[:, model.to_single_token(" Prague")]
    )


def _written(model, tokens, cache, layer: int, head: int, spots) -> torch.Tensor:
    """What attention writes less without this head's values at `spots`: [batch, pos, d_model]."""
    seen = {}

    def forget(v, hook):
        v = v.clone()
        v[:, spots, head] = 0.0
        return v

    def keep(out, hook):
        seen["out"] = out.clone()

    names = f"blocks.{layer}.attn.hook_v", f"blocks.{layer}.hook_attn_out"
    model.run_with_hooks(tokens, fwd_hooks=list(zip(names, (forget, keep), strict=True)))
    return cache["attn_out", layer] - seen["out"]


def _said(written, scale, along) -> torch.Tensor:
    """What is `written` [..., d_model], centred and divided, says along a direction [d_model]."""
    return (written - written.mean(-1, keepdim=True)) / scale @ along


def _close(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Equal within 0.2 % of the largest value: effects differ in size from model to model."""
    return torch.allclose(got, wanted, rtol=0, atol=0.002 * wanted.abs().max().item() + 1e-7)
