"""Bad input: every argument of every helper, spoilt in every way, is refused by its name.

Nothing else is allowed: no other exception, no result. The messages are those that readers see, so
the run-time checks of shapes are off.
"""

import inspect
import math

import numpy as np
import pytest
import torch
from families import run_pair
from torch.testing import assert_close
from transformer_lens import ActivationCache

from helpers import ablation, attribution, induction, metrics, models, patching, prompts
from helpers import steering as steer

pytestmark = pytest.mark.usefixtures("readers")


def entry(x, value):
    """A copy with another last entry."""
    copy = x.clone()
    copy.view(-1)[-1] = value
    return copy


def instead(*values) -> dict:
    return {str(value): lambda x, value=value: value for value in values}


def padded(*sides):
    return lambda x: torch.nn.functional.pad(x, sides)


WAYS = {  # of spoiling a tensor
    "meta": lambda x: x.to("meta"),
    "list": lambda x: x.tolist(),
    "no_rows": lambda x: x[:0],
    "last_axis_empty": lambda x: x[..., :0],
    "an_axis_more": lambda x: x[None],
    "an_axis_less": lambda x: x[0],
    "NaN": lambda x: entry(x, torch.nan),
    "infinite": lambda x: entry(x, -torch.inf),
    "integers": lambda x: x.long(),
    "complex": lambda x: x.to(torch.complex64),
    "8_bits": lambda x: x.to(torch.float8_e4m3fn),
    "array": lambda x: x.double().numpy(),
    "negative": lambda x: entry(x, -1),
    "beyond": lambda x: entry(x, 10**6),
    "floats": lambda x: x.float(),
    "bool": lambda x: x > 0,
    "two_prompts": lambda x: x.repeat(2, 1),
    "padded_after": padded(0, 1),
    "padded_before": padded(2, 0),
    "a_row_of_padding": lambda x: x & False,
    "shorter": lambda x: x[:, 1:],
    "longer": lambda x: torch.cat([x, x], 1),
    "two_rows": lambda x: x.repeat(2, *[1] * (x.ndim - 1)),
    "wider": lambda x: torch.cat([x, x], -1),
}


def ways(names: str) -> dict:
    return {name: WAYS[name] for name in names.split()}


SHAPES = "no_rows last_axis_empty an_axis_more an_axis_less "
FLOATS = ways("meta list NaN infinite integers complex 8_bits array")
ARRAYS = FLOATS | ways(SHAPES)
IDS = instead(None) | ways("meta list negative beyond floats bool " + SHAPES)
ONE_PROMPT = IDS | ways("two_prompts padded_after padded_before")
MASK = ways("meta a_row_of_padding floats shorter")
INT = instead(None, "1", 2.0, True, -1, 2**64)
NUMBER = instead(None, "1", [1.0], 1j, math.nan, math.inf, 10**400)
TEXT = instead(None, 3, [" The", 3], "", " \n", "\ud800")
TEXT |= {"BOS": lambda x: "<s>" + x, "too long": lambda x: x * 40}
METRIC = {  # what a metric gives instead of a number for each row
    "one number": lambda _: lambda logits: logits[:, -1, 0].mean(),
    "a float": lambda _: lambda logits: 1.0,
    "two numbers a row": lambda _: lambda logits: logits[:, -1, :2],
    "NaN": lambda _: lambda logits: logits[:, -1, 0] * math.nan,
    "truth values": lambda _: lambda logits: logits[:, -1, 0] > 0,
    "complex": lambda _: lambda logits: logits[:, -1, 0].to(torch.complex64),
}


def cache_with(name: str, more: str = "") -> dict:
    """Ways to spoil one activation of a cache, or to leave it out."""

    def changed(how):
        return lambda cache: ActivationCache({**cache, name: how(cache[name])}, cache.model)

    def without(cache):
        return ActivationCache({k: x for k, x in cache.items() if k != name}, cache.model)

    spoilt = ways("NaN infinite meta integers complex wider " + more)
    return {"missing": without} | {way: changed(how) for way, how in spoilt.items()}


RESID, MLP = "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out"
Z, POST = "blocks.1.attn.hook_z", "blocks.1.mlp.hook_post"


def steered(model, vector, layer, coefficient):
    with steer.steer(model, vector, layer, coefficient):
        return model(torch.tensor([[0, 5, 6]]))


def ablated(model, heads, values):
    with ablation.ablate(model, heads, values):
        return model(torch.tensor([[0, 5, 6]]))


def pair_tokens(model, clean, corrupted, answer, distractor):
    return prompts.PromptPair(clean, corrupted, answer, distractor).tokens(model)


HELPERS = [
    metrics.logit_diff, metrics.next_token_log_probs, metrics.kl_divergence,
    metrics.entropy, metrics.normalise, induction.repeated_tokens, induction.induction_scores,
    induction.duplicate_token_scores, induction.previous_token_scores, patching.patch_residual,
    patching.patch_blocks, patching.patch_heads, patching.patch_head_positions,
    patching.attribution_patch, attribution.attribute_logit_diff, attribution.attribute_neurons,
    steer.steering_vector, steered, ablation.ablate_each, ablated, pair_tokens,
]  # fmt: skip
SPOILT = {  # the ways to spoil an argument of this name
    **dict.fromkeys(("logits", "pattern"), ARRAYS),
    **dict.fromkeys(("answer", "distractor"), IDS),
    **dict.fromkeys(("tokens", "corrupted_tokens"), ONE_PROMPT),
    **dict.fromkeys(("n", "batch", "seed", "layer"), INT),
    **dict.fromkeys(("clean", "corrupted", "coefficient"), NUMBER),
    **dict.fromkeys(("positive", "negative"), TEXT),
    "other": FLOATS,
    "mask": MASK,
    "metric": METRIC,
    "clean_cache": cache_with(Z, "longer two_rows"),
    "vector": ways(SHAPES + "meta list NaN infinite complex array"),
    "values": NUMBER | instead("mean", torch.ones(3, 4, 6) / 0, torch.zeros(3, 2, 6)),
}
OWN = {  # and what is so of one helper alone
    **{(helper, "logits"): FLOATS for helper in (metrics.kl_divergence, metrics.entropy)},
    **{(pair_tokens, name): TEXT for name in ("clean", "corrupted", "answer", "distractor")},
    (metrics.next_token_log_probs, "tokens"): IDS,
    # The sum of what is left would quietly be another number than the logit difference.
    (attribution.attribute_logit_diff, "cache"): cache_with(Z)
    | {
        f"without {part}": cache_with(part)["missing"]
        for part in (MLP, "hook_embed", "hook_pos_embed", "blocks.2.hook_resid_post")
    },
    (attribution.attribute_neurons, "cache"): cache_with(POST),
    (patching.patch_residual, "clean_cache"): cache_with(RESID, "longer two_rows"),
    (patching.patch_blocks, "clean_cache"): cache_with(MLP, "longer two_rows"),
    (patching.attribution_patch, "clean_cache"): cache_with(RESID, "longer two_rows"),
}
CASES = [
    pytest.param(helper, argument, change, id=f"{helper.__name__}-{argument}-{how}")
    for helper in HELPERS
    for argument in inspect.signature(helper).parameters
    for how, change in OWN.get((helper, argument), SPOILT.get(argument, {})).items()
]


@pytest.fixture(scope="module")
def good(random_model):
    """Of each helper: arguments that it takes."""
    clean, corrupted = torch.randint(2, 60, (2, 1, 5), generator=torch.Generator().manual_seed(0))
    answer, distractor = torch.tensor([5]), torch.tensor([6])
    pair = run_pair(random_model, prompts.PairTokens(clean, corrupted, answer, distractor))
    logits, cache = pair.clean_logits, pair.clean_cache
    named = {"model": random_model, "n": 2, "batch": 2, "seed": 0, "layer": 1}
    named |= {"answer": answer, "distractor": distractor, "tokens": clean, "logits": logits}
    named |= {"other": logits, "value": logits, "mask": torch.ones(1, 5).bool()}
    named |= {"cache": cache, "clean_cache": cache, "pattern": cache["pattern", 1]}
    named |= {"corrupted_tokens": corrupted, "metric": pair.tokens.logit_diff}
    named |= {"positive": " The cat", "negative": " The dog", "clean": 1.0, "corrupted": 0.0}
    named |= {"vector": torch.ones(24).double(), "coefficient": 2, "heads": [(0, 1)], "values": 0.0}
    words = {"clean": " The cat", "corrupted": " The dog", "answer": " on", "distractor": " ran"}
    takes = {helper: inspect.signature(helper).parameters for helper in HELPERS}
    made = {helper: {k: named[k] for k in takes[helper] if k in named} for helper in HELPERS}
    made[pair_tokens] |= words
    for helper, arguments in made.items():
        helper(**arguments)  # they are good
    return made


def refused(call, *names) -> None:
    """The call ends in a TypeError or ValueError that has these names."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    message = str(caught.value)
    assert all(str(name) in message for name in names), message


@pytest.mark.parametrize(("helper", "argument", "change"), CASES)
def test_a_spoilt_argument_is_refused_by_its_name(good, hooks_in_place, helper, argument, change):
    arguments = dict(good[helper])
    arguments[argument] = change(arguments[argument])
    refused(lambda: helper(**arguments), "cache" if "cache" in argument else argument)
    if "model" in arguments:
        assert hooks_in_place(arguments["model"]) == []


def test_what_does_not_fit_together_is_refused(good):
    model, logits, pattern = good[steered]["model"], torch.randn(2, 6, 64), torch.ones(1, 1, 5, 5)
    one, two, zeros = torch.tensor([5]), torch.tensor([5, 6]), torch.zeros(2, 6).long()
    entropy = metrics.entropy
    for words, function, *arguments in (
        (["answer", "'batch' should have 2"], metrics.logit_diff, logits, one, two),
        (["'pos'", 6], metrics.next_token_log_probs, logits, zeros[:, :5]),
        (["next"], metrics.next_token_log_probs, logits[:, :1], zeros[:, :1]),
        (["(2, 6, 64), other (6, 64)"], metrics.kl_divergence, logits, logits[0]),
        (["changes the answer"], metrics.normalise, logits, 1.0, 1.0 + 1e-7),
        (["clean"], metrics.normalise, logits, two, 1.0),
        (["tokens"], metrics.LastToken, entropy, [5]),
        (["tokens"], metrics.LastToken, entropy, one[None]),
        (["id 64"], metrics.LastToken(entropy, torch.tensor([64])), logits),
        (["5 positions", "2n + 1 = 7"], induction.induction_scores, pattern, 3),
        (["n 1", "2 to"], induction.duplicate_token_scores, torch.ones(1, 1, 3, 3), 1),
        (["as many queries as keys"], induction.induction_scores, pattern[..., :-1], 2),
        (["3 tokens or more"], induction.previous_token_scores, torch.ones(1, 1, 2, 2)),
        (["n 16", "2 to 15"], induction.repeated_tokens, model, 16, 1, 0),
        (["the vector is zero"], steer.steering_vector, model, " The cat", " The cat", 1),
        (["positive", "got none"], steer.steering_vector, model, [], " The cat", 1),
        (["texts", "list"], prompts.tokenize_batch, model, " The cat"),
        (["texts", "got none"], prompts.tokenize_batch, model, []),
        (["layer 3 is out of range", "0 to 2"], ablated, model, [(3, 0)], 0.0),
        (["head -1 is out of range"], ablated, model, [(0, -1)], 0.0),
        (["head: expected an int"], ablated, model, [(0, 1.0)], 0.0),
        (["heads: expected at least one"], ablated, model, [], 0.0),
        (["heads: expected a list of ints, (layer, head)", 3.0], ablated, model, [3.0], 0.0),
        (["heads: expected 2", [0, 1, 2]], ablated, model, [(0, 1, 2)], 0.0),
        (["heads: expected a list", "0.1"], ablated, model, "0.1", 0.0),
        (["positions", "got none"], ablation.ablate_each, model, 1 + zeros[:1], entropy, 0.0, []),
        (["pairs: expected a list of PromptPair"], prompts.aligned, [" The cat"], model),
        (["hook_z' is not in it"], ablated, model, [(0, 1)], {}),
        (["positions 9 is out"], ablation.ablate_each, model, 1 + zeros[:1], entropy, 0.0, [9]),
        (["expected one of residual"], patching.grid, model, one[None], "neurons"),
    ):
        refused(lambda f=function, a=arguments: f(*a), *words)


def test_numpys_integers_are_ints(good):
    for helper in (steer.steering_vector, attribution.attribute_neurons, induction.repeated_tokens):
        kinds = {name: np.uint8(x) for name, x in good[helper].items() if type(x) is int}
        assert kinds
        assert_close(helper(**good[helper] | kinds), helper(**good[helper]))
    model = good[ablated]["model"]
    assert_close(ablated(model, np.array([[0, 1]]), 0), ablated(model, [(0, 1)], 0))


def test_a_sweep_refuses_what_only_the_sparse_engine_reads(good):
    """It reads the logits of these ids only: -1 would quietly be the last token."""
    metric = metrics.LastToken(lambda logits: logits[:, 0], torch.tensor([-1]))
    call = good[patching.patch_heads]
    refused(lambda: patching.patch_heads(**call | {"metric": metric}), "token id -1")
    refused(lambda: patching.patch_heads(**call | {"metric": "logit_diff"}), "metric: expected")
    refused(lambda: patching.patch_heads(**call, max_bytes=1e9), "max_bytes: expected an int")


def test_a_cache_says_how_to_make_it_again(good, pair, random_model):
    """Of another model, without its batch axis, of a part of the model, of another length."""
    tokens = good[patching.patch_heads]["corrupted_tokens"]
    _, flat = random_model.run_with_cache(tokens, remove_batch_dim=True)
    _, part = random_model.run_with_cache(tokens, names_filter="blocks.1.hook_mlp_out")
    wrong = {"shape": pair.clean_cache, "remove_batch_dim": flat, "without names_filter": part}
    for words, cache in wrong.items():
        for helper, name in (
            (patching.patch_residual, "clean_cache"),
            (patching.attribution_patch, "clean_cache"),
            (attribution.attribute_logit_diff, "cache"),
        ):
            refused(lambda h=helper, c=good[helper] | {name: cache}: h(**c), "cache", words)
    call = good[ablated] | {"values": good[patching.patch_heads]["clean_cache"]}
    refused(lambda: ablated(**call), "expected (1, 3, 4, 6)")


def test_loading_refuses_bad_names_devices_and_dtypes():
    for argument, bad in {
        "device": ("banana", "cuda:99", "", 0, b"cpu"),
        "dtype": (torch.int64, np.float32, "float32"),
        "name": (3, "", b"gpt2"),
    }.items():
        for value in bad:
            refused(lambda a=argument, v=value: models.load_model(**{a: v}), argument)
    refused(lambda: models.load_model(device="cpu", device_map="auto"), "'cpu'", "device_map")
