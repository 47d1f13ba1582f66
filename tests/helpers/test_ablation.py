"""`helpers.ablation`: against hooks written out, on a model with shared key heads too."""

import pytest
import torch
from families import PAIR, bridge, run_pair
from torch.testing import assert_close

from helpers.ablation import ablate, ablate_each
from helpers.metrics import LastToken

LAST = LastToken(lambda logits: logits[:, 0] - logits[:, 1], torch.tensor([5, 6]))
HEADS = [(0, 1), (2, 3), (2, 0)]


@pytest.fixture(scope="module", params=["GPT2", "Llama"])
def it(request):
    model = bridge(request.param)
    pair = run_pair(model, PAIR.tokens(model))
    means = torch.stack([pair.corrupted_cache["z", i][0].mean(0) for i in range(3)])
    values = {"zero": 0.0, "a number": -1.5, "mean": means}
    return model, pair, values | {"resample": pair.corrupted_cache}


def by_hand(it, heads, kind, places=slice(None)):
    """The logits on the clean prompt, with in-place hooks."""
    model, pair, values = it

    def hook_function(z, hook):
        for layer, head in heads:
            if layer != hook.layer():
                continue
            if kind == "resample":
                z[:, places, head] = pair.corrupted_cache["z", layer][:, places, head]
            elif kind == "mean":
                z[:, places, head] = values["mean"][layer, head]
            else:
                z[:, places, head] = values[kind]

    hooks = [(f"blocks.{i}.attn.hook_z", hook_function) for i in range(3)]
    return model.run_with_hooks(pair.tokens.clean, fwd_hooks=hooks)


KINDS = ["zero", "a number", "mean", "resample"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("places", [None, [2, -1]])
def test_ablation_is_the_hooks_by_hand(it, kind, places):
    model, pair, values = it
    expected = by_hand(it, HEADS, kind, slice(None) if places is None else places)
    with ablate(model, HEADS, values[kind], places):
        found = model(pair.tokens.clean)
        _, cache = model.run_with_cache(pair.tokens.clean)
        hooked = model.run_with_hooks(
            pair.tokens.clean, fwd_hooks=[("hook_embed", lambda x, hook: x)]
        )
    assert_close(found, expected)
    assert torch.equal(hooked, found)
    assert_close(cache["z", 1], cache["z", 1])
    untouched = [head for head in range(4) if (0, head) not in HEADS]
    assert torch.equal(cache["z", 0][:, :, untouched], pair.clean_cache["z", 0][:, :, untouched])
    assert (found - pair.clean_logits).abs().max() > 1e-2
    assert torch.equal(model(pair.tokens.clean), pair.clean_logits)  # and nothing stays


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("places", [None, [-1]])
def test_each_is_one_head_at_a_time(it, kind, places):
    model, pair, values = it
    found = ablate_each(model, pair.tokens.clean, LAST, values[kind], places)
    where = slice(None) if places is None else places
    for layer in range(3):
        for head in range(4):
            expected = LAST(by_hand(it, [(layer, head)], kind, where))[0]
            assert_close(found[layer, head], expected, atol=1e-5, rtol=1e-5)
    assert found.std() > 1e-3


def test_every_row_is_ablated(it):
    model, pair, _ = it
    both = torch.cat([pair.tokens.clean, pair.tokens.corrupted])
    with ablate(model, HEADS):
        rows = model(both)
        one, other = model(pair.tokens.clean), model(pair.tokens.corrupted)
    assert_close(rows, torch.cat([one, other]))


def test_its_own_run_put_back_changes_nothing(it):
    model, pair, _ = it
    everything = [(layer, head) for layer in range(3) for head in range(4)]
    with ablate(model, everything, pair.clean_cache):
        assert_close(model(pair.tokens.clean), pair.clean_logits)


def test_a_cache_is_not_changed(it):
    model, pair, values = it
    before = pair.corrupted_cache["z", 2].clone()
    with ablate(model, HEADS, values["resample"]):
        model(pair.tokens.clean)
    assert torch.equal(pair.corrupted_cache["z", 2], before)


@pytest.mark.parametrize("ran", [True, False])
def test_the_hooks_are_gone_after_an_exception(it, ran, hooks_in_place):
    """And the exception is the one that was raised, not one about ablation."""
    model, pair, _ = it
    with pytest.raises(KeyError, match="my own"), ablate(model, HEADS):
        assert hooks_in_place(model)
        if ran:
            model(pair.tokens.clean)
        raise KeyError("my own")
    assert hooks_in_place(model) == []


def test_a_model_that_did_not_run_is_noticed(it, hooks_in_place):
    with pytest.raises(RuntimeError, match="the model did not run"), ablate(it[0], HEADS):
        pass
    assert hooks_in_place(it[0]) == []


@pytest.mark.parametrize(
    ("heads", "values", "positions", "error", "words"),
    [
        ([], 0.0, None, ValueError, "heads: expected at least one"),
        ([(3, 0)], 0.0, None, ValueError, "layer 3 is out of range: this model has layers 0 to 2"),
        ([(0, -1)], 0.0, None, ValueError, "head -1 is out of range"),
        ([(0, 1.0)], 0.0, None, TypeError, "head: expected an int"),
        ([(0, 1)], 0.0, [9], ValueError, "positions: 9 is out of range for 6 positions"),
        ([(0, 1)], "mean", None, TypeError, "values: expected one number, got str"),
        ([(0, 1)], float("nan"), None, ValueError, "values: expected a finite number"),
        ([(0, 1)], torch.zeros(3, 4), None, ValueError, "values: expected the 3 axes"),
        ([(0, 1)], torch.zeros(3, 2, 6), None, ValueError, "values: axis 'head' should have 4"),
        ([(0, 1)], torch.ones(3, 4, 6) / 0, None, ValueError, "values: .* infinite"),
        ([(0, 1)], {}, None, ValueError, "'blocks.0.attn.hook_z' is not in it"),
    ],
)  # fmt: skip
def test_what_cannot_be_ablated_is_named(
    readers, it, hooks_in_place, heads, values, positions, error, words
):
    model, pair, _ = it
    with pytest.raises(error, match=words), ablate(model, heads, values, positions):
        model(pair.tokens.clean)
    assert hooks_in_place(model) == []


def test_a_run_of_another_length_is_named(readers, it):
    model, pair, _ = it
    _, longer = model.run_with_cache(torch.ones(1, 9, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"expected \(1, 6, 4, 6\)"), ablate(model, HEADS, longer):
        model(pair.tokens.clean)
    with pytest.raises(ValueError, match="axis 'batch' should have 1"):
        ablate_each(model, pair.tokens.clean.expand(2, -1), LAST)
    with pytest.raises(ValueError, match=r"token id .* is out of range"):
        ablate_each(model, pair.tokens.clean + 60, LAST)
