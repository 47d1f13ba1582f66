"""`helpers.induction`: perfect specimens of each motif, and heads of a known circuit."""

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from exercises import toy
from helpers import induction, metrics
from helpers.ablation import ablate

N = 6
NAMES = ["induction", "duplicate", "previous", "bos"]


@pytest.fixture(scope="module")
def run():
    """The induction network on twelve words twice: its tokens, logits and cache."""
    network, tokens = toy.induction_network(), toy.blocks_twice(toy.LONGEST, batch=4)
    logits, cache = network.run_with_cache(tokens)
    return SimpleNamespace(network=network, tokens=tokens, logits=logits, cache=cache)


# Synthetic patterns


@pytest.mark.parametrize("n", [2, 3, 6, 12])
def test_each_score_is_1_on_its_own_motif_and_0_on_the_others(n):
    heads = torch.stack([toy.motif(name, n) for name in NAMES]).expand(2, 4, -1, -1)
    assert induction.induction_scores(heads, n).tolist() == [1, 0, float(n == 2), 0]
    assert induction.duplicate_token_scores(heads, n).tolist() == [0, 1, 0, 0]
    assert induction.previous_token_scores(heads)[2] == 1
    assert induction.previous_token_scores(heads)[3] == 0  # at query 1 alone


def test_even_attention_scores_what_chance_gives():
    """Query q spreads 1/(q+1) over each key that it can see."""
    even = toy.motif("uniform", N)[None, None]
    second = torch.tensor([1 / (q + 1) for q in range(N + 1, 2 * N + 1)]).mean()[None]
    assert_close(induction.induction_scores(even, N), second)
    assert_close(induction.duplicate_token_scores(even, N), second)
    later = torch.tensor([1 / (q + 1) for q in range(2, 2 * N + 1)]).mean()[None]
    assert_close(induction.previous_token_scores(even), later)


def test_scores_are_means_over_rows():
    both = torch.stack([toy.motif("induction", N), toy.motif("bos", N)])[:, None]
    assert_close(induction.induction_scores(both, N), torch.tensor([0.5]))


# A known circuit


def test_the_heads_are_found_where_they_are(run):
    """Each detector scores 1 at one head, and nowhere else comes near."""
    pattern = torch.stack([run.cache["pattern", layer] for layer in range(2)])
    for place, score in (
        (toy.PREVIOUS, induction.previous_token_scores),
        (toy.INDUCTION, lambda p: induction.induction_scores(p, toy.LONGEST)),
        (toy.DUPLICATE, lambda p: induction.duplicate_token_scores(p, toy.LONGEST)),
    ):
        scores = torch.stack([score(pattern[layer]) for layer in range(2)])
        assert_close(scores[place].item(), 1.0)
        scores[place] = 0
        assert scores.max() < 0.15


def test_the_network_solves_the_task_and_needs_just_the_two_heads(run):
    """The second copy is certain; in the first it does worse than even odds over its tokens."""
    log_probs, n = metrics.next_token_log_probs(run.logits, run.tokens), toy.LONGEST
    assert log_probs[:, n + 1 :].min() > -0.001  # the first word of the second copy is a surprise
    assert log_probs[:, :n].max() < -torch.tensor(toy.N_TOKENS).log()
    for layer in range(2):
        for head in range(3):
            with ablate(run.network, [(layer, head)]):
                left = metrics.next_token_log_probs(run.network(run.tokens), run.tokens)
            needed = (layer, head) in (toy.PREVIOUS, toy.INDUCTION)
            assert (left[:, n + 1 :].mean() < -1) == needed


# Repeated tokens


def test_repeated_tokens_are_bos_and_a_block_twice(model):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    tokens = induction.repeated_tokens(model, 8, 3, seed=0)
    assert torch.equal(torch.rand(3), expected)  # the seed disturbs nothing else
    bos = model.tokenizer.bos_token_id
    assert tokens.shape == (3, 17) and tokens.dtype == torch.int64
    assert (tokens[:, 0] == bos).all() and not (tokens[:, 1:] == bos).any()
    assert torch.equal(tokens[:, 1:9], tokens[:, 9:]) and not torch.equal(tokens[0], tokens[1])
    model(tokens)  # they are tokens of this model
    assert torch.equal(induction.repeated_tokens(model, 8, 3, seed=0), tokens)
    assert not torch.equal(induction.repeated_tokens(model, 8, 3, seed=1), tokens)


def fake(special: set[int], n_words: int, d_vocab: int):
    """What `repeated_tokens` asks of a model: a tokenizer of so many words, whose BOS is 2."""
    words = {str(i): i for i in range(n_words)}
    tokenizer = type("Words", (), {"__len__": lambda self: len(words)})()
    tokenizer.all_special_ids, tokenizer.bos_token_id = sorted(special), 2
    return SimpleNamespace(
        cfg=SimpleNamespace(d_vocab=d_vocab, n_ctx=25, device="cpu"),
        tokenizer=tokenizer,
        to_tokens=lambda text, prepend_bos: torch.tensor([[2, 1]]),
    )


def test_every_word_is_drawn_equally_often_and_nothing_else():
    """FIELD-CASES 13: no special token, and no id beyond the tokenizer in a padded vocabulary."""
    tokens = induction.repeated_tokens(fake({2, 4}, 7, d_vocab=64), 12, 2000, seed=0)[:, 1:13]
    share = torch.bincount(tokens.flatten(), minlength=64) / tokens.numel()
    expected = torch.zeros(64)
    expected[[0, 1, 3, 5, 6]] = 0.2
    assert_close(share, expected, atol=0.01, rtol=0)
