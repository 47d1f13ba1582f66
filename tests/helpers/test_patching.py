"""`helpers.patching`: what must hold for any weights, other routes to the grids, known circuits."""

from functools import partial
from types import SimpleNamespace

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


def test_entering_layer_0_only_tokens_that_differ_matter(random_model, random_pair):
    grid = swept("residual", random_model, random_pair)
    corrupted = random_pair.tokens.logit_diff(random_pair.corrupted_logits)
    changed = (grid[0] - corrupted).abs() > 1e-6
    differ = random_pair.tokens.clean[0] != random_pair.tokens.corrupted[0]
    assert changed.tolist() == differ.tolist()


def test_in_the_last_layer_only_the_last_position_matters(random_model, random_pair):
    """What attention or the MLP writes there at earlier positions is never read."""
    corrupted = random_pair.tokens.logit_diff(random_pair.corrupted_logits)
    blocks = swept("blocks", random_model, random_pair)
    heads = swept("head_positions", random_model, random_pair)
    for grid in (blocks[1, -1], blocks[2, -1], *heads[-1]):
        assert_close(grid[:-1], corrupted.expand(5))
        assert (grid[-1] - corrupted).abs() > 1e-6


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


@pytest.mark.parametrize("name", families.KNOWN)
def test_patching_is_what_transformers_computes(name):
    """The stream entering layer 1 at the last position, put into transformers' own layer."""
    model, network = bridge(name, torch.float64), families.network(name, torch.float64)
    pair = run_pair(model, families.PAIR.tokens(model))
    clean = network(pair.tokens.clean, output_hidden_states=True).hidden_states[1]

    def enter(module, arguments, keywords):
        stream = arguments[0].clone()
        stream[:, -1] = clean[:, -1]
        return (stream, *arguments[1:]), keywords

    base = network.base_model
    layer = (base.h if name == "GPT2" else base.layers)[1]
    handle = layer.register_forward_pre_hook(enter, with_kwargs=True)
    expected = pair.tokens.logit_diff(network(pair.tokens.corrupted).logits)[0]
    handle.remove()
    assert_close(swept("residual", model, pair)[1, -1], expected, atol=2e-5, rtol=1e-5)


# The linear estimate


@pytest.mark.parametrize("what", ["residual", "heads", "head_positions"])
def test_the_estimate_is_exact_where_the_model_is_linear(what):
    model = toy.linear_network()
    clean, corrupted = torch.tensor([[[0, 3, 4, 5]], [[0, 6, 4, 7]]])
    pair = run_pair(model, PairTokens(clean, corrupted, *torch.tensor([[1], [2]])))
    estimate = estimated(what, model, pair)
    exact = swept(what, model, pair) - pair.tokens.logit_diff(pair.corrupted_logits)
    assert_close(estimate, exact)
    assert estimate.abs().max() > 0.1


@pytest.mark.parametrize("name", ["GPT2", "Llama"])
@pytest.mark.parametrize("what", SWEEPS)
def test_the_estimate_is_the_slope_of_a_small_patch(name, what):
    """Against sweeps towards a cache that is a small step away; no gradient is taken."""
    model = bridge(name, torch.float64)
    pair = run_pair(model, families.PAIR.tokens(model))
    step = 1e-4 if name == "GPT2" else 1e-2  # RMSNorm computes in single precision

    def moved(size):
        clean, corrupted = pair.clean_cache, pair.corrupted_cache
        near = {key: corrupted[key] + size * (clean[key] - corrupted[key]) for key in clean}
        return swept(what, model, pair, near)

    slope = (moved(step) - moved(-step)) / (2 * step)
    estimate = estimated(what, model, pair)
    assert estimate.shape == slope.shape
    near = {"atol": 1e-7, "rtol": 1e-4} if name == "GPT2" else {"atol": 5e-3, "rtol": 2e-2}
    assert_close(estimate, slope, **near)
    assert estimate.abs().max() > 0.01


def test_the_estimate_works_on_frozen_parameters_and_leaves_no_gradient(random_model, random_pair):
    expected = estimated("heads", random_model, random_pair)
    wanted = [parameter.requires_grad for parameter in random_model.parameters()]
    random_model.requires_grad_(False)
    try:
        assert torch.equal(estimated("heads", random_model, random_pair), expected)
    finally:
        for parameter, wants in zip(random_model.parameters(), wanted, strict=True):
            parameter.requires_grad_(wants)
    assert all(parameter.grad is None for parameter in random_model.parameters())
    assert not expected.requires_grad and not torch.is_grad_enabled()


# Toy models with a known circuit


@pytest.fixture(scope="module")
def moved_word():
    """The induction network on "a b c d a" -> b, where a was first replaced by x.

    In the clean run position 1 (a) tells position 2 (b) what came before it, and the last position
    (a) finds b by that. So the patch that brings b back moves from 1 to 2 to the end.
    """
    model = toy.induction_network()
    clean, corrupted = torch.tensor([[[0, 1, 2, 3, 4, 1]], [[0, 5, 2, 3, 4, 1]]])
    pair = run_pair(model, PairTokens(clean, corrupted, *torch.tensor([[2], [3]])))
    assert_close(pair.tokens.logit_diff(pair.clean_logits), torch.tensor([toy.LOGIT]))
    assert_close(pair.tokens.logit_diff(pair.corrupted_logits), torch.tensor([0.0]))
    return SimpleNamespace(model=model, pair=pair)


def recovered(what: str, moved_word) -> list:
    """A sweep's grid as a share of what the corruption cost, to two digits."""
    grid = swept(what, moved_word.model, moved_word.pair)
    return (grid / toy.LOGIT).round(decimals=2).tolist()


def test_the_word_is_followed_through_the_stream(moved_word):
    assert recovered("residual", moved_word) == [[0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]


def test_the_two_heads_are_found(moved_word):
    heads = torch.zeros(2, 3)
    heads[toy.PREVIOUS] = heads[toy.INDUCTION] = 1
    assert recovered("heads", moved_word) == heads.tolist()
    places = torch.zeros(2, 3, 6)
    places[(*toy.PREVIOUS, 2)] = places[(*toy.INDUCTION, 5)] = 1
    assert recovered("head_positions", moved_word) == places.tolist()


@pytest.mark.parametrize(
    ("kind", "suffices", "needed"), [("or", True, False), ("and", False, True)]
)
def test_denoising_finds_what_suffices_and_noising_what_is_needed(kind, suffices, needed):
    """Entering layer 1 a fact stands in two places; either is read (or), or both are (and)."""
    model = toy.gate(kind)
    fact, none = (toy.gate_prompt(each) for each in (toy.FACT, toy.NO_FACT))
    pair = run_pair(model, PairTokens(fact, none, *torch.tensor([[toy.FACT], [toy.RIVAL]])))
    metric, places = pair.tokens.logit_diff, [toy.SUBJECT_AT, toy.RELAY_AT]
    denoised = patching.patch_residual(model, none, pair.clean_cache, metric)[1, places]
    noised = patching.patch_residual(model, fact, pair.corrupted_cache, metric)[1, places]
    assert (denoised / toy.LOGIT).round().tolist() == [float(suffices)] * 2
    assert (noised / toy.LOGIT).round().tolist() == [float(not needed)] * 2
    heads = patching.patch_heads(model, none, pair.clean_cache, metric)
    readers = heads[toy.READ_SUBJECT], heads[toy.READ_RELAY]
    assert [(head / toy.LOGIT).round().item() for head in readers] == [float(suffices)] * 2


# Nothing is left behind


@pytest.mark.parametrize("what", SWEEPS)
def test_nothing_is_left_behind(random_model, random_pair, hooks_in_place, what):
    """Not by a sweep, and not by one whose metric fails: no hook, no edit of a cache."""
    cache = random_pair.clean_cache
    before = {key: value.clone() for key, value in cache.items()}

    def fails(logits):
        raise KeyError("the metric's own error")

    for call in (SWEEPS[what], partial(patching.attribution_patch, what=what)):
        call(random_model, random_pair.tokens.corrupted, cache, random_pair.tokens.logit_diff)
        for metric in (fails, LastToken(fails)):
            with pytest.raises(KeyError, match="the metric's own error"):
                call(random_model, random_pair.tokens.corrupted, cache, metric)
    assert hooks_in_place(random_model) == []
    assert all(torch.equal(cache[key], before[key]) for key in before)
