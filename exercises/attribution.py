"""Checks of notebook 3's exercises."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import combinations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import layer_norm

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
    step,
)
from helpers.ablation import ablate
from helpers.architecture import Unsupported, centre, scale
from helpers.metrics import LastToken, logit_diff
from helpers.patching import patch_heads
from helpers.prompts import CITY_PAIRS, aligned

Given = tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch"], Int[Tensor, "batch"]]


def landmarks(model) -> Given:
    """Prompts about two landmarks, each one's own city, and the other's."""
    _, ids = aligned(CITY_PAIRS, model)[-1]
    cities = torch.cat([ids.answer, ids.distractor])
    return torch.cat([ids.clean, ids.corrupted]), cities, cities.flip(0)


def names(model) -> Given:
    """Four stories about two people, who gets the thing, and who gives it."""
    story = "When {0} and {1} went to the park, {1} gave a ring to"
    people = [("Helen", "Frank"), ("Frank", "Helen"), ("George", "Linda"), ("Linda", "George")]
    tokens = torch.cat([model.to_tokens(story.format(*two)) for two in people])
    ids = torch.tensor([[model.to_single_token(f" {name}") for name in two] for two in people])
    return tokens, *ids.T.to(tokens.device)


@exercise("3.1", "Nothing left over")
def split_all(attempt) -> None:
    """Made-up components: what each is worth follows from a LayerNorm that holds its scale."""
    for seed, one, two in ((3, 1, 4), (4, 5, 0)):
        generator = torch.Generator().manual_seed(seed)
        written = torch.randn(4, 8, generator=generator)
        written = written + torch.tensor([[2.0], [0.0], [-1.0], [0.0]])
        W_U, b_U = (torch.randn(*shape, generator=generator) for shape in ((8, 6), (6,)))
        stream = written.sum(0)
        final = (stream.var(unbiased=False) + 1e-5).sqrt()[None]
        along, bias = W_U[:, one] - W_U[:, two], (b_U[one] - b_U[two])[None]
        centred, total = written - written.mean(-1, keepdim=True), written.mean()
        parts, own = centred / final @ along, written.std(-1, correction=0, keepdim=True)

        def split(parts, last=bias):
            return torch.cat([parts, last])

        right = split(parts)
        logits = layer_norm(stream, (8,)) @ W_U + b_U
        assert torch.allclose(right.sum(), logits[one] - logits[two], atol=1e-4)  # second route
        mistakes = {
            "Four components wrote, but five numbers are wanted: the last is what b_U adds.": parts,
            "The scale is forgotten: divide every component by it.": split(centred @ along),
            "Divided by the scale twice.": split(parts / final),
            "Not centred: subtract each component's own mean over d_model; `centre` does not where "
            "the model has RMSNorm.": split(written / final @ along),
            "One mean for all is subtracted; take each component's own.": (
                split((written - total) / final @ along)
            ),
            "The mean over components is subtracted; take each one's, over d_model.": (
                split((written - written.mean(0)) / final @ along)
            ),
            "Neither centred nor divided: the quick way of Part 1.": split(written @ along),
            "b_U is divided by the scale; it is added after the division.": (
                split(parts, bias / final)
            ),
            "b_U counts as a difference too: the answer's minus the contrast's.": (
                split(parts, b_U[[one]])
            ),
            "The contrast is missing.": split(centred / final @ W_U[:, one], b_U[[one]]),
            "Swapped: answer minus contrast.": -right,
            "Each component has a scale of its own here; divide all by the one final `scale`.": (
                split(centred / own @ along)
            ),
            "b_U is left out: the last number is what it adds.": split(parts, 0 * bias),
            "b_U comes last, behind the components.": right.roll(1),
            "b_U is shared out among the components; it is a number of its own.": (
                split(parts + bias / len(parts), 0 * bias)
            ),
        }
        compare(answer(attempt, written, final, W_U, b_U, one, two), right, mistakes)


@exercise("3.2", "Find the head that attribution cannot see")
def unseen_head(attempt, model, tokens, right, contrast) -> None:
    """Second route: patches whose source has zeros before the last position. On this model, on a
    toy where the head that notes at the giver's second mention that the name was said before is
    needed, and on a random one, with rows of which one alone, their median, their worst, or a part
    of the positions tells another head."""
    network, other = toy.name_mover_network(), toy.random_network(n_heads=5, seed=3)
    known = network, *toy.name_prompts()
    tokens, right, contrast = tokens[:1], right[:1], contrast[:1]  # a real model is slow
    assert _place(_lost(*known, slice(0, -1)).argmax(), network) == toy.REPEATED
    seeded = [torch.Generator().manual_seed(seed) for seed in (2, 8, 9)]
    rows = [torch.randint(1, other.cfg.d_vocab, (6, 8), generator=each) for each in seeded]
    for where, each, *given in (
        ("", model, tokens, right, contrast),
        (" (of a toy model, made on the spot)", *known),
        *((" (of a random model)", other, x[:, :6], x[:, 6], x[:, 7]) for x in rows),
    ):
        with on_model(not where):
            found = place(answer(attempt, each, *given), each)
        lost = _lost(each, *given, slice(0, -1))
        best = _place(lost.argmax(), each)
        head = f"Head {found[0]}.{found[1]}{where} "
        swapped = "is the right one with layer and head swapped: return (layer, head)."
        expect(found == best or found != best[::-1], head + swapped)
        raises = "is one whose ablation *raises* the difference: a loss is before minus after."
        expect(bool(where) or lost[found] >= 0, head + raises)
        most = lost.max().item()
        if most - lost[found].item() <= 0.02 * most:
            continue
        for positions in (slice(-1, None), slice(None)):
            expect(
                found != _place(_lost(each, *given, positions).argmax(), each),
                head + "costs most when the last position is ablated, alone or with the others. "
                "Attribution reads there; leave it as it was.",
            )
        costs = f"costs {lost[found]:.2f} nats when ablated before the last position"
        raise Wrong(
            f"{head}{costs}; another costs more. Is it averaged over all prompts, every position "
            "but the last set to zero, and `n_heads` this model's own?"
        )


@exercise("3.3", "The mover, its opponent, and their source")
def movers(find_heads, by_position, by_place, model, tokens, right, giver) -> None:
    """Heads, positions and places: on the model, on a random one with shared values, and on a toy
    model whose name mover and negative name mover are known. Centring makes no difference where the
    norm is folded into `W_U`: its columns are centred then."""
    given = tokens, right, giver
    network = toy.name_mover_network()
    cases = [(model, given), (second_model(model), given), (network, toy.name_prompts())]
    cases = [(each, words, each.run_with_cache(words[0])[1]) for each, words in cases]
    ends = [_ends(_effects(each, cache, *words[1:]).mean(0), each) for each, words, cache in cases]
    assert ends[-1] == [toy.NAME_MOVER, toy.NEGATIVE]
    rows, mixed = _rows_that_differ()
    _, (toy_tokens, name, gives), cache = cases[-1]
    swapped = network, (toy_tokens, gives, name), cache  # where the opponent moves most
    for (each, words, cache), best in zip([*cases, swapped], [*ends, ends[-1][::-1]], strict=True):
        effects = _effects(each, cache, *words[1:])  # (batch, layer, head)
        one_word = _effects(each, cache, words[1], None).mean(0)
        mistakes = {
            "the two are swapped: most for the name first.": best[::-1],
            "the giver is missing: take the name's logit minus the giver's.": _ends(one_word, each),
            "this is the first prompt's; take the mean over all.": _ends(effects[0], each),
            "layer and head are swapped: give (layer, head).": [head[::-1] for head in best],
            "the first has the largest size; wanted is the most positive effect.": [
                _place(effects.mean(0).abs().argmax(), each),
                best[1],
            ],
            "the second has the smallest effect, not the most negative one.": [
                best[0],
                _place(effects.mean(0).abs().argmin(), each),
            ],
        }
        with _where_it_runs(each, network), step(1, each is model):
            got = answer(find_heads, each, *words)
            pair = hasattr(got, "__len__") and len(got) == 2
            expect(pair, "return two heads, a (layer, head) for each.")
            compare([place(one, each) for one in got], best, mistakes)
    with step(1, first=False):
        got = [place(one, mixed) for one in answer(find_heads, mixed, *rows)]
        effects = _effects(mixed, mixed.run_with_cache(rows[0])[1], *rows[1:])
        told = "on random rows these are other heads. Divide each row by its own final scale, and "
        told += "take the mean over all rows."
        compare(got, _ends(effects.mean(0), mixed), {told: got})
    for (each, words, cache), heads in zip(cases, ends, strict=True):
        for layer, head in (*heads, (0, 1)):  # 1: no guess at a shared value head fits by chance
            parts = _sources(each, cache, *words[1:], layer, head)
            with _where_it_runs(each, network), step(2, each is model):
                got = answer(by_position, each, *words, layer, head, like=parts["right"])
                compare(got, parts.pop("right"), parts, tolerance=1e-3)
    for (each, words, cache), heads in zip(cases, ends, strict=True):
        effects = [_sources(each, cache, *words[1:], *head)["right"] for head in heads]
        shares = torch.stack([_at_places(effect, *words) for effect in effects], 1)
        table = shares.mean(0)  # (head, place), from (batch, head, place)
        mistakes = {
            "the two heads are swapped.": table.flip(0),
            "right but for its sign: the name over the giver.": -table,
            "the giver's first and second mention are swapped.": table[:, [0, 2, 1]],
            "the rows are summed; take their mean.": shares.sum(0),
            "this is the first prompt's; take the mean over all.": shares[0],
            "these are the places' shares of the whole; wanted are nats.": table
            / torch.stack(effects, 1).sum(-1).mean(0)[:, None],
            "heads and places have changed their axes.": table.T,
        }
        with _where_it_runs(each, network), step(3, each is model):
            compare(answer(by_place, each, *words), table, mistakes, tolerance=1e-3)


@exercise("3.4", "Which head is whose backup?")
def backups(loss_without, interaction, model, tokens, right, contrast) -> None:
    """Losses against hooks written here, and the interaction they give, on two models."""
    runs = []
    for each, n in ((model, 2), (second_model(model), len(tokens))):  # a real model is slow
        words = tokens[:n], right[:n], contrast[:n]
        runs.append((each, words, each.run_with_cache(words[0])))
    for each, words, run in runs:
        heads = _three(each, run[1], *words[1:])
        for some in (heads[:1], heads[:2], heads):

            def loss(values=None, positions=(-1,), some=some, each=each, words=words, run=run):
                return _loss(each, words, run, some, values, positions)

            with step(1, each is model):
                got = answer(loss_without, each, *words, list(some))
                _judge(got, loss, some, partial(_loss_by_own_means, each, words, run, some))
    for each, words, run in runs:
        heads = _three(each, run[1], *words[1:])

        def mean_loss(*which, heads=heads, each=each, words=words, run=run):
            some = [heads[i] for i in which]
            return _loss(each, words, run, some).mean()

        single = torch.stack([mean_loss(i) for i in range(3)]).cpu()
        both = torch.zeros(3, 3)
        for i, j in combinations(range(3), 2):
            both[i, j] = both[j, i] = mean_loss(i, j)
        off = 1 - torch.eye(3)
        table = (both - single[:, None] - single[None]) * off
        mistakes = {
            "the sign is swapped: more than the single losses is positive.": -table,
            "the single losses are not subtracted.": both,
            "only one of the two single losses is subtracted.": (both - single[:, None]) * off,
            "each pair stands there once; the table is symmetric.": table.tril(),
            "each pair stands there once, above the diagonal; the table is symmetric.": (
                table.triu()
            ),
            "the diagonal should be zero: a head is not its own backup.": table - single.diag(),
            "half of it: is each pair averaged with an empty cell?": table / 2,
            "twice of it: sum over the rows is not their mean.": table * len(words[0]),
            "negative ones are cut off or turned; keep them.": table.clamp(min=0),
        }
        with step(2, each is model):
            got = answer(interaction, each, *words, list(heads))
            compare(got, table, mistakes, tolerance=1e-2)


@contextmanager
def _where_it_runs(each, network) -> Iterator[None]:
    """The toy has no norm, so no `hook_scale`, and blocks that `query_key_value` does not know: an
    answer that asks for these is right, and judged on the other models only."""
    try:
        yield
    except (KeyError, Unsupported):
        if each is not network:
            raise


# Second routes


def _rows_that_differ() -> tuple[tuple[Tensor, Tensor, Tensor], object]:
    """Tokens, names and givers at random, and a network. One row, half of the rows, their median,
    each row's shares and effects that are not divided by its scale name other heads than the mean.
    """
    network = toy.random_network(n_heads=5, seed=3)
    network.enable_compatibility_mode(disable_warnings=True)
    x = torch.randint(1, network.cfg.d_vocab, (4, 8), generator=torch.Generator().manual_seed(45))
    return (x[:, :6], x[:, 6], x[:, 7]), network


def _effects(model, cache, right, giver) -> Float[Tensor, "batch layer head"]:
    """Each head's direct effect for each row; `giver` None: on the one logit."""
    layers = range(model.cfg.n_layers)
    written = torch.stack([cache["z", i][:, -1] for i in layers], 1)  # (batch, layer, head, d_head)
    written = torch.einsum("blhe,lhed->blhd", written, model.W_O)
    along = _along(model, cache, right, giver)
    return torch.einsum("blhd,bd->blh", centre(model, written), along)


def _along(model, cache, right, giver) -> Float[Tensor, "batch d_model"]:
    """Each row's direction, divided by its final scale."""
    columns = model.W_U[:, right] - (0 if giver is None else model.W_U[:, giver])
    return columns.T / scale(model, cache["resid_post", model.cfg.n_layers - 1][:, -1])


def _ends(effects: Float[Tensor, "layer head"], model) -> list[tuple[int, int]]:
    return [_place(effects.argmax(), model), _place(effects.argmin(), model)]


def _place(index, model) -> tuple[int, int]:
    return divmod(int(index), model.cfg.n_heads)


def _sources(model, cache, right, giver, layer: int, head: int) -> dict[str, Tensor]:
    """A head's effect by the position it read, `[batch, pos]`: "right", and typical mistakes."""
    pattern, values = cache["pattern", layer][:, head], cache["v", layer]
    shared = model.cfg.n_heads // values.shape[2]
    last = cache["resid_post", model.cfg.n_layers - 1]
    along, final = _along(model, cache, right, giver), scale(model, last[:, -1])

    def said(v, along=along):
        return torch.einsum("bpd,bd->bp", centre(model, v @ model.W_O[layer, head]), along)

    mine = said(values[:, :, head // shared])
    effect = pattern[:, -1] * mine
    return {
        "right": effect,
        "this is where the head attends; what it moves from there is the value, through "
        "`W_O`.": pattern[:, -1],
        "every position counts in full: weight the values with the attention.": mine,
        "keys and queries are swapped; the row of the last query is `pattern[:, head, -1]`.": (
            pattern[:, :, -1] * mine
        ),
        "the effect is shared out by attention alone; positions hold different values.": (
            effect.sum(1, keepdim=True) * pattern[:, -1]
        ),
        "the final scale is forgotten.": effect * final,
        "each source is divided by its own position's scale; all of it is read at the last.": (
            effect * final / scale(model, last)[..., 0]
        ),
        "all rows are divided by the first one's scale.": effect * final / final[0],
        "all rows use the first one's direction.": pattern[:, -1]
        * said(values[:, :, head // shared], (along * final)[:1] / final),
        "the giver is missing: take the name's logit minus the giver's.": pattern[:, -1]
        * said(values[:, :, head // shared], _along(model, cache, right, None)),
        "right but for its sign.": -effect,
        "this is another head's value: neighbouring heads share one.": pattern[:, -1]
        * said(values[:, :, head % values.shape[2]]),
    }


def _at_places(effect, tokens, right, giver) -> Float[Tensor, "batch 3"]:
    """A head's effect at the name, the giver's first and the giver's second mention."""
    places = []
    for row, name, gives in zip(tokens.tolist(), right.tolist(), giver.tolist(), strict=True):
        first = row.index(gives)
        places.append([row.index(name), first, row.index(gives, first + 1)])
    return effect.gather(1, torch.tensor(places, device=effect.device))


def _lost(model, tokens, right, contrast, positions: slice) -> Float[Tensor, "layer head"]:
    """Mean loss of the logit difference with each head's z at zero in these positions."""
    grids = []
    for row, two in zip(tokens, torch.stack([right, contrast], 1), strict=True):
        _, cache = model.run_with_cache(row[None], names_filter=lambda name: name.endswith("_z"))
        silent = {name: z.clone() for name, z in cache.items()}
        for z in silent.values():
            z[:, positions] = 0.0
        metric = LastToken(lambda logits: logits[:, 0] - logits[:, 1], two)
        grids.append(metric(model(row[None])) - patch_heads(model, row[None], silent, metric))
    return torch.stack(grids).mean(0)


def _three(model, cache, right, contrast) -> list[tuple[int, int]]:
    """The two heads most for the answer and the one most against it."""
    mean = _effects(model, cache, right, contrast).mean(0).flatten()
    return [_place(i, model) for i in (*mean.topk(2).indices, mean.argmin())]


def _loss(model, words, run, heads, values=None, positions=(-1,)) -> Tensor:
    """What each row loses without these heads: mean ablation where no values are given."""
    logits, cache = run
    means = [cache["z", i][:, -1].mean(0) for i in range(model.cfg.n_layers)]
    with ablate(model, heads, torch.stack(means) if values is None else values, positions):
        after = model(words[0])
    return logit_diff(logits, *words[1:]) - logit_diff(after, *words[1:])


def _loss_by_own_means(model, words, run, heads) -> Tensor:
    """The same, but each mean is that of the run in which the others are ablated already."""

    def hook_function(z, hook):
        for layer, head in heads:
            if layer == hook.layer():
                z[:, -1, head] = z[:, -1, head].mean(0)
        return z

    hooks = [(f"blocks.{layer}.attn.hook_z", hook_function) for layer in {i for i, _ in heads}]
    after = model.run_with_hooks(words[0], fwd_hooks=hooks)
    return logit_diff(run[0], *words[1:]) - logit_diff(after, *words[1:])


def _judge(got, loss: Callable[..., Tensor], some, by_own_means: Callable[[], Tensor]) -> None:
    right = loss()

    def mistakes() -> dict[str, Tensor]:
        return {
            "the sign is swapped: before minus after.": -right,
            "this is one number: wanted is one for each row.": right.mean(),
            "zeros stand in the heads' place: use the mean of their last z over the rows.": loss(
                0.0
            ),
            "they are ablated at every position; only the last is wanted.": loss(positions=None),
            "only the first head of the list is ablated.": loss(some=some[:1]),
            "only the last head of the list is ablated.": loss(some=some[-1:]),
            "these are the single losses, summed: ablate all of the heads in one run.": sum(
                loss(some=[one]) for one in some
            ),
            "the mean is that of the ablated run itself; take it from the plain run.": (
                by_own_means()
            ),
            "nothing is lost: does the model run within the `with`, is the mean over all rows, and "
            "the position the last?": 0 * right,
        }

    compare(got, right, mistakes, tolerance=1e-3)
