"""`helpers.patching`: what must hold for any weights, other routes to the grids, planted truth."""

import itertools
from types import SimpleNamespace

import conftest
import planted
import pytest
import torch
import transformer_lens.patching as theirs
from torch.testing import assert_close

from helpers import patching
from helpers.prompts import PairTokens

SWEEPS = ["patch_residual", "patch_blocks", "patch_heads", "patch_head_positions"]
BLOCK_SITES = ["hook_resid_pre", "hook_attn_out", "hook_mlp_out"]


def swept(name: str, model, pair, clean_cache=None):
    """A sweep over the pair's corrupted run."""
    cache = pair.clean_cache if clean_cache is None else clean_cache
    return getattr(patching, name)(model, pair.tokens.corrupted, cache, pair.tokens.logit_diff)


# Identities


@pytest.mark.parametrize("name", SWEEPS)
def test_a_self_patch_changes_nothing_in_any_cell(random_model, random_pair, name):
    """The corrupted run's own activations, put where they already are."""
    grid = swept(name, random_model, random_pair, random_pair.corrupted_cache)
    corrupted = random_pair.tokens.logit_diff(random_pair.corrupted_logits)
    assert_close(grid, corrupted.expand(grid.shape))


def test_the_estimate_of_a_self_patch_is_exactly_0(random_model, random_pair):
    estimate = swept("attribution_patch", random_model, random_pair, random_pair.corrupted_cache)
    assert not estimate.any()


def test_patching_every_position_at_once_gives_the_clean_run(model, pair):
    """At every layer: which is why the lessons patch one position at a time."""
    everywhere = (slice(None),)
    cells = [patching.Cell(layer, "hook_resid_pre", everywhere) for layer in range(4)]
    clean = pair.tokens.logit_diff(pair.clean_logits)
    grid = patching.sweep(
        model, pair.tokens.corrupted, pair.clean_cache, pair.tokens.logit_diff, cells
    )
    assert_close(grid, clean.expand(4), atol=1e-4, rtol=0)
    assert (clean - pair.tokens.logit_diff(pair.corrupted_logits)).abs() > 1e-2


def test_entering_layer_0_only_tokens_that_differ_matter(random_model, random_pair):
    grid = swept("patch_residual", random_model, random_pair)
    corrupted = random_pair.tokens.logit_diff(random_pair.corrupted_logits)
    changed = (grid[0] - corrupted).abs() > 1e-6
    differ = random_pair.tokens.clean[0] != random_pair.tokens.corrupted[0]
    assert changed.tolist() == differ.tolist()


def test_in_the_last_layer_only_the_last_position_matters(random_model, random_pair):
    """What attention or the MLP writes there at earlier positions is never read."""
    corrupted = random_pair.tokens.logit_diff(random_pair.corrupted_logits)
    blocks = swept("patch_blocks", random_model, random_pair)
    heads = swept("patch_head_positions", random_model, random_pair)
    for grid in (blocks[1, -1], blocks[2, -1], *heads[-1]):
        assert_close(grid[:-1], corrupted.expand(5))
        assert (grid[-1] - corrupted).abs() > 1e-6


def test_the_two_directions_are_one_function(random_model, random_pair):
    """Noising is denoising with the roles exchanged; entering layer 0, all but one position."""
    tokens = random_pair.tokens
    others = patching.Cell(0, "hook_resid_pre", (slice(0, 5),))
    only = patching.Cell(0, "hook_resid_pre", (5,))
    noised = patching.sweep(
        random_model, tokens.clean, random_pair.corrupted_cache, tokens.logit_diff, [others]
    )
    denoised = patching.sweep(
        random_model, tokens.corrupted, random_pair.clean_cache, tokens.logit_diff, [only]
    )
    assert_close(noised, denoised)


# Another route


def one_cell_at_a_time(model, pair, site: str, layer: int, index: tuple) -> float:
    """The metric of one patched run, by a hook written out here."""

    def patch(activation, hook):
        patched = activation.clone()
        patched[(0, *index)] = pair.clean_cache[f"blocks.{layer}.{site}"][(0, *index)]
        return patched

    hooks = [(f"blocks.{layer}.{site}", patch)]
    logits = model.run_with_hooks(pair.tokens.corrupted, fwd_hooks=hooks)
    return pair.tokens.logit_diff(logits).item()


@pytest.mark.parametrize("name", SWEEPS)
def test_a_grid_is_what_a_loop_over_its_cells_gives(random_model, random_pair, name):
    layers, heads, positions = range(2), range(3), range(6)
    if name == "patch_residual":
        cells = [("hook_resid_pre", i, (p,)) for i in layers for p in positions]
    elif name == "patch_blocks":
        cells = [(site, i, (p,)) for site in BLOCK_SITES for i in layers for p in positions]
    elif name == "patch_heads":
        cells = [("attn.hook_z", i, (slice(None), h)) for i in layers for h in heads]
    else:
        cells = [("attn.hook_z", i, (p, h)) for i in layers for h in heads for p in positions]
    expected = torch.tensor([one_cell_at_a_time(random_model, random_pair, *c) for c in cells])
    grid = swept(name, random_model, random_pair)
    assert_close(grid.flatten(), expected.double())
    assert grid.std() > 1e-3  # the cells differ: this could have failed


def test_grids_are_those_of_transformer_lens(random_model, random_pair, monkeypatch):
    """Its functions take the same arguments, but a metric of one number."""
    monkeypatch.setattr(theirs, "tqdm", lambda cells: cells)
    arguments = (random_model, random_pair.tokens.corrupted, random_pair.clean_cache)

    def metric(logits):
        return random_pair.tokens.logit_diff(logits)[0]

    blocks = theirs.get_act_patch_block_every(*arguments, metric).double()
    heads = theirs.get_act_patch_attn_head_out_all_pos(*arguments, metric).double()
    by_pos = theirs.get_act_patch_attn_head_out_by_pos(*arguments, metric).double()
    for name, expected in (
        ("patch_blocks", blocks),
        ("patch_residual", blocks[0]),
        ("patch_heads", heads),
        ("patch_head_positions", by_pos.transpose(1, 2)),  # theirs is [layer, pos, head]
    ):
        assert_close(swept(name, random_model, random_pair), expected, atol=1e-4, rtol=0)


def test_cells_come_back_in_the_order_asked_for(random_model, random_pair):
    sites = [("hook_mlp_out", (5,)), ("hook_resid_pre", (2,)), ("attn.hook_z", (5, 1))]
    cells = [patching.Cell(i, *site) for site, i in itertools.product(sites, [1, 0])]
    values = patching.sweep(
        random_model,
        random_pair.tokens.corrupted,
        random_pair.clean_cache,
        random_pair.tokens.logit_diff,
        cells,
    )
    for cell, value in zip(cells, values, strict=True):
        expected = one_cell_at_a_time(random_model, random_pair, cell.site, cell.layer, cell.index)
        assert_close(value.item(), expected)


def test_any_metric_of_one_number_a_row_will_do(random_model, random_pair):
    """Here the probability of one token at a position that is not the last."""

    def metric(logits):
        return logits.softmax(-1)[:, 3, 7]

    grid = patching.patch_residual(
        random_model, random_pair.tokens.corrupted, random_pair.clean_cache, metric
    )
    corrupted = metric(random_pair.corrupted_logits)
    assert_close(grid[:, 4:], corrupted.expand(2, 2))  # attention does not look ahead
    assert not torch.allclose(grid[:, 2:4], corrupted)


# The linear estimate


def test_the_estimate_is_exact_where_the_model_is_linear():
    model = planted.linear_network()
    clean, corrupted = torch.tensor([[[0, 3, 4, 5]], [[0, 6, 4, 7]]])
    tokens = PairTokens(clean, corrupted, *torch.tensor([[1], [2]]))
    pair = conftest.run_pair(model, tokens)
    estimate = swept("attribution_patch", model, pair)
    exact = swept("patch_residual", model, pair) - tokens.logit_diff(pair.corrupted_logits)
    assert_close(estimate, exact)
    assert estimate.abs().max() > 0.1


def test_the_estimate_is_the_slope_of_a_small_patch(random_model, random_pair):
    """(clean - corrupted) . gradient, against the metric after a ten-thousandth of the patch."""
    estimate = swept("attribution_patch", random_model, random_pair)
    tokens, step = random_pair.tokens, 1e-4

    def moved(layer, position, size):
        name = f"blocks.{layer}.hook_resid_pre"
        change = random_pair.clean_cache[name] - random_pair.corrupted_cache[name]

        def move(stream, hook):
            stream = stream.clone()
            stream[0, position] += size * change[0, position]
            return stream

        logits = random_model.run_with_hooks(tokens.corrupted, fwd_hooks=[(name, move)])
        return tokens.logit_diff(logits)

    for layer, position in itertools.product(range(2), range(6)):
        slope = (moved(layer, position, step) - moved(layer, position, -step)) / (2 * step)
        assert_close(estimate[layer, position], slope[0], atol=1e-7, rtol=1e-4)
    assert estimate.abs().max() > 0.01


# Planted truth


@pytest.fixture(scope="module")
def moved_word():
    """The planted induction network on "a b c d a" -> b, where a was first replaced by x.

    In the clean run position 1 (a) tells position 2 (b) what came before it, and the last position
    (a) finds b by that. So the patch that brings b back moves from 1 to 2 to the end.
    """
    model = planted.induction_network()
    clean, corrupted = torch.tensor([[[0, 1, 2, 3, 4, 1]], [[0, 5, 2, 3, 4, 1]]])
    pair = conftest.run_pair(model, PairTokens(clean, corrupted, *torch.tensor([[2], [3]])))
    return SimpleNamespace(model=model, pair=pair)


def recovered(name: str, moved_word) -> list:
    """A sweep's grid as a share of what the corruption cost, to two digits."""
    grid = swept(name, moved_word.model, moved_word.pair)
    return (grid / planted.LOGIT).round(decimals=2).tolist()


def test_the_planted_metric_has_known_ends(moved_word):
    pair = moved_word.pair
    assert_close(pair.tokens.logit_diff(pair.clean_logits), torch.tensor([planted.LOGIT]))
    assert_close(pair.tokens.logit_diff(pair.corrupted_logits), torch.tensor([0.0]))


def test_the_planted_word_is_followed_through_the_stream(moved_word):
    assert recovered("patch_residual", moved_word) == [[0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]


def test_the_planted_heads_are_found_by_patching(moved_word):
    heads = torch.zeros(2, 3)
    heads[planted.PREVIOUS] = heads[planted.INDUCTION] = 1
    assert recovered("patch_heads", moved_word) == heads.tolist()
    places = torch.zeros(2, 3, 6)
    places[(*planted.PREVIOUS, 2)] = places[(*planted.INDUCTION, 5)] = 1
    assert recovered("patch_head_positions", moved_word) == places.tolist()


# Errors


def call(plain, name, model, tokens, cache, metric):
    return getattr(plain.patching, name)(model, tokens, cache, metric)


BAD_TOKENS = {
    "two prompts": (lambda t: t.expand(2, -1), ValueError, "one prompt, got 2; sweep each prompt"),
    "one axis": (lambda t: t[0], ValueError, "corrupted_tokens: expected the 2 axes"),
    "no axis": (lambda t: t[0, 0], ValueError, "corrupted_tokens: expected the 2 axes"),
    "no prompt": (lambda t: t[:0], ValueError, "corrupted_tokens: axis 'batch' is empty"),
    "no token": (lambda t: t[:, :0], ValueError, "corrupted_tokens: axis 'pos' is empty"),
    "large id": (lambda t: t + 10**6, ValueError, "corrupted_tokens: token id .* is out of range"),
    "float": (lambda t: t / 1, TypeError, "corrupted_tokens: expected a tensor of integer"),
    "list": (lambda t: t.tolist(), TypeError, "corrupted_tokens: expected a tensor"),
    "text": (lambda t: "The tower", TypeError, "corrupted_tokens: expected a tensor"),
    "shorter": (lambda t: t[:, :5], ValueError, "one prompt of the same length, on the same model"),
}


@pytest.mark.parametrize("name", [*SWEEPS, "attribution_patch"])
@pytest.mark.parametrize(("change", "error", "words"), BAD_TOKENS.values(), ids=BAD_TOKENS)
def test_bad_tokens_are_named(plain, random_model, random_pair, name, change, error, words):
    tokens = change(random_pair.tokens.corrupted)
    metric = random_pair.tokens.logit_diff
    with pytest.raises(error, match=words):
        call(plain, name, random_model, tokens, random_pair.clean_cache, metric)


@pytest.mark.parametrize("name", [*SWEEPS, "attribution_patch"])
def test_a_cache_of_another_run_is_named(plain, model, pair, random_model, random_pair, name):
    tokens, metric = random_pair.tokens, random_pair.tokens.logit_diff

    def refused(cache, words, model=random_model, tokens=tokens.corrupted):
        with pytest.raises(ValueError, match=words):
            call(plain, name, model, tokens, cache, metric)

    refused(pair.clean_cache, "on the same model")
    refused(random_pair.clean_cache, "are missing", model, pair.tokens.corrupted)
    _, longer = random_model.run_with_cache(torch.ones(1, 7, dtype=torch.int64))
    refused(longer, r"shape \(1, 7, .* expected \(1, 6, ")
    _, two = random_model.run_with_cache(tokens.clean.expand(2, -1))
    refused(two, "it must come from one prompt")
    _, part = random_model.run_with_cache(tokens.clean, names_filter="blocks.1.hook_resid_mid")
    refused(part, "run run_with_cache again without names_filter")
    broken = {key: value * torch.nan for key, value in random_pair.clean_cache.items()}
    refused(broken, "clean_cache.* NaN or infinite")


NOT_ONE_A_ROW = r"metric: expected one number for each of the \d+ rows, got "
BAD_METRICS = {
    "mean": (lambda logits: logits[:, -1, 0].mean(), rf"{NOT_ONE_A_ROW}\(\)"),
    "matrix": (lambda logits: logits[:, -1], rf"{NOT_ONE_A_ROW}\(\d+, \d+\)"),
    "column": (lambda logits: logits[:, -1, :1], rf"{NOT_ONE_A_ROW}\(\d+, 1\)"),
    "float": (lambda logits: logits.sum().item(), rf"{NOT_ONE_A_ROW}float"),
    "nan": (lambda logits: logits[:, -1, 0] * torch.nan, "metric: .* NaN or infinite"),
}


@pytest.mark.parametrize("name", [*SWEEPS, "attribution_patch"])
@pytest.mark.parametrize(("metric", "words"), BAD_METRICS.values(), ids=BAD_METRICS)
def test_a_metric_that_is_not_one_number_a_row_is_named(
    plain, random_model, random_pair, name, metric, words
):
    tokens = random_pair.tokens.corrupted
    with pytest.raises(ValueError, match=words):
        call(plain, name, random_model, tokens, random_pair.clean_cache, metric)


def test_a_model_that_does_not_run_its_hooks_is_noticed(plain, random_model, random_pair):
    deaf = SimpleNamespace(
        cfg=random_model.cfg, run_with_hooks=lambda tokens, fwd_hooks: random_model(tokens)
    )
    tokens = random_pair.tokens
    with pytest.raises(RuntimeError, match="a hook did not run"):
        call(
            plain, "patch_heads", deaf, tokens.corrupted, random_pair.clean_cache, tokens.logit_diff
        )


# Nothing is left behind


@pytest.mark.parametrize("name", [*SWEEPS, "attribution_patch"])
def test_nothing_is_left_behind(random_model, random_pair, hooks_in_place, name):
    """Not by a sweep, and not by one whose metric fails: no hook, no edit of a cache."""
    before = {key: value.clone() for key, value in random_pair.clean_cache.items()}

    def fails(logits):
        raise KeyError("the metric's own error")

    swept(name, random_model, random_pair)
    with pytest.raises(KeyError, match="the metric's own error"):
        call(
            SimpleNamespace(patching=patching),
            name,
            random_model,
            random_pair.tokens.corrupted,
            random_pair.clean_cache,
            fails,
        )
    assert hooks_in_place(random_model) == []
    assert torch.equal(random_model(random_pair.tokens.clean), random_pair.clean_logits)
    assert all(torch.equal(random_pair.clean_cache[key], value) for key, value in before.items())
    assert not any(parameter.requires_grad for parameter in random_model.parameters())


def test_hooks_are_gone_after_an_error_within_the_run(random_model, hooks_in_place):
    """More tokens than the model has places for: it fails while the hooks are in."""
    tokens = torch.ones(1, 40, dtype=torch.int64)
    cache = {f"blocks.{i}.hook_resid_pre": torch.zeros(1, 40, 24) for i in range(2)}
    with pytest.raises(IndexError):
        patching.patch_residual(random_model, tokens, cache, lambda logits: logits[:, 0, 0])
    assert hooks_in_place(random_model) == []
