"""What the tests of the helpers share: models, one clean/corrupted pair, run-time shape checks."""

import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
from jaxtyping import install_import_hook

SHAPED = ["metrics", "prompts", "patching", "growing", "live", "product"]
SHAPED += ["attribution", "induction", "lens", "steering"]

# The shapes in the signatures of these modules are checked at run time in every test, arguments and
# results. Readers import the modules without that, and then the helpers' own messages are what they
# see; so a copy imported before the hook is kept for the tests of errors (fixture `plain`).
PLAIN = SimpleNamespace(**{name: import_module(f"helpers.{name}") for name in [*SHAPED, "inputs"]})
for name in [name for name in sys.modules if name.split(".")[0] == "helpers"]:
    del sys.modules[name]
install_import_hook(
    [f"helpers.{name}" for name in SHAPED],
    # An int may stand for a float, as everywhere in Python.
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

import torch  # noqa: E402
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel  # noqa: E402

from helpers.models import EMBEDDED_DIRECTORY, load_model  # noqa: E402
from helpers.prompts import CITY_PAIRS, PairTokens  # noqa: E402


@pytest.fixture(scope="session")
def plain():
    """The helpers as readers import them: no run-time shape checks but their own."""
    return PLAIN


@pytest.fixture(scope="session")
def model():
    """The embedded model. What is tested on it holds for any weights."""
    return load_model("tutorial-4l", device="cpu")


@pytest.fixture(scope="session")
def pair(model):
    """The lesson's pair on the embedded model: its tokens, logits and caches."""
    return run_pair(model, CITY_PAIRS[0].tokens(model))


@pytest.fixture(scope="session")
def random_model(tmp_path_factory):
    """A GPT-2 of two layers in double precision, all of whose parameters are random and large.

    Every bias counts here (in a model just initialised they are all zero, and a forgotten one would
    not be missed), and two routes to one answer agree to many digits.
    """
    path = tmp_path_factory.mktemp("models") / "random"
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_DIRECTORY)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=32,
        n_embd=24,
        n_layer=2,
        n_head=3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    network = GPT2LMHeadModel(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    network.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return load_model(path, device="cpu", dtype=torch.float64)


@pytest.fixture(scope="session")
def random_pair(random_model):
    """A clean and a corrupted run of random tokens; positions 0, 1 and 4 agree."""
    generator = torch.Generator().manual_seed(1)
    clean, corrupted = torch.randint(1, random_model.cfg.d_vocab, (2, 1, 6), generator=generator)
    for position in (0, 1, 4):
        corrupted[:, position] = clean[:, position]
    answer, distractor = torch.tensor([5]), torch.tensor([6])
    return run_pair(random_model, PairTokens(clean, corrupted, answer, distractor))


def run_pair(model, tokens):
    clean_logits, clean_cache = model.run_with_cache(tokens.clean)
    corrupted_logits, corrupted_cache = model.run_with_cache(tokens.corrupted)
    return SimpleNamespace(
        tokens=tokens,
        clean_logits=clean_logits,
        clean_cache=clean_cache,
        corrupted_logits=corrupted_logits,
        corrupted_cache=corrupted_cache,
    )


@pytest.fixture
def hooks_in_place():
    """A function: the names of the hook points of a model that carry a hook."""

    def names(model) -> list[str]:
        return [name for name, point in model.hook_dict.items() if point.has_hooks()]

    return names
