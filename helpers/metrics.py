"""What to measure at the output: logit difference, rank, log-probability, divergence."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers import inputs

Metric = Callable[[Float[Tensor, "rows pos d_vocab"]], Float[Tensor, "rows"]]
Logits = Float[Tensor, "batch pos d_vocab"]
Ids = Int[Tensor, "batch"]


class LastToken:
    """A metric that is handed the logits of the last position only, and of some tokens only.

    `function` gives one number a row from `[rows, tokens]`, in the order of the ids `tokens` (None:
    the whole vocabulary). Called with all logits it takes these out itself; a sweep of
    `helpers.patching` computes no others. TypeError or ValueError where `tokens` are no ids."""

    def __init__(self, function: Metric, tokens: Int[Tensor, "tokens"] | None = None):
        if tokens is not None:
            inputs.expect_axes("tokens", tokens, "tokens")
        self.function, self.tokens = function, tokens

    def __call__(self, logits: Float[Tensor, "rows pos d_vocab"]) -> Float[Tensor, "rows"]:
        inputs.expect_axes("logits", logits, "rows pos d_vocab")
        if self.tokens is None:
            return self.function(logits[:, -1])
        inputs.expect_tokens("tokens", self.tokens, logits.shape[-1])
        return self.function(logits[:, -1, self.tokens])


def logit_diff(logits: Logits, answer: Ids, distractor: Ids) -> Float[Tensor, "batch"]:
    """logit(answer) - logit(distractor) at the last position, in nats: the log of their odds.

    Positive means that the answer is preferred. What all logits share (their level, the softmax'
    normaliser) cancels. Rows have one length: padding at the end would be read as the last token.
    TypeError or ValueError for wrong axes, an empty batch, ids out of range, NaN or infinity.
    Source: Wang et al. 2022 (arXiv 2211.00593); preferred to probability by Zhang & Nanda 2023
    (arXiv 2309.16042)."""
    last = _last(logits, answer=answer, distractor=distractor)
    return (last.gather(1, answer[:, None]) - last.gather(1, distractor[:, None]))[:, 0]


def normalise(value: Tensor, clean: Tensor | float, corrupted: Tensor | float) -> Tensor:
    """(value - corrupted) / (clean - corrupted): 0 is the corrupted run, 1 the clean run.

    `value` is a metric after patching, of any shape; `clean` and `corrupted` the same metric on the
    two runs, one number each. Unitless; a patch can overshoot 0 and 1. TypeError where one is no
    number; ValueError where the two are equal to within 1e-6, or not finite.
    Source: Wang et al. 2022 (arXiv 2211.00593), section 3."""
    high, low = inputs.expect_number("clean", clean), inputs.expect_number("corrupted", corrupted)
    if abs(high - low) < 1e-6:
        fix = "so there is nothing to recover; choose a corruption that changes the answer"
        raise ValueError(f"clean ({high:g}) and corrupted ({low:g}) give the same metric, {fix}")
    if isinstance(value, Tensor) and value.dtype == torch.bool:
        raise TypeError("value: expected a tensor of numbers, got torch.bool")
    return (value - low) / (high - low)


def answer_rank(logits: Logits, answer: Ids) -> Ids:
    """The place of the answer among all tokens at the last position; 1 is the most likely. Tokens
    that tie with it are not counted before it. Raises as `logit_diff`."""
    last = _last(logits, answer=answer)
    return (last > last.gather(1, answer[:, None])).sum(1) + 1


def next_token_log_probs(
    logits: Logits, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos-1"]:
    """Log-probability, in nats, that each position gives to the token that follows it: entry
    `[b, i]` is for `tokens[b, i + 1]`, and its negative is the loss there. Raises as `logit_diff`,
    and where `tokens` and `logits` differ in batch or length."""
    inputs.expect_axes("logits", logits, "batch pos d_vocab")
    inputs.expect_finite("logits", logits)
    batch, pos, d_vocab = logits.shape
    inputs.expect_axes("tokens", tokens, "batch pos", batch=batch, pos=pos)
    inputs.expect_tokens("tokens", tokens, d_vocab)
    if pos < 2:
        raise ValueError("tokens: one position has no next token; give at least two")
    return _log_softmax(logits[:, :-1]).gather(-1, tokens[:, 1:, None])[..., 0]


def kl_divergence(
    logits: Float[Tensor, "*axes d_vocab"], other: Float[Tensor, "*axes d_vocab"]
) -> Float[Tensor, "*axes"]:
    """KL(P || Q) in nats, where P has these `logits` and Q has `other`'s; 0 where they agree.

    How surprised one is, on average over P, to be told Q: sum of P (log P - log Q), in float32 at
    least. TypeError or ValueError where they are no floating-point numbers, differ in shape, or
    hold NaN or infinity. Source: Kullback & Leibler 1951."""
    if _logits("logits", logits).shape != _logits("other", other).shape:
        both = f"logits {tuple(logits.shape)} and other {tuple(other.shape)}"
        raise ValueError(f"{both} differ in shape; nothing is broadcast here")
    log_p, log_q = _log_softmax(logits), _log_softmax(other)
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)  # rounding may dip below


def entropy(logits: Float[Tensor, "*axes d_vocab"]) -> Float[Tensor, "*axes"]:
    """Entropy of the next-token distribution in nats: 0 is certain, log(d_vocab) knows nothing.
    Raises as `kl_divergence`. Source: Shannon 1948."""
    log_p = _log_softmax(_logits("logits", logits))
    return -(log_p.exp() * log_p).sum(-1)


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _logits(name: str, logits: Tensor) -> Tensor:
    inputs.expect_finite(name, logits)
    if not logits.ndim or not logits.shape[-1]:
        raise ValueError(f"{name}: expected [..., d_vocab], got shape {tuple(logits.shape)}")
    return logits


def _last(logits: Tensor, **ids: Tensor) -> Float[Tensor, "batch d_vocab"]:
    """The logits at the last position, checked together with token ids, one a row."""
    inputs.expect_axes("logits", logits, "batch pos d_vocab")
    last = logits[:, -1]
    inputs.expect_finite("logits", last)
    for name, each in ids.items():
        inputs.expect_axes(name, each, "batch", batch=len(last))
        inputs.expect_tokens(name, each, last.shape[-1])
    return last
