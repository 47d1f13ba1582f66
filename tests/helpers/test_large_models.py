"""docs/large-models.md: what is said of models spread over devices."""

from types import SimpleNamespace

import pytest
from families import run_pair
from torch.testing import assert_close

from helpers import attribution, patching, steering
from helpers.engine import sparse
from helpers.models import EMBEDDED_DIRECTORY, load_model
from helpers.prompts import CITY_PAIRS

PARTS = ["wte", "wpe", "h.0", "h.1", "h.2", "h.3", "ln_f"]
PLACES = {f"transformer.{p}": "disk" if p in ("h.1", "h.2") else "cpu" for p in PARTS}
PLACES["lm_head"] = "cpu"
NEAR = {"atol": 1e-3, "rtol": 1e-4}


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    """The embedded model with two of its blocks on the disk."""
    folder = tmp_path_factory.mktemp("disk")
    model = load_model(EMBEDDED_DIRECTORY, device_map=PLACES, offload_folder=folder)
    assert any(parameter.is_meta for parameter in model.parameters())  # really not in memory
    return SimpleNamespace(model=model, pair=run_pair(model, CITY_PAIRS[0].tokens(model)))


@pytest.fixture(scope="module")
def whole(model, pair):
    return SimpleNamespace(model=model, pair=pair)


def test_loading_a_spread_model_is_silent(tmp_path, capfd):
    load_model(EMBEDDED_DIRECTORY, device_map=PLACES, offload_folder=tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["patch_blocks", "patch_head_positions", "attribution_patch"])
def test_sweeps_of_a_spread_model_are_those_of_the_whole(spread, whole, name):
    assert not sparse.supports(spread.model, 9)  # not all here
    found, expected = (
        getattr(patching, name)(
            each.model, each.pair.tokens.corrupted, each.pair.clean_cache,
            each.pair.tokens.logit_diff,
        )
        for each in (spread, whole)
    )  # fmt: skip
    assert_close(found, expected, **NEAR)


def test_steering_a_spread_model(spread, whole):
    sides, steered = ("I love this", "I hate this"), []
    vectors = [steering.steering_vector(each.model, *sides, 2) for each in (spread, whole)]
    # Loading the whole model centres the stream; here it is as in the file.
    assert_close(vectors[0] - vectors[0].mean(), vectors[1], **NEAR)
    for each, vector in zip((spread, whole), vectors, strict=True):
        with steering.steer(each.model, vector, 2, 2.0):
            steered.append(each.model(each.pair.tokens.clean).log_softmax(-1))
    assert_close(*steered, **NEAR)


def test_attribution_refuses_a_spread_model(spread):
    with pytest.raises(ValueError, match="not folded into W_U"):
        ids = spread.pair.tokens[2:]
        attribution.attribute_logit_diff(spread.model, spread.pair.clean_cache, *ids)
