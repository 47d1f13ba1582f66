"""`docs/migration.md`: every row of the page, run on the library as it is installed.

A test's name starts with its row's id. Loud rows raise, silent rows are shown to give something
else than they say, and each replacement is compared with a second route to the same answer.
"""

import copy
import importlib
import inspect
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformer_lens
from torch.testing import assert_close
from transformer_lens import evals, patching, utilities
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.training import TrainConfig, train
from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint
from transformers import AutoTokenizer, GPT2LMHeadModel

from helpers import models
from helpers.models import EMBEDDED_DIRECTORY

PAGE = Path(__file__).parents[2] / "docs" / "migration.md"
TEXT = "The Eiffel Tower is in the city of"
SHORT = "The capital of France is"
RESID_POST = "blocks.1.hook_resid_post"


# What the tests share


def boot(**options):
    """The embedded model with its weights as stored: the loading call and nothing else."""
    return TransformerBridge.boot_transformers(
        str(EMBEDDED_DIRECTORY), **{"device": "cpu"} | options
    )


def compat(**options):
    """The two lines that replace `HookedTransformer.from_pretrained`."""
    bridge = boot()
    bridge.enable_compatibility_mode(**options)
    return bridge


@pytest.fixture(scope="module")
def raw(model):
    """Booted only. (`model` is asked for because loading it sets torch to one thread.)"""
    return boot().requires_grad_(False)


@pytest.fixture(scope="module")
def plain():
    """The same weights in plain transformers."""
    return GPT2LMHeadModel.from_pretrained(EMBEDDED_DIRECTORY).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tokens(model):
    return model.to_tokens(TEXT)


@pytest.fixture(scope="module")
def run(model, tokens):
    logits, cache = model.run_with_cache(tokens)
    return SimpleNamespace(logits=logits, cache=cache)


@pytest.fixture(scope="module")
def raw_run(raw, tokens):
    logits, cache = raw.run_with_cache(tokens)
    return SimpleNamespace(logits=logits, cache=cache)


def same(actual, expected, atol=1e-4):
    assert_close(actual, expected, atol=atol, rtol=1e-4)


def differ(first, second, by=0.1):
    assert first.shape == second.shape
    assert (first - second).abs().max() > by


def greedy(model, tokens, **options):
    settings = {"max_new_tokens": 3, "do_sample": False, "stop_at_eos": False, "verbose": False}
    return model.generate(tokens, **settings | options)


class Spy:
    """A hook that changes nothing and remembers what it saw."""

    def __init__(self):
        self.names, self.shapes = [], []

    def __call__(self, activation, hook):
        self.names.append(hook.name)
        self.shapes.append(tuple(activation.shape))


# Loading


def test_L1_the_old_class_is_gone():
    with pytest.raises(ImportError, match="boot_transformers"):
        from transformer_lens import HookedTransformer  # noqa: F401
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("transformer_lens.HookedTransformer")
    with pytest.raises(ImportError):  # so feature detection stops as well
        hasattr(transformer_lens, "HookedTransformer")


def test_L2_two_lines_replace_from_pretrained(plain, tokens):
    with pytest.raises(AttributeError, match="from_pretrained"):
        TransformerBridge.from_pretrained("gpt2")
    logits = compat()(tokens)
    same(logits.log_softmax(-1), plain(tokens).logits.log_softmax(-1))
    same(logits.mean(-1), torch.zeros(tokens.shape))


def test_L3_the_first_line_alone_is_no_processing(raw, raw_run, run, plain, tokens):
    same(raw_run.logits, plain(tokens).logits)
    differ(raw_run.logits, run.logits)
    shift = raw_run.logits - run.logits  # one constant per position, so probabilities agree
    same(shift, shift.mean(-1, keepdim=True).expand(shift.shape))
    same(raw_run.logits.softmax(-1), run.logits.softmax(-1))
    same(raw_run.cache["pattern", 1], run.cache["pattern", 1])
    differ(raw_run.cache["resid_post", 1], run.cache["resid_post", 1], by=1e-3)
    differ(raw_run.cache["z", 1], run.cache["z", 1], by=1e-2)


def test_L4_arguments_that_moved(raw, raw_run, tokens):
    options = dict.fromkeys(
        ["fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"], False
    ) | {"refactor_factored_attn_matrices": True}
    gone = ["first_n_layers", "default_prepend_bos", "default_padding_side", "move_to_device"]
    for name in [*options, *gone]:
        with pytest.raises(TypeError, match=name):
            boot(**{name: options.get(name, 2)})
    for name, value in options.items():
        same(compat(**{name: value})(tokens).softmax(-1), raw_run.logits.softmax(-1))
    shallow = boot(hf_config_overrides={"n_layer": 2})
    same(shallow(tokens), raw.unembed(raw.ln_final(raw_run.cache["resid_post", 1])))
    shallow.cfg.default_prepend_bos = False
    assert torch.equal(shallow.to_tokens(TEXT), tokens[:, 1:])
    shallow.tokenizer.padding_side = "left"
    assert shallow.to_tokens(["a b c", "a"])[1, -1] == shallow.to_single_token("a")


def test_L5_the_second_call_is_skipped(tokens, caplog):
    model = compat()
    before = model(tokens)
    with caplog.at_level(logging.WARNING):
        model.enable_compatibility_mode(center_unembed=False)
    assert "already applied" in caplog.text and torch.equal(model(tokens), before)
    differ(compat(center_unembed=False)(tokens), before, by=1e-3)


def test_L6_the_old_name_of_gpt2(caplog):
    network = GPT2LMHeadModel.from_pretrained(EMBEDDED_DIRECTORY)
    given = {"hf_model": network, "tokenizer": AutoTokenizer.from_pretrained(EMBEDDED_DIRECTORY)}
    for name, deprecated in (("gpt2", False), ("gpt2-small", True)):
        with caplog.at_level(logging.WARNING):
            model = TransformerBridge.boot_transformers(name, device="cpu", **given)
        assert model.cfg.model_name == "gpt2"
        assert ("DEPRECATED" in caplog.text) == deprecated


def test_L7_device_and_dtype():
    assert boot(device=torch.device("cpu")).cfg.device == "cpu"
    with pytest.raises(TypeError):
        boot(dtype="bfloat16")
    assert boot(dtype=torch.bfloat16)("a").dtype == torch.bfloat16


def test_L8_a_model_handed_in_is_rewritten(plain, tokens):
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_DIRECTORY)
    mine, kept = copy.deepcopy(plain), copy.deepcopy(plain)
    for given in (mine, copy.deepcopy(kept)):
        TransformerBridge.boot_transformers(
            "gpt2", hf_model=given, tokenizer=tokenizer, device="cpu"
        ).enable_compatibility_mode()
    differ(mine(tokens).logits, plain(tokens).logits)  # compatibility mode wrote into it
    assert torch.equal(kept(tokens).logits, plain(tokens).logits)


def test_L9_the_weights_require_grad(model, tokens):
    with torch.enable_grad(), pytest.raises(RuntimeError, match="requires grad"):
        model(tokens).numpy()
    assert model.W_U.requires_grad and not model(tokens).requires_grad  # switched off here


# Tokens and input


def test_T1_tokens_are_made_as_before(model, tokens):
    without = model.to_tokens(TEXT, prepend_bos=False)
    assert tokens[0, 0] == model.tokenizer.bos_token_id and torch.equal(without, tokens[:, 1:])
    assert model.to_tokens(" the", prepend_bos=False).tolist() == [[model.to_single_token(" the")]]
    assert model.to_str_tokens(tokens) == model.to_str_tokens(TEXT)
    assert model.to_string(without[0]) == TEXT
    with pytest.raises(AssertionError, match="not a single token"):
        model.to_single_token(" the city")
    with pytest.raises(AssertionError, match="shape"):
        model.to_str_tokens(tokens.expand(2, -1))  # one row at a time


def test_T2_lists_and_long_inputs(model):
    with pytest.raises(ValueError, match="text input"):
        model([1, 2, 3])
    same(model(torch.tensor([1, 2, 3])), model(torch.tensor([[1, 2, 3]])))
    n_ctx = model.cfg.n_ctx
    assert model.to_tokens("a " * 2 * n_ctx).shape[1] == n_ctx  # cut without a word
    long = model.to_tokens("a " * 2 * n_ctx, truncate=False)
    for call in (lambda: model(long), lambda: greedy(model, long[:, : n_ctx - 1])):
        with pytest.raises(IndexError):
            call()


def test_T3_padding_in_a_tensor_counts_as_text(model, monkeypatch):
    texts, alone = [SHORT, TEXT], model(SHORT)[0, -1]
    padded = model.to_tokens(texts, padding_side="left")
    mask = torch.ones_like(padded)
    mask[0, : padded.shape[1] - model.to_tokens(SHORT).shape[1]] = 0

    def first_step(**options):
        return greedy(model, padded, output_logits=True, **options).logits[0][0]

    differ(first_step(), alone)
    same(first_step(attention_mask=mask), alone)
    same(first_step(padding_side="left"), alone)
    same(model(padded, attention_mask=mask)[0, -1], alone)
    same(model(texts, padding_side="left")[0, -1], alone)
    monkeypatch.setattr(model.tokenizer, "padding_side", "left")
    differ(model(padded)[0, -1], alone)


# Running, with a cache and without


def test_R1_one_activation_has_several_names(model, tokens):
    _, cache = model.run_with_cache(tokens)
    assert len(cache) > len({activation.data_ptr() for activation in cache.values()})
    cache["resid_post", 0].zero_()
    assert not cache["resid_pre", 1].any()
    _, filtered = model.run_with_cache(tokens, names_filter="blocks.0.hook_resid_post")
    assert len(filtered) > 1  # own names come along


def test_R2_misspelt_arguments_are_swallowed(model, tokens, run):
    spy = Spy()
    same(model(tokens, retrun_type="loss"), run.logits)
    assert len(model.run_with_cache(tokens, name_filter=RESID_POST)[1]) == len(run.cache)
    same(model.run_with_hooks(tokens, fwd_hook=[(RESID_POST, spy)]), run.logits)
    assert torch.equal(greedy(model, tokens, temprature=9.0), greedy(model, tokens))
    assert spy.names == []  # counted, as the row advises
    assert "names_filter" in inspect.signature(model.run_with_cache).parameters


def test_R3_names_filter(model, tokens):
    def cached(names_filter):
        return set(model.run_with_cache(tokens, names_filter=names_filter)[1])

    assert RESID_POST in cached(RESID_POST)
    typo = "blocks.1.hook_resid_psot"
    for wrong in (typo, [typo], "resid_post"):
        with pytest.raises(KeyError, match="matched no hook points"):
            cached(wrong)
    for wrong in ((RESID_POST,), {RESID_POST}):
        with pytest.raises(ValueError, match="names_filter"):
            cached(wrong)
    assert cached([RESID_POST, typo]) == cached([RESID_POST])  # dropped
    assert cached(lambda name: name.endswith("psot")) == set()

    assert not {RESID_POST, typo} <= set(model.hook_dict)


def test_R4_keys_of_the_cache(run):
    cache = run.cache
    for full, *keys in [
        ("blocks.0.attn.hook_pattern", ("pattern", 0), ("pattern", 0, "attn"), ("attn", 0)),
        ("blocks.3.hook_resid_post", ("resid_post", 3), ("resid_post", -1)),
        ("blocks.1.ln1.hook_scale", ("scale", 1, "ln1")),
        ("ln_final.hook_scale", "scale"),
    ]:
        for key in keys:
            assert torch.equal(cache[key], cache[full])
    same(cache["pattern", 0].sum(-1), torch.ones(cache["pattern", 0].shape[:-1]))
    for wrong in (("resid_psot", 0), ("resid_post", 4), ("scale", 0), "resid_post"):
        with pytest.raises(KeyError):
            cache[wrong]


def test_R5_stopping_after_the_last_layer(model, tokens, run):
    n_layers = model.cfg.n_layers
    same(model(tokens, stop_at_layer=n_layers), run.logits)  # not the residual stream
    same(model(tokens, stop_at_layer=n_layers - 1), run.cache["resid_pre", n_layers - 1])
    last = run.cache["resid_post", -1]
    same(model.unembed(model.ln_final(last)), run.logits)


def test_R6_the_old_key_value_cache_is_ignored(model, tokens, run):
    from transformer_lens import TransformerLensKeyValueCache

    old = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", 1)
    model(tokens[:, :-1], past_kv_cache=old)
    without_past = model(tokens[:, -1:], past_kv_cache=old)
    same(without_past, model(tokens[:, -1:]))
    differ(without_past[:, -1], run.logits[:, -1])

    _, past = model(tokens[:, :-1], return_type="logits_and_cache")
    same(model(tokens[:, -1:], past_key_values=past)[:, -1], run.logits[:, -1])


def test_R7_gradients_are_on(tokens):
    model, seen = compat(), []

    def start_graph(activation, hook):
        seen.append(activation.clone().requires_grad_())
        return seen[0]

    with torch.enable_grad():
        with pytest.raises(RuntimeError, match="requires grad"):
            model(tokens).numpy()
        _, cache = model.run_with_cache(tokens, incl_bwd=True, return_type="loss")
        model.requires_grad_(False)
        with pytest.raises(ValueError, match="requires_grad=False"):
            model.run_with_cache(tokens, incl_bwd=True, return_type="loss")
        hooks = [(RESID_POST, start_graph)]
        loss = model.run_with_hooks(tokens, fwd_hooks=hooks, return_type="loss")
        same(torch.autograd.grad(loss, seen)[0], cache[f"{RESID_POST}_grad"], atol=1e-6)


# Hooks


def test_H1_hooks_work_as_before(model, tokens, run):
    """A head's `z` set to zero: what the head wrote is missing from the residual stream."""

    def ablate(z, hook):
        z[:, :, 2] = 0
        return z

    written = run.cache["z", 1][:, :, 2] @ model.W_O[1, 2]
    for function in (ablate, lambda z, hook: ablate(z.clone(), hook)):
        with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", function)]):
            _, cache = model.run_with_cache(tokens)
        same(cache["resid_mid", 1], run.cache["resid_mid", 1] - written)
    spy = Spy()
    model.add_hook(RESID_POST, spy)
    same(model(tokens), run.logits)  # and the others are gone
    model.reset_hooks()
    model(tokens)
    assert len(spy.names) == 1


def test_H2_misspelt_hook_names(model, tokens):
    spy, typo = Spy(), "blocks.1.hook_resid_psot"
    with pytest.raises(KeyError, match="does not exist"):
        model.run_with_hooks(tokens, fwd_hooks=[(typo, spy)])
    with pytest.raises(AttributeError):
        model.add_hook(typo, spy)

    def wanted(name):
        return name.endswith("resid_psot")

    model.run_with_hooks(tokens, fwd_hooks=[(wanted, spy)])
    assert spy.names == []
    assert not any(wanted(name) for name in model.hook_dict)  # the check that would have told


def test_H3_the_second_parameter_is_called_hook(model, tokens, run):
    with pytest.raises(TypeError, match="hook"):
        model.run_with_hooks(tokens, fwd_hooks=[(RESID_POST, lambda value, h: value)])
    same(model.run_with_hooks(tokens, fwd_hooks=[(RESID_POST, lambda v, hook: v)]), run.logits)


def test_H4_a_hook_gets_its_own_name(model, raw, tokens):
    layers = []
    for bridge in (model, raw):
        spy = Spy()
        hooks = [(RESID_POST, spy), (RESID_POST, lambda _, hook: layers.append(hook.layer()))]
        bridge.run_with_hooks(tokens, fwd_hooks=hooks)
        assert spy.names == [bridge.hook_dict[RESID_POST].name] == ["blocks.1.hook_out"]
    assert layers == [1, 1]
    attn_out = "blocks.0.hook_attn_out"  # and it depends on the mode
    assert model.hook_dict[attn_out].name == attn_out
    assert raw.hook_dict[attn_out].name == "blocks.0.attn.hook_out"


def test_H5_resid_mid_must_be_edited_in_place(model, pair):
    """The clean stream put back after attention: what follows is the clean run."""
    site = "blocks.1.hook_resid_mid"

    def in_place(resid, hook):
        resid[:] = pair.clean_cache[site]
        return resid

    def returned(resid, hook):
        return pair.clean_cache[site].clone()

    def patched(function):
        return model.run_with_hooks(pair.tokens.corrupted, fwd_hooks=[(site, function)])

    same(patched(in_place), pair.clean_logits)
    differ(patched(returned), pair.clean_logits)
    with model.hooks(fwd_hooks=[(site, returned)]):
        _, cache = model.run_with_cache(pair.tokens.corrupted)
    same(cache["mlp_out", 1], pair.clean_cache["mlp_out", 1])  # the MLP reads the new stream
    skipped = cache["resid_post", 1] - cache["mlp_out", 1]  # and the stream itself is the old one
    same(skipped, pair.corrupted_cache[site])


def test_H6_mlp_in_must_not_be_edited_in_place(model, tokens, run):
    site = "blocks.1.hook_mlp_in"

    def stream_beside_the_mlp(function):
        with model.hooks(fwd_hooks=[(site, function)]):
            _, cache = model.run_with_cache(tokens)
        return cache["resid_post", 1] - cache["mlp_out", 1]

    model.set_use_hook_mlp_in(True)
    try:
        returned = stream_beside_the_mlp(lambda value, hook: torch.zeros_like(value))
        in_place = stream_beside_the_mlp(lambda value, hook: value.zero_())
    finally:
        model.set_use_hook_mlp_in(False)
    same(returned, run.cache["resid_mid", 1])
    same(in_place, torch.zeros_like(returned))


def test_H7_the_gradient_at_resid_mid_is_half(random_model, random_pair):
    """In double precision, against a finite difference."""
    model, tokens, site = random_model, random_pair.tokens.clean, "blocks.0.hook_resid_mid"
    with torch.enable_grad():
        _, cache = model.run_with_cache(tokens, incl_bwd=True, return_type="loss")
    model.zero_grad()
    direction = torch.randn(cache[site].shape, generator=torch.Generator().manual_seed(0)).double()

    def loss(step):
        def shift(resid, hook):
            resid += step * direction
            return resid

        return model.run_with_hooks(tokens, fwd_hooks=[(site, shift)], return_type="loss")

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    through_mlp = cache[f"{site}_grad"]
    whole = through_mlp + cache["blocks.0.hook_resid_post_grad"]
    same(whole, cache["blocks.0.hook_attn_out_grad"], atol=1e-9)
    same((whole * direction).sum(), slope, atol=1e-6)
    differ((through_mlp * direction).sum(), slope, by=1e-2)


@pytest.mark.parametrize(
    ("site", "flag"),
    [
        ("blocks.1.attn.hook_result", "set_use_attn_result"),
        ("blocks.1.hook_attn_in", "set_use_attn_in"),
        ("blocks.1.hook_q_input", "set_use_split_qkv_input"),
        ("blocks.1.hook_mlp_in", "set_use_hook_mlp_in"),
    ],
)
def test_H8_hook_points_behind_a_flag(model, tokens, run, site, flag):
    with pytest.raises(ValueError, match=flag):
        model.run_with_hooks(tokens, fwd_hooks=[(site, Spy())])
    with pytest.warns(UserWarning, match="gated-off"):
        assert site not in model.run_with_cache(tokens, names_filter=[site, RESID_POST])[1]
    getattr(model, flag)(True)
    try:
        logits, cache = model.run_with_cache(tokens)
    finally:
        getattr(model, flag)(False)
    same(logits, run.logits)
    assert site in cache
    if site.endswith("result"):  # [batch, pos, head, d_model]
        same(cache["result", 1].sum(2) + model.b_O[1], run.cache["attn_out", 1])


# Generation


def test_G1_generate_ignores_fwd_hooks(model, tokens):
    """A hook that blanks the final stream: the next token is the one with the largest bias."""
    spy = Spy()

    def blank(normalized, hook):
        spy(normalized, hook)
        return torch.zeros_like(normalized)

    hooks = [("ln_final.hook_normalized", blank)]
    assert torch.equal(greedy(model, tokens, fwd_hooks=hooks), greedy(model, tokens))
    assert spy.names == []
    with model.hooks(fwd_hooks=hooks):
        blanked = greedy(model, tokens)
    assert len(spy.names) == 3
    assert (blanked[0, tokens.shape[1] :] == model.b_U.argmax()).all()


def test_G2_after_the_first_step_a_hook_sees_one_position(model, tokens):
    n, d = tokens.shape[1], model.cfg.d_model

    def shapes(**options):
        spy = Spy()
        with model.hooks(fwd_hooks=[(RESID_POST, spy)]):
            greedy(model, tokens, **options)
        return spy.shapes

    assert shapes() == [(1, n, d), (1, 1, d), (1, 1, d)]
    assert shapes(use_past_kv_cache=False) == [(1, n, d), (1, n + 1, d), (1, n + 2, d)]

    def edit(resid, hook):
        resid[:, 3] = 0
        return resid

    def edit_if_there(resid, hook):
        return edit(resid, hook) if resid.shape[1] > 3 else resid

    with pytest.raises(IndexError), model.hooks(fwd_hooks=[(RESID_POST, edit)]):
        greedy(model, tokens)
    with model.hooks(fwd_hooks=[(RESID_POST, edit)]):
        whole = greedy(model, tokens, use_past_kv_cache=False)
    with model.hooks(fwd_hooks=[(RESID_POST, edit_if_there)]):
        assert torch.equal(greedy(model, tokens), whole)


def test_G3_generation_with_the_cache_is_generation_without(model, tokens):
    """With the pinned versions; a cache that stays empty is refused (test_models)."""
    whole = greedy(model, tokens, use_past_kv_cache=False)
    assert torch.equal(greedy(model, tokens), whole)
    with pytest.raises(RuntimeError, match=r"transformers>=5\.9,<5\.24"):
        models._compare(model, tokens, torch.zeros(1, tokens.shape[1], model.cfg.d_vocab))


# Weights, configuration, modules


def test_W1_weights(model, tokens, run):
    cache, layer = run.cache, 1
    normalized = cache["normalized", layer, "ln1"]
    for name in "QKV":
        weights, biases = getattr(model, f"W_{name}"), getattr(model, f"b_{name}")
        product = torch.einsum("bpm,hmd->bphd", normalized, weights[layer]) + biases[layer]
        same(product, cache[name.lower(), layer])
        assert torch.equal(getattr(model.blocks[layer].attn, f"W_{name}"), weights[layer])
    attn_out = torch.einsum("bphd,hdm->bpm", cache["z", layer], model.W_O[layer])
    same(attn_out + model.b_O[layer], cache["attn_out", layer])
    pre = cache["normalized", layer, "ln2"] @ model.W_in[layer] + model.b_in[layer]
    same(pre, cache["pre", layer])
    same(model.W_E[tokens] + model.W_pos[: tokens.shape[1]], cache["resid_pre", 0])
    same(model.QK[layer, 0].AB, model.W_Q[layer, 0] @ model.W_K[layer, 0].T)
    edited = compat().requires_grad_(False)
    edited.W_O[layer] = 0  # written into a copy
    same(edited(tokens), run.logits)
    edited.blocks[layer].attn.W_O[:] = 0
    differ(edited(tokens), run.logits)
    with pytest.raises(KeyError, match="already exists"):
        edited.blocks[layer].attn.W_O = torch.nn.Parameter(torch.zeros_like(model.W_O[layer]))


def test_W2_parts_called_by_hand(model, tokens, run):
    output = model.blocks[1](run.cache["resid_pre", 1])
    same(output[0], run.cache["resid_post", 1])  # [0] no longer picks the first text
    with pytest.raises(TypeError, match="tuple"):
        output + 1
    with pytest.raises(IndexError):  # some token's id is larger than any position
        model.pos_embed(tokens)
    same(model.pos_embed(torch.tensor([[5, 6, 7]]))[0], model.W_pos[5:8])  # not of places 0 to 2
    same(model.unembed(model.ln_final(run.cache["resid_post", -1])), run.logits)


def test_W3_names_of_parameters_and_modules(model):
    assert not any("W_" in name for name, _ in model.named_parameters())
    old_names = dict(model.tl_named_parameters())
    assert torch.equal(old_names["blocks.1.attn.W_Q"], model.W_Q[1])
    assert not any(name.endswith("hook_resid_post") for name, _ in model.named_modules())
    assert RESID_POST in model.hook_dict
    assert not isinstance(model, transformer_lens.HookedRootModule)


def test_W4_saved_weights_belong_to_a_mode(raw, model, raw_run, run, tokens):
    wrong = boot()
    assert not any(wrong.load_state_dict(model.state_dict()))  # no key missing, none left over
    differ(wrong(tokens).softmax(-1), run.logits.softmax(-1))
    right, raw_in_compat = compat(), compat()
    right.load_state_dict(model.state_dict())
    assert torch.equal(right(tokens), run.logits)
    raw_in_compat.load_state_dict(raw.state_dict())
    same(raw_in_compat(tokens), raw_run.logits)  # looks processed, is not


SMALL = {"d_model": 16, "d_head": 8, "n_heads": 2, "n_layers": 2, "n_ctx": 12, "d_vocab": 20}
SMALL |= {"d_mlp": 32, "act_fn": "gelu_new", "seed": 0}
COUNTING = torch.arange(10)[None]


def native(**options):
    """A small model from scratch; the same `seed` gives the same weights."""
    return TransformerBridge.boot_native(TransformerBridgeConfig(**SMALL | options))


def test_W5_a_checkpoint_of_the_old_class(raw, tokens, raw_run):
    """Old names and shapes, as `HookedTransformer.state_dict()` wrote them."""
    cfg = TransformerBridgeConfig(
        **{name: getattr(raw.cfg, name) for name in SMALL if name != "seed"}
    )
    old = {name: value.detach().clone() for name, value in raw.tl_named_parameters()}
    with pytest.raises(RuntimeError, match="Unexpected key"):
        boot().load_state_dict(old)
    model = TransformerBridge.boot_native(cfg)
    before = model(tokens)
    model.load_state_dict(old, strict=False)
    assert torch.equal(model(tokens), before)  # nothing was loaded
    model.load_state_dict(convert_tl_checkpoint(old, cfg))
    same(model(tokens), raw_run.logits)


def test_W6_the_configuration(model, raw, plain, run):
    cfg, theirs = model.cfg, plain.config
    ours = cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_vocab, cfg.n_ctx
    names = ("n_layer", "n_head", "n_embd", "vocab_size", "n_positions")
    assert ours == tuple(getattr(theirs, name) for name in names)
    assert cfg.n_params is None and raw.n_params_total == plain.num_parameters()
    assert cfg.normalization_type == "LN"  # "LNPre" once meant: folded
    assert model.compatibility_mode and not raw.compatibility_mode
    assert cfg.attn_scale == -1.0  # the scores are divided by this instead:
    scores = torch.einsum("bqhd,bkhd->bhqk", run.cache["q", 1], run.cache["k", 1]) / cfg.d_head**0.5
    visible = run.cache["attn_scores", 1].isfinite()
    same(scores[visible], run.cache["attn_scores", 1][visible])


def test_W7_methods_that_are_gone(model, tokens):
    gone = "set_tokenizer load_and_process_state_dict process_weights_ fold_layer_norm"
    gone += " center_writing_weights move_model_modules_to_device sample_datapoint"
    for name in gone.split():
        with pytest.raises(AttributeError, match=name):
            getattr(model, name)
    with pytest.raises(TypeError, match="not callable"):
        model.all_head_labels()
    with pytest.raises(TypeError, match="move_model"):
        model.run_with_cache(tokens)[1].to("cpu", move_model=True)
    assert model.all_head_labels[-1] == "L3H3" and model.to("cpu") is model
    bridge = boot()
    bridge.tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_DIRECTORY)
    assert torch.equal(bridge.to_tokens(TEXT), tokens)


# Analysis helpers of the cache


def test_A1_decompose_resid_needs_the_second_line(model, run, raw, raw_run):
    parts = run.cache.decompose_resid(apply_ln=True)
    same(parts.sum(0) @ model.W_U + model.b_U, run.logits)
    parts = raw_run.cache.decompose_resid(apply_ln=True)
    differ(parts.sum(0) @ raw.W_U + raw.b_U, raw_run.logits)


def test_A2_accumulated_resid_needs_the_bias(model, run):
    stream = run.cache.accumulated_resid(apply_ln=True)
    same(stream[-1] @ model.W_U + model.b_U, run.logits)
    differ(stream[-1] @ model.W_U, run.logits)


def test_A3_stack_head_results(model, tokens):
    _, cache = model.run_with_cache(tokens)
    with pytest.raises(KeyError):
        cache["result", 0]  # the flag is off
    heads, labels = cache.stack_head_results(layer=-1, return_labels=True)
    n_heads = model.cfg.n_heads
    assert labels[n_heads] == "L1H0"
    for layer in range(model.cfg.n_layers):
        total = heads[layer * n_heads : (layer + 1) * n_heads].sum(0)
        same(total + model.b_O[layer], cache["attn_out", layer])


def test_A4_logit_attrs_leave_out_the_bias(model, run):
    paris, rome = model.to_single_token(" Paris"), model.to_single_token(" Rome")
    parts = run.cache.decompose_resid()
    total = run.cache.logit_attrs(parts, " Paris").sum(0)
    same(total + model.b_U[paris], run.logits[..., paris])
    assert model.b_U[paris].abs() > 1e-3
    difference = run.cache.logit_attrs(parts, " Paris", " Rome").sum(0)
    same(
        difference + model.b_U[paris] - model.b_U[rome],
        run.logits[..., paris] - run.logits[..., rome],
    )


# Patching, utilities, models from scratch


def test_P1_the_patching_module(model, pair):
    """One of its grids by hand; others are in tests/helpers."""
    corrupted, cache, metric = pair.tokens.corrupted, pair.clean_cache, pair.tokens.logit_diff
    grid = patching.get_act_patch_resid_mid(model, corrupted, cache, lambda x: metric(x).mean())
    for layer in range(model.cfg.n_layers):
        name = f"blocks.{layer}.hook_resid_mid"

        def patch(resid, hook, name=name):
            resid[:, 2] = cache[name][:, 2]  # in place: H5

        same(grid[layer, 2], metric(model.run_with_hooks(corrupted, fwd_hooks=[(name, patch)]))[0])
    assert (grid - metric(pair.corrupted_logits)).abs().max() > 0.1


def test_P2_modules_that_moved(model):
    for name in ["utils", "train", "components", "loading", "loading_from_pretrained"]:
        with pytest.raises(ImportError, match=r"removed in TransformerLens 4\.0"):
            getattr(transformer_lens, name)
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"transformer_lens.{name}")
    with pytest.raises(ImportError, match="HookedRootModule"):
        from transformer_lens.hook_points import HookedRootModule  # noqa: F401
    for name in ["ActivationCache", "FactoredMatrix", "HookedRootModule", "head_detector"]:
        assert hasattr(transformer_lens, name)
    assert utilities.get_act_name("pattern", 3) == "blocks.3.attn.hook_pattern"


def test_P3_test_prompt_and_evals(model, tokens, run, capsys):
    utilities.test_prompt(TEXT, "Paris", model)
    ranks = run.logits[0, -1].argsort(descending=True).argsort()
    rank = ranks[model.to_single_token(" Paris")].item()
    assert f"Ranks of the answer tokens: [(' Paris', {rank})]" in capsys.readouterr().out
    ids = model.to_tokens(evals.sanity_check(lambda text, return_type: text))  # what it tries
    by_hand = torch.nn.functional.cross_entropy(model(ids)[0, :-1], ids[0, 1:])
    same(evals.sanity_check(model), by_hand)


def test_P4_a_model_from_scratch():
    with pytest.raises(ImportError, match="TransformerBridgeConfig"):
        from transformer_lens import HookedTransformerConfig  # noqa: F401
    with pytest.raises(TypeError):
        TransformerBridge(TransformerBridgeConfig(**SMALL))
    model = native()
    logits, cache = model.run_with_cache(COUNTING)
    parts = cache.decompose_resid(apply_ln=True)
    same(parts.sum(0) @ model.W_U + model.b_U, logits)
    assert torch.equal(native()(COUNTING), logits)
    differ(native(seed=1)(COUNTING), logits)


def test_P5_options_that_boot_native_ignores():
    expected = native()(COUNTING)
    for option in [
        {"use_local_attn": True, "window_size": 2, "attn_types": ["local", "local"]},
        {"scale_attn_by_inverse_layer_idx": True},
        {"use_attn_scale": False},
        {"parallel_attn_mlp": True},
        {"use_qk_norm": True},
        {"dtype": torch.float64},
    ]:
        assert torch.equal(native(**option)(COUNTING), expected)
    for option in ({"positional_embedding_type": "shortformer"}, {"attn_scale": 1.0}):
        with pytest.raises(ValueError, match=r"shortformer|unscaled attention"):
            native(**option)(COUNTING)
    logits, cache = native(attn_scale=2.0).run_with_cache(COUNTING)
    differ(logits, expected, by=1e-3)
    assert torch.equal(cache["attn_scores", 1], cache["pattern", 1])  # not the scores
    double = TransformerBridge.boot_native(TransformerBridgeConfig(**SMALL), dtype=torch.float64)
    assert double(COUNTING).dtype == torch.float64


def test_P6_the_training_loop():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("transformer_lens.train")
    rows = [{"tokens": COUNTING[0]}] * 64
    config = TrainConfig(num_epochs=1, batch_size=8, lr=1e-2, device="cpu", print_every=None)
    small = native()
    before = small(COUNTING, return_type="loss").item()
    with torch.enable_grad():
        train(small, config, rows)
        with pytest.raises(RuntimeError, match="does not require grad"):
            train(native().requires_grad_(False), config, rows)
    assert small(COUNTING, return_type="loss").item() < before / 2


# The page itself


def test_every_row_has_a_test_and_every_test_a_row():
    """And a loud row names an error, or a warning, as its test does."""
    rows = re.findall(r"^\| ([A-Z]\d+) \|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.M)
    names = re.findall(r"^def test_([A-Z]\d+)_", Path(__file__).read_text("utf-8"), re.M)
    assert [name for name, _ in rows] == names and len(set(names)) == len(names) >= 25
    for name, cells in rows:
        _, happens, kind, _ = cells.strip().split(" | ")
        assert re.fullmatch(r"(loud|silent|same)(, (loud|silent))*", kind), name
        assert bool(re.search(r"`\w+(Error|Warning)`", happens)) == ("loud" in kind), name


def test_the_code_on_the_page_runs():
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for code in blocks:
        replaced = code.replace('"gpt2"', repr(str(EMBEDDED_DIRECTORY)))
        assert replaced != code
        exec(replaced, {})
