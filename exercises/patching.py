"""Checks of notebook 2's exercises."""

from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaConfig, LlamaForCausalLM

from exercises import toy
from exercises.grading import Unsolved, Wrong, answer, compare, exercise, expect, value
from helpers import patching
from helpers.architecture import query_key_value
from helpers.metrics import normalise
from helpers.prompts import CAPITAL_PAIRS, PairTokens, aligned


@exercise("2.1", "Put a result on the scale")
def on_scale(attempt) -> None:
    """Known shares of the way from one baseline to the other, beyond both ends too."""
    shares = torch.tensor([[0.0, 1.0, 0.5], [-0.25, 1.25, 0.75]])
    for clean, corrupted in ((6.0, -2.0), (-6.0, 2.0)):
        values = corrupted + shares * (clean - corrupted)
        subtract = f"The corrupted value {corrupted:g} must give 0: subtract it before you divide."
        mistakes = {
            "Clean and corrupted are swapped: corrupted must give 0, clean 1.": 1 - shares,
            subtract: values / clean,
            f"{subtract} ": values / (clean - corrupted),
            "You divide by the clean value; the scale is as long as from corrupted to clean.": (
                (values - corrupted) / clean
            ),
            "You cut at 0 or 1. A patch can overshoot, and that is part of the result.": (
                shares.clamp(0, 1)
            ),
            "The sign is wrong: from corrupted to clean is upwards, also where clean is the "
            "smaller number; use no absolute value.": -shares,
        }
        got = answer(attempt, values, clean, corrupted, like=shares)
        compare(got, shares, mistakes)


@exercise("2.2", "Patch one cell")
def patch_cell(attempt, model) -> None:
    """Second routes: entering layer 0, a patch is another token; deeper, the helper's map."""
    t = _random_pair(model)
    _, clean_cache = model.run_with_cache(t.clean)
    before, position = model(t.corrupted), 4

    def mixed(*where) -> Tensor:
        tokens = t.corrupted.clone()
        tokens[:, list(where)] = t.clean[:, list(where)]
        return model(tokens)

    def patched(layer, where):
        with _no_hook_left(model):
            return answer(attempt, model, t.corrupted, clean_cache, layer, where, like=before)

    length = t.clean.shape[1]
    strays = [place for place in range(1, length) if place != position]
    got = patched(0, position)
    mistakes = {
        "Nothing has changed. Does your hook return the patched tensor, are the values from "
        "`cache`, and is it `prompt` that you run?": before,
        "This is the clean run: you patched all positions, or ran the clean prompt. Only one "
        "position may change.": model(t.clean),
        "The wrong way round: all positions are clean but this one. Patch into `prompt`.": (
            mixed(*strays)
        ),
    }
    for place in strays:
        told = f"Position {position} was asked for, and you patched position {place}."
        mistakes[told] = mixed(place)
    for site in ("hook_resid_post", "hook_attn_out", "hook_mlp_out", "hook_resid_mid"):
        if (name := f"blocks.0.{site}") in clean_cache:
            told = f"This patches `{site}`; what enters the block is `hook_resid_pre`."
            mistakes[told] = _patched(model, t.corrupted, name, position, clean_cache[name])
    compare(got, mixed(position), mistakes)
    last = model.cfg.n_layers - 1
    for layer, where in ((last, -1), (last, position)):
        name = f"blocks.{layer}.hook_resid_pre"
        right = _patched(model, t.corrupted, name, where, clean_cache[name])
        told = (
            f"Right entering layer 0. Entering layer {layer} at position {where} it is not: do "
            "you use the arguments `layer`, in the hook's name and for the cache, and `position`?"
        )
        expect(_near(patched(layer, where), right), told)


@exercise("2.3", "Tell an OR from an AND")
def gate_kind(attempt) -> None:
    """Two transformers whose gate is known, and in each a layer where there is none."""
    fact, none = (toy.gate_prompt(each) for each in (toy.FACTS[1], toy.NO_FACT))
    token = torch.tensor([toy.FACTS[1]]), torch.tensor([toy.FACTS[0]])
    metric = PairTokens(fact, none, *token).logit_diff
    places = [toy.SUBJECT_AT, toy.RELAY_AT]
    directions = {
        "or": "denoising, which finds an OR, and noising, which shows that no place is needed",
        "and": "noising, which finds an AND, and denoising, which shows that no place suffices",
    }
    cases = [("or", 1, places), ("and", 1, places)]
    cases += [("or", 0, places), ("and", 1, [toy.SUBJECT_AT, 0])]
    for kind, layer, where in cases:
        network = toy.gate(kind)
        right = kind if layer and 0 not in where else "neither"
        got = answer(attempt, network, fact, none, metric, layer, where)
        expect(
            isinstance(got, str) and got in ("or", "and", "neither"),
            f'Give one of the words "or", "and", "neither", not {got!r}.',
        )
        expect(
            right != "neither" or got == right,
            f'You say "{got}" of two places of which one holds nothing of the fact: that is '
            '"neither". Do you ask *both* places, in both directions, entering `layer`?',
        )
        expect(
            got == right,
            f'You say "{got}" of a network that was built as "{right}". It takes both directions: '
            f"{directions.get(right)}. The metric here is in nats: put it on the scale.",
        )


@exercise("2.4", "Find the head that is needed")
def needed_head(attempt, model) -> None:
    """All heads, noised at the last position: of this model, and of one whose circuit is known."""
    network, words = toy.induction_network(), torch.tensor([1, 2, 3, 4, 5, 6])
    circuit = []
    for i in range(3):
        a, b, c, d = words.roll(i)[:4].tolist()
        clean, other = ([[toy.BOS, a, x, c, a]] for x in (b, d))
        ids = (torch.tensor(each) for each in (clean, other, [b], [d]))
        circuit.append(PairTokens(*ids))
    capitals = [t for _, t in aligned(CAPITAL_PAIRS[:3], model)]
    for net, pairs in ((network, circuit), (model, capitals)):
        with _no_hook_left(net):
            got = answer(attempt, net, pairs)
        expect(
            isinstance(got, tuple | list) and len(got) == 2,
            f"Give the pair (layer, head), not {got!r}; `divmod(index, n_heads)` makes one of an "
            "index.",
        )
        layer, head = (int(number) for number in got)
        n_layers, n_heads = net.cfg.n_layers, net.cfg.n_heads
        expect(
            0 <= layer < n_layers and 0 <= head < n_heads,
            f"There is no head {layer}.{head}: {n_layers} layers of {n_heads} heads, counted from "
            "0; use the model's own `cfg.n_heads`.",
        )
        broken = _broken(net, pairs)
        yours, most = broken[layer, head].item(), broken.max().item()
        if yours > most - 1e-3:
            continue
        told = f"Noised at the last position, head {layer}.{head} breaks {yours:.3f} of the answer"
        if net is network:
            told += " of a network of ours whose circuit is known (does your function use `model`?)"
        swapped = head < n_layers and layer < n_heads and broken[head, layer] > most - 1e-3
        expect(not swapped, f"{told}. Swapped: the layer comes first.")
        restored = _restored(net, pairs)
        expect(
            restored[layer, head] < restored.max() - 1e-3,
            f"{told}, less than another. Yours *restores* most: run the clean prompt, copy from "
            "the corrupted cache.",
        )
        expect(
            yours > broken.min() + 1e-4,
            f"{told}: the least of all. Noising lowers the logit difference, so the head that is "
            "needed most leaves the *smallest* one.",
        )
        more = int((broken > yours).sum())
        expect(False, f"{told} (mean over {len(pairs)} pairs); heads that break more: {more}.")


@exercise("2.5", "Patch the path between two heads")
def path_patched(written, new_z, run, model) -> None:
    """Step by step, on this model and on a random one whose heads share keys and values."""
    for net in (_tiny(model.tokenizer), model):
        t = _random_pair(net)
        (_, clean), (_, other) = (net.run_with_cache(each) for each in (t.clean, t.corrupted))
        layer = net.cfg.n_layers - 1
        sender, receiver = (layer - 1, 1), (layer, net.cfg.n_heads - 1)
        with _no_hook_left(net):
            _path_steps(written, new_z, run, net, t, clean, other, sender, receiver)


def _path_steps(written, new_z, run, net, t, clean, other, sender, receiver) -> None:
    (layer, head), (at, reads) = sender, receiver
    z, W_O = (cache["z", layer] for cache in (clean, other)), net.W_O[layer]
    z_clean, z_other = z
    change = (z_clean - z_other)[:, :, head] @ W_O[head]
    got = answer(written, net, clean, other, sender, like=change)
    compare(
        got,
        change,
        {
            "Step 1: this is all that the sender writes in the clean run; subtract what it writes "
            "in the corrupted one.": z_clean[:, :, head] @ W_O[head],
            "Step 1: the sign: clean minus corrupted.": -change,
            "Step 1: this is what all heads of the layer write; take the sender's alone.": (
                torch.einsum("bphd,hdm->bpm", z_clean - z_other, W_O)
            ),
        },
    )
    stream, pattern = other["resid_pre", at], other["pattern", at]

    def values(x):
        return query_key_value(net, at, x)[2]

    q, k, _ = query_key_value(net, at, stream + change)
    scores = (q @ k.mT / net.cfg.d_head**0.5).masked_fill(pattern == 0, -torch.inf)
    right = (pattern @ values(stream + change))[:, reads]
    got = _step(2, "new_z", new_z, net, other, change, receiver, like=right)
    compare(
        got,
        right,
        {
            "Step 2: this is the corrupted run's own z; add `change` to the stream that the "
            "receiver's layer reads.": (pattern @ values(stream))[:, reads],
            "Step 2: here queries and keys see the change too; keep the corrupted run's pattern.": (
                scores.softmax(-1) @ values(stream + change)
            )[:, reads],
            "Step 2: the values must be made from the stream plus the change, not from the change "
            "alone.": (pattern @ values(change))[:, reads],
            "Step 2: this is another head's; use the receiver's.": (
                pattern @ values(stream + change)
            )[:, 0],
        },
    )
    name = f"blocks.{at}.attn.hook_z"
    logits = _patched(net, t.corrupted, name, (slice(None), reads), right[:, :, None], own=True)
    arguments = (net, t.corrupted, clean, other, sender, receiver)
    got = _step(3, "path_patched", run, *arguments, like=logits)
    everywhere = clean[f"blocks.{layer}.attn.hook_z"][:, :, [head]]
    site = f"blocks.{layer}.attn.hook_z"
    compare(
        got,
        logits,
        {
            "Step 3: nothing has changed. Does your hook return the new z?": net(t.corrupted),
            "Step 3: this patches the sender's output itself, so that everything behind it sees "
            "the change; only the receiver may.": _patched(
                net, t.corrupted, site, (slice(None), head), everywhere, own=True
            ),
            "Step 3: run the corrupted prompt, not the clean one.": net(t.clean),
        },
        tolerance=1e-3,
    )


@exercise("2.6", "Integrated gradients of a whole layer")
def integrated(gradients, attempt, model) -> None:
    """Step by step, on this model and on a random one; few steps, so that rules differ."""
    for net in (_tiny(model.tokenizer), model):
        t = _random_pair(net, 4)
        (_, clean), (_, other) = (net.run_with_cache(each) for each in (t.clean, t.corrupted))
        layer = net.cfg.n_layers // 2
        ends = other["resid_pre", layer][0], clean["resid_pre", layer][0]
        metric = t.logit_diff
        points = torch.stack([ends[0] + share * (ends[1] - ends[0]) for share in (0.2, 0.7)])
        right = _slopes(net, t.corrupted, metric, layer, points)
        arguments = (net, t.corrupted, metric, layer, points)
        with _no_hook_left(net):
            got = answer(gradients, *arguments, like=right)
        compare(
            got,
            right,
            {
                "Step 1: these are the gradients of the corrupted run itself; the hook must put "
                "`points` into the run.": _slopes(
                    net, t.corrupted, metric, layer, ends[0].expand_as(points)
                ),
                "Step 1: this is the mean over points; give each point its own.": (
                    right.mean(0, keepdim=True).expand_as(right)
                ),
                "Step 1: halved: sum the metric over rows, do not average.": right / 2,
            },
            tolerance=1e-3,
        )
        for steps in (3, 1) if net is not model else (2,):
            with _no_hook_left(net):
                got = _step(2, "integrated", attempt, net, t.corrupted, clean, metric, layer, steps)
            _judge_integral(got, net, t, metric, layer, ends, clean, steps)


def _judge_integral(got, net, t, metric, layer, ends, clean, steps: int) -> None:
    corrupted, goal = ends

    def rule(shares, together: bool = False) -> Tensor:
        """The mean over shares of gradient times way, for every position."""
        estimates = []
        for position in range(len(goal)):
            where = slice(None) if together else position
            points = corrupted.repeat(len(shares), 1, 1)
            points[:, where] += torch.stack([s * (goal - corrupted)[where] for s in shares])
            slopes = _slopes(net, t.corrupted, metric, layer, points)[:, position]
            estimates.append((slopes @ (goal - corrupted)[position]).mean())
        return torch.stack(estimates)

    share = (torch.arange(steps, device=goal.device) + 0.5) / steps
    right = rule(share)
    try:
        compare(value(got, like=right), right, tolerance=1e-3)
    except Wrong:  # only now are the likely mistakes worth their runs
        exact = patching.patch_residual(net, t.corrupted, clean, metric)[layer]
        mistakes = {
            "This is a patch, not an estimate: use gradients only.": (
                exact - metric(net(t.corrupted)).item()
            ),
            "These are the left ends of the steps; take their middles.": rule(share - 0.5 / steps),
            "These are the right ends of the steps; take their middles.": rule(share + 0.5 / steps),
            "Sum of the slopes; the mean is wanted.": right * steps,
            "The sign: from corrupted to clean.": -right,
            "This is the slope at the start alone, which is attribution patching.": (
                rule(share[:1] * 0)
            ),
            "Here all positions move together; move one and leave the others corrupted.": (
                rule(share, together=True)
            ),
        }
        compare(value(got, like=right), right, mistakes, tolerance=1e-3)


def _step(number: int, name: str, attempt, *arguments, like=None):
    """`answer`; where the step is still to be written, that is said together with what is done."""
    try:
        return answer(attempt, *arguments, like=like)
    except Unsolved:
        raise Wrong(
            f"The steps before are right. Step {number}, `{name}`, is still `...`."
        ) from None


def _slopes(net, tokens, metric, layer: int, points: Tensor) -> Tensor:
    """The metric's gradient at each point, `[point, pos, d_model]`, entering a layer."""
    points = points.detach().clone().requires_grad_()
    hooks = [(f"blocks.{layer}.hook_resid_pre", lambda stream, hook: points)]
    with torch.enable_grad():
        logits = net.run_with_hooks(tokens.expand(len(points), -1), fwd_hooks=hooks)
        return torch.autograd.grad(metric(logits).sum(), points)[0]


def _patched(net, tokens, name: str, where, source: Tensor, own: bool = False) -> Tensor:
    """Logits of a run where one entry of an activation is replaced: from the same entry of
    `source`, or by `source` itself (`own`)."""
    index = (slice(None), *where) if isinstance(where, tuple) else (slice(None), where)

    def patch(activation, hook):
        activation = activation.clone()
        activation[index] = source.squeeze(2) if own else source[index]
        return activation

    return net.run_with_hooks(tokens, fwd_hooks=[(name, patch)])


@contextmanager
def _no_hook_left(net):
    """Take off hooks that an attempt leaves behind, and say so."""
    yield
    left = [name for name, point in net.hook_dict.items() if point.has_hooks()]
    net.reset_hooks()
    expect(
        not left,
        "After your function, a hook was left on the model, and changes everything that runs on "
        "it. `run_with_hooks` takes its hooks off again.",
    )


def _random_pair(net, words: int = 7) -> PairTokens:
    """BOS and random words, so that the two prompts differ at every position but the first."""
    bos = net.tokenizer.bos_token_id
    ids = torch.randperm(net.cfg.d_vocab - 1, generator=torch.Generator().manual_seed(3))
    ids = (ids + (ids >= bos))[: 2 * words].view(2, 1, words).to(net.cfg.device)
    clean, other = torch.cat([torch.full_like(ids[:, :, :1], bos), ids], -1)
    return PairTokens(clean, other, clean[:, -1], other[:, -1])


@cache
def _tiny(tokenizer) -> TransformerBridge:
    """A random Llama of three layers, four heads and two keys and values for them."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 32}
    heads = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), **sizes, **heads, attn_implementation="eager")
    network, generator = LlamaForCausalLM(config).eval(), torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter.detach(), std=0.3, generator=generator)
    bridge = TransformerBridge.boot_transformers("tiny", hf_model=network, tokenizer=tokenizer)
    bridge.enable_compatibility_mode()
    return bridge.eval()


def _broken(net, pairs) -> Tensor:
    """Share of the answer that noising each head at the last position breaks: (layer, head)."""
    return 1 - _at_last(net, [(t, t.clean, t.corrupted) for t in pairs])


def _restored(net, pairs) -> Tensor:
    """Share of the answer that denoising each head at the last position restores."""
    return _at_last(net, [(t, t.corrupted, t.clean) for t in pairs])


def _at_last(net, runs) -> Tensor:
    """Recovered, mean over pairs: each head's z at the last position from the other prompt."""
    c = net.cfg
    cells = [
        patching.Cell(layer, "attn.hook_z", (-1, head))
        for layer in range(c.n_layers)
        for head in range(c.n_heads)
    ]
    shares = []
    for t, prompt, source in runs:
        _, cache_ = net.run_with_cache(source)
        ends = t.logit_diff(net(t.clean)).item(), t.logit_diff(net(t.corrupted)).item()
        values = patching.sweep(net, prompt, cache_, t.logit_diff, cells)
        shares.append(normalise(values.view(c.n_layers, c.n_heads), *ends))
    return torch.stack(shares).mean(0)


def _near(got: Tensor, right: Tensor) -> bool:
    return torch.allclose(got, right, rtol=1e-3, atol=1e-3)
