"""`claim`: it fails on what is false, skips what belongs to another model, and can be counted."""

from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from IPython.utils.capture import capture_output

from helpers.checks import PASSED, SKIPPED, claim
from helpers.run import count_claims

OURS = SimpleNamespace(cfg=SimpleNamespace(model_name="tutorial-4l"))
OTHER = SimpleNamespace(cfg=SimpleNamespace(model_name="gpt2"))


@pytest.mark.parametrize("true", [True, torch.tensor(True), np.bool_(True), np.array([True])])
def test_a_true_claim_is_shown(true, capsys):
    claim("two is even", true)
    assert capsys.readouterr().out == "✔ Checked: two is even\n"


@pytest.mark.parametrize("false", [False, torch.tensor(False), np.bool_(False)])
def test_a_false_claim_fails(false, capsys):
    with pytest.raises(AssertionError, match="two is odd"):
        claim("two is odd", false)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("not_bool", [[False], "no", 1, 0.0, None, torch.ones(2) > 0, np.ones(1)])
def test_what_could_not_fail_is_refused(not_bool):
    with pytest.raises(TypeError, match="holds must be one bool"):
        claim("always", not_bool)


def test_a_finding_is_checked_on_its_model_only(capsys):
    with pytest.raises(AssertionError):
        claim("found", False, only_for="tutorial-4l", model=OURS)
    claim("found", False, only_for="tutorial-4l", model=OTHER)
    claim("found", False, only_for=("tutorial-4l", "pythia"), model=OTHER)
    assert capsys.readouterr().out == "○ Not checked on this model: found\n" * 2
    with pytest.raises(AssertionError):
        claim("found", False, only_for=("tutorial-4l", "gpt2"), model=OTHER)


def test_a_finding_needs_its_model():
    with pytest.raises(ValueError, match="needs model="):
        claim("found", True, only_for="tutorial-4l")


def test_the_text_is_needed_and_cannot_break_the_page():
    with pytest.raises(ValueError, match="empty"):
        claim("  ", True)
    with pytest.raises(TypeError, match="sentence"):
        claim(True, "text")
    with capture_output() as captured:
        claim("<script>alert(1)</script>", True)
    assert "<script>" not in str([o._repr_html_() for o in captured.outputs])


def test_verdicts_are_counted_by_status():
    def output(status):
        return nbformat.v4.new_output("display_data", metadata={"claim": status})

    cells = [
        nbformat.v4.new_code_cell(outputs=[output(PASSED), output(PASSED), output(SKIPPED)]),
        nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("stream", text="✔ Checked: x")]),
        nbformat.v4.new_markdown_cell("✔ Checked: y"),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    assert (count_claims(notebook, PASSED), count_claims(notebook, SKIPPED)) == (2, 1)
