"""`helpers.induction`: perfect specimens of each motif, and heads planted by hand."""

from types import SimpleNamespace

import planted
import pytest
import torch
from torch.testing import assert_close

from helpers import induction, metrics

N = 6
NAMES = ["induction", "duplicate", "previous", "bos"]


@pytest.fixture(scope="module")
def specimens():
    """One head of each motif `[batch, head, query, key]`, on two rows."""
    heads = torch.stack([planted.motif(name, N) for name in NAMES])
    return heads.expand(2, *heads.shape)


@pytest.fixture(scope="module")
def network():
    return planted.induction_network()


@pytest.fixture(scope="module")
def run(network):
    """The planted network on twelve words twice: its tokens, logits and cache."""
    tokens = planted.blocks_twice(planted.LONGEST, batch=4)
    logits, cache = network.run_with_cache(tokens)
    return SimpleNamespace(tokens=tokens, logits=logits, cache=cache)


# Synthetic patterns


def test_each_score_is_1_on_its_own_motif_and_0_on_the_others(specimens):
    """In particular a perfect induction head is no duplicate-token head, nor the reverse."""
    assert induction.induction_scores(specimens, N).tolist() == [1, 0, 0, 0]
    assert induction.duplicate_token_scores(specimens, N).tolist() == [0, 1, 0, 0]
    assert induction.previous_token_scores(specimens).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("n", [2, 3, 12])
def test_the_perfect_score_is_1_at_any_length(n):
    for name, score in (
        ("induction", induction.induction_scores),
        ("duplicate", induction.duplicate_token_scores),
    ):
        assert score(planted.motif(name, n)[None, None], n).tolist() == [1]


def test_even_attention_scores_what_chance_gives():
    """Query q spreads 1/(q+1) over each key that it can see."""
    even = planted.motif("uniform", N)[None, None]
    second = torch.tensor([1 / (q + 1) for q in range(N + 1, 2 * N + 1)]).mean()[None]
    assert_close(induction.induction_scores(even, N), second)
    assert_close(induction.duplicate_token_scores(even, N), second)
    later = torch.tensor([1 / (q + 1) for q in range(2, 2 * N + 1)]).mean()[None]
    assert_close(induction.previous_token_scores(even), later)


def test_attention_of_query_1_to_bos_is_no_previous_token_attention():
    """A head that rests on BOS everywhere attends to the position before only at query 1."""
    assert induction.previous_token_scores(planted.motif("bos", 1)[None, None]).tolist() == [0]


def test_scores_are_means_over_rows_and_queries():
    both = torch.stack([planted.motif("induction", N), planted.motif("bos", N)])[:, None]
    assert_close(induction.induction_scores(both, N), torch.tensor([0.5]))
    once = planted.motif("bos", N)
    once[2 * N] = planted.motif("induction", N)[2 * N]  # right at the last query only
    assert_close(induction.induction_scores(once[None, None], N), torch.tensor([1 / N]))


# Planted heads


def test_the_planted_heads_are_found_where_they_are(run):
    """Each detector scores 1 at one head, and nowhere else comes near."""
    pattern = torch.stack([run.cache["pattern", layer] for layer in range(2)])
    for place, score in (
        (planted.PREVIOUS, induction.previous_token_scores),
        (planted.INDUCTION, lambda p: induction.induction_scores(p, planted.LONGEST)),
        (planted.DUPLICATE, lambda p: induction.duplicate_token_scores(p, planted.LONGEST)),
    ):
        scores = torch.stack([score(pattern[layer]) for layer in range(2)])
        assert_close(scores[place].item(), 1.0)
        scores[place] = 0
        assert scores.max() < 0.15


def test_the_planted_network_solves_the_task(run):
    """The second copy is certain; in the first it does worse than even odds over its tokens."""
    log_probs = metrics.next_token_log_probs(run.logits, run.tokens)
    n = planted.LONGEST
    assert log_probs[:, n + 1 :].min() > -0.001  # the first word of the second copy is a surprise
    assert log_probs[:, :n].max() < -torch.tensor(planted.N_TOKENS).log()


def test_only_the_planted_pair_of_heads_is_needed(network, run):
    n = planted.LONGEST

    def second_copy_without(layer, head):
        def ablate(z, hook):
            z[:, :, head] = 0

        hooks = [(f"blocks.{layer}.attn.hook_z", ablate)]
        logits = network.run_with_hooks(run.tokens, fwd_hooks=hooks)
        return metrics.next_token_log_probs(logits, run.tokens)[:, n + 1 :].mean()

    for layer in range(2):
        for head in range(3):
            needed = (layer, head) in (planted.PREVIOUS, planted.INDUCTION)
            assert (second_copy_without(layer, head) < -1) == needed


# Repeated tokens


def fake(d_vocab: int, bos: int, n_ctx: int = 25):
    """What `repeated_tokens` asks of a model."""
    return SimpleNamespace(
        cfg=SimpleNamespace(d_vocab=d_vocab, n_ctx=n_ctx, device="cpu"),
        tokenizer=SimpleNamespace(bos_token_id=bos),
    )


def test_repeated_tokens_are_bos_and_a_block_twice(model):
    tokens = induction.repeated_tokens(model, 8, 3, seed=0)
    assert tokens.shape == (3, 17) and tokens.dtype == torch.int64
    assert (tokens[:, 0] == model.tokenizer.bos_token_id).all()
    assert torch.equal(tokens[:, 1:9], tokens[:, 9:])
    assert not (tokens[:, 1:] == model.tokenizer.bos_token_id).any()
    assert not torch.equal(tokens[0], tokens[1])
    model(tokens)  # they are tokens of this model


@pytest.mark.parametrize("bos", [0, 2, 4])
def test_every_token_but_bos_is_drawn_equally_often(bos):
    tokens = induction.repeated_tokens(fake(5, bos), 12, 2000, seed=0)[:, 1:13]
    share = torch.bincount(tokens.flatten(), minlength=5) / tokens.numel()
    expected = torch.full((5,), 0.25)
    expected[bos] = 0
    assert_close(share, expected, atol=0.01, rtol=0)


def test_the_seed_decides_and_disturbs_nothing_else():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = induction.repeated_tokens(fake(50, 0), 12, 2, seed=3)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(induction.repeated_tokens(fake(50, 0), 12, 2, seed=3), first)
    assert not torch.equal(induction.repeated_tokens(fake(50, 0), 12, 2, seed=4), first)


def test_the_whole_context_can_be_used():
    assert induction.repeated_tokens(fake(5, 0, n_ctx=25), 12, 1, seed=0).shape == (1, 25)


# Errors


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"n": 1}, ValueError, "n: expected at least 2, got 1"),
        ({"n": 13}, ValueError, "exceed the context; at most 12 here"),
        ({"n": 4.0}, TypeError, "n: expected an int, got float"),
        ({"n": True}, TypeError, "n: expected an int, got bool"),
        ({"batch": 0}, ValueError, "batch: expected at least 1, got 0"),
        ({"batch": "3"}, TypeError, "batch: expected an int, got str"),
        ({"seed": None}, TypeError, "seed: expected an int, got NoneType"),
        ({"seed": -1}, ValueError, "seed: expected at least 0"),
    ],
)
def test_repeated_tokens_names_what_is_wrong(plain, changes, error, words):
    arguments = {"n": 4, "batch": 2, "seed": 0} | changes
    with pytest.raises(error, match=words):
        plain.induction.repeated_tokens(fake(50, 0), **arguments)


GOOD = torch.full((2, 3, 9, 9), 0.1)  # n = 4
BAD = [
    (GOOD[0], ValueError, r"pattern: expected the 4 axes .* got shape \(3, 9, 9\)"),
    (GOOD[:0], ValueError, "pattern: axis 'batch' is empty"),
    (GOOD[..., :8], ValueError, "as many queries as keys"),
    (GOOD * torch.nan, ValueError, "pattern: 486 of 486 entries are NaN"),
    (GOOD.numpy(), TypeError, "pattern: expected a tensor .* got ndarray"),
]


@pytest.mark.parametrize("name", ["induction", "duplicate_token", "previous_token"])
@pytest.mark.parametrize(("pattern", "error", "words"), BAD)
def test_a_bad_pattern_is_named(plain, name, pattern, error, words):
    score = getattr(plain.induction, f"{name}_scores")
    with pytest.raises(error, match=words):
        score(pattern) if name == "previous_token" else score(pattern, 4)


@pytest.mark.parametrize("name", ["induction", "duplicate_token"])
@pytest.mark.parametrize(
    ("n", "error", "words"),
    [
        (3, ValueError, r"pattern has 9 positions, expected 2n \+ 1 = 7"),
        (9, ValueError, r"expected 2n \+ 1 = 19"),
        (0, ValueError, "n >= 2"),
        (4.0, TypeError, "n: expected an int, got float"),
    ],
)
def test_a_wrong_block_length_is_named(plain, name, n, error, words):
    with pytest.raises(error, match=words):
        getattr(plain.induction, f"{name}_scores")(GOOD, n)


def test_a_block_of_one_is_refused(plain):
    """With n = 1 the induction cell would be the query itself."""
    with pytest.raises(ValueError, match="n >= 2"):
        plain.induction.induction_scores(torch.ones(1, 1, 3, 3), 1)


def test_previous_token_scores_need_three_positions(plain):
    with pytest.raises(ValueError, match="expected 3 positions or more, got 2"):
        plain.induction.previous_token_scores(torch.ones(1, 1, 2, 2))
