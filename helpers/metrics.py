"""What to measure at the output: logit difference, log-probability, divergence; and how sure a mean
is. Logits do not show which of them are at padding: where rows differ in length, give the `mask`
too, True or 1 where a token is none, as `helpers.prompts.tokenize_batch` or an `attention_mask`."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers import inputs

Metric = Callable[[Float[Tensor, "rows pos d_vocab"]], Float[Tensor, "rows"]]
Logits = Float[Tensor, "batch pos d_vocab"]
Ids = Int[Tensor, "batch"]
Rows = Float[Tensor, "*axes d_vocab"]
Axes = Float[Tensor, "*axes"]
Number = Tensor | float
Mask = Bool[Tensor, "batch pos"] | Int[Tensor, "batch pos"] | None


class LastToken:
    """A metric that is handed the logits of the last position only, and of some tokens only:
    `function` gives one number a row from `[rows, tokens]`, in the order of the ids `tokens` (None:
    all). Called with all logits it takes these out itself, so rows must be of one length; a sweep
    of `helpers.patching` computes no others. TypeError or ValueError where `tokens` are no ids."""

    def __init__(self, function: Metric, tokens: Int[Tensor, "tokens"] | None = None):
        if tokens is not None:
            inputs.expect_axes("tokens", tokens, "tokens")
        self.function, self.tokens = function, tokens

    def __call__(self, logits: Float[Tensor, "rows pos d_vocab"]) -> Float[Tensor, "rows"]:
        inputs.expect_axes("logits", logits, "rows pos d_vocab")
        if self.tokens is None:
            return self.function(logits[:, -1])
        inputs.expect_ids(logits.shape[-1], tokens=self.tokens)
        return self.function(logits[:, -1, self.tokens])


def measured(values: Tensor, rows: int) -> Float[Tensor, "rows"]:
    """What a metric gave, checked to be one finite number a row; TypeError or ValueError else."""
    if (got := getattr(values, "shape", type(values).__name__)) != (rows,):
        fix = f"got {got}; do not average over rows or call .item()"
        raise ValueError(f"metric: expected one number for each of the {rows} rows, {fix}")
    inputs.expect_finite("metric", values, [*inputs.FLOATS, *inputs.IDS])  # a rank is an int
    return values


def at_last(
    values: Float[Tensor, "batch pos *rest"], mask: Mask = None
) -> Float[Tensor, "batch *rest"]:
    """What stands at each row's last token: the last that `mask` marks; None: the last position."""
    if mask is None:
        return values[:, -1]
    real = inputs.expect_mask(mask, *values.shape[:2]).to(values.device)
    last = real.cumsum(1).argmax(1)  # argmax: the first position that counts them all
    return values[torch.arange(len(values)), last]


def logit_diff(
    logits: Logits, answer: Ids, distractor: Ids, mask: Mask = None
) -> Float[Tensor, "batch"]:
    """logit(answer) - logit(distractor) at each row's last token, in nats: the log of their odds.
    Positive: the answer is preferred. What all logits share (the softmax' normaliser) cancels.
    TypeError or ValueError for wrong or empty axes, ids out of range, NaN or infinity. Source: Wang
    et al. 2022 (arXiv 2211.00593); why not probability, Zhang & Nanda 2023 (arXiv 2309.16042)."""
    last = _last(logits, mask, answer=answer, distractor=distractor)
    return (last.gather(1, answer[:, None]) - last.gather(1, distractor[:, None]))[:, 0]


def normalise(value: Number, clean: Number, corrupted: Number) -> Number:
    """(value - corrupted) / (clean - corrupted): 0 is the corrupted run, 1 the clean run; unitless,
    and a patch can overshoot. `value`: a metric after patching, the others that of the two runs.
    TypeError where one of these is no number; ValueError where they are not finite, or equal to
    within 1e-6. Source: Wang et al. 2022 (arXiv 2211.00593), section 3."""
    high, low = inputs.expect_number("clean", clean), inputs.expect_number("corrupted", corrupted)
    if abs(high - low) < 1e-6:
        fix = "so there is nothing to recover; choose a corruption that changes the answer"
        raise ValueError(f"clean ({high:g}) and corrupted ({low:g}) give the same metric, {fix}")
    return (value - low) / (high - low)


def next_token_log_probs(
    logits: Logits, tokens: Int[Tensor, "batch pos"], mask: Mask = None
) -> Float[Tensor, "batch pos-1"]:
    """Log-probability, in nats, that each position gives to the token that follows it: entry
    `[b, i]` is for `tokens[b, i + 1]`, and its negative is the loss there; NaN where one of the two
    is padding, so use `nanmean`. Raises as `logit_diff`, and where batch or length differ."""
    inputs.expect_axes("logits", logits, "batch pos d_vocab")
    batch, pos, d_vocab = logits.shape
    inputs.expect_axes("tokens", tokens, "batch pos", batch=batch, pos=pos)
    inputs.expect_ids(d_vocab, tokens=tokens)
    if pos < 2:
        raise ValueError("tokens: one position has no next token; give at least two")
    found = _log_softmax("logits", logits)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    if mask is None:
        return found
    real = inputs.expect_mask(mask, batch, pos)
    return found.where(real[:, :-1] & real[:, 1:], torch.nan)


def kl_divergence(logits: Rows, other: Rows) -> Axes:
    """KL(P || Q) in nats, where P has these `logits` and Q has `other`'s; 0 where they agree: the
    sum of P (log P - log Q), in float32 at least. TypeError or ValueError where they are no
    floating-point numbers, differ in shape, or are not finite. Source: Kullback & Leibler 1951."""
    log_p, log_q = _log_softmax("logits", logits), _log_softmax("other", other)
    if log_p.shape != log_q.shape:
        raise ValueError(f"logits {tuple(log_p.shape)}, other {tuple(log_q.shape)} differ in shape")
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)  # rounding may dip below


def entropy(logits: Rows) -> Axes:
    """Entropy of the next-token distribution in nats: 0 is certain, log(d_vocab) knows nothing.
    Raises as `kl_divergence`. Source: Shannon 1948."""
    log_p = _log_softmax("logits", logits)
    return -(log_p.exp() * log_p).sum(-1)


def mean_interval(values: Float[Tensor, "n *axes"]) -> tuple[Axes, Axes]:
    """The mean over the first axis, and half of its 95 % interval, in the values' unit: Student's t
    (by its expansion, within 1 %). Average first what belongs together, as a pair's two prompts.
    Raises as `logit_diff`, also for fewer than 3. Source: Abramowitz & Stegun 1964, 26.7.5."""
    inputs.expect_finite("values", values)
    if not values.ndim or len(values) < 3:
        raise ValueError(f"values: expected 3 or more, got {tuple(values.shape)}; add prompts")
    v = len(values) - 1
    t = 1.96 + 2.3723 / v + 2.8225 / v**2 + 2.5558 / v**3 + 1.5895 / v**4
    return values.mean(0), t * values.std(0) / len(values) ** 0.5


def _log_softmax(name: str, logits: Tensor) -> Tensor:
    inputs.expect_finite(name, logits)
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _last(logits: Tensor, mask: Mask, **ids: Tensor) -> Float[Tensor, "batch d_vocab"]:
    """The logits at each row's last token, checked together with token ids, one a row."""
    inputs.expect_axes("logits", logits, "batch pos d_vocab")
    last = at_last(logits, mask)
    inputs.expect_finite("logits", last)
    inputs.expect_ids(logits.shape[-1], len(last), **ids)
    return last
