"""`helpers.lens`: the last row is the model's answer, each row is what it would be in its place."""

import families
import pytest
import torch
from families import bridge, run_pair
from torch.testing import assert_close

from exercises import toy
from helpers import lens
from helpers.architecture import Unsupported


@pytest.mark.parametrize("name", [*families.KNOWN, "Bloom", "GPTJ", "Mixtral"])
def test_each_row_is_what_the_model_says_when_its_last_stream_is_that_one(name):
    """By a hook: the stream of an earlier layer is put where the last one was."""
    model = bridge(name)
    pair = run_pair(model, families.PAIR.tokens(model))
    rows, last = lens.logit_lens(model, pair.clean_cache), model.cfg.n_layers - 1
    assert rows.shape == (last + 2, *pair.clean_logits.shape)
    near = {"atol": 1e-4, "rtol": 1e-4}  # RMSNorm computes in single precision
    assert_close(rows[-1], pair.clean_logits, **near)
    for layer in range(last + 1):

        def earlier(stream, hook, layer=layer):
            return pair.clean_cache["resid_pre", layer]

        hooks = [(f"blocks.{last}.hook_resid_post", earlier)]
        expected = model.run_with_hooks(pair.tokens.clean, fwd_hooks=hooks)
        assert_close(rows[layer], expected, **near)
        assert (expected - rows[layer + 1]).abs().max() > 0.1


def test_only_residual_streams_are_needed(random_model, random_pair):
    def residual(name):
        return name.endswith(("hook_resid_pre", "hook_resid_post"))

    _, cache = random_model.run_with_cache(random_pair.tokens.clean, names_filter=residual)
    assert_close(lens.logit_lens(random_model, cache)[-1], random_pair.clean_logits)


def test_the_answer_appears_after_the_layer_that_writes_it():
    """Up to layer 1 nothing stands where the unembedding reads; then the right word does."""
    network = toy.induction_network()
    tokens = toy.blocks_twice(8, batch=3)
    logits, cache = network.run_with_cache(tokens)
    rows = lens.logit_lens(network, cache)
    assert not rows[:2].any()
    assert_close(rows[2], logits)
    assert torch.equal(rows[2][:, 9:-1].argmax(-1), tokens[:, 10:])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["Gemma2", "Cohere"])
def test_a_lens_that_would_not_end_in_the_answer_is_refused(name):
    model = bridge(name)
    _, cache = model.run_with_cache(torch.tensor([[0, 5, 6]]))
    with pytest.raises(Unsupported, match="its logits after the unembedding"):
        lens.logit_lens(model, cache)
