"""`helpers.patching`: what must hold for any weights, other routes to the grids, known circuits."""

from functools import partial

import families
import pytest
import torch
import transformer_lens.patching as theirs
from families import bridge, run_pair
from torch.testing import assert_close

from exercises import toy
from helpers import patching
from helpers.metrics import LastToken
from helpers.prompts import PairTokens

SWEEPS = {
    "residual": patching.patch_residual,
    "blocks": patching.patch_blocks,
    "heads": patching.patch_heads,
    "head_positions": patching.patch_head_positions,
}


def swept(what: str, model, pair, clean_cache=None):
    """A sweep over the pair's corrupted run."""
    cache = pair.clean_cache if clean_cache is None else clean_cache
    return SWEEPS[what](model, pair.tokens.corrupted, cache, pair.tokens.logit_diff)


def estimated(what: str, model, pair, clean_cache=None):
    cache = pair.clean_cache if clean_cache is None else clean_cache
    arguments = model, pair.tokens.corrupted, cache, pair.tokens.logit_diff
    return patching.attribution_patch(*arguments, what=what)


# Identities


@pytest.mark.parametrize("what", SWEEPS)
def test_a_self_patch_changes_nothing_in_any_cell(random_model, random_pair, what):
    """The corrupted run's own activations, put where they already are."""
    grid = swept(what, random_model, random_pair, random_pair.corrupted_cache)
    corrupted = random_pair.tokens.logit_diff(random_pair.corrupted_logits)
    assert_close(grid, corrupted.expand(grid.shape))
    assert not estimated(what, random_model, random_pair, random_pair.corrupted_cache).any()


def test_first_only_tokens_that_differ_matter_and_last_only_the_last(random_model, random_pair):
    """What attention or the MLP of the last layer writes at earlier positions is never read."""
    corrupted = random_pair.tokens.logit_diff(random_pair.corrupted_logits)

    def changed(grid):
        return ((grid - corrupted).abs() > 1e-6).tolist()

    differ = random_pair.tokens.clean[0] != random_pair.tokens.corrupted[0]
    assert changed(swept("residual", random_model, random_pair)[0]) == differ.tolist()
    blocks = swept("blocks", random_model, random_pair)[1:, -1]
    heads = swept("head_positions", random_model, random_pair)[-1]
    assert changed(torch.cat([blocks, heads])) == [[False] * 5 + [True]] * 6


def test_grids_are_those_of_transformer_lens(random_model, random_pair, monkeypatch):
    """Its functions take the same arguments, but a metric of one number."""
    monkeypatch.setattr(theirs, "tqdm", lambda cells: cells)
    arguments = (random_model, random_pair.tokens.corrupted, random_pair.clean_cache)

    def metric(logits):
        return random_pair.tokens.logit_diff(logits)[0]

    blocks = theirs.get_act_patch_block_every(*arguments, metric).double()
    heads = theirs.get_act_patch_attn_head_out_all_pos(*arguments, metric).double()
    by_pos = theirs.get_act_patch_attn_head_out_by_pos(*arguments, metric).double()
    for what, expected in (
        ("blocks", blocks),
        ("residual", blocks[0]),
        ("heads", heads),
        ("head_positions", by_pos.transpose(1, 2)),  # theirs is [layer, pos, head]
    ):
        assert_close(swept(what, random_model, random_pair), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["GPT2", "Llama"])
@pytest.mark.parametrize("what", SWEEPS)
def test_the_estimate_is_the_slope_of_a_small_patch(name, what):
    """Against sweeps towards a cache that is a small step away; no gradient is taken, and none is
    left or needed: the parameters are frozen."""
    model = bridge(name, torch.float64)
    model.zero_grad()  # another test's
    pair = run_pair(model, families.PAIR.tokens(model))
    step = 1e-4 if name == "GPT2" else 1e-2  # RMSNorm computes in single precision

    def moved(size):
        clean, corrupted = pair.clean_cache, pair.corrupted_cache
        near = {key: corrupted[key] + size * (clean[key] - corrupted[key]) for key in clean}
        return swept(what, model, pair, near)

    slope = (moved(step) - moved(-step)) / (2 * step)
    model.requires_grad_(False)
    estimate = estimated(what, model, pair)
    model.requires_grad_(True)
    assert all(parameter.grad is None for parameter in model.parameters())
    near = {"atol": 1e-7, "rtol": 1e-4} if name == "GPT2" else {"atol": 5e-3, "rtol": 2e-2}
    assert_close(estimate, slope, **near)
    assert not torch.is_grad_enabled()
    assert_close(estimated(what, model, pair), estimate)
    assert estimate.abs().max() > 0.01


# Toy models with a known circuit


def recovered(what: str, model, pair) -> torch.Tensor:
    """A sweep's grid as a share of what the corruption cost, to two digits."""
    return (swept(what, model, pair) / toy.LOGIT).round(decimals=2)


def test_a_word_is_followed_through_the_stream_and_the_two_heads_are_found():
    """The induction network on "a b c d a" -> b, where a was first replaced by x.

    In the clean run position 1 (a) tells position 2 (b) what came before it, and the last position
    (a) finds b by that. So the patch that brings b back moves from 1 to 2 to the end.
    """
    model = toy.induction_network()
    clean, corrupted = torch.tensor([[[0, 1, 2, 3, 4, 1]], [[0, 5, 2, 3, 4, 1]]])
    pair = run_pair(model, PairTokens(clean, corrupted, *torch.tensor([[2], [3]])))
    assert_close(pair.tokens.logit_diff(pair.clean_logits), torch.tensor([toy.LOGIT]))
    assert_close(pair.tokens.logit_diff(pair.corrupted_logits), torch.tensor([0.0]))
    stream = recovered("residual", model, pair)
    assert stream.tolist() == [[0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]
    places = torch.zeros(2, 3, 6)
    places[(*toy.PREVIOUS, 2)] = places[(*toy.INDUCTION, 5)] = 1
    assert torch.equal(recovered("head_positions", model, pair), places)
    assert torch.equal(recovered("heads", model, pair), places.sum(-1))


@pytest.mark.parametrize("alone", [1.0, 0.6, 0.4, 0.0])
def test_denoising_finds_what_suffices_and_noising_what_is_needed(alone):
    """Entering layer 1 a fact stands in two places; either is read (or), or both are (and)."""
    model = toy.gate(alone)
    fact, none = (toy.gate_prompt(each) for each in (toy.FACT, toy.NO_FACT))
    ids = torch.tensor([[toy.FACT], [toy.RIVAL]])
    denoised = run_pair(model, PairTokens(fact, none, *ids))
    noised = run_pair(model, PairTokens(none, fact, *ids))
    for pair in (denoised, noised):
        grid = recovered("residual", model, pair)[1, [toy.SUBJECT_AT, toy.RELAY_AT]]
        assert grid.tolist() == pytest.approx([alone] * 2, abs=1e-5)
    heads = recovered("heads", model, denoised)
    readers = heads[toy.READ_SUBJECT], heads[toy.READ_RELAY]
    assert [head.item() for head in readers] == pytest.approx([alone] * 2, abs=1e-5)


# Nothing is left behind


@pytest.mark.parametrize("engine", ["sparse", "hooks"])
@pytest.mark.parametrize("what", SWEEPS)
def test_nothing_is_left_behind(
    random_model, random_pair, hooks_in_place, monkeypatch, what, engine
):
    """Not by a sweep, and not by one that is interrupted, as by the stop button: no hook, no edit
    of a cache."""
    if engine == "hooks":
        monkeypatch.setattr(patching.sparse, "supports", lambda *_: False)
    pair, cache = random_pair, random_pair.clean_cache
    before = {key: value.clone() for key, value in cache.items()}
    expected = swept(what, random_model, pair)

    def interrupted(logits):
        raise KeyboardInterrupt

    for call in (SWEEPS[what], partial(patching.attribution_patch, what=what)):
        call(random_model, pair.tokens.corrupted, cache, pair.tokens.logit_diff)
        for metric in (interrupted, LastToken(interrupted)):
            with pytest.raises(KeyboardInterrupt):
                call(random_model, pair.tokens.corrupted, cache, metric)
    assert hooks_in_place(random_model) == []
    assert_close(swept(what, random_model, pair), expected)
    assert all(torch.equal(cache[key], before[key]) for key in before)
