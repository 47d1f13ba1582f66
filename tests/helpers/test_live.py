"""The two roads of a sweep, `helpers.live` and `helpers.growing`, against a loop over its cells."""

import time

import conftest
import numpy as np
import pytest
import torch
from test_patching import SWEEPS, swept
from torch.testing import assert_close
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from helpers import growing, live, metrics, patching
from helpers.models import EMBEDDED_DIRECTORY, load_model
from helpers.prompts import PairTokens

SIZES = {"vocab_size": 1861, "bos_token_id": 0, "eos_token_id": 0}
WIDE = {"hidden_size": 24, "intermediate_size": 40, "max_position_embeddings": 32}
FAMILIES = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(**SIZES, n_layer=3, n_embd=24, n_head=3, n_positions=32)
    ),
    # RMSNorm, rotary positions, two query heads for each key head, gated MLP
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SIZES, **WIDE, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2
        )
    ),
    # LayerNorm, rotary positions, attention and MLP in parallel
    "pythia": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(**SIZES, **WIDE, num_hidden_layers=3, num_attention_heads=3)
    ),
}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A function: a random model of three layers of that family, and two runs of random tokens."""
    made = {}

    def one(name: str):
        if name not in made:
            path = tmp_path_factory.mktemp(name)
            network = FAMILIES[name]()
            generator = torch.Generator().manual_seed(0)
            for parameter in network.parameters():
                torch.nn.init.normal_(parameter, std=0.3, generator=generator)
            network.save_pretrained(path)
            AutoTokenizer.from_pretrained(EMBEDDED_DIRECTORY).save_pretrained(path)
            model = load_model(path, device="cpu")
            clean, corrupted = torch.randint(1, 1861, (2, 1, 7), generator=generator)
            tokens = PairTokens(clean, corrupted, torch.tensor([5]), torch.tensor([6]))
            made[name] = model, conftest.run_pair(model, tokens)
        return made[name]

    return one


@pytest.fixture(scope="module")
def small(family):
    return family("gpt2")


def cells_of(name: str, model, positions: int) -> list[growing.Cell]:
    """The cells of a sweep, written out anew."""
    layers, heads, everywhere = range(model.cfg.n_layers), range(model.cfg.n_heads), slice(None)
    places = {
        "patch_residual": [("hook_resid_pre", (p,)) for p in range(positions)],
        "patch_heads": [("attn.hook_z", (everywhere, h)) for h in heads],
        "patch_head_positions": [("attn.hook_z", (p, h)) for h in heads for p in range(positions)],
    }
    if name == "patch_blocks":
        sites = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")
        return [growing.Cell(i, s, (p,)) for s in sites for i in layers for p in range(positions)]
    return [growing.Cell(i, *place) for i in layers for place in places[name]]


def looped(model, pair, cells, metric) -> torch.Tensor:
    """One run a cell, with one hook."""
    values = []
    for layer, site, index in cells:

        def patch(activation, hook, layer=layer, site=site, index=index):
            patched = activation.clone()
            patched[0][index] = pair.clean_cache[f"blocks.{layer}.{site}"][0][index]
            return patched

        hooks = [(f"blocks.{layer}.{site}", patch)]
        values.append(metric(model.run_with_hooks(pair.tokens.corrupted, fwd_hooks=hooks)))
    return torch.cat(values)


def exact(grid, expected) -> None:
    assert_close(grid.flatten(), expected.to(grid.dtype), atol=1e-4, rtol=0)
    assert expected.std() > 1e-3  # the cells differ: this could have failed


# Three routes, one answer


@pytest.mark.parametrize("name", SWEEPS)
def test_the_live_road_is_the_loop(small, name):
    model, pair = small
    assert live.supports_live(model)
    cells = cells_of(name, model, 7)
    exact(swept(name, model, pair), looped(model, pair, cells, pair.tokens.logit_diff))


@pytest.mark.parametrize("name", SWEEPS)
def test_the_live_road_is_the_loop_on_the_embedded_model(model, pair, name):
    assert live.supports_live(model)
    cells = cells_of(name, model, pair.tokens.clean.shape[1])
    exact(swept(name, model, pair), looped(model, pair, cells, pair.tokens.logit_diff))


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize("other", ["llama", "pythia"])
def test_the_general_road_is_the_loop_on_other_families(family, other, name):
    model, pair = family(other)
    assert not live.supports_live(model)
    cells = cells_of(name, model, 7)
    exact(swept(name, model, pair), looped(model, pair, cells, pair.tokens.logit_diff))


@pytest.mark.parametrize("last_only", [True, False])
def test_the_two_roads_give_the_same_logits(small, last_only):
    """At all positions, and for patches of any part of an activation."""
    model, pair = small
    indices = {
        "hook_resid_pre": [(slice(None),), (slice(2, 5),), (-1,), (3, slice(0, 9)), (slice(3, 3),)],
        "attn.hook_z": [(slice(None), slice(0, 2)), (4, 1), (6, 2, 0), (slice(0, 2),)],
        "hook_attn_out": [(slice(None),), (5,)],
        "hook_mlp_out": [(slice(1, 3),), (6,), ([0, 4],)],
    }
    cells = [
        growing.Cell(layer, site, index)
        for layer in range(3)
        for site in growing.SITES
        for index in indices[site]
    ]
    arguments = (model, pair.tokens.corrupted, pair.clean_cache, cells, last_only)
    fast, general = live.live_logits(*arguments), growing.grown_logits(*arguments)
    assert fast.shape == (len(cells), 1 if last_only else 7, 1861)
    assert_close(fast, general, atol=1e-4, rtol=0)


@pytest.mark.parametrize("general", [False, True])
@pytest.mark.parametrize("max_bytes", [1, 10**6])
def test_the_size_of_a_pass_does_not_show(small, monkeypatch, general, max_bytes):
    model, pair = small
    arguments = (model, pair.tokens.corrupted, pair.clean_cache, pair.tokens.logit_diff)
    whole = patching.patch_blocks(*arguments)
    if general:
        monkeypatch.setattr(patching, "supports_live", lambda model: False)
    parts = patching.patch_blocks(*arguments, max_bytes=max_bytes)
    assert_close(parts, whole, atol=1e-4, rtol=0)


def test_a_pass_has_as_many_cells_as_the_bytes_allow(small, monkeypatch):
    model, pair = small
    passes = []

    def counted(model, tokens, cache, cells, last_only, only_tokens):
        passes.append(len(cells))
        return live.live_logits(model, tokens, cache, cells, last_only, only_tokens)

    monkeypatch.setattr(patching, "live_logits", counted)
    arguments = (model, pair.tokens.corrupted, pair.clean_cache, pair.tokens.logit_diff)
    patching.patch_residual(*arguments)
    patching.patch_residual(*arguments, max_bytes=1)
    assert passes == [21] + [1] * 21


# When the live road is not taken


def test_a_hook_in_place_is_called(small):
    """A sweep of a model that is already being changed: the live road would pass its hook by."""
    model, pair = small

    def halve(activation, hook):
        return activation / 2

    with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", halve)]):
        assert not live.supports_live(model)
        grid = swept("patch_residual", model, pair)
        cells = cells_of("patch_residual", model, 7)
        expected = looped(model, pair, cells, pair.tokens.logit_diff)
    exact(grid, expected)
    assert live.supports_live(model)
    assert (swept("patch_residual", model, pair) - grid).abs().max() > 1e-2


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("part", ["mlp", "mlp.c_fc", "attn.o", ""])
def test_a_hook_of_torch_is_called_too(small, part, when):
    """transformers' own modules lie within, and people hang hooks on them."""
    model, pair = small
    module = model.original_model.transformer.h[1].original_component.get_submodule(part)
    unhooked = swept("patch_residual", model, pair)
    if when == "after":
        handle = module.register_forward_hook(lambda module, arguments, output: output * 2)
    else:
        handle = module.register_forward_pre_hook(lambda module, args: (args[0] * 2, *args[1:]))
    try:
        assert not live.supports_live(model)
        grid = swept("patch_residual", model, pair)
        cells = cells_of("patch_residual", model, 7)
        expected = looped(model, pair, cells, pair.tokens.logit_diff)
    finally:
        handle.remove()
    exact(grid, expected)
    assert (grid - unhooked).abs().max() > 1e-2
    assert live.supports_live(model)


@pytest.mark.parametrize(("layer", "part"), [(1, "o"), (2, "q"), (2, "k"), (2, "v")])
def test_a_layer_put_in_place_of_the_models_own_is_the_one_that_computes(small, layer, part):
    """An adapter, with a weight of its own beside the one that it wraps."""
    model, pair = small

    class Adapted(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer, self.weight, self.bias = layer, layer.weight, layer.bias

        def forward(self, x):
            return self.layer(x) + 9 * x

    before = swept("patch_residual", model, pair)
    bridge = getattr(model.blocks[layer].attn, part)
    own = bridge.original_component
    bridge.set_original_component(Adapted(own))
    try:
        assert live.supports_live(model)
        grid = swept("patch_residual", model, pair)
        cells = cells_of("patch_residual", model, 7)
        expected = looped(model, pair, cells, pair.tokens.logit_diff)
    finally:
        bridge.set_original_component(own)
    exact(grid, expected)
    assert (grid - before).abs().max() > 1e-2


@pytest.mark.parametrize("where", ["in the bridge", "in transformers' block"])
def test_an_mlp_put_in_place_of_the_models_own_is_the_one_that_computes(small, where):
    """A transcoder, say: nothing of the MLP that it replaces is left."""
    model, pair = small

    class Halved(torch.nn.Module):
        def forward(self, x):
            return x / 2

    before = swept("patch_residual", model, pair)
    holder, name = model.blocks[1].mlp, "_original_component"
    if where != "in the bridge":
        holder, name = model.blocks[1].original_component, "mlp"
    own = getattr(holder, name)
    setattr(holder, name, Halved())
    try:
        assert not live.supports_live(model)
        grid = swept("patch_residual", model, pair)
        expected = looped(model, pair, cells_of("patch_residual", model, 7), pair.tokens.logit_diff)
    finally:
        setattr(holder, name, own)
    exact(grid, expected)
    assert (grid - before).abs().max() > 1e-2
    assert live.supports_live(model)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("act_fn", "silu"),
        ("scale_attn_by_inverse_layer_idx", True),
        ("architecture", "GPTNeoForCausalLM"),
        ("dtype", torch.bfloat16),
    ],
)
def test_what_it_does_not_know_it_does_not_touch(small, monkeypatch, setting, value):
    model, _ = small
    monkeypatch.setattr(model.cfg, setting, value)
    assert not live.supports_live(model)


def test_a_model_in_training_mode_keeps_its_dropout(small):
    model, _ = small
    model.train()
    assert not live.supports_live(model)
    model.eval()
    assert live.supports_live(model)


# Metrics that read the last position only


@pytest.mark.parametrize("other", FAMILIES)
def test_the_mark_changes_what_is_computed_but_not_the_grid(family, other):
    model, pair = family(other)
    shapes = []

    def plain(logits):
        shapes.append(tuple(logits.shape))
        return pair.tokens.logit_diff(logits)

    def marked(logits):
        return plain(logits)

    metrics.reads_last(marked)
    arguments = (model, pair.tokens.corrupted, pair.clean_cache)
    everywhere = patching.patch_residual(*arguments, plain)
    assert shapes == [(21, 7, 1861)]
    last = patching.patch_residual(*arguments, marked)
    checked, sweep = [(1, 7, 1861)] * 2, [(21, 1, 1861)]
    assert shapes[1:] == checked + sweep
    assert_close(last, everywhere, atol=1e-4, rtol=0)
    metrics.reads_last(marked, pair.tokens.logit_diff.reads_tokens)
    assert_close(patching.patch_residual(*arguments, marked), everywhere, atol=1e-4, rtol=0)


def test_a_pairs_own_metric_is_marked(pair):
    metric = pair.tokens.logit_diff
    assert metric.reads_last
    assert metric.reads_tokens.tolist() == [
        pair.tokens.answer.item(),
        pair.tokens.distractor.item(),
    ]


def test_logits_of_tokens_that_are_not_read_are_not_computed(small):
    """Those of the others are what they are without the mark."""
    model, pair = small
    cells = cells_of("patch_blocks", model, 7)
    tokens, at_last = torch.tensor([5, 1860, 5]), True
    arguments = (model, pair.tokens.corrupted, pair.clean_cache, cells, at_last)
    whole, some = live.live_logits(*arguments), live.live_logits(*arguments, tokens)
    assert some.shape == whole.shape
    assert_close(some[..., tokens], whole[..., tokens], atol=1e-5, rtol=0)
    assert some.count_nonzero() == whole[..., [5, 1860]].count_nonzero() == 2 * len(cells)


READ_MORE = {
    "the first position": lambda logits: logits[:, 0, 5],
    "one within": lambda logits: logits[:, 3, 5],
    "all positions": lambda logits: logits[..., 5].mean(1),
    "the last if there is a number there, and others": lambda logits: logits[..., 5].nanmean(1),
}
READ_OTHER_TOKENS = {
    "another token": lambda logits: logits[:, -1, 7],
    "all tokens": lambda logits: logits[:, -1].mean(1),
    "the largest": lambda logits: logits[:, -1].amax(1),
    "the log-probability": lambda logits: logits[:, -1].log_softmax(1)[:, 5],
    "the rank": lambda logits: (logits[:, -1] > logits[:, -1, 5:6]).sum(1).float(),
}


@pytest.mark.parametrize("general", [False, True])
@pytest.mark.parametrize("more", [*READ_MORE, *READ_OTHER_TOKENS])
def test_a_metric_that_reads_more_than_its_mark_says_is_noticed(small, monkeypatch, more, general):
    model, pair = small
    if general:
        monkeypatch.setattr(patching, "supports_live", lambda model: False)
    read = (READ_MORE | READ_OTHER_TOKENS)[more]
    tokens = torch.tensor([5, 6]) if more in READ_OTHER_TOKENS else None
    metric = metrics.reads_last(lambda logits: read(logits), tokens)
    with pytest.raises(ValueError, match="marked `reads_last`, but reads more than the mark says"):
        patching.patch_residual(model, pair.tokens.corrupted, pair.clean_cache, metric)


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (torch.tensor([5, 1861]), ValueError, "token id 1861 is out of range 0 to 1860"),
        (torch.tensor([-1]), ValueError, "token id -1 is out of range"),
        (torch.tensor([[5]]), ValueError, "expected the 1 axes"),
        (torch.tensor([5.0]), TypeError, "integer token ids"),
        ([5, 6], TypeError, "expected a tensor"),
    ],
)
def test_a_mark_that_names_no_tokens_of_the_model_is_refused(small, tokens, error, message):
    model, pair = small
    metric = metrics.reads_last(lambda logits: logits[:, -1, 5])
    metric.reads_tokens = tokens
    with pytest.raises(error, match=f"the metric is marked to read.*{message}"):
        patching.patch_residual(model, pair.tokens.corrupted, pair.clean_cache, metric)


def test_for_one_query_no_key_and_no_value_is_needed(small, monkeypatch):
    """The last position's attention by its own road and by that of all positions."""
    model, _ = small
    block = model.blocks[2]
    for part in (block.attn.q, block.attn.k, block.attn.v):  # loading has left the values' at 0
        monkeypatch.setattr(part.original_component.bias, "data", torch.randn(24))
    table = np.array([[0, 1, 2, 3], [0, 1, 4, 5], [0, 6, 7, 8]])
    state = live.Live(torch.randn(9, 24), table)
    alone = live.attention_of_last(block, state, 3)
    assert alone.shape == (3, 1, 24)
    assert_close(alone, live.attention(block, state, 3)[:, -1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("index", [[0, 1, 2, 3], [[0, 1], [2, 3]], [0, 1, 2], [3, 2, 1, 0], [[1]]])
def test_taken_rows_are_the_indexed_ones(index):
    rows, index = torch.arange(12.0).view(4, 3), np.array(index)
    assert torch.equal(live.take(rows, index), rows[torch.from_numpy(index)])


# The bar


def test_a_short_sweep_is_silent_and_a_long_one_shows_a_bar(small, capsys):
    model, pair = small
    swept("patch_blocks", model, pair)
    assert capsys.readouterr() == ("", "")

    def slow(logits):
        time.sleep(0.9)
        return logits[:, -1, 0]

    cells = cells_of("patch_residual", model, 7)[:4]
    patching.sweep(model, pair.tokens.corrupted, pair.clean_cache, slow, cells, max_bytes=1)
    assert "/4" in capsys.readouterr().err
