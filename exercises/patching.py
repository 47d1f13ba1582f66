"""Checks of notebook 2's exercises."""

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from exercises import toy
from exercises.grading import (
    Wrong,
    answer,
    compare,
    exercise,
    expect,
    on_model,
    place,
    second_model,
    some_layers,
    step,
)
from helpers import patching
from helpers.architecture import query_key_value
from helpers.metrics import normalise
from helpers.prompts import CAPITAL_PAIRS, PairTokens, aligned


@exercise("2.1", "Put a result on the scale")
def on_scale(attempt) -> None:
    """Known shares of the way from one baseline to the other, beyond both ends too."""
    shares = torch.tensor([[0.0, 1.0, 0.5], [-0.25, 1.25, 0.75]])
    for clean, corrupted in ((6.0, -2.0), (-6.0, 2.0), (5.0, 1.0)):
        way = clean - corrupted
        values = corrupted + shares * way
        by_clean, by_sum = shares * way / clean, shares * way / (clean + corrupted)
        subtract = f"The corrupted value {corrupted:g} must give 0: subtract it before you divide."
        mistakes = {
            "Clean and corrupted are swapped: corrupted must give 0, clean 1.": 1 - shares,
            subtract: values / clean,
            f"{subtract} ": values / way,
            "Divide by the way from corrupted to clean, not by the clean value.": by_clean,
            "Divide by clean minus corrupted, not by their sum.": by_sum,
            "Do not cut at 0 or 1: a patch can overshoot.": shares.clamp(0, 1),
            "The sign is lost: a result below the corrupted value is below 0.": shares.abs(),
            "The sign is wrong: from corrupted to clean is upwards, also where clean is the "
            "smaller number; use no absolute value.": -shares,
        }
        compare(answer(attempt, values, clean, corrupted, like=shares), shares, mistakes)


@exercise("2.2", "Patch one cell")
def patch_cell(attempt, model) -> None:
    """Second routes, on two models: entering layer 0, a patch is another token; deeper, a hook
    written here."""
    for net in (model, second_model(model)):
        with on_model(net is model):
            _expect_patched(attempt, net)


def _expect_patched(attempt, model) -> None:
    t, position = _random_pair(model), 4
    _, cache = model.run_with_cache(t.clean)

    def mixed(*where) -> Tensor:
        tokens = t.corrupted.clone()
        tokens[:, list(where)] = t.clean[:, list(where)]
        return model(tokens)

    length = t.clean.shape[1]
    others = [at for at in range(1, length) if at != position]

    def mistakes() -> dict[str, Tensor]:
        known = {
            "Nothing has changed. Does your hook return the patched tensor, are the values from "
            "`cache`, and is it `prompt` that you run?": model(t.corrupted),
            "This is the clean run: you patched all positions, or ran the clean prompt. Only one "
            "position may change.": model(t.clean),
            "The wrong way round: all positions are clean but this one. Patch into `prompt`.": (
                mixed(*others)
            ),
            "All positions before this one are patched; only one may change.": mixed(
                *range(position)
            ),
            "All positions from this one on are patched; only one may change.": (
                mixed(*range(position, length))
            ),
        }
        for at in others:
            known[f"Position {position} was asked for, and you patched position {at}."] = mixed(at)
        also = {
            "hook_resid_post": " or, which is the same, `hook_resid_pre` one block later",
            "hook_attn_out": "",
            "hook_mlp_out": " or `hook_resid_mid`",
        }
        for site, or_else in also.items():
            if (name := f"blocks.0.{site}") in cache:
                told = f"This patches `{site}`{or_else}; what enters the block is `hook_resid_pre`."
                known[told] = _patched(model, t.corrupted, name, cache[name], position)
        return known

    compare(answer(attempt, model, t.corrupted, cache, 0, position), mixed(position), mistakes)
    for layer, at in product(some_layers(model)[1:], (length - 1, position)):
        name = f"blocks.{layer}.hook_resid_pre"
        got = answer(attempt, model, t.corrupted, cache, layer, at)
        try:
            compare(got, _patched(model, t.corrupted, name, cache[name], at), tolerance=1e-3)
        except Wrong as wrong:
            raise Wrong(
                f"Right entering layer 0. Entering layer {layer} at position {at} it is not: do "
                "you use the arguments `layer`, in the hook's name and for the cache, and "
                f"`position`? ({wrong})"
            ) from None


@exercise("2.3", "Tell an OR from an AND")
def gate_kind(attempt) -> None:
    """Transformers whose gate is known, some near the threshold, and places that have no gate."""
    fact, none = (toy.gate_prompt(each) for each in (toy.FACTS[1], toy.NO_FACT))
    token = torch.tensor([toy.FACTS[1]]), torch.tensor([toy.FACTS[0]])
    difference = PairTokens(fact, none, *token).logit_diff

    def metric(logits):
        return difference(logits) + 7  # so that the corrupted run is not 0

    places, half = [toy.SUBJECT_AT, toy.RELAY_AT], [toy.SUBJECT_AT, 0]
    cases = [(1.0, 1.0, 1, places), (0.0, 0.0, 1, places)]  # and where there is no gate:
    cases += [(1.0, 1.0, 0, places), (0.0, 0.0, 1, half), (1.0, 1.0, 1, half)]
    cases += [
        (0.0, 0.0, 1, half[::-1]),
        (1.0, 1.0, 1, half[::-1]),
        (0.6, 0.6, 1, places),
        (0.4, 0.4, 1, places),
    ]
    for one, two, layer, where in [*cases, (0.9, 0.4, 1, places), (0.1, 0.6, 1, places)]:
        right = "or" if min(one, two) > 0.5 else "and" if max(one, two) < 0.5 else "neither"
        right = "neither" if 0 in (layer, *where) else right
        got = answer(attempt, toy.gate(one, two), fact, none, metric, layer, where)
        expect(
            isinstance(got, str) and got in ("or", "and", "neither"),
            f'Give one of the words "or", "and", "neither", not {got!r}.',
        )
        expect(
            got == right or one == two,
            f'You say "{got}" of two places of which one alone restores {one:.0%}, the other '
            f'{two:.0%}: that is "neither". Ask of *each* whether it is above half, not the mean.',
        )
        expect(
            got == right or right != "neither",
            f'You say "{got}" of two places of which one holds nothing of the fact: that is '
            '"neither". Do you ask *both* places, in both directions, entering `layer`?',
        )
        built = f'You say "{got}" of a network that was built as "{right}"'
        expect(
            got == right or one in (0, 1),
            f"{built}: of the way from corrupted to clean each place alone restores {one:.0%}, "
            "and without it as much is left. More than *half* decides.",
        )
        expect(
            got == right,
            f"{built}. It takes both directions: denoising says what suffices, noising what is "
            "needed. The metric is in nats: put it on the scale.",
        )
    other = none.clone()
    other[0, toy.LAST] = toy.NO_FACT  # in this prompt the gate is an OR, in the clean one an AND
    got = answer(attempt, toy.gate(turns=True), fact, other, metric, 1, places)
    expect(
        got == "neither",
        f'You say "{got}" of two places of which each alone restores all, and each is needed: that '
        'is "neither". Each word asks for both directions.',
    )


@exercise("2.4", "Find the head that tells the two apart")
def telling_head(attempt, model) -> None:
    """All heads, noised at the last position: of a model whose circuit is known, of this one, and
    of a random one, on pairs where each way to a wrong head leads to one."""
    circuit, words = [], torch.tensor([1, 2, 3, 4, 5, 6])
    for i in range(3):
        a, b, c, d = words.roll(i)[:4].tolist()
        prompts = ([[toy.BOS, a, x, c, a]] for x in (b, d))
        circuit.append(PairTokens(*(torch.tensor(each) for each in (*prompts, [b], [d]))))
    capitals = [t for _, t in aligned(CAPITAL_PAIRS, model)[:1]]  # a real model is slow
    other = toy.random_network(n_heads=4, seed=2)
    random = [_random_pair(other, seed=i) for i in (186, 178, 136, 117, 145)]
    for net, pairs, whose in (
        (toy.induction_network(), circuit, ", of a network whose circuit is known: ask `model`"),
        (model, capitals, ""),
        (other, random, ", of a random model"),
    ):
        found = place(answer(attempt, net, pairs), net)
        broken = 1 - _at_last(net, [(t, t.clean, t.corrupted) for t in pairs])
        yours = broken[found].item()
        if yours > broken.max() - 1e-3:
            continue
        restored = _at_last(net, [(t, t.corrupted, t.clean) for t in pairs])
        hints = []
        if yours < broken.min() + 1e-4:
            hints = ["Noising lowers the logit difference: look for the *smallest* one."]
        if restored[found] > restored.max() - 1e-3:
            hints = ["Yours *restores* most: run the clean prompt, copy from the corrupted cache."]
        if net is other:
            known = _wrong_heads(net, pairs)
            hints += [message for message, head in known.items() if found == head]
            hints = ["One of these:", *hints] if len(hints) > 1 else hints
        more = int((broken > yours).sum())
        raise Wrong(
            f"Noised at the last position, head {found[0]}.{found[1]} breaks {yours:.3f} of the "
            f"answer{whose} (pairs: {len(pairs)}); heads that break more: {more}. "
            f"{' '.join(hints)}"
        )


def _wrong_heads(net, pairs) -> dict[str, tuple[int, int]]:
    """The head that each known mistake names, by message."""
    left, scaled, signs, at_all = [], [], [], []  # [layer, head, position] of the first two
    for t in pairs:
        logits, cache = net.run_with_cache(t.corrupted)
        left.append(patching.patch_head_positions(net, t.clean, cache, t.logit_diff))
        ends = t.logit_diff(net(t.clean)).item(), t.logit_diff(logits).item()
        scaled.append(normalise(left[-1], *ends))
        everywhere = patching.patch_heads(net, t.clean, cache, t.logit_diff)
        at_all.append(normalise(everywhere, *ends))
        signs.append(1.0 if ends[0] > ends[1] else -1.0)
    left, scaled = torch.stack(left), torch.stack(scaled)
    signs = torch.tensor(signs).view(-1, 1, 1, 1)
    scores = {  # [layer, head]; the lowest is named
        "This is the first pair's; take the mean over all.": scaled[0, ..., -1],
        "This is the last pair's; take the mean over all.": scaled[-1, ..., -1],
        "This is the median of the pairs; take their mean.": scaled[..., -1].median(0).values,
        "This is what one pair alone breaks most; take the mean of all.": scaled[..., -1].amin(0),
        "Put each pair on its own scale before the mean.": left[..., -1].mean(0),
        "Do not cut at 1: a head can also strengthen the answer.": (
            scaled[..., -1].clamp(max=1).mean(0)
        ),
        "Do not cut at 0 and 1: a head can also strengthen the answer.": (
            scaled[..., -1].clamp(0, 1).mean(0)
        ),
        "Do not cut at 0: a head can do more than the other prompt.": (
            scaled[..., -1].clamp(min=0).mean(0)
        ),
        "From corrupted to clean is upwards, also where clean is the smaller number.": (
            (scaled * signs)[..., -1].mean(0)
        ),
        "This is over all positions; take the last one alone.": scaled.mean((0, -1)),
        "This is all positions at once (`patch_heads`); take the last one alone.": (
            torch.stack(at_all).mean(0)
        ),
        "These are the last two positions; take the last one.": scaled[..., -2:].mean((0, -1)),
        "This is each head's strongest position; take the last one.": scaled.amin(-1).mean(0),
    }
    return {text: divmod(int(each.argmin()), net.cfg.n_heads) for text, each in scores.items()}


@exercise("2.5", "Patch the path between two heads")
def path_patched(written, new_z, run, model) -> None:
    """Step by step, on this model and on a random one whose heads share keys and values."""
    edges = [edge for net in (model, second_model(model)) for edge in _edges(net)]
    for net, _, clean, other, (layer, head), _ in edges:
        z_clean, z_other, W_O = clean["z", layer], other["z", layer], net.W_O[layer]
        change = (z_clean - z_other)[:, :, head] @ W_O[head]
        mistakes = {
            "this is all that the sender writes in the clean run; subtract what it writes in the "
            "corrupted one.": z_clean[:, :, head] @ W_O[head],
            "the sign: clean minus corrupted.": -change,
            "this is what all heads of the layer write; take the sender's alone.": (
                torch.einsum("bphd,hdm->bpm", z_clean - z_other, W_O)
            ),
        }
        with step(1, net is model):
            compare(answer(written, net, clean, other, (layer, head)), change, mistakes)
    for net, _, clean, other, sender, (layer, head) in edges:
        change = _written(net, clean, other, sender)
        stream, pattern = other["resid_pre", layer], other["pattern", layer]
        q, k, v = query_key_value(net, layer, stream + change)
        scores = (q @ k.mT / net.cfg.d_head**0.5).masked_fill(pattern == 0, -torch.inf)
        right = (pattern @ v)[:, head]
        mistakes = {
            "this is the corrupted run's own z; add `change` to the stream that the receiver's "
            "layer reads.": other["z", layer][:, :, head],
            "here queries and keys see the change too; keep the corrupted run's pattern.": (
                scores.softmax(-1) @ v
            )[:, head],
            "the values must be made from the stream plus the change, not from the change alone.": (
                pattern @ query_key_value(net, layer, change)[2]
            )[:, head],
            "the change is subtracted; add it.": (
                pattern @ query_key_value(net, layer, stream - change)[2]
            )[:, head],
            "these are the values alone; weight them with the pattern.": v[:, head],
            "this is another head's; use the receiver's.": (pattern @ v)[:, 0],
        }
        with step(2, net is model):
            compare(answer(new_z, net, other, change, (layer, head)), right, mistakes)
    for net, t, clean, other, sender, (layer, head) in edges:
        site, sent = (f"blocks.{i}.attn.hook_z" for i in (layer, sender[0]))
        change = _written(net, clean, other, sender)
        _, _, v = query_key_value(net, layer, other["resid_pre", layer] + change)
        new = other[site].clone()
        new[:, :, head] = (other["pattern", layer] @ v)[:, head]

        def patched(name=site, source=new, positions=slice(None), head=head, net=net, t=t):
            return _patched(net, t.corrupted, name, source, positions, head)

        def mistakes(patched=patched, net=net, t=t, sent=sent, sender=sender, clean=clean):
            return {
                "nothing has changed. Does your hook return the new z?": net(t.corrupted),
                "this patches the sender's output itself, so that everything behind it sees the "
                "change; only the receiver may.": patched(sent, clean[sent], head=sender[1]),
                "the last position alone is patched; give the receiver its new z at all.": (
                    patched(positions=-1)
                ),
                "run the corrupted prompt, not the clean one.": net(t.clean),
            }

        with step(3, net is model):
            got = answer(run, net, t.corrupted, clean, other, sender, (layer, head))
            compare(got, patched(), mistakes, 1e-3)


@exercise("2.6", "Integrated gradients of a whole layer")
def integrated(gradients, attempt, model) -> None:
    """Step by step, on this model and on a random one; few steps, so that rules differ."""
    for net in (model, second_model(model)):
        t = _random_pair(net, 4)
        (_, clean), (_, other) = (net.run_with_cache(each) for each in (t.clean, t.corrupted))
        middle, last, metric = net.cfg.n_layers // 2, net.cfg.n_layers - 1, t.logit_diff
        for layer in (middle, last):
            start, goal = (cache["resid_pre", layer][0] for cache in (other, clean))
            points = torch.stack([start + share * (goal - start) for share in (0.2, 0.7)])
            right = _slopes(net, t.corrupted, metric, layer, points)
            at_start = _slopes(net, t.corrupted, metric, layer, start.expand_as(points))
            mistakes = {
                "these are the gradients of the corrupted run itself; the hook must put `points` "
                "into the run.": at_start,
                "this is the mean over points; give each point its own.": (
                    right.mean(0, keepdim=True).expand_as(right)
                ),
                "halved: sum the metric over rows, do not average.": right / 2,
            }
            with step(1, net is model):
                got = answer(gradients, net, t.corrupted, metric, layer, points)
                compare(got, right, mistakes, 1e-3)
        for layer, steps in ((middle, 2),) if net is model else ((middle, 3), (last, 1)):
            with step(2, net is model):
                got = answer(attempt, net, t.corrupted, clean, metric, layer, steps)
                _judge_integral(got, net, t, clean, layer, steps)


def _judge_integral(got, net, t, clean, layer: int, steps: int) -> None:
    _, other = net.run_with_cache(t.corrupted)
    start, goal = (cache["resid_pre", layer][0] for cache in (other, clean))

    def rule(shares, together: bool = False) -> Float[Tensor, "pos"]:
        """The mean over shares of gradient times way, for every position."""
        estimates = []
        for position, way in enumerate(goal - start):
            where = slice(None) if together else position
            points = start.repeat(len(shares), 1, 1)
            points[:, where] += torch.stack([s * (goal - start)[where] for s in shares])
            slopes = _slopes(net, t.corrupted, t.logit_diff, layer, points)[:, position]
            estimates.append((slopes @ way).mean())
        return torch.stack(estimates)

    share = (torch.arange(steps, device=goal.device) + 0.5) / steps
    right = rule(share)

    def mistakes() -> dict[str, Tensor]:
        exact = patching.patch_residual(net, t.corrupted, clean, t.logit_diff)[layer]
        return {
            "this is a patch, not an estimate: use gradients only.": (
                exact - t.logit_diff(net(t.corrupted))
            ),
            "these are the left ends of the steps; take their middles.": rule(share - 0.5 / steps),
            "these are the right ends of the steps; take their middles.": rule(share + 0.5 / steps),
            "this is the sum of the slopes; the mean is wanted.": right * steps,
            "the sign: from corrupted to clean.": -right,
            "this has no sign: multiply the mean slope with the way by a dot product.": right.abs(),
            "this is the slope at the start alone, which is attribution patching.": (
                rule(share[:1] * 0)
            ),
            "all positions move together; leave the others corrupted.": rule(share, together=True),
        }

    compare(got, right, mistakes, tolerance=1e-3)


# Second routes


def _slopes(net, tokens, metric, layer: int, points: Tensor) -> Float[Tensor, "point pos d_model"]:
    """The metric's gradient at each point entering a layer."""
    points = points.detach().clone().requires_grad_()
    hooks = [(f"blocks.{layer}.hook_resid_pre", lambda stream, hook: points)]
    with torch.enable_grad():
        logits = net.run_with_hooks(tokens.expand(len(points), -1), fwd_hooks=hooks)
        return torch.autograd.grad(metric(logits).sum(), points)[0]


def _patched(net, tokens, name: str, source: Tensor, *where) -> Float[Tensor, "1 pos d_vocab"]:
    """Logits of a run where one entry of an activation is that of `source`."""

    def patch(activation, hook):
        activation = activation.clone()
        activation[:, *where] = source[:, *where]
        return activation

    return net.run_with_hooks(tokens, fwd_hooks=[(name, patch)])


def _random_pair(net, words: int = 7, seed: int = 3) -> PairTokens:
    """BOS and random words, so that the two prompts differ at every position but the first."""
    bos = net.tokenizer.bos_token_id if net.tokenizer else toy.BOS
    ids = torch.randperm(net.cfg.d_vocab - 1, generator=torch.Generator().manual_seed(seed))
    ids = (ids + (ids >= bos))[: 2 * words].view(2, 1, words).to(net.cfg.device)
    clean, other = torch.cat([torch.full_like(ids[:, :, :1], bos), ids], -1)
    return PairTokens(clean, other, clean[:, -1], other[:, -1])


def _edges(net) -> list[tuple]:
    """The net, a pair, its two caches, and two heads, of which the second is to receive from the
    first: of the last two layers, and of the first two."""
    t, c = _random_pair(net), net.cfg
    (_, clean), (_, other) = (net.run_with_cache(each) for each in (t.clean, t.corrupted))
    last, most = c.n_layers - 1, c.n_heads - 1
    ends = [((last - 1, most), (last, most)), ((0, 1 % c.n_heads), (1, most - 1))]
    return [(net, t, clean, other, *each) for each in ends]


def _written(net, clean, other, sender) -> Float[Tensor, "1 pos d_model"]:
    layer, head = sender
    return (clean["z", layer] - other["z", layer])[:, :, head] @ net.W_O[layer, head]


def _at_last(net, runs) -> Float[Tensor, "layer head"]:
    """Recovered, mean over runs (pair, prompt, source): each head's z at the last position."""
    c, site = net.cfg, "attn.hook_z"
    cells = [patching.Cell(i, site, (-1, h)) for i in range(c.n_layers) for h in range(c.n_heads)]
    shares = []
    for t, prompt, source in runs:
        _, cache = net.run_with_cache(source)
        ends = t.logit_diff(net(t.clean)).item(), t.logit_diff(net(t.corrupted)).item()
        shares.append(normalise(patching.sweep(net, prompt, cache, t.logit_diff, cells), *ends))
    return torch.stack(shares).mean(0).view(c.n_layers, c.n_heads)
