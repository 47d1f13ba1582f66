"""docs/large-models.md: what is said of models spread over devices, and of remote ones."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from transformer_lens.model_bridge.driver_protocol import ForwardResult
from transformer_lens.model_bridge.remote_bridge import RemoteBridge

from helpers import attribution, induction, lens, metrics, patching, steering
from helpers.engine import sparse
from helpers.models import EMBEDDED_DIRECTORY, load_model
from helpers.prompts import CITY_PAIRS

PLACES = {
    "transformer.wte": "cpu",
    "transformer.wpe": "cpu",
    "transformer.h.0": "cpu",
    "transformer.h.1": "disk",
    "transformer.h.2": "disk",
    "transformer.h.3": "cpu",
    "transformer.ln_f": "cpu",
    "lm_head": "cpu",
}
SWEEPS = [
    patching.patch_residual,
    patching.patch_blocks,
    patching.patch_heads,
    patching.patch_head_positions,
    patching.attribution_patch,
]
NEAR = {"atol": 1e-3, "rtol": 1e-4}


def run(model) -> SimpleNamespace:
    tokens = CITY_PAIRS[0].tokens(model)
    logits, cache = model.run_with_cache(tokens.clean)
    return SimpleNamespace(model=model, tokens=tokens, logits=logits, cache=cache)


@pytest.fixture(scope="module")
def whole(model):
    return run(model)


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """The embedded model with two of its blocks on the disk."""
    folder = tmp_path_factory.mktemp("disk")
    spread = load_model(EMBEDDED_DIRECTORY, device_map=PLACES, offload_folder=folder)
    assert any(parameter.is_meta for parameter in spread.parameters())  # really not in memory
    return run(spread)


def test_loading_a_spread_model_is_silent(tmp_path, capfd):
    load_model(EMBEDDED_DIRECTORY, device_map=PLACES, offload_folder=tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_device_and_a_map_are_one_too_many():
    with pytest.raises(ValueError, match="device 'cpu' and a device_map"):
        load_model(device="cpu", device_map="auto")


def test_a_map_that_keeps_the_model_whole_changes_nothing(whole):
    model = load_model(device_map="auto")
    logits = model(whole.tokens.clean.to(model.cfg.device))
    assert_close(logits.cpu(), whole.logits, **NEAR)


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda f: f.__name__)
def test_sweeps_of_a_spread_model_are_those_of_the_whole(spread, whole, sweep):
    assert not sparse.supports(spread.model, spread.tokens.clean.shape[1])  # not all here
    found, expected = (
        sweep(it.model, it.tokens.corrupted, it.cache, it.tokens.logit_diff)
        for it in (spread, whole)
    )
    assert_close(found, expected, **NEAR)


def test_the_lens_and_steering_of_a_spread_model(spread, whole):
    both, sides = (spread, whole), ("I love this", "I hate this")
    rows, expected = (lens.logit_lens(it.model, it.cache).log_softmax(-1) for it in both)
    assert_close(rows, expected, **NEAR)
    vectors = [steering.steering_vector(it.model, *sides, 2) for it in both]
    # Loading the whole model centres the stream; here it is as in the file.
    assert_close(vectors[0] - vectors[0].mean(), vectors[1], **NEAR)
    with steering.steer(spread.model, vectors[0], 2, 2.0):
        steered = spread.model(spread.tokens.clean).log_softmax(-1)
    with steering.steer(whole.model, vectors[1], 2, 2.0):
        assert_close(steered, whole.model(whole.tokens.clean).log_softmax(-1), **NEAR)


def test_attribution_refuses_a_spread_model(spread):
    ids = spread.tokens.answer, spread.tokens.distractor
    with pytest.raises(ValueError, match="not folded into W_U"):
        attribution.attribute_logit_diff(spread.model, spread.cache, *ids)


class Engine:
    """A driver such as vLLM's: it runs a model elsewhere, and sends back what was asked for."""

    architecture = "GPT2LMHeadModel"
    non_fireable_hook_points = frozenset()
    provides_sequence_logits = True

    def __init__(self, model):
        self.model, self.tokenizer = model, model.tokenizer
        self.bridge_config = copy.deepcopy(model.cfg)
        layers = range(model.cfg.n_layers)
        kinds = ("hook_resid_pre", "hook_resid_post", "attn.hook_pattern", "attn.hook_z")
        self.supported_hook_points = frozenset(f"blocks.{i}.{k}" for i in layers for k in kinds)

    def forward(self, input_ids=None, *, capture=(), **rest):
        logits, cache = self.model.run_with_cache(input_ids)
        return ForwardResult(logits=logits, captured={name: cache[name] for name in capture})

    def supports(self, feature):
        return False

    def close(self):
        pass


@pytest.fixture(scope="module")
def remote(model):
    adapter, engine = copy.copy(model.adapter), Engine(model)
    adapter.cfg = engine.bridge_config
    return RemoteBridge(adapter, model.tokenizer, engine)


def test_reading_helpers_work_on_a_remote_model(remote, whole):
    tokens = CITY_PAIRS[0].tokens(remote)
    logits, cache = remote.run_with_cache(tokens.clean)
    assert_close(tokens.logit_diff(logits), whole.tokens.logit_diff(whole.logits), **NEAR)
    assert metrics.answer_rank(logits, tokens.answer).item() == 1
    rows = induction.repeated_tokens(remote, 8, 4, seed=0)
    assert torch.equal(rows, induction.repeated_tokens(whole.model, 8, 4, seed=0))
    _, cache = remote.run_with_cache(rows)
    _, here = whole.model.run_with_cache(rows)
    name = "blocks.1.attn.hook_pattern"
    found, expected = (induction.induction_scores(c[name], 8) for c in (cache, here))
    assert_close(found, expected)


@pytest.mark.filterwarnings("error")  # its own warning comes only where a hook is placed
def test_helpers_that_change_or_need_weights_refuse_a_remote_model(remote, whole, readers):
    tokens, cache = whole.tokens, whole.cache
    ids = tokens.answer, tokens.distractor
    calls = [
        lambda name=f.__name__: getattr(patching, name)(
            remote, tokens.corrupted, cache, tokens.logit_diff
        )
        for f in SWEEPS
    ]
    calls += [
        lambda: attribution.attribute_logit_diff(remote, cache, *ids),
        lambda: attribution.attribute_neurons(remote, cache, 0, *ids),
        lambda: lens.logit_lens(remote, cache),
        lambda: steering.steer(remote, torch.ones(128), 0, 1.0).__enter__(),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="in another process"):
            call()
