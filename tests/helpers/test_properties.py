"""Every public helper on random input: an identity holds, or an error names the argument.

Nothing else is allowed: no other exception, no result of another shape. The cases are derived from
the tests' own code (`derandomize`), so each run has the same ones.
"""

import json
import math
import re
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from helpers import checks, models, plots

COMMON = {"derandomize": True, "deadline": None, "database": None}
MANY, SOME, FEW = (settings(max_examples=n, **COMMON) for n in (60, 35, 20))

SLACK = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.1, torch.bfloat16: 0.8}
dtypes, id_types = st.sampled_from(list(SLACK)), st.sampled_from([torch.int32, torch.int64])
sizes, seeds = st.integers(1, 5), st.integers(0, 2**32)
layers = st.integers(0, 1)
words = st.text(max_size=12)  # all of Unicode but surrogates
SAYS = {"title": "t", "xlabel": "x", "ylabel": "y"}


def drawn(shape, seed, dtype=torch.float32, scale=3.0):
    """Random numbers; the values are the seed's, so that cases stay small."""
    x = scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()
    return x.to(dtype)


def ids(shape, seed, below, dtype=torch.int64):
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def refused(call, *names):
    """The message of the TypeError or ValueError that the call must end in; it has the names."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert type(caught.value) in (TypeError, ValueError)
    message = str(caught.value)
    for name in names:
        assert str(name) in message, message
    return message


def entry(x, value):
    """A copy with another last entry."""
    copy = x.clone()
    copy.view(-1)[-1] = value
    return copy


SPOILT = {  # ways to spoil a tensor of numbers; every helper that takes one must refuse them
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
MISSHAPEN = {
    "no rows": lambda x: x[:0],
    "last axis empty": lambda x: x[..., :0],
    "an axis more": lambda x: x[None],
    "an axis less": lambda x: x[0],
    "one number": lambda x: x.flatten()[0],
}
SPOILT_IDS = {
    "negative": lambda x: entry(x, -1),
    "beyond the vocabulary": lambda x: entry(x, 10**6),
    "floats": lambda x: x.float(),
    "bool": lambda x: x > 0,
    "16 bits": lambda x: x.to(torch.int16),
    "bytes": lambda x: x.to(torch.uint8),
    "complex": lambda x: x.to(torch.complex64),
    "meta": lambda x: x.to("meta"),
    "list": lambda x: x.tolist(),
    "None": lambda x: None,
} | MISSHAPEN
spoilt, misshapen, spoilt_ids = (st.sampled_from(list(d)) for d in (SPOILT, MISSHAPEN, SPOILT_IDS))
not_an_int = st.one_of(st.none(), st.floats(), st.booleans(), words, st.just(np.int64(1)))
not_a_number = st.one_of(st.none(), words, st.lists(st.floats()), st.complex_numbers())


# Metrics, against loops over the definition


@MANY
@given(sizes, sizes, sizes, dtypes, id_types, seeds)
def test_metrics_of_the_answer_by_hand(plain, batch, pos, d_vocab, dtype, id_type, seed):
    logits = drawn((batch, pos, d_vocab), seed, dtype)
    answer, distractor = (ids((batch,), seed + i, d_vocab, id_type) for i in (1, 2))
    difference = plain.metrics.logit_diff(logits, answer, distractor)
    rank = plain.metrics.answer_rank(logits, answer)
    assert difference.shape == rank.shape == (batch,) and difference.dtype == dtype
    for row in range(batch):
        last = logits[row, pos - 1].tolist()
        expected = last[answer[row]] - last[distractor[row]]
        assert abs(difference[row].item() - expected) <= SLACK[dtype]
        assert rank[row] == 1 + sum(value > last[answer[row]] for value in last)


@MANY
@given(sizes, st.integers(2, 6), sizes, dtypes, id_types, seeds)
def test_log_probs_by_hand(plain, batch, pos, d_vocab, dtype, id_type, seed):
    logits = drawn((batch, pos, d_vocab), seed, dtype)
    tokens = ids((batch, pos), seed + 1, d_vocab, id_type)
    found = plain.metrics.next_token_log_probs(logits, tokens)
    assert found.shape == (batch, pos - 1) and found.dtype == dtype
    for row, i in product(range(batch), range(pos - 1)):
        here = logits[row, i].tolist()
        level = math.log(sum(math.exp(value) for value in here))
        assert abs(found[row, i].item() - (here[tokens[row, i + 1]] - level)) <= SLACK[dtype]


@MANY
@given(st.lists(st.integers(0, 4), max_size=3), sizes, dtypes, seeds)
def test_divergence_and_entropy_by_hand(plain, axes, d_vocab, dtype, seed):
    """On any axes, none and empty ones included: cross entropy is entropy plus divergence."""
    logits, other = (drawn((*axes, d_vocab), seed + i, dtype) for i in (0, 1))
    entropy = plain.metrics.entropy(logits)
    divergence = plain.metrics.kl_divergence(logits, other)
    assert entropy.shape == divergence.shape == tuple(axes)
    p, q = logits.double().softmax(-1), other.double().softmax(-1)
    kwargs = {"atol": SLACK[dtype], "rtol": 0}
    assert_close(entropy.double(), -(p * p.log()).sum(-1), **kwargs)
    assert_close((entropy + divergence).double(), -(p * q.log()).sum(-1), **kwargs)


@MANY
@given(
    st.sampled_from(["logit_diff", "answer_rank", "next_token_log_probs"]),
    st.one_of(spoilt, misshapen),
    sizes,
    dtypes,
    seeds,
)
def test_metrics_refuse_bad_logits(plain, name, how, size, dtype, seed):
    logits = {**SPOILT, **MISSHAPEN}[how](drawn((size, 2, 4), seed, dtype))
    given_ids = {"logit_diff": [(size,)] * 2, "answer_rank": [(size,)]}.get(name, [(size, 2)])
    others = [ids(shape, seed, 4) for shape in given_ids]
    if name in ("logit_diff", "answer_rank") and how == "no rows":
        others = [x[:0] for x in others]
    refused(lambda: getattr(plain.metrics, name)(logits, *others), "logits")


@MANY
@given(st.sampled_from(["answer", "distractor", "tokens"]), spoilt_ids, sizes, seeds)
def test_metrics_refuse_bad_ids(plain, which, how, size, seed):
    logits = drawn((size, 2, 4), seed)
    if which == "tokens":
        bad = SPOILT_IDS[how](ids((size, 2), seed, 4))
        refused(lambda: plain.metrics.next_token_log_probs(logits, bad), which)
    else:
        good = ids((size,), seed, 4)
        arguments = {"answer": good, "distractor": good} | {which: SPOILT_IDS[how](good)}
        refused(lambda: plain.metrics.logit_diff(logits, **arguments), which)


@SOME
@given(st.sampled_from(["logits", "other"]), spoilt, sizes, seeds)
def test_divergence_and_entropy_refuse_bad_logits(plain, which, how, size, seed):
    good = drawn((size, 4), seed)
    arguments = {"logits": good, "other": good} | {which: SPOILT[how](good)}
    refused(lambda: plain.metrics.kl_divergence(**arguments), which)
    refused(lambda: plain.metrics.entropy(SPOILT[how](good)), "logits")
    refused(lambda: plain.metrics.entropy(good[:, :0]), "logits")
    refused(lambda: plain.metrics.kl_divergence(good, good[:, 1:]), "logits", "other")


@MANY
@given(
    st.lists(st.integers(0, 4), max_size=3),
    st.floats(-1e3, 1e3),
    st.floats(-1e3, 1e3),
    st.booleans(),
    seeds,
)
def test_normalising_can_be_undone(plain, shape, clean, corrupted, as_tensor, seed):
    value = drawn(shape, seed, torch.float64)
    ends = [
        torch.tensor([end], dtype=torch.float64) if as_tensor else end for end in (clean, corrupted)
    ]
    if abs(clean - corrupted) < 1e-6:
        refused(lambda: plain.metrics.normalise(value, *ends), "clean", "corrupted")
        return
    found = plain.metrics.normalise(value, *ends)
    assert found.shape == value.shape
    assert_close(found * (clean - corrupted) + corrupted, value, rtol=1e-9, atol=1e-9)


@SOME
@given(
    st.sampled_from(["value", "clean", "corrupted"]),
    st.one_of(not_a_number, st.sampled_from([math.nan, math.inf, 10**400])),
)
def test_normalise_refuses_what_is_no_number(plain, which, bad):
    if which == "value" and isinstance(bad, int | float | complex):
        bad = None  # numbers are values, NaN too: it stays NaN
    good = {"value": torch.ones(2), "clean": 1.0, "corrupted": 0.0}
    refused(lambda: plain.metrics.normalise(**(good | {which: bad})), which)
    refused(lambda: plain.metrics.normalise(torch.ones(2) > 0, 1.0, 0.0), "value")
    refused(lambda: plain.metrics.normalise(torch.ones(2), torch.ones(2), 0.0), "clean")


# Attention motifs


@SOME
@given(st.integers(-2, 40), st.integers(-1, 6), st.integers(-1, 2**64))
def test_repeated_tokens_repeat_or_are_refused(plain, random_model, n, batch, seed):
    def make():
        return plain.induction.repeated_tokens(random_model, n, batch, seed)

    if n < 2 or batch < 1 or not 0 <= seed < 2**63:
        refused(make, "n" if n < 2 else "batch" if batch < 1 else "seed", "expected")
    elif 2 * n + 1 > 32:
        refused(make, f"n {n}", "context", "at most 15")
    else:
        tokens, bos = make(), random_model.tokenizer.bos_token_id
        assert tokens.shape == (batch, 2 * n + 1) and tokens.dtype == torch.int64
        assert torch.equal(tokens[:, 1 : n + 1], tokens[:, n + 1 :])
        assert ((tokens == bos).sum(1) == 1).all() and (tokens[:, 0] == bos).all()
        assert torch.equal(tokens, make())
        assert random_model(tokens).shape[:2] == tokens.shape


@MANY
@given(sizes, sizes, st.integers(2, 6), dtypes, seeds)
def test_attention_scores_by_hand(plain, batch, heads, n, dtype, seed):
    length = 2 * n + 1
    pattern = drawn((batch, heads, length, length), seed).softmax(-1).to(dtype)
    second, every, m = range(n + 1, length), range(2, length), plain.induction
    for found, queries, back in (
        (m.induction_scores(pattern, n), second, n - 1),
        (m.duplicate_token_scores(pattern, n), second, n),
        (m.previous_token_scores(pattern), every, 1),
    ):
        assert found.shape == (heads,) and found.dtype == dtype
        cells = [pattern[:, :, q, q - back].double() for q in queries]
        assert_close(found.double(), torch.stack(cells).mean((0, 1)), atol=1e-2, rtol=0)


SCORES = ["induction_scores", "duplicate_token_scores", "previous_token_scores"]


@MANY
@given(st.sampled_from(SCORES), st.one_of(spoilt, misshapen), st.one_of(not_an_int, st.integers()))
def test_attention_scores_refuse_bad_patterns_and_lengths(plain, name, how, n):
    good = torch.full((2, 3, 5, 5), 0.2)
    score, rest = getattr(plain.induction, name), [] if name == "previous_token_scores" else [2]
    refused(lambda: score({**SPOILT, **MISSHAPEN}[how](good), *rest), "pattern")
    refused(lambda: score(good[..., :-1], *rest), "pattern")
    if rest and n != 2:
        refused(lambda: score(good, n), "n")
    if rest:
        refused(lambda: score(good, True), "n")


# Prompts


def by_tokenizer(model, text):
    """Ids with BOS, by transformers alone; never cut off."""
    return [
        model.tokenizer.bos_token_id,
        *model.tokenizer(text, add_special_tokens=False).input_ids,
    ]


repeats = st.sampled_from(["cat ", "é", "日本", "👩\u200d👧", "<|endoftext|>", "\x00"])
texts = st.one_of(
    words,
    st.builds(lambda text, times: text * times, repeats, st.integers(1, 60)),
    st.sampled_from(["The cat sat", "The dog sat", " Paris", " Rome", "\ud800", "a\udfffb"]),
)


def valid(text):
    return not any("\ud800" <= character <= "\udfff" for character in text)


@MANY
@given(texts, texts, texts, st.sampled_from([" Paris", " Rome", ""]))
def test_pairs_line_up_or_are_refused(plain, random_model, clean, corrupted, answer, distractor):
    fields = {"clean": clean, "corrupted": corrupted, "answer": answer, "distractor": distractor}
    pair = plain.prompts.PromptPair(**fields)
    unusable = [name for name, text in fields.items() if not text.strip() or not valid(text)]
    if unusable:
        refused(lambda: pair.tokens(random_model), unusable[0])
        return
    rows = {name: by_tokenizer(random_model, text) for name, text in fields.items()}
    for name in ("clean", "corrupted"):
        if len(rows[name]) > 32:
            refused(lambda: pair.tokens(random_model), name, len(rows[name]), "context of 32")
            return
    if len(rows["clean"]) != len(rows["corrupted"]) or rows["clean"] == rows["corrupted"]:
        refused(lambda: pair.tokens(random_model), "clean", "corrupted")
    elif len(rows["answer"]) != 2 or answer == distractor:
        refused(lambda: pair.tokens(random_model), "answer")
    else:
        found = pair.tokens(random_model)
        assert found.clean.tolist() == [rows["clean"]]
        assert found.corrupted.tolist() == [rows["corrupted"]]
        assert [*found.answer, *found.distractor] == [rows["answer"][1], rows["distractor"][1]]


LONG = "The cat sat on the mat and the dog sat on the rug because " * 8


@SOME
@given(st.lists(words.filter(str.strip), max_size=4), st.integers(0, 1))
def test_a_prompt_beyond_the_context_is_told_with_both_lengths(plain, random_model, extra, side):
    """Never cut off without a word, which is what transformer_lens' `to_tokens` does."""
    text = LONG + " ".join(extra)
    length = len(by_tokenizer(random_model, text))
    sides = [text, "short"] if side == 0 else ["short", text]
    pair = plain.prompts.PromptPair(*sides, " Paris", " Rome")
    name, place = [("clean", "positive"), ("corrupted", "negative")][side]
    vector = plain.steering.steering_vector
    refused(lambda: pair.tokens(random_model), name, f"{length} tokens", "context of 32")
    refused(lambda: vector(random_model, *sides, 0), place, f"{length} tokens", "context of 32")
    refused(
        lambda: plain.prompts.PromptPair("a", "b", text, " Rome").tokens(random_model), "answer"
    )


@FEW
@given(sizes, sizes, sizes, dtypes, seeds)
def test_a_pairs_metric_is_the_logit_difference_of_every_row(plain, rows, pos, extra, dtype, seed):
    tokens, logits = ids((1, 3), seed, 5), drawn((rows, pos, extra + 1), seed, dtype)
    answer, distractor = ids((1,), seed + 1, extra + 1), ids((1,), seed + 2, extra + 1)
    found = plain.prompts.PairTokens(tokens, tokens, answer, distractor).logit_diff(logits)
    assert_close(found, logits[:, -1, answer.item()] - logits[:, -1, distractor.item()])
    far = plain.prompts.PairTokens(tokens, tokens, answer + 10, distractor)
    refused(lambda: far.logit_diff(logits), "answer", "out of range")


# Steering

sides = st.one_of(texts, st.lists(texts, max_size=3), st.tuples(texts))


@MANY
@given(sides, sides, layers)
def test_steering_vectors_by_hand(plain, random_model, positive, negative, layer):
    def vector(one, other):
        return plain.steering.steering_vector(random_model, one, other, layer)

    means = []
    for name, side in (("positive", positive), ("negative", negative)):
        prompts = [side] if isinstance(side, str) else side
        rows = [by_tokenizer(random_model, text) if valid(text) else [] for text in prompts]
        blank = any(not text.strip() for text in prompts)
        if not rows or blank or [] in rows or max(map(len, rows)) > 32:
            refused(lambda: vector(positive, negative), name)
            return
        streams = []
        for row in rows:
            _, cache = random_model.run_with_cache(torch.tensor([row]))
            streams.append(cache["resid_post", layer][0, 1:].mean(0))
        means.append(sum(streams) / len(streams))
    if torch.equal(*means):
        refused(lambda: vector(positive, negative), "positive", "negative")
        return
    found = vector(positive, negative)
    assert found.shape == (24,)
    assert_close(found, means[0] - means[1])
    assert_close(vector(negative, positive), -found)


@SOME
@given(
    st.one_of(st.none(), st.integers(), st.binary(min_size=1), st.lists(st.none(), min_size=1)),
    st.one_of(not_an_int, st.integers(max_value=-1), st.integers(2)),
)
def test_steering_vectors_refuse_what_is_no_prompt_or_layer(plain, random_model, side, layer):
    vector = plain.steering.steering_vector
    refused(lambda: vector(random_model, side, "text", 0), "positive")
    refused(lambda: vector(random_model, "text", side, 0), "negative")
    refused(lambda: vector(random_model, "text", "other", layer), "layer")
    with pytest.raises((TypeError, ValueError), match="layer"):
        plain.steering.steer(random_model, torch.ones(24), layer, 1.0).__enter__()


@SOME
@given(sizes, st.integers(1, 32), layers, dtypes, st.floats(-50, 50), seeds)
def test_what_is_steered_differs_by_the_multiple(
    plain, random_model, batch, pos, layer, dtype, coefficient, seed
):
    tokens = ids((batch, pos), seed, random_model.cfg.d_vocab)
    vector, name = drawn((24,), seed, dtype), f"blocks.{layer}.hook_resid_post"
    _, before = random_model.run_with_cache(tokens, names_filter=name)
    seen = []

    def look(stream, hook):
        seen.append(stream)

    with plain.steering.steer(random_model, vector, layer, coefficient):
        random_model.run_with_hooks(tokens, fwd_hooks=[(name, look)])
    expected = (coefficient * vector).double().expand(batch, pos, 24)
    assert_close(seen[-1] - before[name], expected, rtol=1e-6, atol=1e-6)
    assert not any(point.has_hooks() for point in random_model.hook_dict.values())
    _, after = random_model.run_with_cache(tokens, names_filter=name)
    assert torch.equal(after[name], before[name])


@SOME
@given(
    st.one_of(spoilt, st.sampled_from(["last axis empty", "an axis more", "one number"])),
    st.one_of(not_a_number, st.sampled_from([math.nan, math.inf, 10**400])),
)
def test_steering_refuses_bad_vectors_and_coefficients(plain, random_model, how, coefficient):
    vector = torch.linspace(-1, 1, 24)
    bad = {**SPOILT, **MISSHAPEN}[how](vector)
    refused(lambda: plain.steering.steer(random_model, bad, 0, 1.0).__enter__(), "vector")
    refused(
        lambda: plain.steering.steer(random_model, vector, 0, coefficient).__enter__(),
        "coefficient",
    )
    assert not any(point.has_hooks() for point in random_model.hook_dict.values())


# Patching, attribution, lens: on runs of random tokens

SITES = {
    "patch_residual": [("hook_resid_pre", "p")],
    "patch_blocks": [(f"hook_{site}", "p") for site in ("resid_pre", "attn_out", "mlp_out")],
    "patch_heads": [("attn.hook_z", "h")],
    "patch_head_positions": [("attn.hook_z", "hp")],
}


def two_runs(model, pos, seed):
    clean, corrupted = (ids((1, pos), seed + i, model.cfg.d_vocab) for i in (0, 1))
    return clean, corrupted, model.run_with_cache(clean)[1]


def pair_metric(plain, seed, d_vocab):
    answer, distractor = (ids((1,), seed + i, d_vocab) for i in (3, 4))
    nothing = torch.zeros(1, 1, dtype=torch.long)
    return plain.prompts.PairTokens(nothing, nothing, answer, distractor).logit_diff


@SOME
@given(
    st.sampled_from(list(SITES)), st.integers(1, 7), seeds, st.sampled_from([1, 2**16, 2**29]),
    st.data(),
)  # fmt: skip
def test_a_cell_is_the_patched_run(plain, random_model, name, pos, seed, max_bytes, data):
    _, corrupted, cache = two_runs(random_model, pos, seed)
    metric = pair_metric(plain, seed, random_model.cfg.d_vocab)
    grid = getattr(plain.patching, name)(
        random_model, corrupted, cache, metric, max_bytes=max_bytes
    )
    shape = {"patch_residual": (2, pos), "patch_blocks": (3, 2, pos), "patch_heads": (2, 3)}
    assert grid.shape == shape.get(name, (2, 3, pos))
    which = data.draw(st.integers(0, len(SITES[name]) - 1))
    layer, head, p = data.draw(layers), data.draw(st.integers(0, 2)), data.draw(
        st.integers(0, pos - 1)
    )  # fmt: skip
    site, axes = SITES[name][which]

    def patch(activation, hook):
        copy, clean = activation.clone(), cache[hook.name]
        if axes == "h":
            copy[:, :, head] = clean[:, :, head]
        elif axes == "p":
            copy[:, p] = clean[:, p]
        else:
            copy[:, p, head] = clean[:, p, head]
        return copy

    hooks = [(f"blocks.{layer}.{site}", patch)]
    expected = metric(random_model.run_with_hooks(corrupted, fwd_hooks=hooks))[0]
    place = {"p": (layer, p), "h": (layer, head), "hp": (layer, head, p)}[axes]
    assert_close(grid[which][place] if name == "patch_blocks" else grid[place], expected)


@FEW
@given(st.integers(1, 7), seeds)
def test_the_estimate_is_the_slope_of_a_small_patch(plain, random_model, pos, seed):
    """In the direction of a small change, the linear estimate is what patching gives."""
    _, corrupted, _ = two_runs(random_model, pos, seed)
    _, cache = random_model.run_with_cache(corrupted)
    metric = pair_metric(plain, seed, random_model.cfg.d_vocab)
    near = {name: cache[name].clone() for name in random_model.hook_dict if name in cache}
    for i in range(2):
        near[f"blocks.{i}.hook_resid_pre"] += drawn((1, pos, 24), seed + i, torch.float64, 1e-5)
    grid = plain.patching.patch_residual(random_model, corrupted, near, metric)
    estimate = plain.patching.attribution_patch(random_model, corrupted, near, metric)
    assert estimate.shape == (2, pos)
    change = grid - metric(random_model(corrupted))[0]
    assert_close(estimate, change, rtol=1e-2, atol=1e-5)


BAD_PROMPTS = {
    "two prompts": lambda tokens: tokens.repeat(2, 1),
    "another length": lambda tokens: tokens.repeat(1, 12),  # beyond the context
} | SPOILT_IDS
BAD_METRICS = {
    "one number": lambda logits: logits[:, -1, 0].mean(),
    "a float": lambda logits: 1.0,
    "nothing": lambda logits: None,
    "two numbers a row": lambda logits: logits[:, -1, :2],
    "NaN": lambda logits: logits[:, -1, 0] * math.nan,
    "truth values": lambda logits: logits[:, -1, 0] > 0,
    "complex": lambda logits: logits[:, -1, 0].to(torch.complex64),
    "meta": lambda logits: logits[:, -1, 0].to("meta"),
}
BAD_CACHES = {how: SPOILT[how] for how in ("NaN", "infinite", "meta", "integers", "complex")}
BAD_CACHES |= {
    "another length": lambda x: torch.cat([x, x], 1),
    "two rows": lambda x: x.repeat(2, *[1] * (x.ndim - 1)),
    "another width": lambda x: torch.cat([x, x], -1),
    "missing": lambda x: None,
}


def changed_cache(cache, name, how):
    changed = {key: cache[key] for key in cache.keys()}  # noqa: SIM118 (an ActivationCache)
    value = BAD_CACHES[how](changed.pop(name))
    return changed if value is None else changed | {name: value}


@MANY
@given(
    st.sampled_from([*SITES, "attribution_patch"]),
    st.one_of(
        st.tuples(st.just("tokens"), st.sampled_from(list(BAD_PROMPTS))),
        st.tuples(st.just("metric"), st.sampled_from(list(BAD_METRICS))),
        st.tuples(st.just("cache"), st.sampled_from(list(BAD_CACHES))),
    ),
    st.integers(3, 6),
    seeds,
)
def test_sweeps_refuse_bad_input(plain, random_model, name, bad, pos, seed):
    what, how = bad
    _, tokens, cache = two_runs(random_model, pos, seed)
    metric = pair_metric(plain, seed, random_model.cfg.d_vocab)
    if what == "tokens":
        tokens = BAD_PROMPTS[how](tokens)
    elif what == "metric":
        metric = BAD_METRICS[how]
    else:
        site = SITES.get(name, SITES["patch_residual"])[-1][0]
        cache = changed_cache(cache, f"blocks.1.{site}", how)
    named = {"tokens": "corrupted_tokens", "cache": "clean_cache"}.get(what, what)
    if how == "another length":  # no cache is beyond the context, since no run is
        named = "clean_cache"
    sweep = getattr(plain.patching, name)
    refused(lambda: sweep(random_model, tokens, cache, metric), named)


@SOME
@given(st.integers(1, 3), st.integers(1, 32), layers, id_types, seeds)
def test_attribution_sums_to_the_logit_difference(
    plain, random_model, batch, pos, layer, id_type, seed
):
    tokens = ids((batch, pos), seed, random_model.cfg.d_vocab)
    answer, distractor = (
        ids((batch,), seed + i, random_model.cfg.d_vocab, id_type) for i in (1, 2)
    )
    logits, cache = random_model.run_with_cache(tokens)
    parts = plain.attribution.attribute_logit_diff(random_model, cache, answer, distractor)
    assert parts.heads.shape == (2, 3) and parts.mlps.shape == (2,)
    rows = torch.arange(batch)
    expected = (logits[rows, -1, answer] - logits[rows, -1, distractor]).mean()
    assert_close(parts.total, expected)
    neurons = plain.attribution.attribute_neurons(random_model, cache, layer, answer, distractor)
    assert neurons.shape == (random_model.cfg.d_mlp,)
    without = cache["post", layer][:, -1] @ random_model.W_out[layer]
    without = without - without.mean(-1, keepdim=True)
    direction = (random_model.W_U[:, answer] - random_model.W_U[:, distractor]).T
    by_hand = (without / cache["ln_final.hook_scale"][:, -1] * direction).sum(-1).mean()
    assert_close(neurons.sum(), by_hand)


@MANY
@given(
    st.one_of(
        st.tuples(st.sampled_from(["answer", "distractor"]), spoilt_ids),
        st.tuples(st.just("layer"), st.one_of(not_an_int, st.integers(2))),
        st.tuples(
            st.just("cache"),
            st.sampled_from(["NaN", "infinite", "meta", "integers", "another width", "missing"]),
        ),
    ),
    seeds,
)
def test_attribution_and_lens_refuse_bad_input(plain, random_model, bad, seed):
    what, how = bad
    _, _, cache = two_runs(random_model, 4, seed)
    good = ids((1,), seed, random_model.cfg.d_vocab)
    arguments = {"cache": cache, "answer": good, "distractor": good}
    if what in ("answer", "distractor"):
        arguments[what] = SPOILT_IDS[how](good)
    elif what == "cache":
        arguments["cache"] = changed_cache(cache, "blocks.1.attn.hook_z", how)
        lens = changed_cache(cache, "blocks.1.hook_resid_pre", how)
        refused(lambda: plain.lens.logit_lens(random_model, lens), "cache", "hook_resid_pre")
    if what != "layer":
        split = plain.attribution.attribute_logit_diff
        refused(lambda: split(random_model, **arguments), what)
    if what == "cache":
        arguments["cache"] = changed_cache(cache, "blocks.0.mlp.hook_post", how)
    neurons = plain.attribution.attribute_neurons
    layer = how if what == "layer" else 0
    refused(lambda: neurons(random_model, layer=layer, **arguments), what)


@FEW
@given(st.integers(1, 3), st.integers(1, 32), seeds)
def test_the_lens_ends_in_the_models_logits(plain, random_model, batch, pos, seed):
    tokens = ids((batch, pos), seed, random_model.cfg.d_vocab)
    logits, cache = random_model.run_with_cache(tokens)
    found = plain.lens.logit_lens(random_model, cache)
    assert found.shape == (3, *logits.shape)
    assert_close(found[-1], logits)
    stream = cache["resid_pre", 1]
    normed = torch.nn.functional.layer_norm(stream, (24,), eps=random_model.cfg.eps)
    assert_close(found[1], normed @ random_model.W_U + random_model.b_U)


# Figures

numbers = st.floats(allow_nan=False, allow_infinity=False)
labels = st.lists(words, max_size=6)


def kind_of(values, form):
    """The values as a list, an array or a tensor."""
    made = {"list": np.ndarray.tolist, "array": lambda x: x, "tensor": torch.tensor}
    return made[form](values)


forms = st.sampled_from(["list", "array", "tensor"])


@SOME
@given(labels, labels, forms, st.booleans(), st.floats(1e-9, 1e9), st.booleans(), st.data())
def test_heat_maps_show_the_values_or_refuse(x, y, form, signed, scale, fits, data):
    shape = (len(y) + (not fits), len(x))
    values = scale * np.asarray(drawn(shape, data.draw(seeds)))
    call = {"x": x, "y": y, "unit": "u", "signed": signed, **SAYS}
    if not fits or 0 in shape:
        refused(lambda: plots.heatmap(kind_of(values, form), **call), "values")
        return
    heat = plots.heatmap(kind_of(values, form), **call).data[0]
    assert np.allclose(np.array(heat.z), values)
    assert heat.zmax == pytest.approx(abs(values).max())
    assert heat.zmin == (-heat.zmax if signed else 0)
    limit = data.draw(st.sampled_from([0, -1.0, math.nan, math.inf]))
    refused(lambda: plots.heatmap(values, limit=limit, **call), "limit")
    refused(lambda: plots.heatmap(values, text=values[1:], **call), "text")


@SOME
@given(st.dictionaries(words, st.lists(numbers, max_size=5), max_size=4), st.integers(0, 5))
def test_lines_show_the_values_or_refuse(series, length):
    figure = plots.lines(series, **SAYS)
    assert [list(line.y) for line in figure.data] == list(series.values())
    assert [line.name for line in figure.data] == list(series)
    for name, values in series.items():
        line = plots.lines({name: values}, spread={name: values}, **SAYS).data[0]
        assert list(line.error_y.array) == values
        bad = [*values, 1.0]
        refused(
            lambda n=name, v=values, b=bad: plots.lines({n: v}, spread={n: b}, **SAYS), "spread"
        )
        refused(lambda n=name, v=values, b=bad: plots.lines({n: v}, x=b, **SAYS), name, "over x")
    refused(lambda: plots.lines(series, spread={"of none such line": []}, **SAYS), "spread")
    refused(lambda: plots.lines([1.0] * length, **SAYS), "series")


@SOME
@given(st.lists(numbers, max_size=6), labels, st.booleans(), st.booleans())
def test_bars_and_points_show_the_values_or_refuse(values, names, match, diagonal):
    if match:
        names = [str(i % 2) for i in range(len(values))]
    if len(names) == len(values):
        bar = plots.bars(values, names, spread=values, **SAYS)
        assert list(bar.data[0].y or ()) == values
        assert list(bar.layout.xaxis.ticktext or ()) == names
        points = plots.scatter(
            values, values[::-1], groups=names, hover=names, diagonal=diagonal, **SAYS
        )
        there = [(x, y) for t in points.data if t.mode == "markers" for x, y in zip(t.x, t.y)]  # noqa: B905
        assert sorted(there) == sorted(zip(values, values[::-1], strict=True))
    else:
        refused(lambda: plots.bars(values, names, **SAYS), "values")
        refused(lambda: plots.scatter(values, values, groups=names, **SAYS), "groups")
        refused(lambda: plots.scatter(values, values, hover=names, **SAYS), "hover")
        refused(lambda: plots.scatter(values, names, **SAYS), "y")
    refused(lambda: plots.bars(values, ["a"] * len(values), spread=[*values, 1], **SAYS), "spread")


@SOME
@given(st.lists(words, max_size=6), st.integers(0, 3), st.booleans(), seeds)
def test_views_hold_their_text_and_values_or_refuse(strings, heads, fits, seed):
    n = len(strings) + (not fits)
    pattern, values = drawn((heads, n, n), seed), drawn((n,), seed)
    names = [f"head {i}" for i in range(heads)]
    if not fits:
        refused(lambda: plots.attention(pattern, strings, heads=names), "pattern")
        refused(lambda: plots.tokens(strings, values), "values")
        return
    for view in (plots.attention(pattern, strings, heads=names), plots.tokens(strings, values)):
        props = re.search(r"CircuitsVis\.\w+, (\{.*\})\);else", view.data, re.DOTALL)[1]
        assert view.data.count("<") == 4  # two elements; none of the text's
        assert json.loads(props)["tokens"] == strings
    assert np.allclose(json.loads(props)["values"], values, atol=1e-3)


@SOME
@given(st.sampled_from(["meta", "text", "None", "ragged", "words"]))
def test_figures_refuse_what_is_no_array(how):
    bad = {
        "meta": torch.ones(2, 2, device="meta"),
        "text": "text",
        "None": None,
        "ragged": [[1.0], [1.0, 2.0]],
        "words": ["a", "b"],
    }[how]
    pair = ["a", "b"]
    refused(lambda: plots.heatmap(bad, x=pair, y=pair, unit="u", **SAYS), "values")
    refused(lambda: plots.lines({"name": bad}, **SAYS), "name")
    refused(lambda: plots.bars(bad, pair, **SAYS), "values")
    refused(lambda: plots.scatter(bad, [1, 2], **SAYS), "x")
    refused(lambda: plots.scatter([1, 2], bad, **SAYS), "y")
    refused(lambda: plots.attention(bad, pair, heads=["h"]), "pattern")
    refused(lambda: plots.tokens(pair, bad), "values")
    infinite = [[math.inf, 0.0]]
    refused(lambda: plots.heatmap(infinite, x=pair, y=["a"], unit="u", **SAYS), "values")


# Claims and loading

things = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), words, st.lists(st.booleans()), numbers
)


@MANY
@given(st.one_of(words, st.none(), st.integers()), things, forms)
def test_only_a_bool_can_be_claimed(text, holds, form):
    if isinstance(holds, list) and form != "list":
        holds = kind_of(np.array(holds, dtype=bool), form)
    said = checks.display, []
    checks.display = lambda verdict, metadata: said[1].append(verdict)
    try:
        one = getattr(holds, "size", None) is not None and np.size(holds) == 1
        truth = bool(holds) if one else holds
        if not isinstance(text, str) or not text.strip():
            refused(lambda: checks.claim(text, holds), "text")
        elif not isinstance(truth, bool):
            refused(lambda: checks.claim(text, holds), "holds")
        elif truth:
            checks.claim(text, holds)
            assert [verdict.text for verdict in said[1]] == [text]
        else:
            with pytest.raises(AssertionError) as caught:
                checks.claim(text, holds)
            assert text in str(caught.value)
    finally:
        checks.display = said[0]


@SOME
@given(words, st.sampled_from(["cuda:99", "meta", "tpu?", "", 3, 1.5, b"cpu"]))
def test_loading_refuses_bad_names_devices_and_dtypes(name, device):
    with pytest.raises((FileNotFoundError, ValueError)) as caught:
        models.load_model(f"/nowhere/{name}")
    assert "nowhere" in str(caught.value)
    refused(lambda: models.load_model("tutorial-4l", device=device), "device")
    refused(lambda: models.load_model("tutorial-4l", dtype=torch.int64), "dtype")
    refused(lambda: models.load_model("tutorial-4l", dtype=name), "dtype")
    refused(lambda: models.load_model(3), "name")
    refused(lambda: models.load_model(""), "name")
