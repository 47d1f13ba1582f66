"""`helpers.ablation`: against hooks written out, on a model with shared key heads too."""

import pytest
import torch
from families import PAIR, bridge, run_pair
from torch.testing import assert_close

from helpers.ablation import ablate, ablate_each
from helpers.metrics import LastToken

LAST = LastToken(lambda logits: logits[:, 0] - logits[:, 1], torch.tensor([5, 6]))
HEADS = [(0, 1), (2, 3), (2, 0)]
KINDS = ["zero", "a number", "mean", "resample"]


@pytest.fixture(scope="module", params=["GPT2", "Llama"])
def it(request):
    model = bridge(request.param)
    pair = run_pair(model, PAIR.tokens(model))
    means = torch.stack([pair.corrupted_cache["z", i][0].mean(0) for i in range(3)])
    values = {"zero": 0.0, "a number": -1.5, "mean": means}
    return model, pair, values | {"resample": pair.corrupted_cache}


def by_hand(it, heads, kind, places=None):
    """The logits on the clean prompt, with in-place hooks."""
    model, pair, values = it
    places = slice(None) if places is None else places

    def hook_function(z, hook):
        for layer, head in (each for each in heads if each[0] == hook.layer()):
            if kind == "resample":
                z[:, places, head] = pair.corrupted_cache["z", layer][:, places, head]
            else:
                z[:, places, head] = values[kind][layer, head] if kind == "mean" else values[kind]

    hooks = [(f"blocks.{i}.attn.hook_z", hook_function) for i in range(3)]
    return model.run_with_hooks(pair.tokens.clean, fwd_hooks=hooks)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("places", [None, [2, -1]])
def test_ablation_is_the_hooks_by_hand(it, kind, places):
    """In a plain call, with a cache, with other hooks, in every row; then nothing stays."""
    model, pair, values = it
    before = pair.corrupted_cache["z", 2].clone()
    both = torch.cat([pair.tokens.clean, pair.tokens.corrupted])
    with ablate(model, HEADS, values[kind], places):
        found, rows = model(pair.tokens.clean), model(both)
        other = model(pair.tokens.corrupted)
        cached, _ = model.run_with_cache(pair.tokens.clean)
        hooks = [("hook_embed", lambda x, hook: x)]
        hooked = model.run_with_hooks(pair.tokens.clean, fwd_hooks=hooks)
    assert_close(found, by_hand(it, HEADS, kind, places))
    assert torch.equal(hooked, found) and torch.equal(cached, found)
    assert_close(rows, torch.cat([found, other]))
    assert (found - pair.clean_logits).abs().max() > 1e-2
    assert torch.equal(model(pair.tokens.clean), pair.clean_logits)
    assert torch.equal(pair.corrupted_cache["z", 2], before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("places", [None, [-1]])
def test_each_is_one_head_at_a_time(it, kind, places):
    model, pair, values = it
    found = ablate_each(model, pair.tokens.clean, LAST, values[kind], places)
    heads = [[LAST(by_hand(it, [(i, h)], kind, places))[0] for h in range(4)] for i in range(3)]
    assert_close(found, torch.tensor(heads), atol=1e-5, rtol=1e-5)
    assert found.std() > 1e-3


def test_its_own_run_put_back_changes_nothing(it):
    model, pair, _ = it
    everything = [(layer, head) for layer in range(3) for head in range(4)]
    with ablate(model, everything, pair.clean_cache):
        assert_close(model(pair.tokens.clean), pair.clean_logits)


@pytest.mark.parametrize("ran", [True, False])
def test_the_hooks_are_gone_after_an_exception_or_no_run(it, ran, hooks_in_place):
    """The exception is the one that was raised, not one about ablation."""
    model, pair, _ = it
    with pytest.raises(KeyError, match="my own"), ablate(model, HEADS):
        assert hooks_in_place(model)
        if ran:
            model(pair.tokens.clean)
        raise KeyError("my own")
    with pytest.raises(RuntimeError, match="the model did not run"), ablate(model, HEADS):
        pass
    assert hooks_in_place(model) == []


@pytest.mark.parametrize(
    ("heads", "values", "positions", "words"),
    [
        ([], 0.0, None, "heads: expected at least one"),
        ([(3, 0)], 0.0, None, "layer 3 is out of range: .* 0 to 2"),
        ([(0, -1)], 0.0, None, "head -1 is out of range"),
        ([(0, 1.0)], 0.0, None, "head: expected an int"),
        ([(0, 1)], 0.0, [9], "positions: 9 is out of range for 6 positions"),
        ([(0, 1)], "mean", None, "values: expected one number, got str"),
        ([(0, 1)], torch.zeros(3, 2, 6), None, "values: axis 'head' should have 4"),
        ([(0, 1)], torch.ones(3, 4, 6) / 0, None, "values: .* infinite"),
        ([(0, 1)], {}, None, "'blocks.0.attn.hook_z' is not in it"),
        ([(0, 1)], "longer", None, r"expected \(1, 6, 4, 6\)"),
    ],
)
def test_what_cannot_be_ablated_is_named(
    readers, it, hooks_in_place, heads, values, positions, words
):
    model, pair, _ = it
    if isinstance(values, str) and values == "longer":
        _, values = model.run_with_cache(torch.ones(1, 9, dtype=torch.int64))
    with (
        pytest.raises((TypeError, ValueError), match=words),
        ablate(model, heads, values, positions),
    ):
        model(pair.tokens.clean)
    assert hooks_in_place(model) == []
