"""`helpers.steering`: the vector by hand, the same steering by other roads, and no trace after."""

import pytest
import torch
from torch.testing import assert_close

from helpers import steering

LAYER = 0
POSITIVE = ["I love the movie", "what a wonderful day it was"]
NEGATIVE = ["I hate the movie"]
TEXT = "The quick brown fox"


@pytest.fixture(scope="module")
def vector(random_model):
    return torch.randn(24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(scope="module")
def tokens(random_model):
    return random_model.to_tokens([TEXT, TEXT[::-1]])[:, :5]


# The vector


def mean_stream(model, prompt: str, layer: int):
    """The mean of `resid_post` over the prompt's tokens; position 0 is BOS."""
    _, cache = model.run_with_cache(model.to_tokens(prompt))
    stream = cache["resid_post", layer][0]
    return sum(stream[1:]) / (len(stream) - 1)


@pytest.mark.parametrize("layer", [0, 1])
def test_the_vector_by_hand(random_model, layer):
    """Each prompt counts once, however many tokens it has."""
    first, second = (mean_stream(random_model, prompt, layer) for prompt in POSITIVE)
    expected = (first + second) / 2 - mean_stream(random_model, NEGATIVE[0], layer)
    assert_close(steering.steering_vector(random_model, POSITIVE, NEGATIVE, layer), expected)
    lengths = [random_model.to_tokens(prompt).shape[1] for prompt in POSITIVE]
    assert lengths[0] != lengths[1]  # else a mean over all tokens would be the same


def test_the_vector_turns_round_with_the_sides(random_model):
    one = steering.steering_vector(random_model, POSITIVE, NEGATIVE, LAYER)
    other = steering.steering_vector(random_model, NEGATIVE, POSITIVE, LAYER)
    assert_close(other, -one)


def test_one_prompt_may_stand_without_a_list(random_model):
    one = steering.steering_vector(random_model, POSITIVE[0], NEGATIVE[0], LAYER)
    other = steering.steering_vector(random_model, POSITIVE[:1], tuple(NEGATIVE), LAYER)
    assert torch.equal(one, other)


# Steering by other roads


def steered(model, tokens, vector, layer, coefficient):
    with steering.steer(model, vector, layer, coefficient):
        return model(tokens)


@pytest.mark.parametrize("layer", [0, 1])
def test_steering_is_the_hook_by_hand(random_model, tokens, vector, layer):
    def add(stream, hook):
        stream += -1.5 * vector

    hooks = [(f"blocks.{layer}.hook_resid_post", add)]
    by_hand = random_model.run_with_hooks(tokens, fwd_hooks=hooks)
    assert_close(steered(random_model, tokens, vector, layer, -1.5), by_hand)
    assert (by_hand - random_model(tokens)).abs().max() > 0.1


@pytest.mark.parametrize("layer", [0, 1])
def test_steering_is_a_change_of_the_mlps_output_bias(random_model, tokens, vector, layer):
    """Since what is added is the same at every position and for every input."""
    expected = steered(random_model, tokens, vector, layer, 2.0)
    bias = random_model.blocks[layer].mlp.b_out
    before = bias.clone()
    try:
        bias += 2.0 * vector
        assert_close(random_model(tokens), expected)
    finally:
        bias.copy_(before)


def test_exactly_the_multiple_is_added_at_every_position(random_model, tokens, vector):
    _, plain = random_model.run_with_cache(tokens)
    with steering.steer(random_model, vector, LAYER, 3):
        _, moved = random_model.run_with_cache(tokens)
    assert_close(moved["resid_post", 0] - plain["resid_post", 0], (3 * vector).expand(2, 5, 24))
    assert torch.equal(moved["attn_out", 0], plain["attn_out", 0])  # nothing before it changes


def test_coefficient_0_changes_nothing(random_model, tokens, vector):
    assert torch.equal(steered(random_model, tokens, vector, LAYER, 0), random_model(tokens))


def test_steering_twice_adds_up(random_model, tokens, vector):
    with steering.steer(random_model, vector, LAYER, 1.0):
        both = steered(random_model, tokens, vector, LAYER, 0.5)
    assert_close(both, steered(random_model, tokens, vector, LAYER, 1.5))


# Generation


@pytest.mark.parametrize("cached", [True, False], ids=["cache", "no cache"])
def test_generated_text_is_steered(random_model, tokens, cached):
    """Towards one token so strongly, after the last layer, that nothing else can be said."""
    wanted = 77
    towards = random_model.W_U[:, wanted] - random_model.W_U.mean(1)
    options = {"max_new_tokens": 3, "do_sample": False, "verbose": False}
    plain = random_model.generate(tokens[:1], use_past_kv_cache=cached, **options)
    with steering.steer(random_model, towards, 1, 1e4):
        text = random_model.generate(tokens[:1], use_past_kv_cache=cached, **options)
    assert text[0, 5:].tolist() == [wanted] * 3
    assert wanted not in plain[0, 5:].tolist()


def test_generation_with_and_without_the_cache_is_one_token_after_the_other(
    random_model, tokens, vector
):
    """The same greedy text as a loop over steered runs of the whole text so far."""
    text = tokens[:1]
    for _ in range(6):
        logits = steered(random_model, text, vector, LAYER, 2.0)
        text = torch.cat([text, logits[:, -1:].argmax(-1)], dim=1)
    options = {"max_new_tokens": 6, "do_sample": False, "verbose": False}
    for cached in (True, False):
        with steering.steer(random_model, vector, LAYER, 2.0):
            generated = random_model.generate(tokens[:1], use_past_kv_cache=cached, **options)
        assert torch.equal(generated, text)


# Nothing is left behind


def test_the_hook_is_gone_afterwards(random_model, tokens, vector, hooks_in_place):
    before = random_model(tokens)
    with steering.steer(random_model, vector, LAYER, 2.0):
        assert "blocks.0.hook_resid_post" in hooks_in_place(random_model)
        random_model(tokens)
    assert hooks_in_place(random_model) == []
    assert torch.equal(random_model(tokens), before)


@pytest.mark.parametrize("ran", [True, False], ids=["after a run", "before a run"])
def test_the_hook_is_gone_after_an_exception(random_model, tokens, vector, hooks_in_place, ran):
    """And the exception is the one that was raised, not one about steering."""
    before = random_model(tokens)
    with (
        pytest.raises(KeyError, match="my own"),
        steering.steer(random_model, vector, LAYER, 2.0),
    ):
        if ran:
            random_model(tokens)
        raise KeyError("my own")
    assert hooks_in_place(random_model) == []
    assert torch.equal(random_model(tokens), before)


def test_a_model_that_did_not_run_is_noticed(plain, random_model, tokens, vector, hooks_in_place):
    with (
        pytest.raises(RuntimeError, match="did not run within the `with`"),
        plain.steering.steer(random_model, vector, LAYER, 2.0),
    ):
        pass
    assert hooks_in_place(random_model) == []
    random_model(tokens)


def test_making_a_vector_leaves_no_hook(random_model, hooks_in_place):
    steering.steering_vector(random_model, POSITIVE, NEGATIVE, LAYER)
    assert hooks_in_place(random_model) == []


# Errors

BAD_LAYERS = [
    (2, ValueError, "layer 2 is out of range: this model has layers 0 to 1"),
    (-1, ValueError, "layer -1 is out of range"),
    (1.0, TypeError, r"layer: expected an int, got float 1\.0"),
    (False, TypeError, "layer: expected an int, got bool"),
]


@pytest.mark.parametrize(("layer", "error", "words"), BAD_LAYERS)
def test_a_bad_layer_is_named(plain, random_model, vector, layer, error, words):
    with pytest.raises(error, match=words):
        plain.steering.steering_vector(random_model, POSITIVE, NEGATIVE, layer)
    with pytest.raises(error, match=words), plain.steering.steer(random_model, vector, layer, 1.0):
        random_model(TEXT)


@pytest.mark.parametrize(
    ("prompts", "error", "words"),
    [
        ([], ValueError, "expected at least one prompt, got none"),
        ("", ValueError, "expected some text, got ''"),
        (["I love it", " \n"], ValueError, "expected some text, got"),
        (["I love it", 3], TypeError, "expected strings, got int"),
        ([None], TypeError, "expected strings, got NoneType"),
        (None, TypeError, "expected a prompt or a list, got NoneType"),
    ],
)
def test_bad_prompts_are_named(plain, random_model, prompts, error, words):
    with pytest.raises(error, match=f"positive: {words}"):
        plain.steering.steering_vector(random_model, prompts, NEGATIVE, LAYER)
    with pytest.raises(error, match=f"negative: {words}"):
        plain.steering.steering_vector(random_model, POSITIVE, prompts, LAYER)


def test_two_equal_sides_make_no_vector(plain, random_model):
    with pytest.raises(ValueError, match="the vector is zero"):
        plain.steering.steering_vector(random_model, POSITIVE, POSITIVE, LAYER)


@pytest.mark.parametrize(
    ("change", "coefficient", "error", "words"),
    [
        (lambda v: v[:9], 1.0, ValueError, "vector: axis 'd_model' should have 24 entries"),
        (lambda v: v[None], 1.0, ValueError, r"vector: expected the 1 axes .* got shape \(1, 24\)"),
        (lambda v: v * torch.nan, 1.0, ValueError, "vector: 24 of 24 entries are NaN"),
        (lambda v: v.tolist(), 1.0, TypeError, "vector: expected a tensor .* got list"),
        (lambda v: v, float("inf"), ValueError, r"coefficient inf \* vector: .* NaN or infinite"),
        (lambda v: v, float("nan"), ValueError, r"coefficient nan \* vector: .* NaN or infinite"),
        (lambda v: v.float(), 1e300, ValueError, r"coefficient 1e\+300 \* vector: .* infinite"),
    ],
    ids=["narrow", "two axes", "nan", "list", "inf times", "nan times", "overflow"],
)
def test_what_cannot_be_added_is_named(
    plain, random_model, vector, hooks_in_place, change, coefficient, error, words
):
    with (
        pytest.raises(error, match=words),
        plain.steering.steer(random_model, change(vector), LAYER, coefficient),
    ):
        random_model(TEXT)
    assert hooks_in_place(random_model) == []
