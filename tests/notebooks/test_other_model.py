"""All six notebooks on a model that knows nothing: GPT-2's depth and heads, random weights.

Identities are asserted there as everywhere. Findings belong to the embedded model, and must be
shown as not checked, in every notebook.
"""

import nbformat
import pytest
from test_structure import NAMES
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from helpers.checks import PASSED, SKIPPED
from helpers.models import EMBEDDED_DIRECTORY
from tools.run import count_claims, main


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The status of the run, and the executed copies by name."""
    base = tmp_path_factory.mktemp("other")
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_DIRECTORY)
    shape = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=128,
        n_embd=96,
        n_layer=12,
        n_head=12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    GPT2LMHeadModel(shape).save_pretrained(base / "model")
    tokenizer.save_pretrained(base / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTORIAL_MODEL", str(base / "model"))
        status = main(["--out", str(base / "out")])
    return status, {name: nbformat.read(base / "out" / f"{name}.ipynb", 4) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_identities_hold_and_findings_are_not_claimed(executed, name):
    status, notebooks = executed
    notebook = notebooks[name]
    assert status == 0
    assert count_claims(notebook, PASSED) > 5 and count_claims(notebook, SKIPPED) > 2
    loaded = next(cell for cell in notebook.cells if cell.id == "load")
    assert "12 layers of 12 heads" in "".join(o.get("text", "") for o in loaded.outputs)
