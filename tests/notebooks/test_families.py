"""The notebooks on models that know nothing: random weights, two families, in this process."""

import families
import pytest
from books import NAMES, sources
from IPython.utils.capture import capture_output
from transformers import AutoTokenizer

from helpers.models import EMBEDDED_DIRECTORY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["Llama", "GPTNeoX"])
def folder(request, tmp_path_factory) -> str:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_DIRECTORY)
    special = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.bos_token_id)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 128, "hidden_size": 48}
    made = families.network.__wrapped__(request.param, **sizes, num_hidden_layers=5, **special)
    path = tmp_path_factory.mktemp(request.param)
    for part in (made, tokenizer):
        part.save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_to_the_end(folder, name, monkeypatch):
    """Identities are asserted there as everywhere; findings are shown, whatever they are."""
    monkeypatch.setenv("TUTORIAL_MODEL", folder)
    space: dict = {}
    with capture_output() as shown:
        for i, source in sources(name, "code").items():
            exec(compile(source, f"<{i}>", "exec"), space)
    assert "5 layers of 4 heads" in shown.stdout and "✔ Checked: " in shown.stdout
