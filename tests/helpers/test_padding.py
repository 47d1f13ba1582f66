"""Texts of several lengths in one batch: each row is read at its own last token.

FIELD-CASES 7: by two routes, the padded batch with its mask and each text by itself, on both sides
of padding."""

import pytest
import torch
from families import bridge
from torch.testing import assert_close

from helpers import attribution, induction, metrics
from helpers.prompts import tokenize, tokenize_batch

TEXTS = [" The cat sat", " A dog", " The dog sat on the mat"]
DOUBLE = torch.float64
ANSWER, DISTRACTOR = torch.tensor([5, 6, 7]), torch.tensor([8, 9, 5])
NEAR = {"atol": 2e-5, "rtol": 1e-5}


@pytest.fixture(scope="module", params=["GPT2 right", "Llama left"])
def batch(request):
    """A model, the padded tokens with their mask, logits and cache, and each text's own run."""
    name, side = request.param.split()
    model, options = bridge(name, DOUBLE), {}
    tokens, mask = tokenize_batch(model, TEXTS)
    if side == "left":
        tokens, mask = model.to_tokens(TEXTS, prepend_bos=True, padding_side="left"), mask.flip(1)
        options = {"attention_mask": mask.long()}  # else the model attends to the padding
    logits, cache = model.run_with_cache(tokens, **options)
    alone = [model.run_with_cache(tokenize(model, text)) for text in TEXTS]
    assert not mask.all() and mask.any(1).all()
    return model, tokens, mask, logits, cache, alone


def test_metrics_are_those_of_each_text(batch):
    model, tokens, mask, logits, _, alone = batch
    mask = mask.long()  # as a tokenizer's attention_mask
    difference = metrics.logit_diff(logits, ANSWER, DISTRACTOR, mask)
    losses = -metrics.next_token_log_probs(logits, tokens, mask)
    for row, (own, _) in enumerate(alone):
        ids = ANSWER[row : row + 1], DISTRACTOR[row : row + 1]
        assert_close(difference[row : row + 1], metrics.logit_diff(own, *ids), **NEAR)
        right = -metrics.next_token_log_probs(own, tokenize(model, TEXTS[row]))[0]
        assert_close(losses[row][~losses[row].isnan()], right, **NEAR)


def test_attribution_is_that_of_each_text(batch):
    model, _, mask, logits, cache, alone = batch
    found = attribution.attribute_logit_diff(model, cache, ANSWER, DISTRACTOR, mask)
    neurons = attribution.attribute_neurons(model, cache, 1, ANSWER, DISTRACTOR, mask)
    assert_close(found.total, metrics.logit_diff(logits, ANSWER, DISTRACTOR, mask).mean(), **NEAR)
    ids = [(ANSWER[i : i + 1], DISTRACTOR[i : i + 1]) for i in range(3)]
    each = [(own, i) for (_, own), i in zip(alone, ids, strict=True)]
    heads = [attribution.attribute_logit_diff(model, own, *i).heads for own, i in each]
    assert_close(found.heads, torch.stack(heads).mean(0), **NEAR)
    own = [attribution.attribute_neurons(model, own, 1, *i) for own, i in each]
    assert_close(neurons, torch.stack(own).mean(0), **NEAR)


def test_previous_token_scores_count_real_tokens(batch):
    _, _, mask, _, cache, alone = batch
    found = induction.previous_token_scores(cache["pattern", 1], mask)
    rows = [own["pattern", 1].diagonal(-1, -2, -1)[0, :, 1:] for _, own in alone]
    assert_close(found, torch.cat(rows, 1).mean(1), **NEAR)


def test_a_padded_cache_without_a_mask_is_refused():
    model = bridge("GPT2", DOUBLE)
    _, cache = model.run_with_cache(tokenize_batch(model, TEXTS)[0])
    with pytest.raises(ValueError, match="row 0 ends in padding"):
        attribution.attribute_logit_diff(model, cache, ANSWER, DISTRACTOR)
    with pytest.raises(ValueError, match="row 0 ends in padding"):
        attribution.attribute_neurons(model, cache, 1, ANSWER, DISTRACTOR)


def test_the_case_from_the_field(model):
    """Without the mask a difference of 1.12, and a loss of 5.86."""
    texts = ["The capital of France is", "The Eiffel Tower is in the city of"]
    tokens, mask = tokenize_batch(model, texts)
    assert torch.equal(tokens, model.to_tokens(texts)) and mask.sum(1).tolist() == [6, 9]
    logits, words = model(tokens), (" Paris", " Rome")
    answer, distractor = (model.to_tokens(w, prepend_bos=False)[0].expand(2) for w in words)
    found = metrics.logit_diff(logits, answer, distractor, mask)
    loss = -metrics.next_token_log_probs(logits, tokens, mask).nanmean(1)
    assert_close(found[0], torch.tensor(10.476), atol=0.01, rtol=0)
    assert metrics.at_last(logits, mask).argmax(-1).tolist() == answer.tolist()
    assert_close(loss[0], torch.tensor(1.547), atol=0.01, rtol=0)
