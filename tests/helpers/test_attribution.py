"""`helpers.attribution`: the parts sum to the model's own answer, and are the known ones."""

import planted
import pytest
import torch
from torch.testing import assert_close

from helpers import attribution, metrics


@pytest.fixture(scope="module")
def rows(random_model):
    """Three rows on the random model: tokens, logits, cache, answers, distractors."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(random_model.cfg.d_vocab, (3, 7), generator=generator)
    answer, distractor = torch.randint(random_model.cfg.d_vocab, (2, 3), generator=generator)
    return *random_model.run_with_cache(tokens), answer, distractor


# Completeness


def test_the_parts_sum_to_the_embedded_models_logit_difference(model, pair):
    tokens = pair.tokens
    for logits, cache in (
        (pair.clean_logits, pair.clean_cache),
        (pair.corrupted_logits, pair.corrupted_cache),
    ):
        parts = attribution.attribute_logit_diff(model, cache, tokens.answer, tokens.distractor)
        assert_close(parts.total, tokens.logit_diff(logits)[0], atol=1e-4, rtol=0)


def test_the_parts_sum_on_a_batch_with_large_biases(random_model, rows):
    logits, cache, answer, distractor = rows
    parts = attribution.attribute_logit_diff(random_model, cache, answer, distractor)
    assert_close(parts.total, metrics.logit_diff(logits, answer, distractor).mean())
    shift = (random_model.b_U[answer] - random_model.b_U[distractor]).mean()
    assert shift.abs() > 0.1 and random_model.b_O.abs().max() > 0.1  # a lost one would show


def test_a_batch_is_the_mean_of_its_rows(random_model, rows):
    _, cache, answer, distractor = rows
    batch = attribution.attribute_logit_diff(random_model, cache, answer, distractor)
    singles = []
    for i in range(3):
        row = {key: value[i : i + 1] for key, value in cache.items()}
        singles.append(
            attribution.attribute_logit_diff(
                random_model, row, answer[i : i + 1], distractor[i : i + 1]
            )
        )
    for part in ("embed", "pos_embed", "heads", "mlps", "bias"):
        assert_close(getattr(batch, part), sum(getattr(s, part) for s in singles) / 3)


def test_all_parts_change_sign_with_the_roles(random_model, rows):
    _, cache, answer, distractor = rows
    one = attribution.attribute_logit_diff(random_model, cache, answer, distractor)
    other = attribution.attribute_logit_diff(random_model, cache, distractor, answer)
    for part in ("embed", "pos_embed", "heads", "mlps", "bias", "total"):
        assert_close(getattr(other, part), -getattr(one, part))


# Another route


def test_the_parts_are_those_of_transformer_lens(random_model, rows):
    """Its stack of components, divided by the final scale, onto the same direction."""
    _, cache, answer, distractor = rows
    stack, labels = cache.get_full_resid_decomposition(
        layer=2, expand_neurons=False, apply_ln=True, pos_slice=-1, return_labels=True
    )
    direction = (random_model.W_U[:, answer] - random_model.W_U[:, distractor]).T
    expected = dict(zip(labels, (stack * direction).sum(-1).mean(-1), strict=True))
    parts = attribution.attribute_logit_diff(random_model, cache, answer, distractor)
    for layer in range(2):
        for head in range(3):
            assert_close(parts.heads[layer, head], expected[f"L{layer}H{head}"])
        assert_close(parts.mlps[layer], expected[f"{layer}_mlp_out"])
    assert_close(parts.embed, expected["embed"])
    assert_close(parts.pos_embed, expected["pos_embed"])


def test_a_heads_part_is_what_its_removal_takes_away(random_model, rows):
    """In the last layer, with the MLP and the final scale held: nothing else can react."""
    _, cache, answer, distractor = rows
    parts = attribution.attribute_logit_diff(random_model, cache, answer, distractor)
    held = ["blocks.1.hook_mlp_out", "ln_final.hook_scale"]
    for head in range(3):
        lost = lost_without(random_model, rows, "blocks.1.attn.hook_z", (..., head, ALL), held)
        assert_close(parts.heads[1, head], lost)


def test_a_neurons_part_is_what_its_removal_takes_away(random_model, rows):
    _, cache, answer, distractor = rows
    parts = attribution.attribute_neurons(random_model, cache, 1, answer, distractor)
    for neuron in (0, 50, 95):
        name, held = "blocks.1.mlp.hook_post", ["ln_final.hook_scale"]
        lost = lost_without(random_model, rows, name, (..., neuron), held)
        assert_close(parts[neuron], lost)
        assert lost.abs() > 1e-5


ALL = slice(None)


def lost_without(model, rows, name: str, index: tuple, held: list[str]):
    """By how much the mean logit difference falls when part of an activation is set to 0, while the
    activations in `held` keep the value they had."""
    logits, cache, answer, distractor = rows

    def remove(activation, hook):
        activation = activation.clone()
        activation[index] = 0
        return activation

    hooks = [(name, remove)]
    hooks += [(keep, lambda activation, hook, keep=keep: cache[keep]) for keep in held]
    left = model.run_with_hooks(cache["embed.hook_in"], fwd_hooks=hooks)
    before, after = (metrics.logit_diff(each, answer, distractor) for each in (logits, left))
    return (before - after).mean()


@pytest.mark.parametrize("layer", [0, 1])
def test_neurons_and_the_output_bias_sum_to_the_mlps_part(random_model, rows, layer):
    _, cache, answer, distractor = rows
    parts = attribution.attribute_logit_diff(random_model, cache, answer, distractor)
    neurons = attribution.attribute_neurons(random_model, cache, layer, answer, distractor)
    assert neurons.shape == (96,)
    bias = random_model.b_out[layer] - random_model.b_out[layer].mean()
    direction = (random_model.W_U[:, answer] - random_model.W_U[:, distractor]).T
    of_bias = (bias / cache["ln_final.hook_scale"][:, -1] * direction).sum(-1).mean()
    assert_close(neurons.sum() + of_bias, parts.mlps[layer])
    assert of_bias.abs() > 1e-3


# Planted truth


@pytest.mark.parametrize(
    ("norm", "of_embed", "mean_square"), [("LNPre", 3, 49.85), ("RMSPre", 8, 50.85)]
)
def test_known_parts(norm, of_embed, mean_square):
    """Every number here is read off the weights (see `planted.constant_network`)."""
    network = planted.constant_network(norm)
    _, cache = network.run_with_cache(torch.tensor([[0, 1, 2], [1, 1, 0]]))
    ids = torch.tensor([1, 1]), torch.tensor([2, 2])
    scale = (mean_square + network.cfg.eps) ** 0.5
    parts = attribution.attribute_logit_diff(network, cache, *ids)
    neurons = attribution.attribute_neurons(network, cache, 0, *ids)

    def times_scale(part):
        return (part * scale).round(decimals=4).tolist()

    assert times_scale(parts.embed) == of_embed
    assert times_scale(parts.pos_embed) == 3 * 1
    assert times_scale(parts.heads) == [[3 * 2, 3 * 3]]
    assert times_scale(parts.bias) == 3 * 4
    assert times_scale(parts.mlps) == [3 * (0.5 * 5 + 2 * 6)]
    assert times_scale(neurons) == [3 * 0.5 * 5, 3 * 2 * 6, 0]


def test_the_planted_answer_is_written_by_the_induction_head_alone():
    """Also without a norm, and without MLPs."""
    network = planted.induction_network()
    tokens = planted.blocks_twice(8, batch=3)[:, :-1]
    logits, cache = network.run_with_cache(tokens)
    answer, distractor = tokens[:, 8], tokens[:, 7]  # the block's last word, and the one before
    parts = attribution.attribute_logit_diff(network, cache, answer, distractor)
    heads = torch.zeros(2, 3)
    heads[planted.INDUCTION] = planted.LOGIT
    assert_close(parts.heads, heads)
    assert parts.embed == parts.pos_embed == parts.bias == 0 and not parts.mlps.any()
    assert_close(parts.total, metrics.logit_diff(logits, answer, distractor).mean())


# Errors


def both(plain, model, cache, answer, distractor):
    """Each of the two functions on the same arguments, to be called."""
    return (
        lambda: plain.attribution.attribute_logit_diff(model, cache, answer, distractor),
        lambda: plain.attribution.attribute_neurons(model, cache, 0, answer, distractor),
    )


BAD_IDS = {
    "too few": (lambda ids: ids[:2], ValueError, "answer: axis 'batch' should have 3 entries"),
    "two axes": (lambda ids: ids[:, None], ValueError, "answer: expected the 1 axes"),
    "large": (lambda ids: ids + 10**6, ValueError, "answer: token id .* is out of range"),
    "negative": (lambda ids: ids - 10**6, ValueError, "answer: token id -.* is out of range"),
    "float": (lambda ids: ids / 1, TypeError, "answer: expected a tensor of integer token ids"),
    "list": (lambda ids: ids.tolist(), TypeError, "answer: expected a tensor .* got list"),
}


@pytest.mark.parametrize(("change", "error", "words"), BAD_IDS.values(), ids=BAD_IDS)
def test_bad_answers_are_named(plain, random_model, rows, change, error, words):
    _, cache, answer, distractor = rows
    for function in both(plain, random_model, cache, change(answer), distractor):
        with pytest.raises(error, match=words):
            function()
    for function in both(plain, random_model, cache, answer, change(distractor)):
        with pytest.raises(error, match=words.replace("answer", "distractor")):
            function()


def test_a_cache_of_another_model_is_named(plain, model, pair, random_model, rows):
    tokens = pair.tokens
    ids = tokens.answer, tokens.distractor
    for function in both(plain, random_model, pair.clean_cache, *ids):
        with pytest.raises(ValueError, match="the cache is of another model"):
            function()
    with pytest.raises(ValueError, match="are missing"):  # two layers, and four are needed
        plain.attribution.attribute_logit_diff(model, rows[1], *ids)


@pytest.mark.parametrize(
    "lost",
    [
        "ln_final.hook_scale",
        "blocks.0.attn.hook_z",
        "blocks.1.hook_mlp_out",
        "hook_embed",
        "hook_pos_embed",
    ],
)
def test_a_missing_part_is_never_taken_for_0(plain, random_model, rows, lost):
    """The sum would quietly be another number than the model's logit difference."""
    _, cache, answer, distractor = rows
    rest = {key: value for key, value in cache.items() if key != lost}
    with pytest.raises(ValueError, match=f"'{lost}' is not in it"):
        plain.attribution.attribute_logit_diff(random_model, rest, answer, distractor)


def test_neurons_of_a_missing_layer_are_named(plain, random_model, rows):
    _, cache, *ids = rows
    rest = {key: value for key, value in cache.items() if key != "blocks.1.mlp.hook_post"}
    with pytest.raises(ValueError, match=r"'blocks\.1\.mlp\.hook_post' is not in it"):
        plain.attribution.attribute_neurons(random_model, rest, 1, *ids)


@pytest.mark.parametrize(
    ("layer", "error", "words"),
    [
        (2, ValueError, "layer 2 is out of range: this model has layers 0 to 1"),
        (-1, ValueError, "layer -1 is out of range"),
        (1.0, TypeError, r"layer: expected an int, got float 1\.0"),
        (True, TypeError, "layer: expected an int, got bool"),
    ],
)
def test_a_bad_layer_is_named(plain, random_model, rows, layer, error, words):
    _, cache, *ids = rows
    with pytest.raises(error, match=words):
        plain.attribution.attribute_neurons(random_model, cache, layer, *ids)


def test_nan_in_the_cache_is_named(plain, random_model, rows):
    _, cache, *ids = rows
    broken = {key: value * torch.nan for key, value in cache.items() if value.is_floating_point()}
    for function in both(plain, random_model, broken, *ids):
        with pytest.raises(ValueError, match="NaN or infinite"):
            function()


def test_capped_logits_are_refused(plain):
    """No sum of parts gives a logit that went through tanh."""
    network = planted.constant_network("LNPre")
    network.cfg.output_logits_soft_cap = 30.0
    _, cache = network.run_with_cache(torch.tensor([[0, 1]]))
    ids = torch.tensor([1]), torch.tensor([2])
    for function in both(plain, network, cache, *ids):
        with pytest.raises(ValueError, match="caps its logits"):
            function()
