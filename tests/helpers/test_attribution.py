"""`helpers.attribution`: the parts sum to the model's own answer, and are the known ones."""

import families
import pytest
import torch
from families import bridge, run_pair
from torch.testing import assert_close
from transformer_lens.tools.analysis import direct_logit_attribution

from exercises import toy
from helpers import architecture, attribution, metrics
from helpers.architecture import Unsupported
from helpers.models import load_model
from helpers.prompts import CAPITAL_PAIRS

DOUBLE, ALL = torch.float64, slice(None)
NEAR = {"atol": 2e-5, "rtol": 1e-5}  # RMSNorm and rotary angles are in single precision
PARTS = ("embed", "pos_embed", "heads", "mlps", "bias")


@pytest.fixture(scope="module", params=[*families.KNOWN, "Cohere"])  # scales its logits: folded
def rows(request):
    """A model, three rows of tokens with their logits and cache, an answer and a distractor."""
    model = bridge(request.param, DOUBLE)
    tokens = torch.randint(2, 60, (3, 7), generator=torch.Generator().manual_seed(0))
    logits, cache = model.run_with_cache(tokens)
    return model, tokens, logits, cache, torch.tensor([5, 6, 7]), torch.tensor([8, 9, 5])


def near(found, expected):
    assert_close(found, expected, **NEAR)


def test_the_parts_sum_to_the_logit_difference(rows):
    """And an MLP's neurons and its output bias to the MLP's part."""
    model, _, logits, cache, *ids = rows
    parts = attribution.attribute_logit_diff(model, cache, *ids)
    near(parts.total, metrics.logit_diff(logits, *ids).mean())
    assert (parts.pos_embed == 0) == (model.cfg.architecture != "GPT2LMHeadModel")
    for layer in (0, 2):
        neurons = attribution.attribute_neurons(model, cache, layer, *ids)
        bias = architecture.centre(model, architecture.mlp_bias(model)[layer])
        direction = (model.W_U[:, ids[0]] - model.W_U[:, ids[1]]).T
        of_bias = (bias / cache["ln_final.hook_scale"][:, -1] * direction).sum(-1).mean()
        near(neurons.sum() + of_bias, parts.mlps[layer])


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
    heads = attribution.attribute_logit_diff(model, cache, *ids).heads[2]
    neurons = attribution.attribute_neurons(model, cache, 2, *ids)
    held = ["ln_final.hook_scale", "blocks.2.hook_mlp_out"]
    for head in range(4):
        near(heads[head], lost_without(rows, "blocks.2.attn.hook_z", (..., head, ALL), held))
    for neuron in (0, 20, 39):
        lost = lost_without(rows, "blocks.2.mlp.hook_post", (..., neuron), held[:1])
        near(neurons[neuron], lost)
        assert lost.abs() > 1e-5


@pytest.mark.parametrize(
    "name", ["tutorial-4l", pytest.param("smollm2-135m", marks=pytest.mark.slow)]
)
def test_the_librarys_is_ours_without_the_bias_of_the_unembedding(name):
    model = load_model(name)
    pair = run_pair(model, CAPITAL_PAIRS[0].tokens(model))
    answer, distractor = ids = pair.tokens[2:]
    words = {"answer_tokens": answer, "incorrect_tokens": distractor}
    theirs = direct_logit_attribution(model, **words, unit="head", cache=pair.clean_cache)
    by_label = dict(zip(theirs.labels, theirs.attribution.flatten(), strict=True))
    heads = attribution.attribute_logit_diff(model, pair.clean_cache, *ids).heads
    for layer, head in [(0, 2), (1, 0), (model.cfg.n_layers - 1, 1)]:
        assert_close(by_label[f"L{layer}H{head}"], heads[layer, head], atol=1e-4, rtol=1e-3)
    whole = theirs.attribution.sum() + model.b_U[answer] - model.b_U[distractor]
    assert_close(whole, pair.tokens.logit_diff(pair.clean_logits), atol=1e-3, rtol=1e-3)
    assert heads.abs().max() > 0.1


@pytest.mark.parametrize("name", ["GPT2", "Llama"])
def test_the_scale_of_a_long_stream_does_not_overflow_in_half_precision(name):
    """SmolLM2's streams are longer than 256, whose square float16 cannot hold."""
    stream = 400 * torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(0))
    found = architecture.scale(bridge(name), stream.half())
    assert found.dtype == torch.float16
    assert_close(found.float(), architecture.scale(bridge(name), stream), rtol=1e-2, atol=0)


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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("Olmo2", {}, "final norm that is not folded"),
        ("Granite", {}, "more happens on the way"),
        ("Gemma2", {}, "turns a logit of 99 into 29.9"),
        ("Granite", {"logits_scaling": 4.0}, "turns a logit of 99 into 24.8"),
        ("Mixtral", {}, "a mixture of 4 experts"),  # FIELD-CASES 12: not "another model"
    ],
)
def test_what_is_no_sum_is_refused_with_the_reason(name, settings, reason):
    model = bridge(name, **settings)
    pair = run_pair(model, families.PAIR.tokens(model))
    with pytest.raises(Unsupported, match=reason):
        if name == "Mixtral":
            attribution.attribute_neurons(model, pair.clean_cache, 1, *pair.tokens[2:])
        attribution.attribute_logit_diff(model, pair.clean_cache, *pair.tokens[2:])
