"""The classic mistakes of the field: each is made here, and our helper does not make it.

Every test computes the mistake and the right value by hand. The helper gives the right one, and
the two are far apart, so that it could not have passed by chance.
"""

import math

import pytest
import torch
from families import PAIR, bridge, looped, run_pair
from torch.testing import assert_close

from exercises import toy
from helpers import architecture, attribution, induction, metrics, patching, steering
from helpers.ablation import ablate
from helpers.engine import Cell
from helpers.prompts import tokenize, tokenize_batch

DOUBLE = torch.float64


def right_not_wrong(found, right, wrong, margin=1e-2):
    assert_close(found, right.to(found), atol=1e-4, rtol=1e-4)
    assert (right - wrong).abs().max() > margin


def on(name):
    """A random model, a pair of runs on it, and the clean run's cache."""
    model = bridge(name, DOUBLE)
    pair = run_pair(model, PAIR.tokens(model))
    return model, pair, pair.clean_cache


@pytest.fixture(scope="module", params=["GPT2", "Llama"])
def it(request):
    return on(request.param)


def causal(scores):
    """The attention pattern of these scores."""
    return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(-1)


def split(model, x):
    """What one matrix gives to all heads, as [batch, head, pos, d_head]."""
    return x.unflatten(-1, (-1, model.cfg.d_head)).transpose(1, 2)


def direction(model, tokens):
    return (model.W_U[:, tokens.answer] - model.W_U[:, tokens.distractor])[:, 0]


def test_stripe_off_by_one():
    """The induction cell is the token *after* the earlier one: n - 1 back, not n or n - 2."""
    pattern = causal(3 * torch.randn(2, 3, 11, 11, generator=torch.Generator().manual_seed(0)))
    right, *wrong = (
        torch.stack([pattern[:, :, q, q - back] for q in range(6, 11)]).mean((0, 1))
        for back in (4, 5, 3)
    )
    for each in wrong:
        right_not_wrong(induction.induction_scores(pattern, 5), right, each)


def test_bos_in_the_previous_token_score():
    """Query 1 has BOS before it, on which most heads rest anyway."""
    resting = toy.motif("bos", 2)[None, None]
    wrong = resting.diagonal(-1, -2, -1).mean((0, -1))
    right_not_wrong(induction.previous_token_scores(resting), torch.zeros(1), wrong)


def test_shared_key_head_not_repeated_in_order():
    """Two query heads in a row share a key: 0 0 1 1, not 0 1 0 1."""
    model, _, cache = on("Llama")
    shared = split(model, model.blocks[1].attn.v(model.blocks[1].ln1(cache["resid_pre", 1])))
    _, _, v = architecture.query_key_value(model, 1, cache["resid_pre", 1])
    right_not_wrong(v, shared.repeat_interleave(2, 1), shared.repeat(1, 2, 1, 1))


def test_rotary_forgotten():
    """Queries by weights alone give another pattern, wherever positions differ."""
    model, _, cache = on("Llama")
    unrotated = split(model, model.blocks[1].attn.q(model.blocks[1].ln1(cache["resid_pre", 1])))
    q, k, _ = architecture.query_key_value(model, 1, cache["resid_pre", 1])
    found, wrong = (causal(each @ k.mT / model.cfg.d_head**0.5) for each in (q, unrotated))
    right_not_wrong(found, cache["pattern", 1], wrong)


def test_position_embedding_left_out():
    model, _, cache = on("GPT2")
    parts = architecture.embeddings(model, cache)
    right_not_wrong(sum(parts.values()), cache["resid_pre", 0], parts["token"])


@pytest.mark.parametrize(("name", "centres"), [("GPT2", True), ("Llama", False)])
def test_centre_forgotten_on_layer_norm_or_done_on_rms_norm(name, centres):
    """A constant added to the stream is nothing to LayerNorm, and something to RMSNorm."""
    model, _, cache = on(name)
    stream = cache["resid_post", 2] + 1.5
    ours = architecture.centre(model, stream) / architecture.scale(model, stream)
    plain = stream / stream.pow(2).mean(-1, keepdim=True).sqrt()
    centred = torch.nn.functional.layer_norm(stream, stream.shape[-1:])
    right_not_wrong(ours, model.ln_final(stream), plain if centres else centred)


def test_scale_of_another_position(it):
    """Direct attribution holds the scale of the position that is read: the last."""
    model, pair, cache = it
    found = attribution.attribute_logit_diff(model, cache, *pair.tokens[2:])
    wrote = architecture.centre(model, cache["mlp_out", 2][0, -1])
    scale = architecture.scale(model, cache["resid_post", 2][0])
    at_last, at_first = (wrote / scale[at, 0] @ direction(model, pair.tokens) for at in (-1, 0))
    right_not_wrong(found.mlps[2], at_last, at_first)


def test_bias_of_the_unembedding_forgotten():
    """Loading folds the final norm's bias into it."""
    model, pair, cache = on("GPT2")
    parts = attribution.attribute_logit_diff(model, cache, *pair.tokens[2:])
    without = cache["ln_final.hook_normalized"][0, -1] @ direction(model, pair.tokens)
    right_not_wrong(parts.total, pair.tokens.logit_diff(pair.clean_logits)[0], without)


def test_kl_from_the_wrong_side():
    p, q = torch.tensor([0.9, 0.1]).log(), torch.tensor([0.5, 0.5]).log()
    right, wrong = (0.9 * math.log(1.8) + 0.1 * math.log(0.2), -0.5 * math.log(4 * 0.9 * 0.1))
    right_not_wrong(metrics.kl_divergence(p, q), torch.tensor(right), torch.tensor(wrong))


def test_log_probability_of_the_present_token(it):
    """Position i speaks of the token at i + 1."""
    _, pair, _ = it
    tokens, log_probs = pair.tokens.clean, pair.clean_logits[:, :-1].log_softmax(-1)
    next_and_present = tokens[:, 1:, None], tokens[:, :-1, None]
    right, wrong = (log_probs.gather(-1, each)[..., 0] for each in next_and_present)
    right_not_wrong(metrics.next_token_log_probs(pair.clean_logits, tokens), right, wrong)


def test_padding_read_as_the_last_token(it):
    """The shorter of two rows ends in padding; its last word stands before that."""
    model, pair, _ = it
    texts, ids = [" The cat", " The cat sat on the"], [each.repeat(2) for each in pair.tokens[2:]]
    tokens, mask = tokenize_batch(model, texts)
    logits = model(tokens)
    alone = [pair.tokens.logit_diff(model(tokenize(model, text))) for text in texts]
    wrong = metrics.logit_diff(logits, *ids)
    right_not_wrong(metrics.logit_diff(logits, *ids, mask), torch.cat(alone), wrong)


def test_noising_taken_for_denoising_and_all_positions_patched(it):
    """The clean activation goes into the corrupted run, at one position: at all of them it brings
    back the clean run whole, at every layer, and shows nothing."""
    model, pair, cache = it
    metric, tokens = pair.tokens.logit_diff, pair.tokens.corrupted
    found = patching.patch_residual(model, tokens, cache, metric)
    each = [Cell(i, "hook_resid_pre", (p,)) for i in range(3) for p in range(6)]
    right = metric(looped(model, tokens, cache, each)).view(3, 6)
    noised = metric(looped(model, pair.tokens.clean, pair.corrupted_cache, each)).view(3, 6)
    right_not_wrong(found, right, noised)
    everywhere = [Cell(i, "hook_resid_pre", (slice(None),)) for i in range(3)]
    whole = metric(looped(model, tokens, cache, everywhere))
    assert_close(whole, metric(pair.clean_logits).expand(3), atol=1e-4, rtol=0)
    right_not_wrong(found, right, whole[:, None])


def test_cache_edited_in_place(it):
    """Entries share their storage: resid_post of layer 0 is resid_pre of layer 1. That our helpers
    edit none is tested in test_patching."""
    model, pair, cache = it
    _, own = model.run_with_cache(pair.tokens.clean)
    own["resid_post", 0].mul_(2)
    assert not torch.equal(own["resid_pre", 1], cache["resid_pre", 1])
    kept = {key: value.clone() for key, value in cache.items()}
    attribution.attribute_logit_diff(model, cache, *pair.tokens[2:])
    with ablate(model, [(0, 1)], cache):
        model(pair.tokens.corrupted)
    assert all(torch.equal(cache[key], kept[key]) for key in kept)


def test_misspelt_keyword_swallowed(it):
    """transformer_lens drops what it does not know; our helpers refuse it."""
    model, pair, cache = it
    assert_close(model(pair.tokens.clean, retrun_type="loss"), pair.clean_logits)
    with pytest.raises(TypeError, match="max_byte"):
        patching.patch_heads(model, pair.tokens.corrupted, cache, metrics.entropy, max_byte=1)
    with pytest.raises(TypeError, match="position"):
        ablate(model, [(1, 1)], position=[0])


def test_bos_in_a_steering_mean_or_long_prompts_counted_more(it):
    """BOS is the same in every prompt and dilutes short ones most; each prompt counts once."""
    model, _, _ = it
    positive, negative = [" The cat", " The dog sat on"], " A rug"
    streams = [
        model.run_with_cache(tokenize(model, text))[1]["resid_post", 1][0]
        for text in (*positive, negative)
    ]
    one, other, minus = (stream[1:].mean(0) for stream in streams)
    right, counted_more = (one + other) / 2 - minus, (one + 3 * other) / 4 - minus
    with_bos = [stream.mean(0) for stream in streams]
    with_bos = (with_bos[0] + with_bos[1]) / 2 - with_bos[2]
    for wrong in (with_bos, counted_more):
        found = steering.steering_vector(model, positive, negative, 1)
        right_not_wrong(found, right, wrong)


def test_vector_added_twice(random_model, random_pair):
    """Once per run: at resid_post alone, not also where the next block reads it."""
    vector = torch.randn(24, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    with steering.steer(random_model, vector, 0, 1.0):
        _, steered = random_model.run_with_cache(random_pair.tokens.clean)
    before = random_pair.clean_cache["resid_pre", 1]
    right_not_wrong(steered["resid_pre", 1], before + vector, before + 2 * vector)
