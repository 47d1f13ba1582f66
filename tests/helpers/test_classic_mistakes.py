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
from helpers import architecture, attribution, induction, lens, metrics, patching, steering
from helpers.ablation import ablate
from helpers.engine import Cell
from helpers.prompts import tokenize

DOUBLE = torch.float64


def right_not_wrong(found, right, wrong, margin=1e-2):
    assert_close(found, right.to(found), atol=1e-4, rtol=1e-4)
    assert (right - wrong).abs().max() > margin


@pytest.fixture(scope="module", params=["GPT2", "Llama"])
def it(request):
    """A random model, and a pair of runs on it."""
    model = bridge(request.param, DOUBLE)
    return model, run_pair(model, PAIR.tokens(model))


@pytest.fixture(scope="module")
def pattern():
    """Random attention over BOS and a block of five words twice."""
    scores = 3 * torch.randn(2, 3, 11, 11, generator=torch.Generator().manual_seed(0))
    return scores.masked_fill(torch.ones(11, 11).triu(1).bool(), -torch.inf).softmax(-1)


# Attention


def test_stripe_off_by_one(pattern):
    """The induction cell is the token *after* the earlier one: n - 1 back, not n or n - 2."""
    found = induction.induction_scores(pattern, 5)
    right, one_too_far, one_short = (
        torch.stack([pattern[:, :, q, q - back] for q in range(6, 11)]).mean((0, 1))
        for back in (4, 5, 3)
    )
    right_not_wrong(found, right, one_too_far)
    right_not_wrong(found, right, one_short)


def test_duplicate_token_cell_for_induction():
    """A head that attends to the same token is no induction head, nor the reverse."""
    induction_head, duplicate = (toy.motif(name, 5) for name in ("induction", "duplicate"))
    heads = torch.stack([induction_head, duplicate])[None]
    assert induction.induction_scores(heads, 5).tolist() == [1, 0]
    assert induction.duplicate_token_scores(heads, 5).tolist() == [0, 1]


def test_bos_in_the_previous_token_score():
    """Query 1 has BOS before it, on which most heads rest anyway."""
    resting = toy.motif("bos", 2)[None, None]
    found = induction.previous_token_scores(resting)
    right_not_wrong(found, torch.zeros(1), resting.diagonal(-1, -2, -1).mean((0, -1)))


def test_softmax_over_the_wrong_axis(it):
    """Each query's attention sums to 1 over the keys, not each key's over the queries."""
    model, pair = it
    q, k, v = architecture.query_key_value(model, 1, pair.clean_cache["resid_pre", 1])
    scores = q @ k.mT / model.cfg.d_head**0.5
    scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -torch.inf)
    right_not_wrong(pair.clean_cache["pattern", 1], scores.softmax(-1), scores.softmax(-2))
    assert v.shape == q.shape


def test_shared_key_head_not_repeated_in_order():
    """Two query heads in a row share a key: 0 0 1 1, not 0 1 0 1."""
    model = bridge("Llama", DOUBLE)
    pair = run_pair(model, PAIR.tokens(model))
    x = model.blocks[1].ln1(pair.clean_cache["resid_pre", 1])
    shared = model.blocks[1].attn.v(x).unflatten(-1, (-1, model.cfg.d_head)).transpose(1, 2)
    _, _, v = architecture.query_key_value(model, 1, pair.clean_cache["resid_pre", 1])
    assert shared.shape[1] == model.cfg.n_heads // 2
    right_not_wrong(v, shared.repeat_interleave(2, 1), shared.repeat(1, 2, 1, 1))
    z = (pair.clean_cache["pattern", 1] @ v).transpose(1, 2)
    assert_close(z, pair.clean_cache["z", 1], atol=1e-5, rtol=1e-5)


def test_rotary_forgotten():
    """Queries and keys by weights alone give another pattern, wherever positions differ."""
    model = bridge("Llama", DOUBLE)
    pair = run_pair(model, PAIR.tokens(model))
    stream = pair.clean_cache["resid_pre", 1]
    x = model.blocks[1].ln1(stream)
    unrotated = model.blocks[1].attn.q(x).unflatten(-1, (-1, model.cfg.d_head)).transpose(1, 2)
    q, *_ = architecture.query_key_value(model, 1, stream)
    assert_close(q[:, :, 0], unrotated[:, :, 0])  # position 0 is not rotated
    right_not_wrong(q.norm(dim=-1), unrotated.norm(dim=-1), q[:, :, 1:].norm(dim=-1).new_zeros(()))
    assert (q - unrotated)[:, :, 1:].abs().amax(-1).min() > 1e-2


def test_position_embedding_left_out():
    model = bridge("GPT2", DOUBLE)
    pair = run_pair(model, PAIR.tokens(model))
    parts = architecture.embeddings(model, pair.clean_cache)
    right_not_wrong(sum(parts.values()), pair.clean_cache["resid_pre", 0], parts["token"])


# Norm and unembedding


def test_centre_forgotten_on_layer_norm_or_done_on_rms_norm():
    """A constant added to the stream is nothing to LayerNorm, and something to RMSNorm."""
    for name, centres in (("GPT2", True), ("Llama", False)):
        model = bridge(name, DOUBLE)
        stream = run_pair(model, PAIR.tokens(model)).clean_cache["resid_post", 2] + 1.5
        theirs = model.ln_final(stream)
        ours = architecture.centre(model, stream) / architecture.scale(model, stream)
        plain = stream / stream.pow(2).mean(-1, keepdim=True).sqrt()
        centred = torch.nn.functional.layer_norm(stream, stream.shape[-1:])
        right_not_wrong(ours, theirs, plain if centres else centred)


def test_scale_of_another_layer(it):
    """The lens norms each stream by its own scale, not by the last one's."""
    model, pair = it
    cache, found = pair.clean_cache, lens.logit_lens(model, pair.clean_cache)[1]
    centred = architecture.centre(model, cache["resid_pre", 1])
    right, wrong = (
        centred / architecture.scale(model, cache[name]) @ model.W_U + model.b_U
        for name in (("resid_pre", 1), ("resid_post", 2))
    )
    right_not_wrong(found, right, wrong)


def test_scale_of_another_position(it):
    """Direct attribution holds the scale of the position that is read: the last."""
    model, pair = it
    cache, tokens = pair.clean_cache, pair.tokens
    found = attribution.attribute_logit_diff(model, cache, tokens.answer, tokens.distractor)
    direction = (model.W_U[:, tokens.answer] - model.W_U[:, tokens.distractor])[:, 0]
    wrote = architecture.centre(model, cache["mlp_out", 2][0, -1])
    scale = architecture.scale(model, cache["resid_post", 2][0])
    right_not_wrong(found.mlps[2], *(wrote / scale[at, 0] @ direction for at in (-1, 0)))


def test_bias_of_the_unembedding_forgotten(it):
    """In the lens and in the attribution; loading folds the final norm's bias into it."""
    model = bridge("GPT2", DOUBLE)
    pair = run_pair(model, PAIR.tokens(model))
    last = pair.clean_cache["ln_final.hook_normalized"] @ model.W_U
    rows = lens.logit_lens(model, pair.clean_cache)
    right_not_wrong(rows[-1], last + model.b_U, last)
    tokens = pair.tokens
    parts = attribution.attribute_logit_diff(
        model, pair.clean_cache, tokens.answer, tokens.distractor
    )
    direction = (model.W_U[:, tokens.answer] - model.W_U[:, tokens.distractor])[:, 0]
    without = pair.clean_cache["ln_final.hook_normalized"][0, -1] @ direction
    right_not_wrong(parts.total, tokens.logit_diff(pair.clean_logits)[0], without)


# Metrics


def test_logit_of_one_token_instead_of_the_difference(it):
    """A constant on all logits is nothing to the model's answer, nor to the difference."""
    _, pair = it
    tokens, moved = pair.tokens, pair.clean_logits + 2
    found = metrics.logit_diff(moved, tokens.answer, tokens.distractor)
    right = metrics.logit_diff(pair.clean_logits, tokens.answer, tokens.distractor)
    right_not_wrong(found, right, moved[:, -1, tokens.answer[0]])


def test_kl_from_the_wrong_side():
    p, q = torch.tensor([0.9, 0.1]).log(), torch.tensor([0.5, 0.5]).log()
    right = torch.tensor(0.9 * math.log(1.8) + 0.1 * math.log(0.2))
    wrong = torch.tensor(0.5 * math.log(5 / 9) + 0.5 * math.log(5))
    right_not_wrong(metrics.kl_divergence(p, q), right, wrong)


def test_log_probability_of_the_present_token(it):
    """Position i speaks of the token at i + 1."""
    _, pair = it
    tokens, log_probs = pair.tokens.clean, pair.clean_logits.log_softmax(-1)
    shifted = log_probs[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    present = log_probs[:, :-1].gather(-1, tokens[:, :-1, None])[..., 0]
    right_not_wrong(metrics.next_token_log_probs(pair.clean_logits, tokens), shifted, present)


def test_padding_read_as_the_last_token(it):
    """Rows of two lengths, padded: the helpers tokenize one text at a time, so none is."""
    model, _ = it
    short, long = " The cat", " The cat sat on the mat"
    padded = model.to_tokens([short, long])
    alone = model(tokenize(model, short))[0, -1].log_softmax(-1)
    read_padding = model(padded)[0, -1].log_softmax(-1)
    both = [tokenize(model, text) for text in (short, long)]
    assert both[0].shape[1] < padded.shape[1] == both[1].shape[1]
    vector = steering.steering_vector(model, [short, long], " A dog", 1)
    right_not_wrong(vector, by_hand(model, [short, long], " A dog", 1), vector + 1)
    right_not_wrong(model(both[0])[0, -1].log_softmax(-1), alone, read_padding)


# Patching


def test_noising_taken_for_denoising(it):
    """The clean activation goes into the corrupted run."""
    model, pair = it
    metric, cells = pair.tokens.logit_diff, [Cell(1, "hook_resid_pre", (p,)) for p in range(6)]
    found = patching.patch_residual(model, pair.tokens.corrupted, pair.clean_cache, metric)[1]
    right = metric(looped(model, pair.tokens.corrupted, pair.clean_cache, cells))
    wrong = metric(looped(model, pair.tokens.clean, pair.corrupted_cache, cells))
    right_not_wrong(found, right, wrong)


def test_all_positions_patched(it):
    """That brings back the clean run whole, at every layer, and shows nothing."""
    model, pair = it
    metric, tokens = pair.tokens.logit_diff, pair.tokens.corrupted
    found = patching.patch_residual(model, tokens, pair.clean_cache, metric)
    everywhere = [Cell(i, "hook_resid_pre", (slice(None),)) for i in range(3)]
    wrong = metric(looped(model, tokens, pair.clean_cache, everywhere))
    assert_close(wrong, metric(pair.clean_logits).expand(3), atol=1e-4, rtol=0)
    each = [Cell(i, "hook_resid_pre", (p,)) for i in range(3) for p in range(6)]
    right = metric(looped(model, tokens, pair.clean_cache, each)).view(3, 6)
    right_not_wrong(found, right, wrong[:, None])


def test_ends_of_the_scale_exchanged():
    value, clean, corrupted = torch.tensor([1.0, 4.0]), 5.0, -1.0
    right, wrong = torch.tensor([2 / 6, 5 / 6]), torch.tensor([4 / 6, 1 / 6])
    right_not_wrong(metrics.normalise(value, clean, corrupted), right, wrong)


def test_cache_edited_in_place(it):
    """Entries share their storage: resid_post of layer 0 is resid_pre of layer 1."""
    model, pair = it
    _, cache = model.run_with_cache(pair.tokens.clean)
    before = {key: value.clone() for key, value in cache.items()}
    cache["resid_post", 0].mul_(2)
    assert not torch.equal(cache["resid_pre", 1], before["blocks.1.hook_resid_pre"])
    fresh = pair.clean_cache
    kept = {key: value.clone() for key, value in fresh.items()}
    metric, tokens = pair.tokens.logit_diff, pair.tokens
    patching.patch_blocks(model, tokens.corrupted, fresh, metric)
    attribution.attribute_logit_diff(model, fresh, tokens.answer, tokens.distractor)
    lens.logit_lens(model, fresh)
    with ablate(model, [(0, 1)], fresh):
        model(tokens.corrupted)
    assert all(torch.equal(fresh[key], kept[key]) for key in kept)


# Hooks


def test_hook_that_returns_nothing(it):
    """A changed copy that is not returned is lost; ours are, and say when they did not run."""
    model, pair = it

    def forgets(z, hook):
        z = z.clone()
        z[:, :, 1] = 0

    hooks = [("blocks.1.attn.hook_z", forgets)]
    lost = model.run_with_hooks(pair.tokens.clean, fwd_hooks=hooks)
    assert torch.equal(lost, pair.clean_logits)
    with ablate(model, [(1, 1)]):
        found = model(pair.tokens.clean)
    assert (found - lost).abs().max() > 1e-2


def test_misspelt_keyword_swallowed(it):
    """transformer_lens drops what it does not know; our helpers refuse it."""
    model, pair = it
    spelt_wrong = model(pair.tokens.clean, retrun_type="loss")
    assert torch.equal(spelt_wrong, pair.clean_logits)
    arguments = model, pair.tokens.corrupted, pair.clean_cache, pair.tokens.logit_diff
    with pytest.raises(TypeError, match="max_byte"):
        patching.patch_heads(*arguments, max_byte=1)
    with pytest.raises(TypeError, match="position"):
        ablate(model, [(1, 1)], position=[0])


# Steering


def by_hand(model, positive, negative, layer):
    """The difference of the means over each prompt's own tokens, BOS left out."""

    def mean(text):
        _, cache = model.run_with_cache(tokenize(model, text))
        return cache["resid_post", layer][0, 1:].mean(0)

    return torch.stack([mean(text) for text in positive]).mean(0) - mean(negative)


def test_bos_in_the_mean(it):
    """Its stream is the same in every prompt, and dilutes the short ones' more."""
    model, _ = it
    positive, negative = [" The cat", " The dog sat on"], " A rug"
    found = steering.steering_vector(model, positive, negative, 1)

    def with_bos(text):
        _, cache = model.run_with_cache(tokenize(model, text))
        return cache["resid_post", 1][0].mean(0)

    wrong = torch.stack([with_bos(text) for text in positive]).mean(0) - with_bos(negative)
    right_not_wrong(found, by_hand(model, positive, negative, 1), wrong)


def test_long_prompts_counted_more(it):
    """Each prompt counts once, however many tokens it has."""
    model, _ = it
    positive, negative = [" The cat", " The dog sat on the mat"], " A rug"
    _, *caches = (model.run_with_cache(tokenize(model, text))[1] for text in [negative, *positive])
    tokens = torch.cat([cache["resid_post", 1][0, 1:] for cache in caches])
    _, cache = model.run_with_cache(tokenize(model, negative))
    wrong = tokens.mean(0) - cache["resid_post", 1][0, 1:].mean(0)
    found = steering.steering_vector(model, positive, negative, 1)
    right_not_wrong(found, by_hand(model, positive, negative, 1), wrong)


def test_vector_added_twice(it):
    """Once per run: at resid_post alone, not also where the next block reads it."""
    model, pair = it
    vector = torch.randn(24, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    with steering.steer(model, vector, 0, 1.0):
        _, cache = model.run_with_cache(pair.tokens.clean)
    before = pair.clean_cache["resid_pre", 1]
    right_not_wrong(cache["resid_pre", 1], before + vector, before + 2 * vector)
