"""Checks of notebook 5's exercises."""

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.tools.analysis import logit_lens

from exercises import toy
from exercises.grading import (
    answer,
    compare,
    exercise,
    expect,
    on_model,
    step,
    value,
)
from helpers.architecture import centre, layer_norm, scale


@exercise("5.1", "Decode one stream")
def decode_stream(attempt, model) -> None:
    """Second route: put the stream in place of what leaves the last block, and run on."""
    for each in (model, _head("LN"), _head("RMS")):
        tokens = torch.randint(1, each.cfg.d_vocab, (2, 5), generator=_seeded())
        tokens = tokens.to(each.cfg.device)
        last = f"blocks.{each.cfg.n_layers - 1}.hook_resid_post"
        stream = each.run_with_cache(tokens)[1][last] + 1  # its mean is not 0, as a raw one's
        right = each.run_with_hooks(tokens, fwd_hooks=[(last, lambda resid, hook, s=stream: s)])
        with on_model(each is model):
            compare(answer(attempt, each, stream), right, _mistakes_of(each, stream, right), 1e-3)


def _mistakes_of(model, stream: Tensor, right: Tensor) -> dict[str, Tensor]:
    """By message, what a learner gets who leaves something out."""
    W_U, b_U, eps = model.W_U, model.b_U, model.cfg.eps
    centred = stream - stream.mean(-1, keepdim=True)
    own = centre(model, stream)
    turned = stream if layer_norm(model) else centred  # what the model does not do
    root = (turned.square().mean(-1, keepdim=True) + eps).sqrt()
    kind = "LayerNorm centres first" if layer_norm(model) else "RMSNorm does not centre"
    no_bias = {  # what goes through W_U
        "The final norm is missing: it divides (and centres, where it is LayerNorm).": stream,
        "Half of the final norm is missing: the division.": centred,
        f"{kind}: another norm than this model's; `model.ln_final` is its own.": turned / root,
        "One scale for the whole prompt: the norm takes each position's, over the last axis.": (
            own / own.square().mean().sqrt()
        ),
        "The scale is the root of the mean of the squares; `.std()` divides by one less.": (
            own / stream.std(-1, keepdim=True)
        ),
        "This is the scale of the model's own run; a stream is divided by its own.": (
            own / scale(model, stream - 1)
        ),
    }
    mistakes = {message: normed @ W_U + b_U for message, normed in no_bias.items()}
    return mistakes | {
        "These are probabilities; give the logits as the head makes them.": right.softmax(-1),
        "These are log-probabilities; give the logits as they are.": right.log_softmax(-1),
        "The unembedding's bias is missing: add `b_U`.": right - b_U,
        "The final norm is missing, and so is the bias.": stream @ W_U,
        "Half of the final norm is missing, the division; and so is the bias.": centred @ W_U,
    }


@exercise("5.2", "The rank of the answer")
def rank_of(attempt) -> None:
    """Rows in which token 2 comes second, first and last; then another token, then a tie."""
    rows = torch.tensor(
        [[3.4, 0.5, 3.2, 2, 1, -1], [0.0, -2, 5, 1, -3, 2], [-1.0, -2, -9, -4, -3, -5]]
    )
    place = (
        "`argsort(...)[:, answer]` is the token at place `answer`; wanted is the place at which "
    )
    place += "the token `answer` stands."
    mistakes = {
        "Off by one: the most likely token has rank 1, not 0.": [1, 0, 5],
        "Counted from the wrong end: the largest logit ranks 1.": [5, 6, 1],
        "Counted from the wrong end, and from 0: the largest logit ranks 1.": [4, 5, 0],
        place: [3, 3, 4],
        f"{place} And ranks start at 1.": [4, 4, 5],
    }
    compare(answer(attempt, rows, 2), [2, 1, 6], mistakes)
    fixed = {"Right for token 2 only; use the argument `answer`.": [2, 1, 6]}
    compare(answer(attempt, rows, 0), [1, 4, 1], fixed)
    tied = "Tokens with exactly the answer's logit stand beside it, not before it."
    dense = "Tokens above the answer count one by one, also where they have the same logit."
    got = answer(attempt, torch.tensor([[1.0, 1, 1, 0], [3.0, 1, 1, 1], [3.0, 3, 1, 0]]), 2)
    mistakes = {tied: [3, 4, 3], f"{tied} Sorting puts one first.": [3, 3, 3], dense: [1, 2, 2]}
    compare(got, [1, 2, 3], mistakes)


@exercise("5.3", "First, and first for good")
def settled_after(attempt) -> None:
    """Ranks by hand: found and lost, never, always, lost at the end, found late, lost late."""
    ranks = [[9, 1, 1, 4, 1, 1, 1, 1], [3, 2, 2, 2, 2, 2, 2, 2], [1] * 8]
    ranks += [[5, 1, 1, 1, 1, 1, 1, 2], [8, 6, 3, 2, 7, 1, 1, 1], [1, 1, 1, 1, 5, 3, 1, 1]]
    first = "This is the first row with rank 1; 9 1 1 4 1 1 1 1 should give 4: it is lost again."
    never = "Not first in the last row means never settled: give the number of rows, 8."
    mistakes = {
        first: [1, 0, 0, 1, 5, 0],
        f"{first} ": [1, 8, 0, 1, 5, 0],
        f"{first}  ": [1, 8, 0, 8, 5, 0],
        "Off by one: this is the last row in which it is not yet first.": [3, 7, 0, 7, 4, 5],
        "Off by one: where it is first from the start, that is row 0.": [3, 7, -1, 7, 4, 5],
        "Off by one: the row at which the stay starts, not the next.": [5, 9, 1, 9, 6, 7],
        "This is how many rows the last stretch has, not where it starts.": [4, 0, 8, 0, 3, 2],
        "These are all rows with rank 1; a stretch ends where it is lost.": [6, 0, 8, 6, 3, 6],
        "You count rows wherever they stand; a stretch ends where the rank is not 1.": (
            [2, 8, 0, 2, 5, 2]
        ),
        f"{never} You give 0.": [4, 0, 0, 0, 5, 6],
        f"{never} You give 7.": [4, 7, 0, 7, 5, 6],
        f"{never} You give -1.": [4, -1, 0, -1, 5, 6],
        "The last stretch counts, not a long one before it; 1 1 1 1 5 3 1 1 should give 6.": (
            [4, 8, 0, 8, 5, 0]
        ),
        "Rank 1 in every row means 0 blocks.": [4, 8, 8, 8, 5, 6],
    }
    compare(answer(attempt, torch.tensor(ranks).T), [4, 8, 0, 8, 5, 6], mistakes)
    compare(answer(attempt, torch.tensor([[2, 1], [1, 1], [1, 3]])), [1, 3])


@exercise("5.4", "Fool the lens")
def early_prompt(attempt, model) -> None:
    """The lens on the learner's prompt for each model: right before any block has run.

    The toys go on with what was said before, and their embedding row names the token itself for a
    few tokens only, in each for others; so no prompt is right for all. Of one the toy is not sure.
    """
    bos = model.to_tokens("a", prepend_bos=True)[0, 0].item()
    for each, start in ((model, bos), *((toy.habitual_network(s), toy.BOS) for s in (2, 10))):
        with on_model(each is model):
            _expect_early(answer(attempt, each, start), each, start)


def _expect_early(given, model, bos: int) -> None:
    expect(not isinstance(given, str), "Give token ids, not a text: `model.to_tokens(text)[0]`.")
    try:
        tokens = torch.as_tensor(given).to(model.cfg.device)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"Give one row of token ids, [1, pos], not {given!r}.") from None
    tokens = tokens[None] if tokens.dim() == 1 else tokens
    expect(
        tokens.dim() == 2 and len(tokens) == 1 and not tokens.is_floating_point(),
        f"Give one row of token ids, [1, pos], not {tuple(tokens.shape)} of {tokens.dtype}.",
    )
    words, size = tokens.shape[1] - 1, model.cfg.d_vocab
    expect(
        words >= 0 and tokens[0, 0].item() == bos, f"Begin the row with BOS, which is {bos} here."
    )
    expect(5 <= words <= 20, f"Tokens after BOS: {words}; use 5 to 20, so that there is context.")
    expect(bool((tokens < size).all()), f"Token ids run to {size - 1} here.")
    output = model(tokens)[0, -1].softmax(-1)
    lens = logit_lens(model, tokens, layers=[0], top_k=1)
    start, end = lens.readout.top_ids.item(), output.argmax().item()
    repeats = start == tokens[0, -1].item()
    what = "the token that it has just read" if repeats else "although it has read another one"
    named, said = (_spelled(model, token) for token in (start, end))
    expect(
        start == end,
        f"The embedding row names {named}, {what}; the model ends with {said}. The two must be "
        "the same token.",
    )
    expect(
        output.max() >= 0.5,
        f"The model is not sure itself: it gives {said}, its top token, only {output.max():.2f}. "
        "Give it a clearer case.",
    )


def _spelled(model, token: int) -> str:
    return f"token {token}" if model.tokenizer is None else repr(model.to_string([token]))


@exercise("5.5", "Beneath the habit")
def beneath_the_habit(beneath, right_share, luck) -> None:
    """Logits with a habit and a known share of right choices, of two sizes."""
    for seed, prompts in ((0, 480), (1, 420)):
        rows, answers, picks = _choices(seed, prompts)
        common = rows.mean(1, keepdim=True).expand_as(rows)
        centred = rows - common
        mistakes = {
            "this takes off each prompt's mean over the tokens; the prompts' mean is over "
            "axis 1.": rows - rows.mean(-1, keepdim=True),
            "this takes off the mean over the rows of the lens; each row has its own habit.": (
                rows - rows.mean(0)
            ),
            "this takes off one mean over rows and prompts; each row has its own habit.": (
                rows - rows.mean((0, 1))
            ),
            "this takes off the first prompt; take off the mean.": rows - rows[:, :1],
            "these are the logits as they were.": rows,
            "this is what they have in common; take it off.": common,
        }
        with step(1):
            compare(answer(beneath, rows), centred, mistakes, tolerance=1e-3)
        ids, right = answers.unique(), (picks == answers).double().mean(1)
        chosen = {
            "the habit still chooses; use the logits beneath it.": ids[rows[..., ids].argmax(-1)],
            "choose among the answers only, not among all tokens.": centred.argmax(-1),
            "the largest of the set is its place in it; turn that into a token id.": (
                centred[..., ids].argmax(-1)
            ),
            "the largest logit chooses, not the largest size.": (
                ids[centred[..., ids].abs().argmax(-1)]
            ),
        }
        mistakes = {text: (each == answers).double().mean(1) for text, each in chosen.items()}
        mistakes["one number for each row: the mean over its prompts."] = right.mean()
        with step(2):
            compare(answer(right_share, rows, answers), right, mistakes)
        with step(3):
            calls = torch.stack([answer(luck, rows, answers, like=right) for _ in range(4)])
            _expect_luck(calls, picks, answers)


def _expect_luck(calls: Tensor, picks: Tensor, answers: Tensor) -> None:
    """The quantile, up to the chance of the draws: of 1,500 right answers, simulated, none lay
    outside these bounds, and none that sets a seed outside the wider ones. One of the four calls
    may fall on the next possible share. Told apart from their mean and their most."""
    got, generator, edge = calls.mean(0), _seeded(9), 0.26 / len(answers)
    spread = 0.015 if calls.std(0).any() else 0.025
    dealt = [answers[torch.randperm(len(answers), generator=generator)] for _ in range(4000)]
    shares = torch.stack([(picks == each).double().mean(1) for each in dealt])  # [draw, row]
    low = shares.quantile(0.95 - spread, dim=0, interpolation="lower")
    high = shares.quantile(0.95 + spread, dim=0, interpolation="higher")
    right = (picks == answers).double().mean(1)
    expect(
        not bool((got - shares.mean(0)).abs().max() < 0.02),
        "this is the mean share of luck; one case in two is above it. Take the 95 % quantile.",
    )
    expect(
        not torch.allclose(got, right, atol=1e-6),
        "this is the share with the true answers; deal them to other prompts.",
    )
    expect(
        not torch.allclose(got, got[:1].expand_as(got), atol=1e-6),
        "this is one quantile for all rows; each row has its own, over its own draws.",
    )
    for row in range(len(right)):
        expect(
            bool(low[row] - edge <= got[row] <= high[row] + edge),
            f"dealt at random, the row with share {right[row]:.2f} has its 95 % quantile between "
            f"{low[row]:.3f} and {high[row]:.3f}; you give {got[row]:.3f}. Do the choices stay, "
            "and is each answer dealt once?",
        )


def _choices(seed: int, prompts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [row, prompt, d_vocab] under a strong habit, the answers, and what is chosen below it.

    Half of the prompts have one answer, few have another. In the first row nearly all choose a rare
    one, none their own; in the second about half have their own on top, in the third all.
    """
    generator = _seeded(seed)
    answers = torch.tensor([7, 7, 7, 7, 2, 2, 11, 16])[torch.arange(prompts) % (8 - seed)]
    half = torch.where(torch.rand(prompts, generator=generator) < 0.5, answers, answers.roll(4))
    picks = torch.stack([torch.where(answers == 11, 2, 11), half, answers])
    rows = torch.randn(3, prompts, 20, generator=generator).double() / 10
    rows += 6 * torch.nn.functional.one_hot(picks, 20)
    rows += 12 * torch.rand(3, prompts, 1, generator=generator) * torch.eye(20)[3]  # no answer
    rows += 30 * torch.randn(3, 1, 20, generator=generator)  # what all prompts of a row share
    ids, beneath = answers.unique(), rows - rows.mean(1, keepdim=True)
    return rows, answers, ids[beneath[..., ids].argmax(-1)]


@exercise("5.6", "A tuned lens of your own")
def tuned_lens(decoded_kl, train, three_lenses, model) -> None:
    """Step 1 on the model at hand; steps 2 and 3 on small heads whose streams are turned."""
    with step(1):
        tokens = torch.randint(1, model.cfg.d_vocab, (2, 5), generator=_seeded())
        logits, cache = model.run_with_cache(tokens.to(model.cfg.device))
        given = cache["resid_pre", model.cfg.n_layers - 1], logits.log_softmax(-1)
        _expect_kl(decoded_kl, model, *given)
    for head in map(_head, ("LN", "RMS")):
        with step(1, first=False):
            _expect_kl(decoded_kl, head, *_texts(head, turned=1, seed=3))
    for norm, before, after, most in (("LN", 0, 1, 2.5), ("RMS", 1, 2, 1.6)):
        head = _head(norm)
        seen, held_out = (_texts(head, turned=1, seed=seed, shift=1) for seed in (0, 1))
        middle = seen[0].mean((0, 1))  # without it only `b` can tell where the last streams lie
        seen, held_out = ((streams - middle, output) for streams, output in (seen, held_out))
        with step(2):
            translate = answer(train, head, *seen)
            translated = answer(translate, held_out[0], like=held_out[0])
            halfway = answer(translate, held_out[0] / 2, like=held_out[0])
            at_zero = answer(translate, 0 * held_out[0], like=held_out[0])
            expect(
                torch.allclose(2 * halfway, translated + at_zero, atol=1e-3),
                "the lens is not of the form `streams + streams @ A + b`.",
            )
            turned = answer(translate, held_out[0].flip(0, 1), like=translated).flip(0, 1)
            expect(
                torch.allclose(turned, translated, atol=1e-3),
                "the lens is another one at other positions or in other texts; one `A` "
                "[d_model, d_model] and one `b` [d_model] serve all.",
            )
            far = _kl_by_token(head, translated, held_out[1]).mean().item()
            plain, guess = _kl_by_token(head, *held_out).mean().item(), _best_guess(held_out[1])
            expect(
                far < min(plain, guess) / 2,
                f"on texts that it has not seen your lens is {far:.2f} nats from the output; these "
                f"streams allow less than {min(plain, guess) / 2:.2f} (the logit lens has "
                f"{plain:.2f}, one guess for all {guess:.2f}). Are `b` and the whole of `A` "
                "trained, from 0, for some hundred steps, at a rate like 1e-2?",
            )
        with step(3):
            texts = _texts(head, turned=1, seed=0, shift=before)
            others = _texts(head, turned=1, seed=1, texts=30, shift=after)
            _expect_three(answer(three_lenses, head, texts, others), head, texts, others, most)
    with step(3):
        # Many, of another kind: nothing carries over, and a few texts do not hide a leak.
        head = _head("LN")
        few, turned = (  # short ones, so that there are enough to deal whole texts
            tuple(each.reshape(-1, 2, each.shape[-1]) for each in texts)
            for texts in (_texts(head, turned=1, seed=0, texts=2), _texts(head, 2, 2, texts=60))
        )
        _, tuned, _ = value(answer(three_lenses, head, few, turned), like=torch.zeros(3))
        expect(
            tuned > _best_guess(turned[1]) / 2,
            "on held-out texts to which nothing carries over your tuned lens looks good: it was "
            "measured on what it was trained on, or trained on what it is measured on.",
        )
        # On its own few texts, three times: what was dealt is learned by heart.
        thirds = [
            value(answer(three_lenses, head, few, few), like=torch.zeros(3))[2] for _ in range(3)
        ]
        expect(
            sum(thirds) / 3 > 1.4 * _best_guess(few[1]),
            "the third could learn nothing by heart, and so is no control: on the few streams of "
            "its training it is as near as one guess for all. Deal the outputs, not their mean.",
        )


def _expect_kl(decoded_kl, model, streams: Tensor, output: Tensor) -> None:
    right = _kl_by_token(model, streams, output)
    decoded = model.unembed(model.ln_final(streams)).log_softmax(-1)
    mistakes = {
        "decode with the model's whole head: the final norm, too.": (
            output.exp() * (output - model.unembed(streams).log_softmax(-1))
        ).sum(-1),
        "the other way round: the mean goes over tokens drawn from the output.": (
            decoded.exp() * (decoded - output)
        ).sum(-1),
        "this is the cross-entropy; take the output's own entropy off.": (
            -(output.exp() * decoded).sum(-1)
        ),
        "this is a mean over the tokens of the vocabulary; KL is their sum.": (
            right / output.shape[-1]
        ),
    }
    mistakes = {message: gives.mean() for message, gives in mistakes.items()}
    mistakes["give the mean over all positions, not the sum."] = right.sum()
    mistakes["give one number, the mean over all positions."] = right
    compare(answer(decoded_kl, model, streams, output), right.mean(), mistakes, tolerance=1e-3)


def _expect_three(given, head, seen, held_out, most: float) -> None:
    """The three numbers, where they must differ and where they must agree.

    The held-out texts are fewer, and other tokens are frequent in them, so that a lens that knows
    their outputs, dealt, guesses better than any that knows the training texts alone. `most`: the
    third's KL over that of the best guess from the training texts, at most.
    """
    plain, tuned, dealt = value(given, like=torch.zeros(3)).tolist()
    right, best = _kl_by_token(head, *held_out).mean().item(), _best_guess(held_out[1])
    guess = _kl(held_out[1], _mean_output(seen[1]).expand_as(held_out[1])).mean().item()
    expect(
        abs(plain - right) < 1e-3 * right,
        f"the first is the logit lens on the held-out texts, {right:.3f}; you give {plain:.3f}.",
    )
    expect(
        tuned < best / 2,
        f"the second is your tuned lens on the held-out texts; you give {tuned:.2f}, and these "
        f"allow less than {best / 2:.2f}. Is it the second? Or is it trained too little: too few "
        "steps, no `zero_grad`?",
    )
    expect(
        not best < dealt < 0.9 * guess,
        "the third knows how frequent each token is in the held-out texts; train it on the "
        "training texts alone, streams and outputs, and measure it on the held-out ones.",
    )
    expect(
        dealt > 0.9 * guess,
        "the third is trained on streams whose outputs were dealt to other streams, so it can know "
        "no more than one guess for all; yours knows more. Are the outputs really at wrong places, "
        "and the held-out ones at the right ones?",
    )
    expect(
        dealt < most * guess,
        "the third is trained, too: how frequent each token is in the training texts it can learn; "
        "yours did not. Streams stay as they are, only the outputs are dealt.",
    )


# What the checks are made of


def _kl(output: Float[Tensor, "*axes d_vocab"], rows: Float[Tensor, "*axes d_vocab"]) -> Tensor:
    log_p, log_q = output.log_softmax(-1), rows.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _head(norm: str):
    """A small network with random weights and this norm, whose bias counts."""
    model = toy.boot(
        n_layers=1, n_heads=1, d_model=12, d_head=4, d_vocab=24, normalization_type=norm
    )
    generator = _seeded(5)
    linear = model.unembed.original_component
    linear.bias = torch.nn.Parameter(model.b_U.clone(), requires_grad=False)
    final = set(map(id, model.ln_final.parameters()))
    for parameter in model.parameters():
        if id(parameter) not in final:  # they are 1, as in any model that is loaded
            torch.nn.init.normal_(parameter, std=0.7, generator=generator)
    return model


def _texts(head, turned: int, seed: int, texts=40, shift=0.0) -> tuple[Tensor, Tensor]:
    """Streams [text, pos, d_model] that are the last ones turned about, and outputs as log-probs.

    `turned` says how: with the same number one linear map undoes it. `shift` moves all of the last
    streams, which makes other tokens frequent.
    """
    last = torch.randn(texts, 10, head.cfg.d_model, generator=_seeded(seed))
    last += shift * torch.randn(head.cfg.d_model, generator=_seeded(77))
    turn, _ = torch.linalg.qr(
        torch.randn(head.cfg.d_model, head.cfg.d_model, generator=_seeded(turned))
    )
    return last @ turn + 1, head.unembed(head.ln_final(last)).log_softmax(-1)


def _kl_by_token(head, streams: Tensor, output: Tensor) -> Tensor:
    return _kl(output, head.unembed(head.ln_final(streams)))


def _best_guess(output: Tensor) -> float:
    """KL of the best single guess for all positions, the mean output: no lens without input does
    better."""
    return _kl(output, _mean_output(output).expand_as(output)).mean().item()


def _mean_output(output: Tensor) -> Float[Tensor, "d_vocab"]:
    return output.flatten(0, 1).exp().mean(0).log()
