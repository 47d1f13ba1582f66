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


@pytest.mark.parametrize("sweep", [patching.patch_head_positions, patching.attribution_patch])
def test_sweeps_of_a_spread_model_are_those_of_the_whole(spread, whole, sweep):
    assert not sparse.supports(spread.model, 9)  # not all here
    grids = []
    for each in (spread, whole):
        tokens, cache = each.pair.tokens, each.pair.clean_cache
        grids.append(sweep(each.model, tokens.corrupted, cache, tokens.logit_diff))
    assert_close(*grids, **NEAR)


def test_steering_a_spread_model(spread, whole):
    """Loading the whole model centres the stream; here it is as in the file."""
    sides = "I love this", "I hate this", 2
    found, right = (steering.steering_vector(each.model, *sides) for each in (spread, whole))
    assert_close(found - found.mean(), right, **NEAR)


def test_attribution_refuses_a_spread_model(spread):
    with pytest.raises(ValueError, match="not folded into W_U"):
        ids = spread.pair.tokens[2:]
        attribution.attribute_logit_diff(spread.model, spread.pair.clean_cache, *ids)
