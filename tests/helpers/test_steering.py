"""`helpers.steering`: the vector by hand, the same steering by other ways, and no trace after."""

import pytest
import torch
from families import bridge, network
from torch.testing import assert_close

from helpers import steering

DOUBLE, LAYER = torch.float64, 1
POSITIVE, NEGATIVE = [" The cat", " The dog sat on the mat"], " A rug on the mat"
NEAR = {"atol": 2e-5, "rtol": 1e-5}
GREEDY = {"do_sample": False, "verbose": False, "stop_at_eos": False}


@pytest.fixture(scope="module", params=["GPT2", "Llama", "GPTNeoX"])
def model(request):
    return bridge(request.param, DOUBLE)


@pytest.fixture(scope="module")
def vector():
    return torch.randn(24, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(2, 60, (2, 5), generator=torch.Generator().manual_seed(0))


def steered(model, tokens, vector, layer, coefficient):
    with steering.steer(model, vector, layer, coefficient):
        return model(tokens)


@pytest.mark.parametrize("layer", [0, 2])
def test_steering_is_the_hook_by_hand(model, tokens, vector, layer):
    def add(stream, hook):
        stream += -1.5 * vector

    hooks = [(f"blocks.{layer}.hook_resid_post", add)]
    by_hand = model.run_with_hooks(tokens, fwd_hooks=hooks)
    assert_close(steered(model, tokens, vector, layer, -1.5), by_hand)
    assert (by_hand - model(tokens)).abs().max() > 0.1


@pytest.mark.parametrize("name", ["GPT2", "Llama", "GPTNeoX"])
def test_steering_is_adding_in_transformers(tokens, vector, name):
    """To what its own block gives, in logits and in text."""
    model, theirs = bridge(name, DOUBLE), network(name, DOUBLE)
    vector = vector - vector.mean()  # what a LayerNorm does not see, loading takes out

    def add(module, arguments, output):
        whole = isinstance(output, tuple)
        return (output[0] + 1.5 * vector, *output[1:]) if whole else output + 1.5 * vector

    base = theirs.base_model
    handle = (base.h if name == "GPT2" else base.layers)[LAYER].register_forward_hook(add)
    try:
        expected, text = theirs(tokens).logits.log_softmax(-1), tokens[:1]
        for _ in range(4):
            text = torch.cat([text, theirs(text).logits[:, -1:].argmax(-1)], dim=1)
    finally:
        handle.remove()
    assert_close(steered(model, tokens, vector, LAYER, 1.5).log_softmax(-1), expected, **NEAR)
    for cached in (True, False):
        with steering.steer(model, vector, LAYER, 1.5):
            ours = model.generate(tokens[:1], max_new_tokens=4, use_past_kv_cache=cached, **GREEDY)
        assert torch.equal(ours, text)


def test_exactly_the_multiple_is_added_at_every_position(model, tokens, vector):
    _, plain = model.run_with_cache(tokens)
    with steering.steer(model, vector, LAYER, 3):
        _, moved = model.run_with_cache(tokens)
    assert_close(
        moved["resid_post", LAYER] - plain["resid_post", LAYER], (3 * vector).expand(2, 5, 24)
    )
    assert torch.equal(moved["attn_out", LAYER], plain["attn_out", LAYER])  # nothing before changes
    assert torch.equal(steered(model, tokens, vector, LAYER, 0), model(tokens))
    with steering.steer(model, vector, LAYER, 1.0):
        both = steered(model, tokens, vector, LAYER, 0.5)
    assert_close(both, steered(model, tokens, vector, LAYER, 1.5))


@pytest.mark.parametrize("ran", [True, False], ids=["after a run", "before a run"])
def test_the_hook_is_gone_after_an_exception_or_no_run(model, tokens, vector, hooks_in_place, ran):
    """The exception is the one that was raised, not one about steering."""
    before = model(tokens)
    with pytest.raises(KeyError, match="my own"), steering.steer(model, vector, 0, 2.0):
        assert "blocks.0.hook_resid_post" in hooks_in_place(model)
        if ran:
            model(tokens)
        raise KeyError("my own")
    with pytest.raises(RuntimeError, match="did not run"), steering.steer(model, vector, 1, 2.0):
        pass
    assert hooks_in_place(model) == [] and torch.equal(model(tokens), before)


def test_one_prompt_is_a_list_of_one_and_the_sides_turn_the_vector(model):
    one = steering.steering_vector(model, POSITIVE[0], NEGATIVE, LAYER)
    assert torch.equal(one, steering.steering_vector(model, (POSITIVE[0],), [NEGATIVE], LAYER))
    assert_close(steering.steering_vector(model, NEGATIVE, POSITIVE[0], LAYER), -one)
