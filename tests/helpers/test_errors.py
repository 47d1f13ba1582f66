"""Bad input: every argument of every helper, spoilt in every way, is refused by its name.

Nothing else is allowed: no other exception, no result. The messages are those that readers see, so
the run-time checks of shapes are off.
"""

import math

import numpy as np
import pytest
import torch
from families import run_pair
from transformer_lens import ActivationCache

from helpers import ablation, attribution, induction, metrics, models, patching, plots, prompts
from helpers import steering as steer

pytestmark = pytest.mark.usefixtures("readers")


def entry(x, value):
    """A copy with another last entry."""
    copy = x.clone()
    copy.view(-1)[-1] = value
    return copy


def padded(*sides):
    return lambda x: torch.nn.functional.pad(x, sides)


WAYS = {  # of spoiling a tensor
    "meta": lambda x: x.to("meta"),
    "list": lambda x: x.tolist(),
    "None": lambda x: None,
    "no_rows": lambda x: x[:0],
    "last_axis_empty": lambda x: x[..., :0],
    "an_axis_more": lambda x: x[None],
    "an_axis_less": lambda x: x[0],
    "NaN": lambda x: entry(x, torch.nan),
    "infinite": lambda x: entry(x, -torch.inf),
    "bool": lambda x: x > 0,
    "integers": lambda x: x.long(),
    "complex": lambda x: x.to(torch.complex64),
    "8_bits": lambda x: x.to(torch.float8_e4m3fn),
    "array": lambda x: x.double().numpy(),
    "negative": lambda x: entry(x, -1),
    "beyond": lambda x: entry(x, 10**6),
    "floats": lambda x: x.float(),
    "16_bits": lambda x: x.to(torch.int16),
    "two_prompts": lambda x: x.repeat(2, 1),
    "padded_after": padded(0, 1),
    "padded_before": padded(2, 0),
    "a_row_of_padding": lambda x: x * torch.tensor([[True], [False]]),
    "shorter": lambda x: x[:, 1:],
    "longer": lambda x: torch.cat([x, x], 1),
    "two_rows": lambda x: x.repeat(2, *[1] * (x.ndim - 1)),
    "wider": lambda x: torch.cat([x, x], -1),
}


def ways(names: str) -> dict:
    return {name: WAYS[name] for name in names.split()}


NOTHING = "meta list None "
SHAPES = "no_rows last_axis_empty an_axis_more an_axis_less "
FLOATS = ways(NOTHING + "NaN infinite bool integers complex 8_bits array")
ARRAYS = FLOATS | ways(SHAPES)
IDS = ways(NOTHING + SHAPES + "negative beyond floats bool 16_bits")
ONE_PROMPT = IDS | ways("two_prompts padded_after padded_before")
MASK = ways("meta list " + SHAPES + "a_row_of_padding floats shorter")
INT = {str(v): lambda x, v=v: v for v in (None, "1", 2.0, True, -1, 2**64)}
NUMBER = {str(v): lambda x, v=v: v for v in (None, "1", [1.0], 1j, math.nan, math.inf, 10**400)}
NUMBER["two"] = lambda x: torch.tensor([x, x])
TEXT = {str(v): lambda x, v=v: v for v in (None, 3, [" The", 3], "", " \n", "\ud800")}
TEXT |= {"BOS": lambda x: "<s>" + x, "too long": lambda x: x * 40}
METRIC = {
    "one number": lambda _: lambda logits: logits[:, -1, 0].mean(),
    "a float": lambda _: lambda logits: 1.0,
    "nothing": lambda _: lambda logits: None,
    "two numbers a row": lambda _: lambda logits: logits[:, -1, :2],
    "NaN": lambda _: lambda logits: logits[:, -1, 0] * math.nan,
    "truth values": lambda _: lambda logits: logits[:, -1, 0] > 0,
    "complex": lambda _: lambda logits: logits[:, -1, 0].to(torch.complex64),
    "meta": lambda _: lambda logits: logits[:, -1, 0].to("meta"),
}


def cache_with(name: str, more: str = ""):
    """Ways to spoil one activation of a cache."""

    def changed(how):
        def change(cache):
            rest = {key: value for key, value in cache.items() if key != name}
            rest = rest if how is None else rest | {name: how(cache[name])}
            return ActivationCache(rest, cache.model)

        return change

    spoil = {"missing": None} | ways("NaN infinite meta integers complex wider " + more)
    return {way: changed(how) for way, how in spoil.items()}


RESID, Z, POST = "blocks.1.hook_resid_pre", "blocks.1.attn.hook_z", "blocks.1.mlp.hook_post"


def steered(model, vector, layer, coefficient):
    with steer.steer(model, vector, layer, coefficient):
        return model(torch.tensor([[0, 5, 6]]))


def pair_tokens(model, **fields):
    return prompts.PromptPair(**fields).tokens(model)


def sweep(name: str) -> dict:
    cache = cache_with(name, "longer two_rows")
    return {"corrupted_tokens": ONE_PROMPT, "metric": METRIC, "clean_cache": cache}


LOGITS, ROWS = {"logits": ARRAYS}, {"answer": IDS, "distractor": IDS}
HELPERS = {  # each helper, and the ways to spoil each of its arguments
    metrics.logit_diff: LOGITS | ROWS | {"mask": MASK},
    metrics.answer_rank: LOGITS | {"answer": IDS, "mask": MASK},
    metrics.next_token_log_probs: LOGITS | {"tokens": IDS, "mask": MASK},
    metrics.kl_divergence: {"logits": FLOATS, "other": FLOATS},
    metrics.entropy: {"logits": FLOATS},
    metrics.normalise: {"clean": NUMBER, "corrupted": NUMBER},
    induction.repeated_tokens: {"n": INT, "batch": INT, "seed": INT},
    induction.induction_scores: {"pattern": ARRAYS, "n": INT},
    induction.duplicate_token_scores: {"pattern": ARRAYS, "n": INT},
    induction.previous_token_scores: {"pattern": ARRAYS, "mask": MASK},
    patching.patch_residual: sweep(RESID),
    patching.patch_blocks: sweep("blocks.1.hook_mlp_out"),
    patching.patch_heads: sweep(Z),
    patching.patch_head_positions: sweep(Z),
    patching.attribution_patch: sweep(RESID),
    attribution.attribute_logit_diff: {"cache": cache_with(Z), **ROWS},
    attribution.attribute_neurons: {"cache": cache_with(POST), "layer": INT, **ROWS},
    steer.steering_vector: {"positive": TEXT, "negative": TEXT, "layer": INT},
    steered: {"vector": ARRAYS, "layer": INT, "coefficient": NUMBER},
    ablation.ablate_each: {"tokens": ONE_PROMPT, "values": NUMBER | ways(SHAPES)},
    pair_tokens: {"clean": TEXT, "corrupted": TEXT, "answer": TEXT, "distractor": TEXT},
}
NOT_SPOILT = {  # what is right after all
    (ablation.ablate_each, "values", "two"), (steered, "vector", "integers"),
    (steered, "vector", "bool"), (steered, "vector", "8_bits"), (steered, "coefficient", "two"),
}  # fmt: skip
CASES = [
    pytest.param(helper, argument, change, id=f"{helper.__name__}-{argument}-{how}")
    for helper, arguments in HELPERS.items()
    for argument, ways in arguments.items()
    for how, change in ways.items()
    if (helper, argument, how) not in NOT_SPOILT
]


@pytest.fixture(scope="module")
def good(random_model):
    """Arguments that every helper takes."""
    clean, corrupted = torch.randint(2, 60, (2, 1, 6), generator=torch.Generator().manual_seed(0))
    one, other = torch.tensor([5]), torch.tensor([6])
    pair = run_pair(random_model, prompts.PairTokens(clean, corrupted, one, other))
    logits, ids, mask = torch.randn(2, 6, 64), torch.randint(2, 60, (2, 6)), torch.ones(2, 6).bool()
    of_logits, pattern = (
        {"logits": logits, "mask": mask},
        {"pattern": torch.full((2, 3, 5, 5), 0.2)},
    )
    on = {"model": random_model}
    run = on | {"cache": pair.clean_cache, "answer": one, "distractor": other}
    swept = on | {"corrupted_tokens": corrupted, "clean_cache": pair.clean_cache}
    swept["metric"] = pair.tokens.logit_diff
    words = {"clean": " The cat sat", "corrupted": " The dog sat", "answer": " on"}
    return {
        metrics.logit_diff: of_logits | {"answer": ids[:, 0], "distractor": ids[:, 1]},
        metrics.answer_rank: of_logits | {"answer": ids[:, 0]},
        metrics.next_token_log_probs: of_logits | {"tokens": ids},
        metrics.kl_divergence: {"logits": logits, "other": logits},
        metrics.entropy: {"logits": logits},
        metrics.normalise: {"value": logits, "clean": 1.0, "corrupted": 0.0},
        induction.repeated_tokens: on | {"n": 3, "batch": 2, "seed": 0},
        induction.induction_scores: pattern | {"n": 2},
        induction.duplicate_token_scores: pattern | {"n": 2},
        induction.previous_token_scores: pattern | {"mask": mask[:, :5]},
        **{helper: swept for helper in HELPERS if helper.__module__ == patching.__name__},
        attribution.attribute_logit_diff: run,
        attribution.attribute_neurons: run | {"layer": 1},
        steer.steering_vector: on | {"positive": " The cat", "negative": " The dog", "layer": 1},
        steered: on | {"vector": torch.ones(24).double(), "layer": 1, "coefficient": 2},
        ablation.ablate_each: on
        | {"tokens": clean, "metric": pair.tokens.logit_diff, "values": torch.ones(3, 4, 6)},
        pair_tokens: on | words | {"distractor": " ran"},
    }


def test_what_is_called_good_is_taken(good):
    assert good.keys() == HELPERS.keys()
    for helper, arguments in good.items():
        helper(**arguments)


def refused(call, *names) -> None:
    """The call ends in a TypeError or ValueError that has these names."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    message = str(caught.value)
    assert all(str(name) in message for name in names), message


@pytest.mark.parametrize(("helper", "argument", "change"), CASES)
def test_a_spoilt_argument_is_refused_by_its_name(good, hooks_in_place, helper, argument, change):
    arguments = dict(good[helper])
    value = arguments[argument]
    if helper is ablation.ablate_each and argument == "values" and change in NUMBER.values():
        value = 1.0
    arguments[argument] = change(value)
    refused(lambda: helper(**arguments), "cache" if "cache" in argument else argument)
    if "model" in arguments:
        assert hooks_in_place(arguments["model"]) == []


def test_what_does_not_fit_together_is_refused(good):
    logits = good[metrics.logit_diff]["logits"]
    pattern = good[induction.induction_scores]["pattern"]
    model = good[induction.repeated_tokens]["model"]
    entropy = metrics.entropy
    one, zeros = torch.tensor([5]), torch.zeros(2, 6).long()
    for words, function, *arguments in (
        (
            ["answer", "'batch' should have 2"],
            metrics.logit_diff,
            logits,
            one,
            torch.tensor([5, 6]),
        ),
        (["'pos'", 6], metrics.next_token_log_probs, logits, zeros[:, :5]),
        (["next"], metrics.next_token_log_probs, logits[:, :1], zeros[:, :1]),
        (["(2, 6, 64) and other (6, 64)"], metrics.kl_divergence, logits, logits[0]),
        (["changes the answer"], metrics.normalise, logits, 1.0, 1.0 + 1e-7),
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
        (["expected one of residual"], patching.grid, model, one[None], "neurons"),
    ):
        refused(lambda f=function, a=arguments: f(*a), *words)


def test_a_cache_says_how_to_make_it_again(good, pair, random_model):
    """Of another model, without its batch axis, or of a part of the model."""
    tokens = good[patching.patch_heads]["corrupted_tokens"]
    _, flat = random_model.run_with_cache(tokens, remove_batch_dim=True)
    _, part = random_model.run_with_cache(tokens, names_filter="blocks.1.hook_mlp_out")
    wrong = {"shape": pair.clean_cache, "remove_batch_dim": flat, "without names_filter": part}
    for words, cache in wrong.items():
        for helper in (patching.patch_residual, patching.attribution_patch):
            call = good[helper] | {"clean_cache": cache}
            refused(lambda h=helper, c=call: h(**c), "cache", words)
        call = good[attribution.attribute_logit_diff] | {"cache": cache}
        refused(lambda c=call: attribution.attribute_logit_diff(**c), "cache", words)


@pytest.mark.parametrize("lost", ["blocks.0.attn.hook_z", "blocks.1.hook_mlp_out", "hook_embed",
                                  "hook_pos_embed", "blocks.2.hook_resid_post"])  # fmt: skip
def test_a_missing_part_is_never_taken_for_0(good, lost):
    """The sum would quietly be another number than the model's logit difference."""
    arguments = dict(good[attribution.attribute_logit_diff])
    rest = {key: value for key, value in arguments["cache"].items() if key != lost}
    arguments["cache"] = ActivationCache(rest, arguments["model"])
    refused(lambda: attribution.attribute_logit_diff(**arguments), "cache")


# Figures and loading

SAYS = {"title": "t", "xlabel": "x", "ylabel": "y"}
NO_ARRAY = {
    "meta": torch.ones(2, 2, device="meta"),
    "text": "text",
    "None": None,
    "ragged": [[1.0], [1.0, 2.0]],
    "words": ["a", "b"],
}


@pytest.mark.parametrize("bad", NO_ARRAY.values(), ids=NO_ARRAY)
def test_figures_refuse_what_is_no_array(bad):
    two = ["a", "b"]
    refused(lambda: plots.heatmap(bad, x=two, y=two, unit="u", **SAYS), "values")
    refused(lambda: plots.lines({"name": bad}, **SAYS), "name")
    refused(lambda: plots.bars(bad, two, **SAYS), "values")
    refused(lambda: plots.scatter(bad, [1, 2], **SAYS), "x")
    refused(lambda: plots.scatter([1, 2], bad, **SAYS), "y")
    refused(lambda: plots.attention(bad, two, heads=["h"]), "pattern")


def test_loading_refuses_bad_names_devices_and_dtypes():
    for name in ("", "a b", "é", "x" * 300):
        with pytest.raises((FileNotFoundError, ValueError, OSError), match="nowhere"):
            models.load_model(f"/nowhere/{name}")
    for argument, bad in {
        "device": ("banana", "cuda:99", "tpu?", "", 0, 1.5, b"cpu"),
        "dtype": (torch.int64, np.float32, "float32"),
        "name": (3, "", b"gpt2"),
    }.items():
        for value in bad:
            refused(lambda a=argument, v=value: models.load_model(**{a: v}), argument)
    refused(
        lambda: models.load_model(device="cpu", device_map="auto"), "device 'cpu'", "device_map"
    )
