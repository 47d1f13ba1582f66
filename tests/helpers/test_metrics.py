"""`helpers.metrics`: worked examples, a second route to each number on random input."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from helpers import metrics

SLACK = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
# Each run has the same cases.
many = settings(max_examples=40, derandomize=True, deadline=None, database=None)
sizes, seeds, dtypes = st.integers(1, 5), st.integers(0, 2**32), st.sampled_from(list(SLACK))


def drawn(shape, seed, dtype=torch.float32):
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()
    return x.to(dtype)


def ids(shape, seed, below):
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


@many
@given(sizes, sizes, sizes, dtypes, seeds)
def test_metrics_of_the_answer_by_hand(batch, pos, d_vocab, dtype, seed):
    logits = drawn((batch, pos, d_vocab), seed, dtype)
    answer, distractor = (ids((batch,), seed + i, d_vocab) for i in (1, 2))
    difference = metrics.logit_diff(logits, answer, distractor)
    assert difference.shape == (batch,) and difference.dtype == dtype
    for row in range(batch):
        last = logits[row, pos - 1].double()
        expected = (last[answer[row]] - last[distractor[row]]).item()
        assert abs(difference[row].item() - expected) <= SLACK[dtype] * 3


@many
@given(sizes, st.integers(2, 6), sizes, dtypes, seeds)
def test_log_probs_are_minus_the_cross_entropy(batch, pos, d_vocab, dtype, seed):
    logits, tokens = drawn((batch, pos, d_vocab), seed, dtype), ids((batch, pos), seed, d_vocab)
    found = metrics.next_token_log_probs(logits, tokens)
    loss = F.cross_entropy(
        logits[:, :-1].double().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    assert_close(found.double(), -loss.view(batch, pos - 1), atol=1e-5, rtol=1e-5)


@many
@given(st.lists(st.integers(0, 4), max_size=3), sizes, dtypes, seeds)
def test_divergence_and_entropy_by_hand(axes, d_vocab, dtype, seed):
    """On any axes, none and empty ones included: cross entropy is entropy plus divergence."""
    logits, other = (drawn((*axes, d_vocab), seed + i, dtype) for i in (0, 1))
    entropy, divergence = metrics.entropy(logits), metrics.kl_divergence(logits, other)
    assert entropy.shape == divergence.shape == tuple(axes) and (divergence >= 0).all()
    p, q = logits.double().softmax(-1), other.double().softmax(-1)
    assert_close(entropy.double(), -(p * p.log()).sum(-1), atol=1e-4, rtol=0)
    assert_close((entropy + divergence).double(), -(p * q.log()).sum(-1), atol=1e-4, rtol=0)


def test_divergence_is_never_negative_in_half_precision():
    """FIELD-CASES 8: it was -0.01 where the same logits in double precision give 0.001."""
    logits = drawn((200, 1861), 0, torch.bfloat16)
    near = (logits.double() + 0.03 * drawn((200, 1861), 1, torch.float64)).bfloat16()
    found = metrics.kl_divergence(logits, near)
    assert (found >= 0).all()
    exact = metrics.kl_divergence(logits.double(), near.double())
    assert_close(found.double(), exact, atol=1e-5, rtol=1e-2)


def test_divergence_and_entropy_have_the_right_ends():
    assert_close(metrics.entropy(torch.zeros(11)), torch.tensor(math.log(11)))
    assert_close(metrics.entropy(torch.tensor([500.0, 0.0])), torch.tensor(0.0))
    logits = drawn((4, 5, 11), 0)
    same = metrics.kl_divergence(logits, logits + 7)  # the same distribution at another level
    assert_close(same, torch.zeros(4, 5), atol=1e-5, rtol=0)


@many
@given(sizes, st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), seeds)
def test_normalising_can_be_undone(size, clean, corrupted, seed):
    """0 is the corrupted end and 1 the clean one."""
    value = drawn((size,), seed, torch.float64)
    if abs(clean - corrupted) < 1e-6:
        with pytest.raises(ValueError, match="choose a corruption that changes the answer"):
            metrics.normalise(value, clean, corrupted)
        return
    found = metrics.normalise(value, torch.tensor([clean], dtype=torch.float64), corrupted)
    assert_close(found * (clean - corrupted) + corrupted, value, rtol=1e-9, atol=1e-9)


def test_shapes_are_checked_at_run_time_in_these_tests():
    """pytest's flag in pyproject.toml is at work: else all tests here would check less."""
    with pytest.raises(TypeError, match="Type-check error"):
        metrics.entropy(1.0)


def test_the_interval_is_students():
    """Worked by hand, t = 2.7764 for 4 degrees of freedom; and as often as it says it is right."""
    values = torch.tensor([1.0, 2, 3, 4, 5], dtype=torch.float64)
    mean, half = metrics.mean_interval(values)
    assert mean == 3 and abs(half - 2.7764 * 2.5**0.5 / 5**0.5) < 2e-3
    for n in (3, 8, 12):
        mean, half = metrics.mean_interval(drawn((n, 20_000), n))
        assert abs((mean.abs() < half).double().mean() - 0.95) < 0.005


@pytest.mark.parametrize("bad", [torch.ones(2), torch.ones(2, 5), torch.full((3,), torch.nan)])
def test_no_interval_of_two_or_of_nan(bad):
    with pytest.raises(ValueError, match="values: "):
        metrics.mean_interval(bad)
