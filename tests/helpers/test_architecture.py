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
BLOCKS = ["first", "middle", "last"]


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


def test_embeddings_sum_to_the_stream(it):
    model, _, _, cache = it
    parts = architecture.embeddings(model, cache)
    near(sum(parts.values()), cache["resid_pre", 0])
    assert ("position" in parts) == (model.cfg.architecture == "GPT2LMHeadModel")


@pytest.mark.parametrize("which", BLOCKS)
def test_the_pattern_is_the_softmax_of_queries_and_keys(it, which):
    """And the values, mixed by it, are `z`: so shared keys and values are repeated in order."""
    model, _, _, cache = it
    layer = BLOCKS.index(which) * (model.cfg.n_layers - 1) // 2
    q, k, v = architecture.query_key_value(model, layer, cache["resid_pre", layer])
    assert q.shape == k.shape == v.shape == (2, model.cfg.n_heads, 7, model.cfg.d_head)
    scores = q @ k.mT / model.cfg.d_head**0.5
    hidden = torch.ones(7, 7).triu(1).bool()
    pattern = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    near(pattern, cache["pattern", layer])
    near((pattern @ v).transpose(1, 2), cache["z", layer])
    assert (pattern - pattern.mean(1, keepdim=True)).abs().max() > 1e-2  # heads differ


def test_places_may_have_any_positions(it):
    """Rows picked from the stream, in another order, as the sparse engine hands them over."""
    model, _, _, cache = it
    stream, picked = cache["resid_pre", 1], torch.tensor([5, 0, 6, 2])
    whole = architecture.query_key_value(model, 1, stream)
    some = architecture.query_key_value(model, 1, stream[:, picked], picked)
    for all_of_them, few in zip(whole, some, strict=True):
        near(few, all_of_them[:, :, picked])


def test_components_sum_to_the_stream(it):
    model, _, _, cache = it
    total = sum(architecture.embeddings(model, cache).values())
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
    architecture.expect_plain_logits(model)


@pytest.mark.parametrize("name", families.KNOWN)
def test_the_model_is_what_transformers_computes(name):
    """So that all of this is about that model, and not about what loading made of it."""
    tokens = torch.randint(2, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    theirs = network(name, DOUBLE)(tokens).logits.log_softmax(-1)
    near(bridge(name, DOUBLE)(tokens).log_softmax(-1), theirs)


# What is not known is refused, with the reason


def read(model):
    architecture.query_key_value(model, 0, torch.zeros(1, 3, model.cfg.d_model))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        *((name, {}, rf"{name}ForCausalLM: only these blocks are known: GPT2")
          for name in ("GPTJ", "Bloom", "Gemma", "Mixtral", "Olmo2", "Cohere")),
        ("GPT2", {"scale_attn_by_inverse_layer_idx": True}, "scaled by the layer's number"),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
         r"its rotation \(dynamic\) depends on the length of the text"),
    ],
)  # fmt: skip
def test_what_is_not_known_of_attention_is_refused_with_the_reason(name, settings, reason):
    with pytest.raises(Unsupported, match=reason):
        read(bridge.__wrapped__(name, **settings) if settings else bridge(name))


@pytest.mark.parametrize("part", ["attn", "mlp"])
def test_a_replaced_part_is_refused(part):
    bridged = getattr((model := bridge("GPT2")).blocks[1], part)
    own = bridged._original_component
    bridged._original_component = torch.nn.Identity()
    try:
        with pytest.raises(Unsupported, match="has been replaced"):
            read(model)
    finally:
        bridged._original_component = own
    read(model)


@pytest.mark.parametrize("change", [lambda x: 2 * x, None], ids=["scaled", "missing"])
def test_embeddings_that_are_not_all_there_is_are_refused(change):
    _, cache = (model := bridge("GPT2")).run_with_cache(torch.tensor([[5, 6, 7]]))
    rest = {key: value for key, value in cache.items() if key != "hook_embed"}
    rest["resid_pre", 0] = cache["resid_pre", 0]
    with pytest.raises(Unsupported, match="embeddings do not sum to what enters the first block"):
        changed = {"hook_embed": change(cache["hook_embed"])} if change else {}
        architecture.embeddings(model, rest | changed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "settings", "does"),
    [
        ("Gemma2", {}, r"caps its logits .* \(by 30\)"),
        ("Granite", {"logits_scaling": 4.0}, r"divides its logits .* \(by 4\)"),
        ("Cohere", {}, r"scales its logits .* \(by 0.0625\)"),
    ],
)
def test_logits_that_are_changed_afterwards_are_refused(name, settings, does):
    with pytest.raises(Unsupported, match=does):
        architecture.expect_plain_logits(bridge(name, **settings))
    assert issubclass(Unsupported, ValueError)  # so `except ValueError` of older code still works
