"""transformer_lens' own tools, which the lessons name, on the models that `load_model` returns.

Each gives the same as our helper, or as the method by hand, or differs by what our docstring says.
Head attribution is in test_attribution.
"""

from types import SimpleNamespace

import pandas
import pytest
import torch
from families import run_pair
from torch.testing import assert_close
from transformer_lens import patching as theirs
from transformer_lens.head_detector import detect_head
from transformer_lens.tools.analysis import attribution_patch, logit_lens, logit_readout
from transformer_lens.tools.analysis.interchange import mean_difference_basis, random_init_bridge

from helpers import architecture, induction, patching
from helpers.models import EMBEDDED_DIRECTORY, load_model
from helpers.prompts import CAPITAL_PAIRS, tokenize
from helpers.steering import steering_vector

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


@pytest.fixture(autouse=True)
def no_bar(monkeypatch):
    monkeypatch.setattr(theirs, "tqdm", lambda cells, **options: cells)


def near(found, expected, atol=1e-4):
    assert expected.abs().max() > 1e-3  # not 0 = 0
    assert_close(found, expected, atol=atol, rtol=1e-3)


def heads_of(it) -> list[tuple[int, int]]:
    """A few heads from all depths."""
    return [(layer, head) for layer in (0, it.last // 2, it.last) for head in (0, 2)]


def test_their_lens_is_the_norm_and_the_unembedding_at_every_layer(it):
    cache, answer = it.pair.clean_cache, it.pair.tokens.answer
    streams = [cache["resid_pre", i] for i in range(it.last + 1)] + [cache["resid_post", it.last]]
    rows = torch.stack([it.model.unembed(it.model.ln_final(each))[:, -1] for each in streams])
    result = logit_lens(it.model, cache=cache)
    near(result.readout.values, rows)
    near(result.readout.values[-1], it.pair.clean_logits[:, -1])
    ranks = logit_lens(it.model, cache=cache, targets=answer).readout.target_ranks[..., 0]
    rows = result.readout.values
    assert torch.equal(ranks, (rows > rows[..., answer]).sum(-1))  # the likeliest has rank 0


def test_their_readout_of_a_vector_is_the_norm_and_the_unembedding(it):
    layer, head = heads_of(it)[2]
    wrote = it.pair.clean_cache["z", layer][0, -1, head] @ it.model.W_O[layer, head]
    centred = architecture.centre(it.model, wrote)
    by_hand = centred / architecture.scale(it.model, wrote) @ it.model.W_U + it.model.b_U
    values = logit_readout(it.model, wrote).values
    near(values, by_hand)
    top = logit_readout(it.model, wrote, top_k=3).top_ids
    assert torch.equal(top, values.topk(3).indices)


def test_their_mean_difference_has_the_direction_of_our_steering_vector(it):
    sides, name = ("I love it very much", "I hate it"), f"blocks.{it.last}.hook_resid_post"
    caches = [it.model.run_with_cache(tokenize(it.model, side))[1] for side in sides]
    streams = [cache[name][0, 1:] for cache in caches]  # [position, d_model], without BOS
    labels = [side for side, stream in zip(sides, streams, strict=True) for _ in stream]
    basis = mean_difference_basis(torch.cat(streams), labels)[:, 0]
    ours = steering_vector(it.model, *sides, it.last)
    sign = (basis @ ours).sign()  # which class comes first is theirs to choose
    near(sign * basis, ours / ours.norm())


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


def test_their_sweeps_are_ours(it):
    """A few cells of theirs, since each takes a run of the whole model."""
    tokens, cells = it.pair.tokens, pandas.DataFrame(heads_of(it), columns=["layer", "head"])
    arguments = it.model, tokens.corrupted, it.pair.clean_cache
    by_head, site = theirs.layer_head_vector_patch_setter, "z"
    expected = theirs.generic_activation_patch(
        *arguments, lambda logits: tokens.logit_diff(logits)[0], by_head, site, index_df=cells
    )
    found = patching.patch_heads(*arguments, tokens.logit_diff)[*zip(*heads_of(it), strict=True)]
    near(found, expected.flatten(), atol=1e-3)


def test_their_direct_path_is_the_path_by_hand(it):
    """One head's write, added where one later head makes its queries, and nowhere else."""
    pair, tokens = it.pair, it.pair.tokens
    (layer, head), (into, reader) = (it.last - 1, 1), (it.last, 0)

    def metric(logits):
        return tokens.logit_diff(logits)[0]

    runs = tokens.corrupted, pair.clean_cache, pair.corrupted_cache
    grid = theirs.get_act_patch_direct_path(it.model, *runs, metric, layer, head, "q", False)
    change = pair.clean_cache["z", layer][:, :, head] - pair.corrupted_cache["z", layer][:, :, head]
    stream = pair.corrupted_cache["resid_pre", into]
    moved = stream + change @ it.model.W_O[layer, head]
    q, *_ = architecture.query_key_value(it.model, into, moved)
    _, k, v = architecture.query_key_value(it.model, into, stream)
    scores = (q @ k.mT)[:, reader] / it.model.cfg.d_head**0.5
    length = tokens.clean.shape[1]
    hidden = torch.ones(length, length).triu(1).bool()
    mixed = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v[:, reader]

    def patch(z, hook):
        z = z.clone()
        z[:, :, reader] = mixed
        return z

    hooks = [(f"blocks.{into}.attn.hook_z", patch)]
    near(grid[into, reader], metric(it.model.run_with_hooks(tokens.corrupted, fwd_hooks=hooks)))
    assert not grid[: layer + 1].any()


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


def test_an_untrained_copy_is_the_same_architecture_that_knows_nothing(model, pair):
    """The seed decides; the loss is that of even odds or worse."""
    copies = [random_init_bridge(str(EMBEDDED_DIRECTORY), seed=seed) for seed in (0, 0, 1)]
    one, same, other = (copy(pair.tokens.clean) for copy in copies)
    near(one, same)
    assert (one - other).abs().max() > 1
    assert copies[0].cfg.n_layers == model.cfg.n_layers
    known = pair.tokens.logit_diff(pair.clean_logits) - pair.tokens.logit_diff(one)
    assert known > 1
