"""`helpers.architecture`: what it says of a family, put together, is what the model computes."""

import families
import pytest
import torch
from families import bridge, network
from torch.testing import assert_close

from helpers import architecture
from helpers.architecture import Unsupported

DOUBLE = torch.float64
NEAR = {"atol": 2e-5, "rtol": 1e-5}  # RMSNorm and rotary angles are in single precision


@pytest.fixture(params=[*families.KNOWN, "tutorial-4l"])
def it(request, model):
    """A model, and the logits and cache of two rows of tokens."""
    known = model if request.param == "tutorial-4l" else bridge(request.param, DOUBLE)
    tokens = torch.randint(2, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    logits, cache = known.run_with_cache(tokens)
    return known, tokens, logits, cache


def near(found, expected):
    assert found.abs().max() > 1e-3  # not 0 = 0
    assert_close(found, expected, **NEAR)


@pytest.mark.parametrize("which", ["first", "middle", "last"])
def test_the_pattern_is_the_softmax_of_queries_and_keys(it, which):
    """And the values, mixed by it, are `z`: so shared keys and values are repeated in order. Some
    places of the stream, in another order, as the sparse engine hands them over, give the same."""
    model, _, _, cache = it
    layer = {"first": 0, "middle": 1, "last": model.cfg.n_layers - 1}[which]
    stream, picked = cache["resid_pre", layer], torch.tensor([5, 0, 6, 2])
    whole = q, k, v = architecture.query_key_value(model, layer, stream)
    assert q.shape == k.shape == v.shape == (2, model.cfg.n_heads, 7, model.cfg.d_head)
    scores = q @ k.mT / model.cfg.d_head**0.5
    hidden = torch.ones(7, 7).triu(1).bool()
    pattern = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    near(pattern, cache["pattern", layer])
    near((pattern @ v).transpose(1, 2), cache["z", layer])
    assert (pattern - pattern.mean(1, keepdim=True)).abs().max() > 1e-2  # heads differ
    some = architecture.query_key_value(model, layer, stream[:, picked], picked)
    for all_of_them, few in zip(whole, some, strict=True):
        near(few, all_of_them[:, :, picked])


def test_components_sum_to_the_stream(it):
    model, _, _, cache = it
    total = sum((parts := architecture.embeddings(model, cache)).values())
    assert ("position" in parts) == (model.cfg.architecture == "GPT2LMHeadModel")
    near(total, cache["resid_pre", 0])
    attention_bias = architecture.attention_bias(model)
    for layer in range(model.cfg.n_layers):
        heads = torch.einsum("bphe,hed->bpd", cache["z", layer], model.W_O[layer])
        near(heads + attention_bias[layer], cache["attn_out", layer])
        total = total + heads + attention_bias[layer] + cache["mlp_out", layer]
        near(total, cache["resid_post", layer])


def test_the_logits_are_the_unembedding_of_the_normed_stream(it):
    model, _, logits, cache = it
    last = cache["resid_post", model.cfg.n_layers - 1]
    scale = architecture.scale(model, last)
    near(scale, cache["ln_final.hook_scale"])
    near(architecture.centre(model, last) / scale @ model.W_U + model.b_U, logits)


@pytest.mark.parametrize("name", families.KNOWN)
def test_the_model_is_what_transformers_computes(name):
    """So that all of this is about that model, and not about what loading made of it."""
    tokens = torch.randint(2, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    theirs = network(name, DOUBLE)(tokens).logits.log_softmax(-1)
    near(bridge(name, DOUBLE)(tokens).log_softmax(-1), theirs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        *((name, {}, rf"{name}ForCausalLM: only these blocks are known: GPT2")
          for name in ("Bloom", "Gemma", "Mixtral", "Olmo2")),
        ("GPT2", {"scale_attn_by_inverse_layer_idx": True}, "scaled by the layer's number"),
        ("Mistral", {"sliding_window": 2}, "it attends to no more than 2 positions"),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
         r"its rotation \(dynamic\) depends on the length of the text"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_with_the_reason(name, settings, reason):
    model = bridge.__wrapped__(name, **settings) if settings else bridge(name)
    with pytest.raises(Unsupported, match=reason):
        architecture.query_key_value(model, 0, torch.zeros(1, 3, model.cfg.d_model))
