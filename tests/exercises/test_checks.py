"""`claim`: it fails on what is false, skips what belongs to another model, and can be counted."""

from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from IPython.utils.capture import capture_output

from helpers import checks
from helpers.checks import PASSED, SKIPPED, answer, claim, exercise, expect, progress
from tools.run import count_claims

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


def double():
    """An exercise: twice the argument."""

    @exercise("9.1", "Twice")
    def check(attempt):
        given = torch.tensor([1.0, 2.0])
        got = answer(attempt, given, like=given)
        expect(not torch.equal(got, given), "that is once")
        expect(torch.equal(got, 2 * given), "that is not twice")

    return check


def test_a_right_answer_is_solved_however_it_is_made(capsys):
    double()(lambda x: 2 * x)
    double()(lambda x: x + x)
    assert capsys.readouterr().out == "✔ Solved: Exercise 9.1 (Twice)\n" * 2


def test_an_untouched_stub_stops_nothing(capsys):
    double()(lambda x: ...)
    double()(...)
    assert capsys.readouterr().out == "○ Not solved yet: Exercise 9.1 (Twice)\n" * 2


def test_a_wrong_answer_is_told_its_property(capsys):
    double()(lambda x: x)
    assert capsys.readouterr().out == "✘ Not yet: Exercise 9.1 (Twice): that is once\n"


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda x: None, "does it end in `return`?"),
        (lambda x: x[0], r"expected shape (2,), got ()"),
        (lambda x: x * float("nan"), "there is a NaN in it"),
        (lambda x: x.nothing, "your code stopped with AttributeError"),
        (torch.ones(2), "expected a function, got Tensor"),
    ],
)
def test_what_is_no_answer_is_told_too(capsys, attempt, words):
    double()(attempt)
    assert words in capsys.readouterr().out


def test_an_attempt_cannot_spoil_what_it_is_given(capsys):
    double()(lambda x: x.mul_(2))
    assert "✔ Solved" in capsys.readouterr().out


def test_progress_counts_the_latest_of_each(capsys, monkeypatch):
    monkeypatch.setattr(checks, "_tally", {})
    double()(lambda x: x)
    double()(lambda x: 2 * x)
    exercise("9.2", "Nothing")(lambda attempt: None)(...)
    capsys.readouterr()
    progress()
    assert capsys.readouterr().out == (
        "1 of 2 exercises solved\n  9.1  ✔ Solved\n  9.2  ○ Not solved yet\n"
    )
