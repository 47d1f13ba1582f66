"""`helpers.induction`: heads of a known circuit, and the tokens. Specimens of each motif are in
test_classic_mistakes."""

from types import SimpleNamespace

import torch
from torch.testing import assert_close

from exercises import toy
from helpers import induction, metrics
from helpers.ablation import ablate

N = 6


def test_even_attention_scores_what_chance_gives_and_rows_are_averaged():
    """Query q spreads 1/(q+1) over each key that it can see."""
    even = torch.stack([toy.motif("uniform", N), toy.motif("bos", N)])[:, None]
    chance = torch.tensor([1 / (q + 1) for q in range(2 * N + 1)]) / 2
    second = chance[N + 1 :].mean()[None]
    assert_close(induction.induction_scores(even, N), second)
    assert_close(induction.duplicate_token_scores(even, N), second)
    assert_close(induction.previous_token_scores(even), chance[2:].mean()[None])


def test_the_heads_are_found_where_they_are_and_two_are_needed():
    """Each detector scores 1 at one head, and nowhere else comes near. The second copy is certain
    with the two heads of the circuit alone; in the first it does worse than even odds."""
    network, tokens = toy.induction_network(), toy.blocks_twice(toy.LONGEST, batch=4)
    logits, cache = network.run_with_cache(tokens)
    pattern = torch.stack([cache["pattern", layer] for layer in range(2)])
    for place, score in (
        (toy.PREVIOUS, induction.previous_token_scores),
        (toy.INDUCTION, lambda p: induction.induction_scores(p, toy.LONGEST)),
        (toy.DUPLICATE, lambda p: induction.duplicate_token_scores(p, toy.LONGEST)),
    ):
        scores = torch.stack([score(pattern[layer]) for layer in range(2)])
        assert_close(scores[place].item(), 1.0)
        scores[place] = 0
        assert scores.max() < 0.15
    log_probs, n = metrics.next_token_log_probs(logits, tokens), toy.LONGEST
    assert log_probs[:, n + 1 :].min() > -0.001  # the first word of the second copy is a surprise
    assert log_probs[:, :n].max() < -torch.tensor(toy.N_TOKENS).log()
    for place in [(layer, head) for layer in range(2) for head in range(3)]:
        with ablate(network, [place]):
            left = metrics.next_token_log_probs(network(tokens), tokens)[:, n + 1 :]
        assert (left.mean() < -1) == (place in (toy.PREVIOUS, toy.INDUCTION))


def test_repeated_tokens_are_bos_and_a_block_twice(model):
    state = torch.get_rng_state()
    tokens = induction.repeated_tokens(model, 8, 3, seed=0)
    assert torch.equal(torch.get_rng_state(), state)  # the seed disturbs nothing else
    bos = model.tokenizer.bos_token_id
    assert tokens.shape == (3, 17) and tokens.dtype == torch.int64
    assert (tokens[:, 0] == bos).all() and not (tokens[:, 1:] == bos).any()
    assert torch.equal(tokens[:, 1:9], tokens[:, 9:]) and not torch.equal(tokens[0], tokens[1])
    model(tokens)  # they are tokens of this model
    assert torch.equal(induction.repeated_tokens(model, 8, 3, seed=0), tokens)
    assert not torch.equal(induction.repeated_tokens(model, 8, 3, seed=1), tokens)


def test_every_word_is_drawn_equally_often_and_nothing_else():
    """FIELD-CASES 13: no special token, and no id beyond the tokenizer in a padded vocabulary."""
    tokenizer = type("Words", (), {"__len__": lambda self: 7})()
    tokenizer.all_special_ids, tokenizer.bos_token_id = [2, 4], 2
    model = SimpleNamespace(
        cfg=SimpleNamespace(d_vocab=64, n_ctx=25, device="cpu"),
        tokenizer=tokenizer,
        to_tokens=lambda text, prepend_bos: torch.tensor([[2, 1]]),
    )
    tokens = induction.repeated_tokens(model, 12, 2000, seed=0)[:, 1:13]
    share = torch.bincount(tokens.flatten(), minlength=64) / tokens.numel()
    expected = torch.zeros(64)
    expected[[0, 1, 3, 5, 6]] = 0.2
    assert_close(share, expected, atol=0.01, rtol=0)
