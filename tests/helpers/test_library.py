"""transformer_lens' own tools give what our helpers give, or differ by what our docstrings say.

Its sweeps are in test_patching, its direct path in tests/exercises/test_path_patching."""

from types import SimpleNamespace

import pytest
import torch
from families import run_pair
from torch.testing import assert_close
from transformer_lens.head_detector import detect_head
from transformer_lens.tools.analysis import attribution_patch, direct_logit_attribution

from helpers import attribution, induction, patching
from helpers.models import load_model
from helpers.prompts import CAPITAL_PAIRS, tokenize

REAL = "smollm2-135m"


@pytest.fixture(scope="module", params=["tutorial-4l", pytest.param(REAL, marks=pytest.mark.slow)])
def it(request):
    """A model and a pair of runs on it."""
    try:
        model = load_model(request.param)
    except ConnectionError as reason:  # the real one is fetched by `make real`
        pytest.skip(str(reason))
    pair = run_pair(model, CAPITAL_PAIRS[0].tokens(model))
    return SimpleNamespace(model=model, pair=pair, last=model.cfg.n_layers - 1)


def near(found, expected):
    assert expected.abs().max() > 1e-3  # not 0 = 0
    assert_close(found, expected, atol=1e-4, rtol=1e-3)


def heads_of(it) -> list[tuple[int, int]]:
    """A few heads from all depths."""
    return [(layer, head) for layer in (0, it.last // 2, it.last) for head in (0, 2)]


def test_their_head_attribution_is_ours_without_the_bias_of_the_unembedding(it):
    pair = it.pair
    ours = attribution.attribute_logit_diff(
        it.model, pair.clean_cache, pair.tokens.answer, pair.tokens.distractor
    )
    theirs = direct_logit_attribution(
        it.model,
        answer_tokens=pair.tokens.answer,
        incorrect_tokens=pair.tokens.distractor,
        unit="head",
        cache=pair.clean_cache,
    )
    by_label = dict(zip(theirs.labels, theirs.attribution.flatten(), strict=True))
    for layer, head in heads_of(it):
        near(by_label[f"L{layer}H{head}"], ours.heads[layer, head])
    left_out = it.model.b_U[pair.tokens.answer] - it.model.b_U[pair.tokens.distractor]
    near(theirs.attribution.sum() + left_out, pair.tokens.logit_diff(pair.clean_logits))


def test_their_attribution_patching_is_ours(it):
    """It asks for parameters that require grad, and for a metric of one number."""
    tokens = it.pair.tokens
    with torch.enable_grad():  # the lessons have switched it off
        scores = attribution_patch(
            it.model, tokens.clean, tokens.corrupted, lambda logits: tokens.logit_diff(logits)[0]
        ).node_scores
    ours = patching.attribution_patch(
        it.model, tokens.corrupted, it.pair.clean_cache, tokens.logit_diff, "head_positions"
    )
    found = torch.zeros_like(ours)
    for node, score in scores.items():
        if node.kind == "attn_head_out":
            found[node.layer, node.head, node.position] = score
    near(found, ours)


@pytest.mark.parametrize("name", ["previous_token_head", "duplicate_token_head"])
def test_their_detector_is_ours_on_one_text(it, name):
    """Of a text of repeated words: they count queries that have no earlier copy too."""
    text = "".join(it.model.to_str_tokens(induction.repeated_tokens(it.model, 10, 1, 0)[0])[1:])
    tokens = tokenize(it.model, text)
    _, cache = it.model.run_with_cache(tokens, remove_batch_dim=True)
    scores = detect_head(it.model, text, name, cache=cache)
    for layer, head in heads_of(it):
        pattern, length = cache["pattern", layer][head], tokens.shape[1]
        ideal = torch.zeros(length, length)
        for query in range(length):
            for key in range(query):
                same = tokens[0, query] == tokens[0, key]
                ideal[query, key] = query - key == 1 if name.startswith("previous") else same
        assert_close(scores[layer, head], (pattern * ideal).sum() / length, atol=1e-4, rtol=0)
