"""Checks of notebook 1's exercises."""

import torch
from jaxtyping import Float
from torch import Tensor

from exercises.grading import (
    Wrong,
    answer,
    compare,
    exercise,
    expect,
    firm,
    on_model,
    place,
    second_model,
    some_layers,
    step,
    value,
)
from helpers.architecture import attention_bias, query_key_value
from helpers.induction import previous_token_scores, repeated_tokens


@exercise("1.1", "Norms without position 0")
def mean_norm(attempt) -> None:
    """Streams whose lengths are known, position 0 the longest by far."""
    lengths = torch.tensor([[900.0, 3.0, 5.0, 4.0], [700.0, 2.0, 2.0, 5.0]])
    resid = lengths[..., None] * torch.tensor([0.6, 0.0, 0.8])
    resid = resid * torch.tensor([1.0, 1.0, -1.0, 1.0])[:, None]  # not all in one direction
    rest = resid[:, 1:]
    mistakes = {
        "Position 0 is counted: start at position 1.": lengths.mean(1),
        "Position 0 is left out of the sum but still counted in the mean.": [3.0, 2.25],
        "The last position is left out, not position 0.": lengths[:, :-1].mean(1),
        "This is one norm over all; take that of each position, then the mean.": rest.norm(
            dim=(1, 2)
        ),
        "This is the sum over the positions, not their mean.": [12.0, 9.0],
        "A length is the root of summed squares, not a sum of entries.": rest.abs().sum(-1).mean(1),
        "This is the squared length; take the root.": rest.square().sum(-1).mean(1),
        "This is the mean vector's length; take that of each vector, then the mean.": (
            rest.mean(1).norm(dim=-1)
        ),
    }
    compare(answer(attempt, resid), [4.0, 3.0], mistakes)
    compare(answer(attempt, resid[1:, :3]), [2.0])  # another batch and length
    longest = {"Leave out position 0, not the longest: it need not be that.": [4.0, 3.0]}
    compare(answer(attempt, resid.flip(1)), lengths[:, :-1].mean(1), longest)


class Only(dict):
    """What may be read of a cache, by name or by (name, layer); the rest is not in it."""

    def __missing__(self, key):
        name, layer = key if isinstance(key, tuple) and len(key) == 2 else (key, None)
        if (full := f"blocks.{layer}.hook_{name}") in self:
            return self[full]
        raise Wrong(f"{key!r} is not to be read here, only 'attn_out' and 'mlp_out' of a layer.")


@exercise("1.2", "Rebuild the stream")
def rebuild(attempt, model) -> None:
    """The sum must be the stream after every block, on two models."""
    for each in (model, second_model(model)):
        _, cache = _run(each, "Italy", "France")
        layers, start = range(each.cfg.n_layers), cache["resid_pre", 0]
        both = {
            f"blocks.{i}.hook_{n}": cache[n, i] for i in layers for n in ("attn_out", "mlp_out")
        }
        for layer in layers:
            attention, mlp = (cache[name, layer] for name in ("attn_out", "mlp_out"))
            right = cache["resid_post", layer]
            mistakes = {
                (
                    "Block 0 is missing: `range(layer)` stops too early, `range(1, layer + 1)` "
                    "starts too late; and keep the sum, `stream = stream + ...`."
                    if layer == 0
                    else "Only block 0 is added: does `return` stand within the loop?"
                ): cache["resid_post", 0] if layer else start,
                f"The MLP of block {layer} is missing.": right - mlp,
                f"The attention of block {layer} is missing.": right - attention,
                "What the blocks add is there, but not what they add to: `start`.": right - start,
                "Only one block is added; all up to here wrote.": start + attention + mlp,
                "Only the MLPs are added; attention writes too.": (
                    start + sum(cache["mlp_out", i] for i in range(layer + 1))
                ),
                "Only attention is added; the MLPs write too.": (
                    start + sum(cache["attn_out", i] for i in range(layer + 1))
                ),
                "All blocks are added; stop after block `layer`.": cache["resid_post", layers[-1]],
            }
            with on_model(each is model):
                compare(answer(attempt, start, Only(both), layer), right, mistakes, 1e-3)


@exercise("1.3", "Ablate a head at one position")
def ablate_last(attempt, model) -> None:
    """Second route: the head's share is taken off what attention adds, at the last position."""
    for each, text in ((model, "The capital of"), (second_model(model), "The capital city of")):
        texts = [f"{text} {country} is" for country in ("Italy", "France")]
        tokens = torch.cat([each.to_tokens(text, prepend_bos=True) for text in texts])
        run = each.run_with_cache(tokens)
        heads = each.cfg.n_heads - 1, 0, each.cfg.n_heads // 2
        for layer, head in zip(some_layers(each), heads, strict=False):
            with on_model(each is model):
                _expect_ablated(attempt, each, tokens, run, layer, head)


def _expect_ablated(attempt, model, tokens, run, layer: int, head: int) -> None:
    n_layers, n_heads, plain = model.cfg.n_layers, model.cfg.n_heads, run[0]
    change = answer(attempt, model, tokens, layer, head, like=plain) - plain
    large = plain.abs().max()

    def without(layer=layer, heads=(head,), part=1.0) -> Float[Tensor, "batch d_vocab"]:
        return _without(model, tokens, run, layer, heads, part)

    def mistakes() -> dict[str, Tensor]:
        right = without()
        return {
            "All heads of the layer are ablated: axis 2 of z chooses the head.": (
                without(heads=range(n_heads))
            ),
            f"This is another head than {layer}.{head}.": without(heads=[(head + 1) % n_heads]),
            f"This is another layer than {layer}.": without(n_layers - 1 - layer),
            "The head is halved, not removed.": without(part=0.5),
            "One prompt of the batch only; there are two.": torch.stack([right[0], 0 * right[1]]),
            "One prompt of the batch only; there are two. ": torch.stack([0 * right[0], right[1]]),
        }

    expect(
        bool(change.abs().max() > 1e-6 * large),
        "Nothing has changed: does the hook return the edited tensor, and is its name right?",
    )
    expect(
        bool(change[:, :-1].abs().max() < 1e-4 * large),
        "Predictions before the last position have changed: write to `z[:, -1, head]` "
        "and return logits, not their change.",
    )
    compare(change[:, -1], without(), mistakes, tolerance=1e-2)


@exercise("1.4", "Find the head that attends one back")
def previous_token_head(attempt, model) -> None:
    """On the model itself its score is the largest or nearly; then two models are given another."""
    found = place(answer(attempt, model), model)
    patterns = _patterns(model)
    scores = torch.stack([previous_token_scores(pattern) for pattern in patterns])
    to_self = torch.stack([p.diagonal(0, -2, -1)[..., 1:].mean((0, -1)) for p in patterns])
    if scores[found] < scores.max() - 0.05:
        hint = "" if to_self[found] < 0.5 else " It attends to the token itself."
        if found == (0, 0):
            hint += " Or do all score 0, as above the diagonal? Then `argmax` gives 0.0."
        raise Wrong(
            f"Head {found[0]}.{found[1]} gives the previous token {scores[found]:.2f} of its "
            f"attention on random tokens; another gives it {scores.max():.2f}.{hint}"
        )
    for each in (model, second_model(model)):
        heads = each.cfg.n_heads - 1, 1 % each.cfg.n_heads, 0
        for head in zip(some_layers(each), heads, strict=False):
            with on_model(first=False), firm(each, _one_back(each.cfg.n_layers, *head)):
                got = place(answer(attempt, each), each)
                expect(
                    got == head,
                    f"where {head[0]}.{head[1]} of {each.cfg.n_layers} layers with "
                    f"{each.cfg.n_heads} heads is made to attend one back, and others to position "
                    "0, evenly, or one back in a part of the text only, you say "
                    f"{got[0]}.{got[1]}: search all heads, over all queries.",
                )


@exercise("1.5", "Which neurons write position 0?")
def neuron_writers(neuron_shares, norm_without, model) -> None:
    """Shares against a second route, on two models; then what is left without the found ones."""
    models = (model, second_model(model))
    for each in models:
        _, cache = _run(each)
        for layer in some_layers(each):
            post, W_out = cache["post", layer][0], each.W_out[layer]
            total = post[0] @ W_out  # what the neurons write together, the bias left out
            right, length = _shares(post[0], W_out), (post[0][:, None] * W_out).norm(dim=-1)
            out = cache["mlp_out", layer][0, 0]
            mistakes = {
                "these are dot products; divide by the squared length of the sum.": (
                    right * total.square().sum()
                ),
                "these are lengths in the direction of the sum; divide by its length once more.": (
                    right * total.norm()
                ),
                "these are lengths, which have no sign and do not add up; use the dot product with "
                "the sum.": length / length.sum(),
                "these are the lengths of what each writes; a share says how far it goes the way "
                "of the sum.": length,
                "a share has a sign: some neurons write against the sum.": right.abs(),
                "these are cosines; a share grows with what the neuron writes.": (
                    right * total.norm() / length
                ),
                "this is the last position; wanted is position 0.": _shares(post[-1], W_out),
                "this is what they say, `post`; multiply with W_out.": post[0],
                "`pre` is what a neuron hears; `post` is what it says.": (
                    _shares(cache["pre", layer][0, 0], W_out)
                ),
                "the MLP's bias is in the whole; it belongs to no neuron. Sum what the neurons "
                "write.": post[0] * (W_out @ out) / out.square().sum(),
                "this is layer 0; use the argument `layer`.": (
                    _shares(cache["post", 0][0, 0], each.W_out[0])
                ),
            }
            with step(1, each is model):
                compare(answer(neuron_shares, each, cache, layer), right, mistakes, 1e-2)
    for each in models:
        run = _run(each)
        for layer in some_layers(each):
            for count in (2, each.cfg.d_mlp // 2):
                with step(2, each is model):
                    _expect_without_neurons(norm_without, each, *run, layer, count)


def _expect_without_neurons(norm_without, model, tokens, cache, layer: int, count: int) -> None:
    post, stream = cache["post", layer][0], cache["resid_post", layer][0]
    writes = post[0][:, None] * model.W_out[layer]  # (neuron, d_model)
    order = (writes @ writes.sum(0)).argsort(descending=True)
    gone = writes[order[:count]].sum(0)
    seen = []  # what later positions are while the learner's code runs
    watch = (f"blocks.{layer}.hook_resid_post", lambda x, hook: seen.append(x[0, 1:].clone()))
    with firm(model, [watch]):
        got = answer(norm_without, model, tokens, layer, count)
    alone = all(torch.allclose(rest, stream[1:], atol=1e-3) for rest in seen if len(rest) > 2)
    nothing = "nothing was removed; does the hook return the edited tensor?"
    if not alone:
        nothing = "position 0 is as it was; your run removes them at another position."
    mistakes = {
        nothing: stream[0].norm(),
        "this is the last position; wanted is position 0.": stream[-1].norm(),
        "these neurons alone are left; wanted is all but them.": (
            stream[0] - writes.sum(0) + gone
        ).norm(),
        "these are the neurons of smallest share.": (
            stream[0] - writes[order[-count:]].sum(0)
        ).norm(),
        "this is one neuron too few.": (stream[0] - writes[order[: count - 1]].sum(0)).norm(),
        "this is the MLP's output; wanted is the stream after the block.": (
            cache["mlp_out", layer][0, 0] - gone
        ).norm(),
        "this is the norm over all positions; wanted is position 0.": (
            torch.cat([stream[:1] - gone, stream[1:]]).norm()
        ),
    }
    compare(got, (stream[0] - gone).norm(), mistakes)
    expect(bool(seen), "your run was not seen: do you take off hooks that are not yours?")
    expect(alone, "position 0 is right, but the neurons are removed at other positions, too.")


@exercise("1.6", "Weigh attention by what it moves")
def weigh(messages, position_0, model) -> None:
    """Messages against a second route, and summed against what attention adds, on two models."""
    models = (model, second_model(model))
    for each in models:
        _, cache = _run(each)
        for layer in some_layers(each):
            right, even = _messages(each, cache, layer), torch.ones(1, 1, 1)
            mistakes = {
                "the pattern is not in it: a key's value counts as much as it is attended to.": (
                    _messages(each, cache, layer, even).expand_as(right)
                ),
                "keys and queries are swapped: axis 1 is the query.": right.transpose(1, 2),
                "this is layer 0; use the argument `layer`.": _messages(each, cache, 0),
            }
            with step(1, each is model):
                got = value(answer(messages, each, cache, layer), like=right)
                whole = got.sum((0, 2)) + attention_bias(each)[layer].to(got)
                compare(got, right, mistakes, 1e-2)
                compare(whole, cache["attn_out", layer][0], tolerance=1e-2)
    for each in models:
        tokens, cache = _run(each)
        layers = range(each.cfg.n_layers)
        attention = torch.stack([cache["pattern", i][0] for i in layers])
        lengths = torch.stack([_messages(each, cache, i).norm(dim=-1) for i in layers])
        every = torch.stack([attention, lengths / lengths.sum(-1, keepdim=True)])[..., 0]
        right = every[..., 2:].mean(-1)  # (2, layer, head)
        both = torch.stack([attention, lengths])[..., 2:, :]
        whole = both.sum(-2)
        by_head = both[1] / both[1].sum((-1, -2), keepdim=True)
        mistakes = {
            "queries 0 and 1 are in the mean; they have hardly a choice.": every.mean(-1),
            "query 1 is in the mean; start at query 2.": every[..., 1:].mean(-1),
            "the two are in the other order: attention first.": right.flip(0),
            "both rows are by length; the first is the attention's.": right[[1, 1]],
            "this is the sum over the queries; take their mean.": every[..., 2:].sum(-1),
            "lengths are not shares yet: divide by their sum over a query's keys.": (
                both[..., 0].mean(-1)
            ),
            "this is the share of the mean over queries; take the share of each query first.": (
                whole[..., 0] / whole.sum(-1)
            ),
            "this is the last query alone; take the mean from query 2 on.": every[..., -1],
            "these are shares of all that a head moves; each query's shares add up to 1.": (
                torch.stack([right[0], by_head[..., 0].sum(-1)])
            ),
        }
        with step(2, each is model):
            compare(answer(position_0, each, tokens), right, mistakes, 1e-2)


# Second routes, and heads made to attend one back


def _run(model, *countries: str) -> tuple[Tensor, object]:
    texts = [f"The capital of {country} is" for country in countries or ("Italy",)]
    tokens = torch.cat([model.to_tokens(text, prepend_bos=True) for text in texts])
    return tokens, model.run_with_cache(tokens)[1]


def _without(model, tokens, run, layer: int, heads, part: float) -> Float[Tensor, "batch d_vocab"]:
    """How the last logits change when a part of what these heads write there is taken off."""
    logits, cache = run
    z, out = cache["z", layer][:, -1], model.W_O[layer]
    share = part * torch.stack([z[:, h] @ out[h] for h in heads]).sum(0)  # (batch, d_model)

    def less(attn_out, hook):
        attn_out = attn_out.clone()
        attn_out[:, -1] -= share
        return attn_out

    hooks = [(f"blocks.{layer}.hook_attn_out", less)]
    return (model.run_with_hooks(tokens, fwd_hooks=hooks) - logits)[:, -1]


def _shares(post: Float[Tensor, "neuron"], W_out: Tensor) -> Float[Tensor, "neuron"]:
    """Each neuron's share of the sum of what all write: dot product over squared length."""
    total = post @ W_out
    return post * (W_out @ total) / total.square().sum()


def _messages(model, cache, layer: int, pattern=None) -> Float[Tensor, "head query key d_model"]:
    """What each head moves from key to query, for the first prompt."""
    v = query_key_value(model, layer, cache["resid_pre", layer])[2][0]  # (head, key, d_head)
    written = torch.einsum("hkd, hdm -> hkm", v, model.W_O[layer])
    pattern = cache["pattern", layer][0] if pattern is None else pattern.to(v)
    return pattern[..., None] * written[:, None]


def _patterns(model) -> list[Float[Tensor, "batch head query key"]]:
    """On random tokens, where no head attends one back for the sake of the words."""
    _, cache = model.run_with_cache(
        repeated_tokens(model, 20, 8, seed=1), names_filter=lambda name: "pattern" in name
    )
    return [cache["pattern", layer] for layer in range(model.cfg.n_layers)]


def _one_back(n_layers: int, layer: int, head: int) -> list:
    """Hooks under which the head at (layer, head) attends one back, a fifth to position 0; others
    evenly or, of even number, to position 0, which is one back for query 1 only. Decoys in
    layer 0 attend one back only in a part of the text: late, in the middle, early."""

    def replace(pattern, hook):
        n = pattern.shape[-1]
        edited = torch.ones_like(pattern).tril()
        edited[:, ::2, :, 1:] = 0
        one_back = torch.eye(n).roll(-1, 1).to(edited)  # (query, key)
        one_back[0] = one_back[1]
        if hook.layer() == 0:
            some, n_heads = 2 * n // 5, pattern.shape[1]
            parts = slice(n - some, n), slice(n // 4, n // 4 + some), slice(some)
            for decoy, queries in zip((0, -3, -2), parts, strict=True):
                edited[:, decoy % n_heads, queries] = one_back[queries]
        edited /= edited.sum(-1, keepdim=True)
        if hook.layer() == layer:
            edited[:, head] = 0.8 * one_back
            edited[:, head, :, 0] += 0.2
        return edited if hook.name.endswith("pattern") else edited.log()  # scores, before softmax

    sites = [
        f"blocks.{i}.attn.hook_{s}" for i in range(n_layers) for s in ("attn_scores", "pattern")
    ]
    return [(site, replace) for site in sites]
