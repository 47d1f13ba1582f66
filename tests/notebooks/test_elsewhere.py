"""The notebooks elsewhere, in this process: on random models of two families, which know nothing,
and on a device that is not the CPU."""

import families
import pytest
import torch
from books import NAMES, sources
from elsewhere import DEVICE, second_device
from IPython.utils.capture import capture_output
from torch.testing import assert_close
from transformers import AutoTokenizer

from helpers import models

pytestmark = pytest.mark.slow
each = pytest.mark.parametrize("name", NAMES)


def run(name: str) -> tuple[dict, str]:
    """All code cells, to the end: the names they leave, and what they printed."""
    space: dict = {}
    with capture_output() as shown:
        for i, source in sources(name, "code").items():
            exec(compile(source, f"<{i}>", "exec"), space)
    return space, shown.stdout


@pytest.fixture(scope="module", params=["Llama", "GPTNeoX"])
def folder(request, tmp_path_factory) -> str:
    tokenizer = AutoTokenizer.from_pretrained(models.EMBEDDED_DIRECTORY)
    special = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.bos_token_id)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 128, "hidden_size": 48}
    made = families.network.__wrapped__(request.param, **sizes, num_hidden_layers=5, **special)
    path = tmp_path_factory.mktemp(request.param)
    for part in (made, tokenizer):
        part.save_pretrained(path)
    return str(path)


@each
def test_a_notebook_runs_to_the_end_on_another_family(folder, name, monkeypatch):
    """Identities are asserted there as everywhere; findings are shown, whatever they are."""
    monkeypatch.setenv("TUTORIAL_MODEL", folder)
    _, shown = run(name)
    assert "5 layers of 4 heads" in shown and "✔ Checked: " in shown


@pytest.fixture
def there(monkeypatch):
    """Where nothing else is asked for, models are loaded on the second device."""
    load = models.load_model
    monkeypatch.setattr(models, "load_model", lambda *a, **k: load(*a, **{"device": DEVICE} | k))
    with second_device():
        yield


def test_the_second_device_refuses_what_a_gpu_refuses_and_computes_the_same(there, model):
    moved, tokens = models.load_model(), torch.arange(2, 9)[None]
    with pytest.raises(RuntimeError, match="same device"):
        moved(tokens)
    with pytest.raises(TypeError, match="numpy"):
        moved.W_E.numpy()
    logits = moved(tokens.to(DEVICE))
    assert logits.device == moved.W_E.device == DEVICE
    assert_close(logits.cpu(), model(tokens), atol=1e-4, rtol=0)


@each
def test_a_notebook_finds_on_the_second_device_what_is_on_record(there, name, monkeypatch):
    monkeypatch.setenv("TUTORIAL_FINDINGS", "strict")
    space, _ = run(name)
    assert space["model"].W_E.device == DEVICE
