"""What to measure at the output: logit difference, rank, log-probability, divergence."""

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor

from helpers.inputs import expect_axes, expect_finite, expect_number, expect_tokens

Metric = Callable[[Float[Tensor, "rows pos d_vocab"]], Float[Tensor, "rows"]]


def logit_diff(
    logits: Float[Tensor, "batch pos d_vocab"],
    answer: Int[Tensor, "batch"],
    distractor: Int[Tensor, "batch"],
) -> Float[Tensor, "batch"]:
    """How much the answer is preferred to the distractor at the last position.

    Args:
        logits: next-token logits, one row a prompt; the last position is read.
        answer, distractor: token ids, one each a row.

    Returns:
        logit(answer) - logit(distractor), in nats: the log of the odds between the two. Positive
        means that the answer is preferred. What all logits share (their level, the softmax'
        normaliser) cancels.

    Raises:
        TypeError, ValueError: wrong axes, an empty batch, ids out of range, NaN or infinite logits.

    Source: Wang et al. 2022 (arXiv 2211.00593); preferred to probability by Zhang & Nanda 2023
    (arXiv 2309.16042).
    """
    last = _last(logits)
    _expect_ids("answer", answer, last)
    _expect_ids("distractor", distractor, last)
    return (last.gather(1, answer[:, None]) - last.gather(1, distractor[:, None]))[:, 0]


class LastToken:
    """A metric that is handed the logits of the last position only, and of some tokens only.

    Called with logits `[rows, pos, d_vocab]` it takes these out itself; a sweep of
    `helpers.patching` computes no others.

    Args:
        function: from `[rows, tokens]`, in the order of `tokens`, to one number a row.
        tokens: ids; None for the whole vocabulary.

    Raises:
        TypeError, ValueError: `tokens` are not ids on one axis; when called, wrong axes or an id
            out of range.
    """

    def __init__(
        self,
        function: Callable[[Float[Tensor, "rows tokens"]], Float[Tensor, "rows"]],
        tokens: Int[Tensor, "tokens"] | None = None,
    ):
        if tokens is not None:
            expect_axes("tokens", tokens, "tokens")
        self.function, self.tokens = function, tokens

    def __call__(self, logits: Float[Tensor, "rows pos d_vocab"]) -> Float[Tensor, "rows"]:
        expect_axes("logits", logits, "rows pos d_vocab")
        last = logits[:, -1]
        if self.tokens is not None:
            expect_tokens("tokens", self.tokens, logits.shape[-1])
            last = last[:, self.tokens]
        return self.function(last)


def normalise(value: Tensor, clean: Tensor | float, corrupted: Tensor | float) -> Tensor:
    """Put a metric on the scale where 0 is the corrupted run and 1 is the clean run.

    Args:
        value: a metric in any unit and of any shape, after patching.
        clean, corrupted: the same metric on the two runs, one number each.

    Returns:
        (value - corrupted) / (clean - corrupted), unitless. Below 0 or above 1 is possible: a patch
        can overshoot.

    Raises:
        TypeError: a value that is no number.
        ValueError: the two baselines are equal to within 1e-6, so the scale has no length, or are
            not one finite number each.

    Source: Wang et al. 2022 (arXiv 2211.00593), section 3.
    """
    ends = []
    for name, end in (("clean", clean), ("corrupted", corrupted)):
        if isinstance(end, Tensor) and end.numel() != 1:
            raise ValueError(f"{name}: expected one number, got shape {tuple(end.shape)}")
        number = expect_number(name, end)
        if number - number != 0:  # NaN or infinite
            raise ValueError(f"{name}: expected a finite number, got {number}")
        ends.append(number)
    high, low = ends
    if abs(high - low) < 1e-6:
        raise ValueError(
            f"clean ({high:g}) and corrupted ({low:g}) give the same metric, so there is nothing "
            "to recover; choose a corruption that changes the answer"
        )
    try:
        return (value - low) / (high - low)
    except (TypeError, RuntimeError):  # RuntimeError: truth values have no difference
        kind = getattr(value, "dtype", type(value).__name__)
        raise TypeError(f"value: expected a tensor of numbers, got {kind}") from None


def answer_rank(
    logits: Float[Tensor, "batch pos d_vocab"], answer: Int[Tensor, "batch"]
) -> Int[Tensor, "batch"]:
    """The place of the answer among all tokens at the last position; 1 is the most likely.

    Tokens that tie with the answer are not counted before it. Raises as `logit_diff`.
    """
    last = _last(logits)
    _expect_ids("answer", answer, last)
    return (last > last.gather(1, answer[:, None])).sum(1) + 1


def next_token_log_probs(
    logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos-1"]:
    """Log-probability, in nats, that each position gives to the token that follows it.

    Entry `[b, i]` is for `tokens[b, i + 1]`; its negative is the loss there.

    Raises:
        TypeError, ValueError: as `logit_diff`; or `tokens` and `logits` differ in batch or length.
    """
    expect_axes("logits", logits, "batch pos d_vocab")
    expect_finite("logits", logits)
    batch, pos, d_vocab = logits.shape
    expect_axes("tokens", tokens, "batch pos", batch=batch, pos=pos)
    expect_tokens("tokens", tokens, d_vocab)
    if pos < 2:
        raise ValueError("tokens: one position has no next token; give at least two")
    log_probs = logits[:, :-1].log_softmax(-1)
    return log_probs.gather(-1, tokens[:, 1:, None])[..., 0]


def kl_divergence(
    logits: Float[Tensor, "*axes d_vocab"], other: Float[Tensor, "*axes d_vocab"]
) -> Float[Tensor, "*axes"]:
    """KL(P || Q) in nats, where P has these `logits` and Q has `other`'s; 0 where they agree.

    How surprised one is, on average over P, to be told Q: sum of P (log P - log Q).

    Raises:
        TypeError: one of them is not a tensor of floating-point numbers.
        ValueError: the two differ in shape, have no tokens, or hold NaN or infinity.

    Source: Kullback & Leibler 1951.
    """
    _expect_logits("logits", logits)
    _expect_logits("other", other)
    if logits.shape != other.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and other {tuple(other.shape)} differ in shape; "
            "nothing is broadcast here"
        )
    log_p, log_q = logits.log_softmax(-1), other.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def entropy(logits: Float[Tensor, "*axes d_vocab"]) -> Float[Tensor, "*axes"]:
    """Entropy of the next-token distribution in nats: 0 is certain, log(d_vocab) knows nothing.

    Raises:
        TypeError: not a tensor of floating-point numbers.
        ValueError: no tokens, NaN or infinite logits.

    Source: Shannon 1948.
    """
    _expect_logits("logits", logits)
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def _expect_logits(name: str, logits: Tensor) -> None:
    """Finite logits `[..., d_vocab]` of at least one token."""
    expect_finite(name, logits)
    if not logits.ndim or not logits.shape[-1]:
        raise ValueError(f"{name}: expected [..., d_vocab], got shape {tuple(logits.shape)}")


def _last(logits: Tensor) -> Tensor:
    """The checked logits at the last position, `[batch, d_vocab]`."""
    expect_axes("logits", logits, "batch pos d_vocab")
    last = logits[:, -1]
    expect_finite("logits", last)
    return last


def _expect_ids(name: str, ids: Tensor, last: Tensor) -> None:
    expect_axes(name, ids, "batch", batch=len(last))
    expect_tokens(name, ids, last.shape[-1])
