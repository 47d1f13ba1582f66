"""Checks of notebook 6's exercises."""

from math import log

import torch

from exercises.grading import answer, exercise, expect

BUDGET = 0.05  # nats


@exercise("6.1", "The contrast without BOS")
def contrast(attempt) -> None:
    """Planted streams: BOS far away, words scattered around two known points."""
    bos = torch.tensor([90.0, -60.0, 30.0, 0.0])
    towards, away = torch.tensor([1.0, 2.0, 4.0, 0.0]), torch.tensor([3.0, 1.0, -2.0, 5.0])
    scatter = torch.tensor([[1.0, 0.0, 2.0, 1.0], [-3.0, 1.0, 0.0, 1.0], [2.0, -1.0, -2.0, -2.0]])
    # The rows of `scatter` sum to 0, so the means stay where they are.
    positive = torch.stack([bos, *(towards + scatter)])
    negative = torch.stack([bos, away + scatter[1], away - scatter[1]])
    wanted = towards - away
    got = answer(attempt, positive, negative, like=wanted)
    if _close(got, wanted):
        return
    expect(
        not _close(got, -wanted),
        "The sign is swapped: this leads from the positive to the negative prompt.",
    )
    with_bos = positive.mean(0) - negative.mean(0)
    expect(
        not (_close(got, with_bos) or _close(got, -with_bos)),
        "BOS is counted: start each mean at position 1. The two lengths differ, so BOS does not "
        "cancel.",
    )
    expect(
        not _close(got, 3 * towards - 2 * away),
        "This is a sum, not a mean: the longer prompt weighs more.",
    )
    expect(
        not _close(got, 3 * towards / 4 - 2 * away / 3),
        "BOS is left out of the sum but still counted in the mean.",
    )
    expect(
        not _close(got, positive[-1] - negative[-1]),
        "This is the difference at the last position alone; take the mean over all but BOS.",
    )
    paired = positive[1:3].mean(0) - negative[1:].mean(0)
    expect(
        not _close(got, paired),
        "Words of the longer prompt are cut off: take each prompt's own mean, then subtract.",
    )
    expect(
        False,
        f"Streams around {towards.tolist()} and {away.tolist()} should give {wanted.tolist()}; "
        f"you give {got.tolist()}.",
    )


@exercise("6.2", "Push the last position only")
def steer_last(attempt, model, tokens) -> None:
    """Second route: what the block's MLP writes at the last position carries the vector."""
    layer = model.cfg.n_layers // 2
    untouched, cache = model.run_with_cache(tokens)
    stream = cache["resid_post", layer][:, -1]  # (batch, d_model)
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(model.cfg.d_model, generator=generator).to(stream)
    vector *= 0.7 * stream[0].norm() / vector.norm()

    def pushed(push, where=layer, positions=slice(-1, None)) -> torch.Tensor:
        def write(mlp_out, hook):
            mlp_out = mlp_out.clone()
            mlp_out[:, positions] += push
            return mlp_out

        return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{where}.hook_mlp_out", write)])

    got = answer(attempt, model, tokens, vector, layer, like=untouched)
    expect(
        not torch.allclose(got, untouched, atol=1e-5),
        "Nothing has changed: does the hook return the edited tensor, and do you run with it?",
    )
    expect(
        not _close(got, pushed(vector, positions=slice(None))),
        "The vector is added at every position: write to `stream[:, -1]`, not to the whole stream.",
    )
    expect(
        torch.allclose(got[:, :-1], untouched[:, :-1], atol=1e-4),
        "Predictions before the last position have changed; only axis 1, index -1 may be touched.",
    )
    last = got[:, -1]
    if _close(last, pushed(vector)[:, -1]):
        return
    expect(
        not _close(last, pushed((vector - stream)[:, None])[:, -1]),
        "The stream is replaced by the vector: add (`+=`) in place of `=`.",
    )
    expect(
        not _close(last, pushed(-vector)[:, -1]),
        "The vector is subtracted: the sign is swapped.",
    )
    if layer:
        expect(
            not _close(last, pushed(vector, where=layer - 1)[:, -1]),
            f"You add to the stream *entering* block {layer}; `hook_resid_post` is the one after.",
        )
    expect(
        False,
        f"The last prediction is not that of the stream after block {layer} plus the vector; is it "
        "another layer, another hook, or added more than once?",
    )


@exercise("6.3", "A fair control")
def random_directions(attempt) -> None:
    """Lengths, and no direction preferred: along any fixed line the cosines are centred on 0."""
    n, width = 500, 64
    vector = torch.linspace(-1.0, 3.0, width)
    length = vector.norm()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        got = answer(attempt, vector, n, like=torch.zeros(n, width))
        again = answer(attempt, vector, n, like=torch.zeros(n, width))
    expect(
        not _close(got, got[:1].expand_as(got)),
        f"All {n} rows are one and the same direction: draw {n} of them.",
    )
    norms = got.norm(dim=-1)
    expect(
        not _close(got.norm(), length),
        "Together they are as long as the vector: take the norm of each row (`dim=-1`).",
    )
    expect(
        not (norms - 1).abs().max() < 1e-3,
        "They are unit vectors: multiply by the vector's norm.",
    )
    expect(
        _close(norms, length.expand(n)),
        f"Each should be {length:.2f} long; yours go from {norms.min():.2f} to {norms.max():.2f}. "
        "A longer push does more whatever its direction: divide each by its own norm, then scale.",
    )
    expect(
        not _close(got, again),
        "A second call gives the same draw again: do not set a seed inside the function.",
    )
    expect(
        not ((got >= 0).all() or (got <= 0).all()),
        "All numbers have one sign, so every direction lies in one corner: `torch.rand` is never "
        "negative, `torch.randn` is centred on 0.",
    )
    total = torch.cosine_similarity(got, torch.ones(1, width))
    expect(
        total.std() > 0.1 * width**-0.5,
        "Each row has the same sum, as the vector's own numbers shuffled have: draw fresh ones.",
    )
    lean = torch.cosine_similarity(got, vector[None]).mean()
    expect(
        lean.abs() < 0.05,
        f"They lean towards the vector itself (mean cosine {lean:.2f}): a control must not contain "
        "what it controls for.",
    )
    for line in (vector, torch.ones(width), torch.eye(width)[0], torch.eye(width)[-1]):
        cosine = torch.cosine_similarity(got, line[None])
        expect(
            cosine.mean().abs() < 0.05 and 0.7 < cosine.std() * width**0.5 < 1.3,
            "Some directions are likelier than others: normal numbers (`torch.randn`) in every "
            "entry make all equally likely.",
        )


@exercise("6.4", "The price of a push")
def price_of_push(attempt) -> None:
    """Planted distributions: KL by hand, whatever constant is added to a row of logits."""
    p, q = torch.tensor([1 / 2, 1 / 2]), torch.tensor([1 / 8, 7 / 8])
    level = torch.tensor([[3.0], [-2.0], [5.0]])  # a softmax does not see it
    plain = torch.stack([torch.tensor([1 / 16, 15 / 16]), p, p]).log() + level
    steered = torch.stack([torch.tensor([15 / 16, 1 / 16]), q, p]).log() - level
    at_bos = 7 / 8 * log(15)
    there = log(2) + log(4 / 7) / 2  # sum of P log(P / Q)
    back = log(1 / 4) / 8 + 7 / 8 * log(7 / 4)  # sum of Q log(Q / P)
    got = float(answer(attempt, plain, steered, like=0.0))

    def near(wanted: float) -> bool:
        return abs(got - wanted) < 1e-4

    if near(there / 2):
        nothing = float(answer(attempt, plain, plain, like=0.0))
        expect(abs(nothing) < 1e-5, f"A model costs {nothing:.4f} against itself; it must be 0.")
        return
    expect(
        not near(back / 2),
        "The arguments are swapped: the weights, and the first log, are those of the unsteered "
        "model.",
    )
    expect(
        not (near(-there / 2) or near(-back / 2)),
        "The sign is wrong: KL is never below 0. It is log P minus log Q, weighted by P.",
    )
    expect(
        not near((at_bos + there) / 3),
        "Position 0 is counted: what follows BOS alone is any beginning of any text.",
    )
    expect(not near(there / 3), "Position 0 is left out of the sum but still counted in the mean.")
    expect(
        not (near(there) or near(at_bos + there)),
        "This is the sum over positions; take the mean, so that long texts cost no more.",
    )
    expect(
        not near(there / 4),
        "The mean is taken over the vocabulary, too: sum over it, and mean over positions.",
    )
    expect(not near(there / 2 / log(2)), "This is in bits (log2); use nats (log).")
    moved = float(answer(attempt, plain + 1.0, steered, like=0.0))
    expect(
        abs(moved - got) < 1e-4,
        "Your answer changes when 1 is added to all logits of one model, which changes no "
        "probability: take `log_softmax` of both first.",
    )
    expect(
        False,
        f"P = (1/2, 1/2) to Q = (1/8, 7/8) costs {there:.4f} nats, P to P costs 0: the mean of the "
        f"two is {there / 2:.4f}; you give {got:.4f}.",
    )


@exercise("6.5", "Find the layer that gives most for the money")
def best_layer(attempt, try_out, n_layers: int) -> None:
    """Planted models whose best dose is known; then the budget on the model at hand."""
    # Effect is gain * coefficient, cost is price * coefficient ** 2. Largest gain, lowest price and
    # best effect for the budget are in different layers.
    world = {1.0: 0.05, 4.0: 1.25, 0.5: 0.05 / 16, 0.1: 0.0008}  # gain: price, a layer each
    for flip in (False, True):  # the best layer is not in one place only
        gains, prices = (list(v)[:: -1 if flip else 1] for v in (world, world.values()))
        _one_world(attempt, gains, prices)
    layer, coefficient = _dose(attempt, try_out, n_layers, BUDGET)
    effect, cost = try_out(layer, coefficient)
    expect(
        cost <= 1.02 * BUDGET,
        f"Right on planted numbers; on this model your dose costs {cost:.3f}, over the budget.",
    )
    print(
        f"This model, budget {BUDGET} nats: layer {layer}, coefficient {coefficient:.2f}, "
        f"effect {effect:.2f} nats for {cost:.3f}."
    )


def _one_world(attempt, gains: list[float], prices: list[float]) -> None:
    asked = set()

    def planted(layer, coefficient):
        asked.add(int(layer))
        return gains[layer] * coefficient, prices[layer] * coefficient**2

    affordable = [min(8.0, (BUDGET / price) ** 0.5) for price in prices]
    effects = [gain * most for gain, most in zip(gains, affordable, strict=True)]
    best = max(effects)
    layer, coefficient = _dose(attempt, planted, len(gains), BUDGET)
    unasked = set(range(len(gains))) - asked
    expect(
        not unasked,
        f"`try_out` was never called for layer {min(unasked, default=0)}: search every layer.",
    )
    effect, cost = planted(layer, coefficient)
    where = f"On planted numbers, layer {layer} at {coefficient:.2f}"
    expect(
        cost <= 1.02 * BUDGET,
        f"{where} costs {cost:.2f}, over the budget of {BUDGET}: stop each layer where its cost "
        "reaches the budget.",
    )
    if effect >= 0.95 * best:
        return
    expect(
        coefficient > 0.5 * affordable[layer],
        f"{where} costs only {cost:.4f} and has effect {effect:.2f}: the budget is not used. "
        "(Effect divided by cost is best at the smallest dose, where nothing happens.)",
    )
    expect(
        layer != prices.index(min(prices)),
        f"{where}: the layer with the lowest cost, not the one with the largest effect.",
    )
    payable = [gain for gain, most in zip(gains, affordable, strict=True) if coefficient <= most]
    expect(
        layer == effects.index(best) or gains[layer] != max(payable, default=0),
        f"{where}: the layer that does most at this coefficient. A coefficient is not the same "
        "dose in every layer; let each spend the budget, then compare effects.",
    )
    expect(
        False,
        f"{where} has effect {effect:.2f}; the budget buys {best:.2f}. Are your steps fine enough?",
    )


def _dose(attempt, try_out, n_layers: int, budget: float) -> tuple[int, float]:
    """What the attempt returns, checked to be a layer and a coefficient."""
    found = answer(attempt, try_out, n_layers, budget)
    expect(isinstance(found, tuple | list) and len(found) == 2, "Return two: (layer, coefficient).")
    layer, coefficient = (v.item() if hasattr(v, "item") else v for v in found)
    expect(
        isinstance(layer, int) and 0 <= layer < n_layers,
        f"The first of the two should be a layer, 0 to {n_layers - 1}, and is {layer!r}. Have you "
        "swapped layer and coefficient?",
    )
    expect(
        isinstance(coefficient, int | float) and 0 <= coefficient <= 8,
        f"The coefficient should be from 0 to 8, and is {coefficient!r}.",
    )
    return layer, float(coefficient)


def _close(got: torch.Tensor, wanted: torch.Tensor) -> bool:
    return torch.allclose(got, wanted, rtol=1e-3, atol=1e-3)
