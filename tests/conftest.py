"""What the tests share: models, one clean/corrupted pair, run-time shape checks.

The shapes in the signatures of the helpers are checked at run time in every test (pytest's flag
`--jaxtyping-packages` in pyproject.toml), arguments and results. Readers have no such checks, and
the helpers' own messages are what they see: tests of errors ask for the fixture `readers`.
"""

import jaxtyping
import pytest
import torch
from families import PAIR, bridge, run_pair

from helpers.models import load_model
from helpers.prompts import CITY_PAIRS, PairTokens

torch.set_grad_enabled(False)  # as in the lessons


@pytest.fixture
def readers():
    """Without the run-time checks of shapes, as readers import the helpers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def model():
    """The embedded model. What is tested on it holds for any weights."""
    return load_model("tutorial-4l", device="cpu")


@pytest.fixture(scope="session")
def pair(model):
    """The lesson's pair on the embedded model: its tokens, logits and caches."""
    return run_pair(model, CITY_PAIRS[0].tokens(model))


@pytest.fixture(scope="session")
def random_model():
    """A GPT-2 in double precision, all of whose parameters are random and large.

    Every bias counts here (in a model just initialised they are all zero, and a forgotten one would
    not be missed), and two routes to one answer agree to many digits.
    """
    return bridge("GPT2", torch.float64)


@pytest.fixture(scope="session")
def random_pair(random_model):
    """A clean and a corrupted run of random tokens; positions 0, 1 and 4 agree."""
    generator = torch.Generator().manual_seed(1)
    clean, corrupted = torch.randint(2, random_model.cfg.d_vocab, (2, 1, 6), generator=generator)
    for position in (0, 1, 4):
        corrupted[:, position] = clean[:, position]
    answer, distractor = torch.tensor([5]), torch.tensor([6])
    return run_pair(random_model, PairTokens(clean, corrupted, answer, distractor))


@pytest.fixture(scope="session")
def word_pair(random_model):
    """The same of words, which differ in one."""
    return run_pair(random_model, PAIR.tokens(random_model))


@pytest.fixture
def hooks_in_place():
    """A function: the names of the hook points of a model that carry a hook."""

    def names(model) -> list[str]:
        return [name for name, point in model.hook_dict.items() if point.has_hooks()]

    return names
