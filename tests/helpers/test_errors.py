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

from helpers import (
    ablation,
    attribution,
    induction,
    lens,
    metrics,
    models,
    patching,
    plots,
    prompts,
    steering,
)

pytestmark = pytest.mark.usefixtures("readers")


def entry(x, value):
    """A copy with another last entry."""
    copy = x.clone()
    copy.view(-1)[-1] = value
    return copy


NUMBERS = {  # ways to spoil a tensor of numbers
    "NaN": lambda x: entry(x, torch.nan),
    "infinite": lambda x: entry(x, -torch.inf),
    "meta": lambda x: x.to("meta"),
    "bool": lambda x: x > 0,
    "integers": lambda x: x.long(),
    "complex": lambda x: x.to(torch.complex64),
    "8 bits": lambda x: x.to(torch.float8_e4m3fn),
    "array": lambda x: x.double().numpy(),
    "list": lambda x: x.tolist(),
    "None": lambda x: None,
    "text": lambda x: "text",
}
SHAPES = {
    "no rows": lambda x: x[:0],
    "last axis empty": lambda x: x[..., :0],
    "an axis more": lambda x: x[None],
    "an axis less": lambda x: x[0],
}
IDS = SHAPES | {
    "negative": lambda x: entry(x, -1),
    "beyond the vocabulary": lambda x: entry(x, 10**6),
    "floats": lambda x: x.float(),
    "bool": lambda x: x > 0,
    "16 bits": lambda x: x.to(torch.int16),
    "meta": lambda x: x.to("meta"),
    "list": lambda x: x.tolist(),
    "None": lambda x: None,
}
INT = {
    "None": lambda x: None,
    "text": lambda x: "1",
    "float": float,
    "bool": lambda x: True,
    "negative": lambda x: -1,
    "too large": lambda x: 2**64,
}
NUMBER = {
    "None": lambda x: None,
    "text": lambda x: "1",
    "list": lambda x: [x],
    "complex": complex,
    "NaN": lambda x: math.nan,
    "infinite": lambda x: math.inf,
    "huge": lambda x: 10**400,
    "two": lambda x: torch.tensor([x, x]),
}
TEXT = {
    "None": lambda x: None,
    "number": lambda x: 3,
    "list": lambda x: [x, 3],
    "empty": lambda x: "",
    "white space": lambda x: " \n",
    "half a pair": lambda x: "\ud800",
    "BOS": lambda x: "<s>" + x,
    "too long": lambda x: x * 40,
}
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
ONE_PROMPT = {"two prompts": lambda x: x.repeat(2, 1), **IDS}


def cache_with(name: str, **ways):
    """Ways to spoil one activation of a cache; `ways` are added."""
    spoil = {how: NUMBERS[how] for how in ("NaN", "infinite", "meta", "integers", "complex")}
    spoil |= {"another width": lambda x: torch.cat([x, x], -1), "missing": None} | ways

    def changed(how):
        def change(cache):
            rest = {key: value for key, value in cache.items() if key != name}
            rest = rest if how is None else rest | {name: how(cache[name])}
            return ActivationCache(rest, cache.model)

        return change

    return {way: changed(how) for way, how in spoil.items()}


OF_ONE_RUN = {
    "another length": lambda x: torch.cat([x, x], 1),
    "two rows": lambda x: x.repeat(2, *[1] * (x.ndim - 1)),
}
RESID, Z = "blocks.1.hook_resid_pre", "blocks.1.attn.hook_z"
SWEEP = {"corrupted_tokens": ONE_PROMPT, "metric": METRIC}
ROWS = {"answer": IDS, "distractor": IDS}


def steered(model, vector, layer, coefficient):
    with steering.steer(model, vector, layer, coefficient):
        return model(torch.tensor([[0, 5, 6]]))


def pair_tokens(model, **fields):
    return prompts.PromptPair(**fields).tokens(model)


# Each helper, and the ways to spoil each of its arguments.
HELPERS = {
    metrics.logit_diff: {"logits": NUMBERS | SHAPES} | ROWS,
    metrics.answer_rank: {"logits": NUMBERS | SHAPES, "answer": IDS},
    metrics.next_token_log_probs: {"logits": NUMBERS | SHAPES, "tokens": IDS},
    metrics.kl_divergence: {"logits": NUMBERS, "other": NUMBERS},
    metrics.entropy: {"logits": NUMBERS},
    metrics.normalise: {"clean": NUMBER, "corrupted": NUMBER},
    induction.repeated_tokens: {"n": INT, "batch": INT, "seed": INT},
    induction.induction_scores: {"pattern": NUMBERS | SHAPES, "n": INT},
    induction.duplicate_token_scores: {"pattern": NUMBERS | SHAPES, "n": INT},
    induction.previous_token_scores: {"pattern": NUMBERS | SHAPES},
    patching.patch_residual: SWEEP | {"cache": cache_with(RESID, **OF_ONE_RUN)},
    patching.patch_blocks: SWEEP | {"cache": cache_with("blocks.1.hook_mlp_out", **OF_ONE_RUN)},
    patching.patch_heads: SWEEP | {"cache": cache_with(Z, **OF_ONE_RUN)},
    patching.patch_head_positions: SWEEP | {"cache": cache_with(Z, **OF_ONE_RUN)},
    patching.attribution_patch: SWEEP | {"cache": cache_with(RESID, **OF_ONE_RUN)},
    attribution.attribute_logit_diff: {"cache": cache_with(Z), **ROWS},
    attribution.attribute_neurons: {
        "cache": cache_with("blocks.1.mlp.hook_post"), "layer": INT, **ROWS,
    },
    lens.logit_lens: {"cache": cache_with(RESID)},
    steering.steering_vector: {"positive": TEXT, "negative": TEXT, "layer": INT},
    steered: {"vector": NUMBERS | SHAPES, "layer": INT, "coefficient": NUMBER},
    ablation.ablate_each: {"tokens": ONE_PROMPT, "values": NUMBER | SHAPES},
    pair_tokens: {"clean": TEXT, "corrupted": TEXT, "answer": TEXT, "distractor": TEXT},
}  # fmt: skip
NOT_SPOILT = {  # what is right after all
    (ablation.ablate_each, "values", "two"), (steered, "vector", "integers"),
    (steered, "vector", "bool"), (steered, "vector", "8 bits"), (steered, "coefficient", "two"),
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
    logits = torch.randn(2, 6, 64)
    ids = torch.randint(2, 60, (2, 6))
    pattern = torch.full((2, 3, 5, 5), 0.2)
    run = {"model": random_model, "cache": pair.clean_cache, "answer": one, "distractor": other}
    sweep = {"model": random_model, "corrupted_tokens": corrupted, "clean_cache": pair.clean_cache}
    sweep["metric"] = pair.tokens.logit_diff
    words = {"clean": " The cat sat", "corrupted": " The dog sat", "answer": " on"}
    return {
        metrics.logit_diff: {"logits": logits, "answer": ids[:, 0], "distractor": ids[:, 1]},
        metrics.answer_rank: {"logits": logits, "answer": ids[:, 0]},
        metrics.next_token_log_probs: {"logits": logits, "tokens": ids},
        metrics.kl_divergence: {"logits": logits, "other": logits},
        metrics.entropy: {"logits": logits},
        metrics.normalise: {"value": logits, "clean": 1.0, "corrupted": 0.0},
        induction.repeated_tokens: {"model": random_model, "n": 3, "batch": 2, "seed": 0},
        induction.induction_scores: {"pattern": pattern, "n": 2},
        induction.duplicate_token_scores: {"pattern": pattern, "n": 2},
        induction.previous_token_scores: {"pattern": pattern},
        **{helper: sweep for helper in HELPERS if helper.__module__ == patching.__name__},
        attribution.attribute_logit_diff: run,
        attribution.attribute_neurons: run | {"layer": 1},
        lens.logit_lens: {"model": random_model, "cache": pair.clean_cache},
        steering.steering_vector: {
            "model": random_model, "positive": " The cat", "negative": " The dog", "layer": 1,
        },
        steered: {
            "model": random_model, "vector": torch.ones(24).double(), "layer": 1, "coefficient": 2,
        },
        ablation.ablate_each: {
            "model": random_model, "tokens": clean, "metric": pair.tokens.logit_diff,
            "values": torch.ones(3, 4, 6),
        },
        pair_tokens: {"model": random_model, **words, "distractor": " ran"},
    }  # fmt: skip


def test_what_is_called_good_is_taken(good):
    assert good.keys() == HELPERS.keys()
    for helper, arguments in good.items():
        helper(**arguments)


def refused(call, *names) -> str:
    """The message of the TypeError or ValueError that the call must end in; it has the names."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    message = str(caught.value)
    assert all(str(name) in message for name in names), message
    return message


@pytest.mark.parametrize(("helper", "argument", "change"), CASES)
def test_a_spoilt_argument_is_refused_by_its_name(good, hooks_in_place, helper, argument, change):
    arguments = dict(good[helper])
    key = "clean_cache" if argument == "cache" and "clean_cache" in arguments else argument
    value = arguments[key]
    if helper is ablation.ablate_each and argument == "values" and change in NUMBER.values():
        value = 1.0
    arguments[key] = change(value)
    refused(lambda: helper(**arguments), argument)
    if "model" in arguments:
        assert hooks_in_place(arguments["model"]) == []


def test_metrics_refuse_rows_that_do_not_fit(good):
    logits = good[metrics.logit_diff]["logits"]
    refused(lambda: metrics.logit_diff(logits, torch.tensor([5]), torch.tensor([5, 6])), "answer",
            "'batch' should have 2")  # fmt: skip
    refused(lambda: metrics.next_token_log_probs(logits, torch.zeros(2, 5).long()), "'pos'", 6)
    refused(lambda: metrics.next_token_log_probs(logits[:, :1], torch.zeros(2, 1).long()), "next")
    refused(lambda: metrics.kl_divergence(logits, logits[0]), "(2, 6, 64) and other (6, 64)")
    refused(lambda: metrics.normalise(logits, 1.0, 1.0 + 1e-7), "changes the answer")
    refused(lambda: metrics.normalise(logits > 0, 1.0, 0.0), "value")
    for tokens in ([5], torch.tensor([[5]]), torch.tensor(5)):
        refused(lambda t=tokens: metrics.LastToken(metrics.entropy, t), "tokens")
    refused(lambda: metrics.LastToken(metrics.entropy, torch.tensor([64]))(logits), "id 64")


def test_motifs_refuse_lengths_that_do_not_fit(good):
    pattern = good[induction.induction_scores]["pattern"]
    for score in (induction.induction_scores, induction.duplicate_token_scores):
        refused(lambda s=score: s(pattern, 3), "5 positions", "2n + 1 = 7")
        refused(lambda s=score: s(torch.ones(1, 1, 3, 3), 1), "n >= 2")
        refused(lambda s=score: s(pattern[..., :-1], 2), "as many queries as keys")
    refused(lambda: induction.previous_token_scores(torch.ones(1, 1, 2, 2)), "3 positions or more")
    model = good[induction.repeated_tokens]["model"]
    refused(lambda: induction.repeated_tokens(model, 16, 1, 0), "context", "at most 15 here")
    refused(lambda: induction.repeated_tokens(model, 1, 1, 0), "n: expected at least 2")


def test_a_cache_says_how_to_make_it_again(good, model, pair, random_model):
    """Of another model, without its batch axis, or of a part of the model."""
    tokens = good[patching.patch_heads]["corrupted_tokens"]
    _, flat = random_model.run_with_cache(tokens, remove_batch_dim=True)
    _, part = random_model.run_with_cache(tokens, names_filter="blocks.1.hook_mlp_out")
    wrong = {"shape": pair.clean_cache, "remove_batch_dim": flat, "without names_filter": part}
    for words, cache in wrong.items():
        for helper in (patching.patch_residual, patching.attribution_patch):
            call = good[helper] | {"clean_cache": cache}
            refused(lambda h=helper, c=call: h(**c), "cache", words)
        refused(lambda c=cache: lens.logit_lens(random_model, c), "cache", words)
        call = good[attribution.attribute_logit_diff] | {"cache": cache}
        refused(lambda c=call: attribution.attribute_logit_diff(**c), "cache", words)
    refused(lambda: lens.logit_lens(model, good[lens.logit_lens]["cache"]), "cache", "shape")


@pytest.mark.parametrize("lost", ["blocks.0.attn.hook_z", "blocks.1.hook_mlp_out", "hook_embed",
                                  "hook_pos_embed", "blocks.2.hook_resid_post"])  # fmt: skip
def test_a_missing_part_is_never_taken_for_0(good, lost):
    """The sum would quietly be another number than the model's logit difference."""
    arguments = dict(good[attribution.attribute_logit_diff])
    rest = {key: value for key, value in arguments["cache"].items() if key != lost}
    arguments["cache"] = ActivationCache(rest, arguments["model"])
    refused(lambda: attribution.attribute_logit_diff(**arguments), "cache")


def test_prompts_and_steering_refuse_what_says_nothing(good):
    arguments = good[steering.steering_vector]
    same = arguments | {"negative": arguments["positive"]}
    refused(lambda: steering.steering_vector(**same), "the vector is zero")
    for side in ("positive", "negative"):
        refused(lambda s=side: steering.steering_vector(**arguments | {s: []}), side, "got none")


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


@pytest.mark.parametrize("name", ["", "a b", "é", "x" * 300])
def test_loading_refuses_bad_names_devices_and_dtypes(name):
    with pytest.raises((FileNotFoundError, ValueError, OSError), match="nowhere"):
        models.load_model(f"/nowhere/{name}")
    for device in ("cuda:99", "tpu?", "", 3, 1.5, b"cpu"):
        refused(lambda d=device: models.load_model("tutorial-4l", device=d), "device")
    for dtype in (torch.int64, np.float32, name):
        refused(lambda d=dtype: models.load_model("tutorial-4l", dtype=d), "dtype")
    refused(lambda: models.load_model(3), "name")
    refused(lambda: models.load_model(""), "name")
