"""The notebooks and the exercises' solutions with the model on a device that is not the CPU."""

import pytest
import torch
from books import NAMES, sources
from elsewhere import DEVICE, second_device
from IPython.utils.capture import capture_output

from helpers import models

pytestmark = pytest.mark.slow


@pytest.fixture
def there(monkeypatch):
    """Where nothing else is asked for, models are loaded elsewhere."""
    load = models.load_model
    monkeypatch.setattr(
        models, "load_model", lambda *args, **given: load(*args, **{"device": DEVICE} | given)
    )
    with second_device():
        yield


def test_it_is_a_device_of_its_own(there, model):
    """It refuses what a GPU refuses, and what it computes is what the CPU does."""
    moved, tokens = models.load_model(), torch.arange(2, 9)[None]
    with pytest.raises(RuntimeError, match="same device"):
        moved(tokens)
    with pytest.raises(TypeError, match="numpy"):
        moved.W_E.numpy()
    logits = moved(tokens.to(DEVICE))
    assert logits.device == moved.W_E.device == DEVICE
    assert torch.equal(logits.cpu(), model(tokens))


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_finds_what_is_on_record(there, name, monkeypatch):
    monkeypatch.setenv("TUTORIAL_FINDINGS", "strict")
    space: dict = {}
    with capture_output():
        for i, source in sources(name, "code").items():
            exec(compile(source, f"<{i}>", "exec"), space)
    assert space["model"].W_E.device == DEVICE
