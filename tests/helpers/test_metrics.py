"""`helpers.metrics`: worked examples, a second route to each number, and the errors."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from helpers import metrics

# Two rows of three positions over four tokens; only the last position should count.
LOGITS = torch.tensor(
    [
        [[9.0, 0.0, 0.0, 0.0], [0.0, 9.0, 0.0, 0.0], [1.0, 5.0, 2.0, 2.0]],
        [[0.0, 9.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0], [4.0, 3.0, 7.0, 0.0]],
    ]
)
ANSWER, DISTRACTOR = torch.tensor([2, 0]), torch.tensor([1, 3])


@pytest.fixture
def logits():
    """Random logits `[batch, pos, d_vocab]` with their tokens."""
    return 3 * torch.randn(4, 5, 11, generator=torch.Generator().manual_seed(0))


# Logit difference


def test_logit_diff_reads_the_last_position_of_each_row():
    assert metrics.logit_diff(LOGITS, ANSWER, DISTRACTOR).tolist() == [2.0 - 5.0, 4.0 - 0.0]


def test_logit_diff_is_the_difference_of_log_probs(pair):
    log_probs = pair.clean_logits[0, -1].log_softmax(-1)
    answer, distractor = pair.tokens.answer, pair.tokens.distractor
    difference = metrics.logit_diff(pair.clean_logits, answer, distractor)
    assert_close(difference, log_probs[answer] - log_probs[distractor], atol=1e-4, rtol=0)


def test_logit_diff_changes_sign_with_the_roles_and_ignores_the_level():
    difference = metrics.logit_diff(LOGITS, ANSWER, DISTRACTOR)
    assert_close(metrics.logit_diff(LOGITS, DISTRACTOR, ANSWER), -difference)
    assert_close(metrics.logit_diff(LOGITS + 3, ANSWER, DISTRACTOR), difference)


# Normalising


@pytest.mark.parametrize(("clean", "corrupted"), [(4.0, -2.0), (-2.0, 4.0), (1e-3, 0.0)])
def test_normalise_is_0_at_the_corrupted_end_and_1_at_the_clean_end(clean, corrupted):
    value = torch.tensor([corrupted, clean, (clean + corrupted) / 2, 2 * clean - corrupted])
    assert_close(metrics.normalise(value, clean, corrupted), torch.tensor([0.0, 1.0, 0.5, 2.0]))


def test_normalise_keeps_the_shape_and_takes_tensors():
    grid = torch.arange(6.0).view(2, 3)
    assert_close(metrics.normalise(grid, torch.tensor([5.0]), torch.tensor(0.0)), grid / 5)


# Rank


def test_answer_rank_is_the_place_in_the_sorted_order(logits):
    order = logits[:, -1].argsort(-1, descending=True)
    for answer in range(11):
        place = (order == answer).nonzero()[:, 1] + 1
        assert torch.equal(metrics.answer_rank(logits, torch.tensor([answer] * 4)), place)


def test_answer_rank_runs_from_1_and_a_tie_is_not_counted_before():
    ranks = [metrics.answer_rank(LOGITS[:1], torch.tensor([i])).item() for i in range(4)]
    assert ranks == [4, 1, 2, 2]


# Log-probabilities


def test_next_token_log_probs_are_minus_the_cross_entropy(logits):
    tokens = torch.randint(11, (4, 5), generator=torch.Generator().manual_seed(1))
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    assert_close(metrics.next_token_log_probs(logits, tokens), -loss.view(4, 4))


# Divergence and entropy


def test_kl_divergence_by_hand():
    """P = (3/4, 1/4) against Q = (1/2, 1/2), and the other way round."""
    p, q = torch.tensor([0.75, 0.25]).log(), torch.tensor([0.5, 0.5]).log()
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    backward = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert_close(metrics.kl_divergence(p, q), torch.tensor(forward))
    assert_close(metrics.kl_divergence(q, p), torch.tensor(backward))


def test_kl_divergence_is_that_of_torch(logits):
    other = logits.flip(0)
    theirs = F.kl_div(
        other.log_softmax(-1), logits.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    assert_close(metrics.kl_divergence(logits, other), theirs)


def test_kl_divergence_is_0_only_where_the_distributions_agree(logits):
    same = metrics.kl_divergence(logits, logits + 7)  # the same distribution at another level
    assert_close(same, torch.zeros(4, 5), atol=1e-5, rtol=0)
    changed = logits.clone()
    changed[1, 2, 3] += 1
    different = metrics.kl_divergence(logits, changed) > 1e-4
    assert different.nonzero().tolist() == [[1, 2]]


def test_entropy_is_that_of_torch_and_has_the_right_ends(logits):
    theirs = torch.distributions.Categorical(logits=logits).entropy()
    assert_close(metrics.entropy(logits), theirs)
    assert_close(metrics.entropy(torch.zeros(11)), torch.tensor(math.log(11)))
    assert_close(metrics.entropy(torch.tensor([500.0, 0.0])), torch.tensor(0.0))


def test_divergence_from_even_odds_is_the_entropy_that_is_missing(logits):
    missing = math.log(11) - metrics.entropy(logits)
    assert_close(metrics.kl_divergence(logits, torch.zeros_like(logits)), missing)


# Errors

IDS = torch.tensor([0, 1])


@pytest.mark.parametrize("function", ["logit_diff", "answer_rank"])
@pytest.mark.parametrize(
    ("logits", "answer", "error", "words"),
    [
        (LOGITS[0], IDS, ValueError, r"logits: expected the 3 axes .* got shape \(3, 4\)"),
        (LOGITS[:0], IDS[:0], ValueError, "logits: axis 'batch' is empty"),
        (LOGITS[:, :0], IDS, ValueError, "logits: axis 'pos' is empty"),
        (LOGITS.numpy(), IDS, TypeError, "logits: expected a tensor .* got ndarray"),
        (LOGITS / 0, IDS, ValueError, "logits: 8 of 8 entries are NaN or infinite"),
        (LOGITS, IDS[:1], ValueError, "answer: axis 'batch' should have 2 entries"),
        (LOGITS, IDS[None], ValueError, r"answer: expected the 1 axes .* got shape \(1, 2\)"),
        (LOGITS, IDS + 3, ValueError, "answer: token id 4 is out of range 0 to 3"),
        (LOGITS, IDS - 1, ValueError, "answer: token id -1 is out of range 0 to 3"),
        (LOGITS, IDS / 1, TypeError, "answer: expected a tensor of integer token ids"),
        (LOGITS, IDS > 0, TypeError, "answer: expected a tensor of integer token ids"),
        (LOGITS, [0, 1], TypeError, "answer: expected a tensor .* got list"),
    ],
)
def test_bad_logits_and_answers_are_named(plain, function, logits, answer, error, words):
    arguments = (answer, IDS) if function == "logit_diff" else (answer,)
    with pytest.raises(error, match=words):
        getattr(plain.metrics, function)(logits, *arguments)


def test_a_bad_distractor_is_named(plain):
    with pytest.raises(ValueError, match="distractor: token id 4 is out of range"):
        plain.metrics.logit_diff(LOGITS, IDS, IDS + 3)


@pytest.mark.parametrize(
    ("clean", "corrupted", "words"),
    [
        (1.0, 1.0, "give the same metric"),
        (1.0, 1.0 + 1e-7, "choose a corruption that changes the answer"),
        (torch.tensor([1.0, 2.0]), 0.0, r"clean: expected one number, got shape \(2,\)"),
        (1.0, torch.ones(2, 2), r"corrupted: expected one number, got shape \(2, 2\)"),
        (math.nan, 0.0, "clean: expected a finite number, got nan"),
        (1.0, -math.inf, "corrupted: expected a finite number, got -inf"),
    ],
)
def test_ends_that_make_no_scale_are_refused(plain, clean, corrupted, words):
    with pytest.raises(ValueError, match=words):
        plain.metrics.normalise(torch.zeros(2), clean, corrupted)


@pytest.mark.parametrize(
    ("logits", "tokens", "error", "words"),
    [
        (LOGITS, torch.zeros(2, 4).long(), ValueError, "tokens: axis 'pos' should have 3 entries"),
        (LOGITS, torch.zeros(1, 3).long(), ValueError, "tokens: axis 'batch' should have 2"),
        (LOGITS, torch.zeros(3).long(), ValueError, "tokens: expected the 2 axes"),
        (LOGITS, torch.full((2, 3), 4), ValueError, "tokens: token id 4 is out of range"),
        (LOGITS, torch.zeros(2, 3), TypeError, "tokens: expected a tensor of integer token ids"),
        (LOGITS[0], torch.zeros(2, 3).long(), ValueError, "logits: expected the 3 axes"),
        (LOGITS * math.nan, torch.zeros(2, 3).long(), ValueError, "logits: .* NaN or infinite"),
        (LOGITS[:, :1], torch.zeros(2, 1).long(), ValueError, "one position has no next token"),
    ],
)
def test_next_token_log_probs_names_what_is_wrong(plain, logits, tokens, error, words):
    with pytest.raises(error, match=words):
        plain.metrics.next_token_log_probs(logits, tokens)


def test_divergence_and_entropy_name_what_is_wrong(plain):
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) and other \(3, 4\) differ in shape"):
        plain.metrics.kl_divergence(LOGITS, LOGITS[0])
    with pytest.raises(ValueError, match="logits: 24 of 24 entries are NaN"):
        plain.metrics.kl_divergence(LOGITS / 0, LOGITS)
    with pytest.raises(ValueError, match="other: 24 of 24 entries are NaN"):
        plain.metrics.kl_divergence(LOGITS, LOGITS / 0)
    with pytest.raises(ValueError, match="logits: 24 of 24 entries are NaN"):
        plain.metrics.entropy(LOGITS / 0)
    with pytest.raises(TypeError, match="logits: expected a tensor, got list"):
        plain.metrics.kl_divergence([1.0], [2.0])
    with pytest.raises(TypeError, match="logits: expected a tensor, got ndarray"):
        plain.metrics.entropy(LOGITS.numpy())


def test_shapes_are_checked_at_run_time_in_these_tests():
    """The import hook of conftest.py is at work: else all tests here would check less."""
    with pytest.raises(TypeError, match="Type-check error"):
        metrics.logit_diff(LOGITS[0], IDS, IDS)
