"""`docs/migration.md`: every row of the page, run on the library as it is installed.

Each line below is a test and starts with its row's id. `LOUD` lines raise or warn, in those words.
`QUIET` lines compare what the row's line gives, or its replacement, with a second route: `==` says
that they agree to 1e-4, `!=` that they do not. Steps before that end in semicolons. What stands
after the last bar is put in for NAME, one after the other.
"""

import builtins
import re
from pathlib import Path

import pytest
import torch
import transformer_lens
from transformer_lens import patching
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.training import TrainConfig, train
from transformers import AutoTokenizer, GPT2LMHeadModel

import helpers.models
from helpers.models import EMBEDDED_DIRECTORY

PAGE = Path(__file__).parents[2] / "docs" / "migration.md"
TEXT, SHORT = "The Eiffel Tower is in the city of", "The capital of France is"
POST, TYPO = "blocks.1.hook_resid_post", "blocks.1.hook_resid_psot"
MID, MLP_IN, ATTN_OUT = (f"blocks.1.hook_{site}" for site in ("resid_mid", "mlp_in", "attn_out"))
LAST = "ln_final.hook_normalized"
SMALL = {"d_model": 16, "d_head": 8, "n_heads": 2, "n_layers": 2, "n_ctx": 12, "d_vocab": 20}
SMALL |= {"d_mlp": 32, "act_fn": "gelu_new", "seed": 0}
COUNTING = torch.arange(10)[None]

LOUD = """
L1 | ImportError: boot_transformers | from transformer_lens import HookedTransformer
L1 | ModuleNotFoundError | import transformer_lens.HookedTransformer
L2 | AttributeError: from_pretrained | TransformerBridge.from_pretrained("gpt2")
L4 | TypeError: NAME | boot(NAME=2) | fold_ln center_writing_weights center_unembed
     fold_value_biases refactor_factored_attn_matrices first_n_layers default_prepend_bos
     default_padding_side move_to_device
L7 | TypeError | boot(dtype="bfloat16")
L9 | RuntimeError: requires grad | with torch.enable_grad(): model(tokens).numpy()
T1 | AssertionError: not a single token | model.to_single_token(" the city")
T2 | ValueError: text input | model([1, 2, 3])
T2 | IndexError | model(model.to_tokens(long, truncate=False))
R3 | KeyError: matched no hook points | cached(model, NAME) | TYPO [TYPO] "resid_post"
R3 | ValueError: names_filter | cached(model, NAME) | (POST,) {POST}
R4 | KeyError | cache[NAME] | "resid_psot",0 "resid_post",4 "scale",0 "resid_post"
R7 | RuntimeError: requires grad | with torch.enable_grad(): compat()(tokens).numpy()
R7 | ValueError: requires_grad=False | with torch.enable_grad(): backward(raw, tokens)
H2 | KeyError: does not exist | hooked(model, tokens, (TYPO, returned(0)))
H2 | AttributeError | model.add_hook(TYPO, returned(0))
H3 | TypeError: hook | hooked(model, tokens, (POST, lambda value, h: value))
H8 | ValueError: .set_use_ | hooked(model, tokens, ("blocks.1.NAME", returned(0)))
     | attn.hook_result hook_attn_in hook_q_input hook_mlp_in
H8 | UserWarning: gated-off | assert MLP_IN not in cached(model, [MLP_IN, POST])
G2 | IndexError | during(model, tokens, (POST, in_place(0, 3)))
G3 | RuntimeError: transformers>=5 | ours._compare(model, tokens, torch.zeros_like(logits))
W1 | KeyError: already exists | boot().blocks[1].attn.W_O = torch.nn.Parameter(model.W_O[1])
W2 | TypeError: tuple | model.blocks[1](cache["resid_pre", 1]) + 1
W2 | IndexError | model.pos_embed(tokens)
W5 | RuntimeError: Unexpected key | boot().load_state_dict(dict(raw.tl_named_parameters()))
W7 | AttributeError: NAME | model.NAME | set_tokenizer load_and_process_state_dict process_weights_
     fold_layer_norm center_writing_weights move_model_modules_to_device sample_datapoint
W7 | TypeError: not callable | model.all_head_labels()
W7 | TypeError: move_model | cache.to("cpu", move_model=True)
A3 | KeyError | model.run_with_cache(tokens)[1]["result", 0]
P2 | ImportError: removed in Trans | from transformer_lens import NAME | utils components loading
P2 | ModuleNotFoundError | import transformer_lens.utils
P4 | ImportError: TransformerBridgeConfig | from transformer_lens import HookedTransformerConfig
P4 | TypeError | TransformerBridge(TransformerBridgeConfig(**SMALL))
P5 | ValueError: shortformer | native(positional_embedding_type="shortformer")(COUNTING)
P5 | ValueError: unscaled attention | native(attn_scale=1.0)(COUNTING)
P6 | ModuleNotFoundError | import transformer_lens.train
"""

QUIET = """
L2 | compat()(tokens).log_softmax(-1) == plain(tokens).logits.log_softmax(-1)
L2 | logits.mean(-1) == torch.zeros(tokens.shape)
L3 | raw_logits == plain(tokens).logits
L3 | raw_logits - raw_logits.mean(-1, keepdim=True) == logits
L3 | raw_cache["resid_post", 1] != cache["resid_post", 1]
L4 | compat(NAME)(tokens).softmax(-1) == logits.softmax(-1) | fold_ln=False center_unembed=False
     center_writing_weights=False fold_value_biases=False refactor_factored_attn_matrices=True
L4 | boot(hf_config_overrides={"n_layer": 2})(tokens) == raw.unembed(raw.ln_final(raw_cache[POST]))
L4 | other = boot(); other.cfg.default_prepend_bos = False; other.to_tokens(TEXT) == tokens[:, 1:]
L4 | left = boot(); left.tokenizer.padding_side = "left"; left.to_tokens([SHORT, TEXT]) == padded
L5 | mine = compat(); mine.enable_compatibility_mode(center_unembed=False); mine(tokens) == logits
L5 | compat(center_unembed=False)(tokens) != logits
L7 | boot(device=torch.device("cpu")).cfg.device == "cpu"
L7 | boot(dtype=torch.bfloat16)("a").dtype == torch.bfloat16
L8 | import copy; mine = network(); boot("gpt2", NAME).enable_compatibility_mode();
     mine(tokens).logits.allclose(raw_logits, atol=1e-3) == ("NAME" != "mine")
     | mine copy.deepcopy(mine)
L9 | (model.W_U.requires_grad, model(tokens).requires_grad) == (True, False)
T1 | tokens[0, 0] == model.tokenizer.bos_token_id
T1 | model.to_tokens(" the", prepend_bos=False) == [[model.to_single_token(" the")]]
T2 | model(torch.tensor([1, 2, 3])) == model(torch.tensor([[1, 2, 3]]))
T2 | model.to_tokens(long).shape[1] == model.cfg.n_ctx
T3 | model(padded)[0, -1] != alone
T3 | left = compat(); left.tokenizer.padding_side = "left"; left(padded)[0, -1] != alone
T3 | model([SHORT, TEXT], padding_side="left")[0, -1] == alone
T3 | model(padded, attention_mask=mask)[0, -1] == alone
T3 | greedy(model, padded, output_logits=True).logits[0][0] != alone
T3 | greedy(model, padded, output_logits=True, NAME).logits[0][0] == alone
     | attention_mask=mask padding_side="left"
R1 | len(cache) != len({activation.data_ptr() for activation in cache.values()})
R1 | len(cached(model, "blocks.0.hook_resid_post")) != 1
R1 | _, mine = hooked(model, tokens); mine["resid_post", 0][:] = 7; mine["resid_pre", 1].min() == 7
R2 | model(tokens, retrun_type="loss") == logits
R2 | len(model.run_with_cache(tokens, name_filter=POST)[1]) == len(cache)
R2 | import inspect; "names_filter" in inspect.signature(model.run_with_cache).parameters == True
R3 | cached(model, [POST, TYPO]) == cached(model, POST)
R3 | cached(model, lambda name: name.endswith("psot")) == set()
R4 | cache[NAME] == cache["blocks.0.attn.hook_pattern"] | "pattern",0,"attn" "pattern",0 "attn",0
R4 | cache["resid_post", -1] == cache["blocks.3.hook_resid_post"]
R5 | model(tokens, stop_at_layer=3) == cache["resid_post", 2]
R6 | _, past = model(tokens[:, :-1], return_type="logits_and_cache");
     model(tokens[:, -1:], past_key_values=past)[:, -1] == logits[:, -1]
R7 | seen = []; leaf = lambda v, hook: seen.append(v.clone().requires_grad_()) or seen[0];
     with torch.enable_grad(): out = raw.run_with_hooks(tokens, [(POST, leaf)], return_type="loss");
     1000 * torch.autograd.grad(out, seen)[0] == 1000 * backward(boot(), tokens)[f"{POST}_grad"]
H1 | hooked(model, tokens, ("blocks.1.attn.hook_z", in_place(0, slice(None), 2)))[1][MID]
     == cache[MID] - cache["z", 1][:, :, 2] @ model.W_O[1, 2]
H1 | hooked(model, tokens, (POST, in_place(0)))[0] == hooked(model, tokens, (POST, returned(0)))[0]
H1 | mine = compat(); mine.add_hook(POST, returned(0)); hit = mine(tokens); mine.reset_hooks();
     [each.allclose(logits, atol=1e-3) for each in (hit, mine(tokens))] == [False, True]
H2 | hooked(model, tokens, (lambda name: name.endswith("psot"), returned(0)))[0] == logits
H3 | hooked(model, tokens, (POST, lambda value, hook: torch.zeros_like(value)))[0] != logits
H4 | POST != model.hook_dict[POST].name
H4 | seen = []; hook = (POST, lambda _, hook: seen.append((hook.name, hook.layer())));
     hooked(model, tokens, hook);
     seen == [(model.hook_dict[POST].name, 1)]
H5 | hooked(model, corrupted, (MID, in_place(clean[MID])))[0] == pair.clean_logits
H5 | after = hooked(model, corrupted, (MID, returned(clean[MID])))[1];
     after[POST] == pair.corrupted_cache[MID] + clean["mlp_out", 1]
H6 | after = with_flag("set_use_hook_mlp_in", (MLP_IN, NAME(0)));
     after[POST] - after["mlp_out", 1] == cache[MID] * (NAME is returned) | in_place returned
H7 | grad[f"{MID}_grad"] + grad[f"{POST}_grad"] == grad[f"{ATTN_OUT}_grad"]
H7 | (grad[f"{ATTN_OUT}_grad"] * push).sum() == slope(double, ids, push)
H8 | with_flag("set_use_attn_result")["result", 1].sum(2) + model.b_O[1] == cache[ATTN_OUT]
H8 | with_flag("set_use_attn_in")["attn_in", 1][:, :, 0] == cache["resid_pre", 1]
H8 | with_flag("set_use_split_qkv_input")["q_input", 1][:, :, 0] == cache["resid_pre", 1]
H8 | with_flag("set_use_hook_mlp_in")["mlp_in", 1] == cache[MID]
G1 | greedy(model, tokens, fwd_hooks=[(LAST, returned(0))]) == greedy(model, tokens)
G1 | during(model, tokens, (LAST, returned(0)))[0, -3:] == [model.b_U.argmax()] * 3
G2 | seen = []; during(model, tokens, (POST, lambda value, hook: seen.append(value.shape[1])));
     seen == [9, 1, 1]
G2 | late = (POST, lambda value, hook: in_place(0, 3)(value, hook) if value.shape[1] > 3 else None);
     whole = during(model, tokens, (POST, in_place(0, 3)), use_past_kv_cache=False);
     during(model, tokens, late) == whole
G3 | greedy(model, tokens, use_past_kv_cache=False) == greedy(model, tokens)
W1 | product = torch.einsum("bpm,hmd->bphd", cache["normalized", 1, "ln1"], model.W_NAME[1]);
     product + model.b_NAME[1] == cache["NAME".lower(), 1] | Q K V
W1 | cache["z", 1].flatten(-2) @ model.W_O[1].flatten(0, 1) + model.b_O[1] == cache[ATTN_OUT]
W1 | cache["post", 1] @ model.W_out[1] + model.b_out[1] == cache["mlp_out", 1]
W1 | model.QK[1, 0].AB == model.W_Q[1, 0] @ model.W_K[1, 0].T
W1 | mine = compat(); mine.W_O[1] = 0; mine(tokens) == logits
W1 | mine = compat(); mine.blocks[1].attn.W_O[:] = 0; mine(tokens) != logits
W2 | model.blocks[1](cache["resid_pre", 1])[0] == cache[POST]
W2 | model.unembed(model.ln_final(cache["resid_post", -1])) == logits
W3 | any("W_Q" in name for name, _ in model.named_parameters()) == False
W3 | isinstance(model, transformer_lens.HookedRootModule) == False
W3 | dict(model.tl_named_parameters())["blocks.1.attn.W_Q"] == model.W_Q[1]
W4 | other = boot(); other.load_state_dict(model.state_dict()); other(tokens) != logits
W4 | other = compat(); other.load_state_dict(raw.state_dict()); other(tokens) == raw_logits
W4 | other = compat(); other.load_state_dict(model.state_dict()); other(tokens) == logits
W5 | mine = TransformerBridge.boot_native(old_shape); before = mine(tokens);
     mine.load_state_dict(old, strict=False); mine(tokens) == before
W5 | from transformer_lens.utilities import tl_checkpoint_conversion as conversion;
     mine = TransformerBridge.boot_native(old_shape);
     mine.load_state_dict(conversion.convert_tl_checkpoint(old, old_shape));
     mine(tokens) == raw_logits
W6 | cfg, theirs = model.cfg, plain.config; [cfg.n_layers, cfg.n_heads, cfg.d_vocab, cfg.n_ctx]
     == [theirs.n_layer, theirs.n_head, theirs.vocab_size, theirs.n_positions]
W6 | (model.cfg.n_params, raw.n_params_total) == (None, plain.num_parameters())
W6 | (model.compatibility_mode, raw.compatibility_mode) == (True, False)
W6 | cache["k", 1][0, :, 3] @ cache["q", 1][0, -1, 3] / model.cfg.d_head**0.5
     == cache["attn_scores", 1][0, 3, -1]
W7 | (model.all_head_labels[-1], model.to("cpu") is model) == ("L3H3", True)
W7 | other = boot(); other.tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_DIRECTORY);
     other.to_tokens(TEXT) == tokens
A1 | cache.decompose_resid(apply_ln=True).sum(0) @ model.W_U + model.b_U == logits
A1 | raw_cache.decompose_resid(apply_ln=True).sum(0) @ raw.W_U + raw.b_U != raw_logits
A2 | cache.accumulated_resid(apply_ln=True)[-1] @ model.W_U + model.b_U == logits
A3 | heads = hooked(model, tokens)[1].stack_head_results(layer=-1);
     heads[4:8].sum(0) + model.b_O[1] == cache[ATTN_OUT]
A4 | cache.logit_attrs(parts, " Paris", " Rome").sum(0) + model.b_U[paris] - model.b_U[rome]
     == logits[..., paris] - logits[..., rome]
P1 | patch = (MID, in_place(clean[MID][:, 2], 2));
     grid[1, 2] == last_diff(hooked(model, corrupted, patch)[0])
P2 | transformer_lens.utilities.get_act_name("pattern", 3) == "blocks.3.attn.hook_pattern"
P2 | hasattr(transformer_lens, "NAME") == True | ActivationCache FactoredMatrix HookedRootModule
P3 | from transformer_lens import evals; text = evals.sanity_check(lambda text, return_type: text);
     ids = model.to_tokens(text);
     evals.sanity_check(model) == torch.nn.functional.cross_entropy(model(ids)[0, :-1], ids[0, 1:])
P3 | transformer_lens.utilities.test_prompt(TEXT, "Paris", model) == None
P4 | native()(COUNTING) == native()(COUNTING)
P5 | native(NAME)(COUNTING) == native()(COUNTING) | use_attn_scale=False parallel_attn_mlp=True
     use_local_attn=True,window_size=2,attn_types=["local","local"] use_qk_norm=True
     scale_attn_by_inverse_layer_idx=True dtype=torch.float64
P5 | _, mine = native().run_with_cache(COUNTING); mine["attn_scores", 1] == mine["pattern", 1]
P5 | double = TransformerBridge.boot_native(TransformerBridgeConfig(**SMALL), dtype=torch.float64);
     double(COUNTING).dtype == torch.float64
P6 | 2 * trained(native())(COUNTING, "loss") < native()(COUNTING, "loss") == True
"""


def boot(name=str(EMBEDDED_DIRECTORY), network=None, **options):
    """The embedded model with its weights as stored: the loading call and nothing else."""
    if network:
        tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_DIRECTORY)
        options |= {"hf_model": network, "tokenizer": tokenizer}
    return TransformerBridge.boot_transformers(name, **{"device": "cpu"} | options)


def compat(**options):
    """The two lines that replace `HookedTransformer.from_pretrained`."""
    bridge = boot()
    bridge.enable_compatibility_mode(**options)
    return bridge


def native(**options):
    """A small model from scratch; the same `seed` gives the same weights."""
    return TransformerBridge.boot_native(TransformerBridgeConfig(**SMALL | options))


def network():
    return GPT2LMHeadModel.from_pretrained(EMBEDDED_DIRECTORY).eval()


def trained(model):
    config = TrainConfig(num_epochs=1, batch_size=8, lr=1e-2, device="cpu", print_every=None)
    with torch.enable_grad():
        return train(model, config, [{"tokens": COUNTING[0]}] * 64)


def greedy(model, tokens, **options):
    settings = {"max_new_tokens": 3, "do_sample": False, "stop_at_eos": False, "verbose": False}
    return model.generate(tokens, **settings | options)


def during(model, tokens, hook, **options):
    with model.hooks(fwd_hooks=[hook]):
        return greedy(model, tokens, **options)


def hooked(model, tokens, *hooks):
    with model.hooks(fwd_hooks=list(hooks)):
        return model.run_with_cache(tokens)


def with_flag(flag, *hooks):
    getattr(mine := compat(), flag)(True)
    return hooked(mine, mine.to_tokens(TEXT), *hooks)[1]


def cached(model, names_filter):
    return set(model.run_with_cache(model.to_tokens(TEXT), names_filter=names_filter)[1])


def backward(model, tokens):
    with torch.enable_grad():
        return model.run_with_cache(tokens, incl_bwd=True, return_type="loss")[1]


def slope(model, tokens, push):
    """Of the loss, when the stream before the MLP is pushed: a finite difference."""
    loss = []
    for step in (1e-5, -1e-5):
        with model.hooks([(MID, lambda value, hook, step=step: value.add_(step * push))]):
            loss.append(model(tokens, "loss"))
    return (loss[0] - loss[1]) / 2e-5


def returned(new):
    return lambda value, hook: torch.zeros_like(value) + new


def in_place(new, *index):
    def edit(value, hook):
        value[(slice(None), *index)] = new

    return edit


@pytest.fixture(scope="module")
def names(model, pair, random_model, random_pair):
    """This module's names, the models, and one run of each."""
    raw, plain, ours = boot().requires_grad_(False), network(), helpers.models
    tokens, padded = model.to_tokens(TEXT), model.to_tokens([SHORT, TEXT], padding_side="left")
    mask = torch.ones_like(padded)
    mask[0, : padded.shape[1] - model.to_tokens(SHORT).shape[1]] = 0
    alone, long = model(SHORT)[0, -1], "a " * 2 * model.cfg.n_ctx
    (logits, cache), (raw_logits, raw_cache) = (m.run_with_cache(tokens) for m in (model, raw))
    parts, (paris, rome) = cache.decompose_resid(), map(model.to_single_token, (" Paris", " Rome"))
    clean, corrupted = pair.clean_cache, pair.tokens.corrupted
    last_diff = lambda logits: pair.tokens.logit_diff(logits).mean()  # noqa: E731
    grid = patching.get_act_patch_resid_mid(model, corrupted, clean, last_diff)
    past = transformer_lens.TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", 1)
    model(tokens[:, :-1], past_kv_cache=past)
    double, ids = random_model, random_pair.tokens.clean
    grad = backward(double, ids)
    push = torch.randn(grad[MID].shape, generator=torch.Generator().manual_seed(0)).double()
    # What `HookedTransformer.state_dict()` wrote, with its names.
    old = {name: value.detach().clone() for name, value in raw.tl_named_parameters()}
    sizes = {name: getattr(raw.cfg, name) for name in SMALL.keys() - {"seed"}}
    old_shape = TransformerBridgeConfig(**sizes)
    return globals() | locals()


def lines(table: str) -> list:
    """A line for each name that is put in; those that begin with spaces continue the one above."""
    rows = []
    for row in table.strip().replace("\n     ", " ").splitlines():
        head, *rest = row.split(" | ")
        pieces = 1 if table == QUIET else 2
        for name in rest[pieces].split() if len(rest) > pieces else ["NAME"]:
            given = [text.replace("NAME", name) for text in rest[:pieces]]
            rows.append(pytest.param(*given, id=f"{head}: {given[-1]}"))
    return rows


@pytest.mark.parametrize(("error", "code"), lines(LOUD))
def test_loud(names, error, code):
    kind, _, words = error.partition(": ")
    expected = pytest.warns if kind.endswith("Warning") else pytest.raises
    with expected(getattr(builtins, kind), match=words or None):
        exec(code, dict(names))


@pytest.mark.parametrize("code", lines(QUIET))
def test_quiet(names, code):
    *steps, comparison = code.split("; ")
    names = dict(names)
    exec("\n".join(steps), names)
    sign = " == " if " == " in comparison else " != "
    one, other = (eval(side, names) for side in comparison.split(sign))
    if isinstance(one, torch.Tensor):
        one, other = one.float(), torch.as_tensor(other).float()
        assert one.shape == other.shape
        gap = (one - other).abs().max().item()
        assert gap < 1e-4 if sign == " == " else gap > 1e-3
    else:
        assert (one == other) == (sign == " == ")


def test_L5_L6_what_the_log_says(caplog):
    compat().enable_compatibility_mode()
    assert "already applied" in caplog.text
    for name, deprecated in (("gpt2", False), ("gpt2-small", True)):
        caplog.clear()
        assert boot(name, network()).cfg.model_name == "gpt2"
        assert ("DEPRECATED" in caplog.text) == deprecated


def test_the_page_says_what_is_tested():
    """Every row has a test, and each names the errors that its lines raise, and no other."""
    text = PAGE.read_text("utf-8")
    rows = {
        name: cells.split(" | ") for name, cells in re.findall(r"^\| (\w\d) \|(.*)\|$", text, re.M)
    }
    raised = {name: set() for name in rows}
    for name, error in re.findall(r"^(\w\d) \| (\w+)", LOUD, re.M):
        raised[name].add(error)
    quiet = set(re.findall(r"^(\w\d) \|", QUIET, re.M)) | {"L6", "H7"}
    assert quiet | {name for name in rows if raised[name]} == rows.keys() and len(rows) >= 43
    for name, (_, happens, kind, _) in rows.items():
        assert re.fullmatch(r"(loud|silent|same)(, (loud|silent))*", kind), name
        assert set(re.findall(r"`(\w+(?:Error|Warning))`", happens)) == raised[name], name
        assert ("loud" in kind) == bool(raised[name]), name


def test_the_code_on_the_page_runs():
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S):
        exec(code.replace('"gpt2"', repr(str(EMBEDDED_DIRECTORY))), {})
