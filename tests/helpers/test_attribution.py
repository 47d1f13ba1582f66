"""`helpers.attribution`: the parts sum to the model's own answer, and are the known ones."""

import families
import pytest
import torch
from families import bridge, run_pair
from torch.testing import assert_close
from transformer_lens.model_bridge import TransformerBridge

from exercises import toy
from helpers import architecture, attribution, metrics, patching
from helpers.architecture import Unsupported

DOUBLE, ALL = torch.float64, slice(None)
NEAR = {"atol": 2e-5, "rtol": 1e-5}  # RMSNorm and rotary angles are in single precision
PARTS = ("embed", "pos_embed", "heads", "mlps", "bias")


@pytest.fixture(scope="module", params=families.KNOWN)
def rows(request):
    """A model, three rows of tokens with their logits and cache, an answer and a distractor."""
    model = bridge(request.param, DOUBLE)
    tokens = torch.randint(2, 60, (3, 7), generator=torch.Generator().manual_seed(0))
    logits, cache = model.run_with_cache(tokens)
    return model, tokens, logits, cache, torch.tensor([5, 6, 7]), torch.tensor([8, 9, 5])


def near(found, expected):
    assert_close(found, expected, **NEAR)


def test_the_parts_sum_to_the_logit_difference(rows):
    model, _, logits, cache, *ids = rows
    parts = attribution.attribute_logit_diff(model, cache, *ids)
    near(parts.total, metrics.logit_diff(logits, *ids).mean())
    assert (parts.pos_embed == 0) == (model.cfg.architecture != "GPT2LMHeadModel")
    swapped = attribution.attribute_logit_diff(model, cache, *reversed(ids))
    for part in PARTS:
        near(getattr(swapped, part), -getattr(parts, part))


def lost_without(rows, name: str, index: tuple, held: list[str]):
    """By how much the mean logit difference falls when part of an activation is set to 0, while the
    activations in `held` keep the value they had."""
    model, tokens, logits, cache, *ids = rows

    def remove(activation, hook):
        activation = activation.clone()
        activation[index] = 0
        return activation

    hooks = [(name, remove)]
    hooks += [(keep, lambda activation, hook, keep=keep: cache[keep]) for keep in held]
    left = model.run_with_hooks(tokens, fwd_hooks=hooks)
    return (metrics.logit_diff(logits, *ids) - metrics.logit_diff(left, *ids)).mean()


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
def test_a_part_is_what_its_removal_takes_away(rows):
    """In the last layer, with the MLP and the final scale held: nothing else can react."""
    model, _, _, cache, *ids = rows
    parts = attribution.attribute_logit_diff(model, cache, *ids)
    neurons = attribution.attribute_neurons(model, cache, 2, *ids)
    held = ["blocks.2.hook_mlp_out", "ln_final.hook_scale"]
    for head in range(4):
        near(
            parts.heads[2, head], lost_without(rows, "blocks.2.attn.hook_z", (..., head, ALL), held)
        )
    for neuron in (0, 20, 39):
        lost = lost_without(rows, "blocks.2.mlp.hook_post", (..., neuron), held[1:])
        near(neurons[neuron], lost)
        assert lost.abs() > 1e-5


@pytest.mark.parametrize("layer", [0, 2])
def test_neurons_and_the_output_bias_sum_to_the_mlps_part(rows, layer):
    model, _, _, cache, *ids = rows
    parts = attribution.attribute_logit_diff(model, cache, *ids)
    neurons = attribution.attribute_neurons(model, cache, layer, *ids)
    assert neurons.shape == (model.cfg.d_mlp,)
    bias = architecture.centre(model, architecture.mlp_bias(model)[layer])
    direction = (model.W_U[:, ids[0]] - model.W_U[:, ids[1]]).T
    of_bias = (bias / cache["ln_final.hook_scale"][:, -1] * direction).sum(-1).mean()
    near(neurons.sum() + of_bias, parts.mlps[layer])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["GPT2", "GPTNeoX", "Llama"])
def test_half_precision_is_the_same_but_coarse(name, dtype):
    found = []
    for each in (dtype, DOUBLE):
        model = bridge(name, each)
        pair = run_pair(model, families.PAIR.tokens(model))
        parts = attribution.attribute_logit_diff(model, pair.clean_cache, *pair.tokens[2:])
        neurons = attribution.attribute_neurons(model, pair.clean_cache, 1, *pair.tokens[2:])
        sweep = patching.patch_heads
        grid = sweep(model, pair.tokens.corrupted, pair.clean_cache, pair.tokens.logit_diff)
        own = pair.tokens.logit_diff(pair.clean_logits)[0]  # a bfloat16 model rounds by itself
        assert_close(parts.total.double(), own.double(), atol=0.03, rtol=0.03)
        shares = torch.cat([parts.heads.flatten(), parts.mlps])
        found.append([x.double() for x in (shares, neurons, grid)])
    for half, exact in zip(*found, strict=True):
        assert (half - exact).abs().max() < 0.15 * exact.abs().max() + 0.03


@pytest.mark.parametrize("name", ["GPT2", "Llama"])
def test_the_scale_of_a_long_stream_does_not_overflow_in_half_precision(name):
    """SmolLM2's streams are longer than 256, whose square float16 cannot hold."""
    stream = 400 * torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(0))
    exact = architecture.scale(bridge(name), stream)
    found = architecture.scale(bridge(name), stream.half())
    assert found.dtype == torch.float16
    assert_close(found.float(), exact, rtol=1e-2, atol=0)


# Toy models with known parts


@pytest.mark.parametrize(
    ("norm", "of_embed", "mean_square"), [("LNPre", 3, 49.85), ("RMSPre", 8, 50.85)]
)
def test_known_parts(norm, of_embed, mean_square):
    """Every number here is read off the weights (see `toy.constant_network`)."""
    network = toy.constant_network(norm)
    _, cache = network.run_with_cache(torch.tensor([[0, 1, 2], [1, 1, 0]]))
    ids = torch.tensor([1, 1]), torch.tensor([2, 2])
    scale = (mean_square + network.cfg.eps) ** 0.5
    parts = attribution.attribute_logit_diff(network, cache, *ids)
    neurons = attribution.attribute_neurons(network, cache, 0, *ids)
    expected = (of_embed, 3 * 1, [[3 * 2, 3 * 3]], [3 * (0.5 * 5 + 2 * 6)], 3 * 4)
    for part, known in zip(PARTS, expected, strict=True):
        assert (getattr(parts, part) * scale).round(decimals=4).tolist() == known
    assert (neurons * scale).round(decimals=4).tolist() == [3 * 0.5 * 5, 3 * 2 * 6, 0]


def test_the_answer_is_written_by_the_induction_head_alone():
    """Also without a norm, and without MLPs."""
    network = toy.induction_network()
    tokens = toy.blocks_twice(8, batch=3)[:, :-1]
    logits, cache = network.run_with_cache(tokens)
    answer, distractor = tokens[:, 8], tokens[:, 7]  # the block's last word, and the one before
    parts = attribution.attribute_logit_diff(network, cache, answer, distractor)
    heads = torch.zeros(2, 3)
    heads[toy.INDUCTION] = toy.LOGIT
    assert_close(parts.heads, heads)
    assert parts.embed == parts.pos_embed == parts.bias == 0 and not parts.mlps.any()
    assert_close(parts.total, metrics.logit_diff(logits, answer, distractor).mean())


# What is no sum is refused


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("Olmo2", {}, "final norm that is not folded"),
        ("Granite", {}, "more happens on the way"),
        ("Gemma2", {}, "caps its logits"),
        ("Granite", {"logits_scaling": 4.0}, "divides its logits"),
    ],
)
def test_what_is_no_sum_is_refused(name, settings, reason):
    model = bridge(name, **settings)
    pair = run_pair(model, families.PAIR.tokens(model))
    ids = pair.tokens.answer, pair.tokens.distractor
    with pytest.raises(Unsupported, match=reason):
        attribution.attribute_logit_diff(model, pair.clean_cache, *ids)
    grid = patching.patch_heads(  # but patching holds, as the message says
        model, pair.tokens.corrupted, pair.clean_cache, pair.tokens.logit_diff
    )
    assert grid.isfinite().all()


@pytest.mark.filterwarnings("ignore")
def test_neurons_of_a_mixture_of_experts_are_refused():
    """FIELD-CASES 12: with the reason, not "another model"."""
    model = bridge("Mixtral")
    pair = run_pair(model, families.PAIR.tokens(model))
    with pytest.raises(Unsupported, match="a mixture of 4 experts"):
        attribution.attribute_neurons(model, pair.clean_cache, 1, *pair.tokens[2:])


def test_weights_as_in_the_file_are_refused():
    """As a model must be loaded whose layers are offloaded: its final norm is not in W_U."""
    with families.tokenizer() as words:
        raw = TransformerBridge.boot_transformers(
            "Llama", hf_model=families.network.__wrapped__("Llama"), tokenizer=words, device="cpu"
        )
    raw.enable_compatibility_mode(no_processing=True)
    pair = run_pair(raw, families.PAIR.tokens(raw))
    with pytest.raises(Unsupported, match="final norm that is not folded"):
        attribution.attribute_logit_diff(raw, pair.clean_cache, *pair.tokens[2:])
