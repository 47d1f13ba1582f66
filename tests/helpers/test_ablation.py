"""`helpers.ablation`: against hooks written out, on a model with shared key heads too."""

import pytest
import torch
from families import PAIR, bridge, run_pair
from torch.testing import assert_close

from helpers.ablation import ablate, ablate_each
from helpers.metrics import LastToken
from helpers.steering import steer

LAST = LastToken(lambda logits: logits[:, 0] - logits[:, 1], torch.tensor([5, 6]))
HEADS = [(0, 1), (2, 3), (2, 0)]
ALL = [(layer, head) for layer in range(3) for head in range(4)]


@pytest.fixture(scope="module", params=["GPT2", "Llama"])
def it(request):
    model = bridge(request.param)
    pair = run_pair(model, PAIR.tokens(model))
    means = torch.stack([pair.corrupted_cache["z", i][0].mean(0) for i in range(3)])
    return model, pair, {"a number": -1.5, "mean": means, "resample": pair.corrupted_cache}


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


@pytest.mark.parametrize("kind", ["a number", "mean", "resample"])
@pytest.mark.parametrize("places", [None, [2, -1]])
def test_ablation_is_the_hooks_by_hand(it, kind, places):
    """In a plain call, with a cache, in every row, one head at a time; then nothing stays."""
    model, pair, values = it
    both = torch.cat([pair.tokens.clean, pair.tokens.corrupted])
    with ablate(model, HEADS, values[kind], places):
        found, other, rows = model(both[:1]), model(both[1:]), model(both)
        cached, _ = model.run_with_cache(both[:1])
    assert_close(found, by_hand(it, HEADS, kind, places))
    assert_close(cached, found)
    assert_close(rows, torch.cat([found, other]))
    assert_close(model(both[:1]), pair.clean_logits)
    each = ablate_each(model, both[:1], LAST, values[kind], places)
    expected = torch.cat([LAST(by_hand(it, [head], kind, places)) for head in ALL])
    assert_close(each, expected.view(3, 4), atol=1e-5, rtol=1e-5)
    assert each.std() > 1e-3


@pytest.mark.parametrize("ran", [True, False])
@pytest.mark.parametrize(
    "change", [lambda m: ablate(m, HEADS), lambda m: steer(m, torch.ones(24), 0, 2.0)]
)
def test_hooks_are_gone_after_an_exception_or_no_run(it, change, ran, hooks_in_place):
    """Of ablation and of steering; the exception is the one that was raised, not one about them."""
    model, pair, _ = it
    with pytest.raises(KeyError, match="my own"), change(model):
        assert hooks_in_place(model)
        if ran:
            model(pair.tokens.clean)
        raise KeyError("my own")
    with pytest.raises(RuntimeError, match="the model did not run"), change(model):
        pass
    assert hooks_in_place(model) == []
    assert_close(model(pair.tokens.clean), pair.clean_logits)
