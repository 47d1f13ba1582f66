"""`helpers.lens`: the last row is the model's answer, each row is what it would be in its place."""

import planted
import pytest
import torch
from torch.testing import assert_close

from helpers import lens


def test_the_last_row_is_the_embedded_models_own_logits(model, pair):
    assert_close(lens.logit_lens(model, pair.clean_cache)[-1], pair.clean_logits)


def test_the_last_row_is_the_models_own_logits_with_large_biases(random_model, random_pair):
    rows = lens.logit_lens(random_model, random_pair.clean_cache)
    assert rows.shape == (3, 1, 6, random_model.cfg.d_vocab)
    assert_close(rows[-1], random_pair.clean_logits)
    assert random_model.b_U.abs().max() > 0.1  # a lost bias would show


def test_each_row_is_what_the_model_says_when_its_last_stream_is_that_one(random_model):
    """By a hook: the stream of an earlier layer is put where the last one was."""
    tokens = torch.randint(99, (2, 5), generator=torch.Generator().manual_seed(0))
    _, cache = random_model.run_with_cache(tokens)
    rows = lens.logit_lens(random_model, cache)
    for layer in range(2):

        def earlier(stream, hook, layer=layer):
            return cache["resid_pre", layer]

        hooks = [("blocks.1.hook_resid_post", earlier)]
        expected = random_model.run_with_hooks(tokens, fwd_hooks=hooks)
        assert_close(rows[layer], expected)
        assert (expected - rows[layer + 1]).abs().max() > 0.1


def test_each_row_is_normalised_with_its_own_scale(random_model, random_pair):
    """Written out: centred, divided by its own deviation, unembedded with the bias."""
    cache = random_pair.clean_cache
    stream = torch.stack([cache["resid_pre", 0], cache["resid_pre", 1], cache["resid_post", 1]])
    centred = stream - stream.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    expected = centred / scale @ random_model.W_U + random_model.b_U
    assert_close(lens.logit_lens(random_model, cache), expected)


def test_only_residual_streams_are_needed(random_model, random_pair):
    def residual(name):
        return name.endswith(("hook_resid_pre", "hook_resid_post"))

    _, cache = random_model.run_with_cache(random_pair.tokens.clean, names_filter=residual)
    assert_close(lens.logit_lens(random_model, cache)[-1], random_pair.clean_logits)


def test_the_planted_answer_appears_after_the_layer_that_writes_it():
    """Up to layer 1 nothing stands where the unembedding reads; then the right word does."""
    network = planted.induction_network()
    tokens = planted.blocks_twice(8, batch=3)
    logits, cache = network.run_with_cache(tokens)
    rows = lens.logit_lens(network, cache)
    assert not rows[:2].any()
    assert_close(rows[2], logits)
    assert torch.equal(rows[2][:, 9:-1].argmax(-1), tokens[:, 10:])


def test_a_cache_that_does_not_fit_is_named(plain, model, pair, random_model, random_pair):
    cache = random_pair.clean_cache
    with pytest.raises(ValueError, match=r"24 columns, this model 128; .* another model"):
        plain.lens.logit_lens(model, {**pair.clean_cache, **cache})
    with pytest.raises(ValueError, match=r"are missing.*run_with_cache again without"):
        plain.lens.logit_lens(model, cache)
    for lost in ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_post"):
        rest = {key: value for key, value in cache.items() if key != lost}
        with pytest.raises(ValueError, match=f"'{lost}' is not in it"):
            plain.lens.logit_lens(random_model, rest)
    broken = {key: value * torch.inf for key, value in cache.items()}
    with pytest.raises(ValueError, match="NaN or infinite"):
        plain.lens.logit_lens(random_model, broken)
