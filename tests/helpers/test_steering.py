"""`helpers.steering`: the same steering in plain transformers, and what it does to the stream.

That no hook stays is tested together with ablation's; the vector by hand, in the classic mistakes.
"""

import pytest
import torch
from families import bridge, network
from torch.testing import assert_close

from helpers import steering

DOUBLE, LAYER = torch.float64, 1
NEAR = {"atol": 2e-5, "rtol": 1e-5}
GREEDY = {"do_sample": False, "verbose": False, "stop_at_eos": False}
VECTOR = torch.randn(24, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
TOKENS = torch.randint(2, 60, (2, 5), generator=torch.Generator().manual_seed(0))


def steered(model, coefficient):
    with steering.steer(model, VECTOR - VECTOR.mean(), LAYER, coefficient):
        return model(TOKENS)


@pytest.mark.parametrize("name", ["GPT2", "Llama", "GPTNeoX"])
def test_steering_is_adding_in_transformers(name):
    """To what its own block gives, in logits and in text."""
    model, theirs = bridge(name, DOUBLE), network(name, DOUBLE)
    vector = VECTOR - VECTOR.mean()  # what a LayerNorm does not see, loading takes out

    def add(module, arguments, output):
        whole = isinstance(output, tuple)
        return (output[0] + 1.5 * vector, *output[1:]) if whole else output + 1.5 * vector

    base = theirs.base_model
    with (base.h if name == "GPT2" else base.layers)[LAYER].register_forward_hook(add):
        expected, text = theirs(TOKENS).logits.log_softmax(-1), TOKENS[:1]
        for _ in range(4):
            text = torch.cat([text, theirs(text).logits[:, -1:].argmax(-1)], dim=1)
    assert_close(steered(model, 1.5).log_softmax(-1), expected, **NEAR)
    for cached in (True, False):
        with steering.steer(model, vector, LAYER, 1.5):
            ours = model.generate(TOKENS[:1], max_new_tokens=4, use_past_kv_cache=cached, **GREEDY)
        assert torch.equal(ours, text)


@pytest.mark.parametrize("layer", [0, 2])
def test_exactly_the_multiple_is_added_at_every_position(random_model, layer):
    _, plain = random_model.run_with_cache(TOKENS)
    with steering.steer(random_model, VECTOR, layer, -1.5):
        _, moved = random_model.run_with_cache(TOKENS)
    added = moved["resid_post", layer] - plain["resid_post", layer]
    assert_close(added, (-1.5 * VECTOR).expand(2, 5, 24))
    assert_close(moved["attn_out", layer], plain["attn_out", layer])  # nothing before changes
    with steering.steer(random_model, VECTOR - VECTOR.mean(), LAYER, 1.0):
        both = steered(random_model, 0.5)
    assert_close(both, steered(random_model, 1.5))


def test_one_prompt_is_a_list_of_one_and_the_sides_turn_the_vector(random_model):
    one, other = " The cat", " A rug on the mat"
    vector = steering.steering_vector(random_model, one, other, LAYER)
    assert_close(vector, steering.steering_vector(random_model, (one,), [other], LAYER))
    assert_close(steering.steering_vector(random_model, other, one, LAYER), -vector)
