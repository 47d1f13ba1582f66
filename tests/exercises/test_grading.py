"""Grading: right answers in any form pass, wrong ones are told why, and a session is remembered."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from exercises import grading
from exercises.grading import Unsolved, Wrong, answer, compare, exercise, progress, step, unchanged
from helpers.architecture import Unsupported

ROOT = Path(__file__).parents[2]
GRID = torch.tensor([[0.25, -3.0, 1000.0], [0.5, 7.0, 2.0]])


@pytest.fixture(autouse=True)
def untouched(monkeypatch):
    for name in ("_titles", "_tally"):
        monkeypatch.setattr(grading, name, {})
    monkeypatch.setattr("exercises.session._unwritten", set())
    grading._tries.clear()


RIGHT = [
    GRID.double(),
    GRID.half(),
    GRID.clone().requires_grad_(),
    GRID.T.contiguous().T,
    GRID.numpy(),
    GRID.flip(0).numpy()[::-1],  # of negative stride
    GRID.tolist(),
    tuple(map(tuple, GRID.tolist())),
    list(GRID),
    [list(row) for row in GRID],
    GRID * (1 + 3e-6),
]


def test_a_right_answer_passes_in_any_form():
    for right in RIGHT:
        compare(right, GRID, {"never": GRID})
        assert answer(lambda right=right: right, like=GRID).dtype == GRID.dtype


def test_numbers_pass_up_to_the_rounding_of_float32():
    for right in (3, 3.0, np.float32(3), np.int64(3), torch.tensor(3)):
        compare(right, 3.0)
        compare((right, 1), torch.tensor([3, 1]))
    numbers = torch.randn(50_000, generator=torch.Generator().manual_seed(0)) * 100
    compare(sum(numbers), numbers.double().sum())
    for wrong in (GRID * 1.001, GRID + torch.tensor([0, 0.5, 0])):
        with pytest.raises(Wrong):
            compare(wrong, GRID)
    with pytest.raises(Wrong):
        compare([1e-3, 0], torch.zeros(2))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (-GRID, "the sign is turned"),
        (GRID.numpy().T, "rows and columns are swapped"),  # of another shape, and still known
        (GRID[0], r"expected shape (2, 3), got (3,); over which axis"),
        (GRID[None], r"expected shape (2, 3), got (1, 2, 3)"),  # never broadcast
        (GRID.log(), "there is a NaN in it"),
        (None, "does not end in `return`"),
        ("Paris", "expected numbers, got a str"),
        ([[1, 2], [3]], "no table of them"),
        (GRID + torch.eye(2, 3), "2 of 6 numbers differ; at index [0, 0] you give 1.25, which is"),
        (GRID.clamp(max=100), "at index [0, 2] you give 100, which is too small"),
    ],
)
def test_a_wrong_answer_is_told_why(wrong, words):
    mistakes = {"the sign is turned": -GRID, "rows and columns are swapped": GRID.T}
    with pytest.raises(Wrong) as told:
        compare(wrong, GRID, mistakes)
    assert words in str(told.value)
    assert "1000" not in str(told.value)


GRADER = """
import torch
from exercises.grading import answer, compare, exercise, expect

def make():
    @exercise("9.1", "Twice")
    def check(attempt):
        given = torch.tensor([1.0, 2.0])
        compare(answer(attempt, given), 2 * given, {"that is once": given})
        expect(given.sum() == 3, "an attempt cannot spoil what it is given")
    return check
"""


@pytest.fixture
def check():
    """An exercise: twice the argument."""
    space = {}
    exec(GRADER, space)
    return space["make"]()


@pytest.mark.parametrize(
    ("attempt", "shown"),
    [
        (lambda x: x.mul_(2), "✔ Solved: Exercise 9.1 (Twice)\n"),
        (lambda x: ..., "○ Not solved yet: Exercise 9.1 (Twice)\n"),
        (..., "○ Not solved yet: Exercise 9.1 (Twice)\n"),
        (lambda x: x, "✘ Not yet: Exercise 9.1 (Twice): that is once\n"),
        (torch.ones(2), "✘ Not yet: Exercise 9.1 (Twice): expected a function, got Tensor; pass "),
    ],
)
def test_an_attempt_is_shown_for_what_it_is_and_stops_nothing(check, capsys, attempt, shown):
    check(attempt)
    assert capsys.readouterr().out.startswith(shown)


def test_a_hint_and_progress_follow_the_tries(check, capsys):
    for number in ("9.10", "9.2", "8.1"):
        exercise(number, "Nothing")(lambda attempt: None)
    for hint in (None, "Hint 1", "Hint 1", "all hints", "all hints"):
        check(lambda x: x)
        shown = capsys.readouterr().out
        assert f"Open {hint} above" in shown if hint else "Open" not in shown
    check(lambda x: 2 * x)
    check(lambda x: x)  # what was solved stays solved
    capsys.readouterr()
    progress()
    assert capsys.readouterr().out.splitlines()[:-1] == [
        "1 of 3 exercises solved",
        "  9.1  ✔ Solved: Twice",
        "  9.2  ○ Not solved yet: Nothing",
        "  9.10  ○ Not solved yet: Nothing",
    ]


def test_an_architecture_that_does_not_allow_it_is_no_wrong_answer(capsys):
    @exercise("9.3", "Read the values")
    def check(attempt):
        raise Unsupported("Bloom: its block is not known")

    check(lambda: 1)
    check(lambda: 1)
    shown = capsys.readouterr().out
    assert shown.count("○ Not judged: Exercise 9.3 (Read the values): not possible on this") == 2
    assert "Bloom: its block is not known" in shown and "Hint" not in shown
    assert "9.3" not in grading._tally


@pytest.fixture
def session(tmp_path):
    """Run cells in a new IPython; what each printed."""

    (tmp_path / "grader.py").write_text(GRADER)
    setup = "import grader; from exercises.grading import progress; check = grader.make()"

    def run(*cells: str) -> list[str]:
        script = f"""
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in {[setup, *cells]!r}:
    shell.run_cell(cell, store_history=True)
    print("=== end of cell")
"""
        variables = {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path), "PYTHONUTF8": "1"}
        options = {"cwd": tmp_path, "capture_output": True, "encoding": "utf-8", "timeout": 120}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=os.environ | variables, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout.split("=== end of cell\n")[1:-1]

    return run


GOOD, BAD = "def f(x):\n    return 2 * x", "def f(x):\n    retrun x"
INNER = "def inner(x):\n    y = x + 1\n    return y.reshape(7)\ndef f(x): return inner(x)"
SESSION = [  # cells, and what each prints
    (GOOD, ""),
    (BAD, "SyntaxError"),
    ("check(f)", "`f` failed with SyntaxError; nothing was judged"),
    ("1 + 1", "2"),
    ("check(f)", "`f` failed with SyntaxError; nothing was judged"),
    (GOOD, ""),
    ("check(f)", "✔ Solved"),
    (f"{GOOD}\n1 / 0", "ZeroDivisionError"),
    ("check(f)", "`f` failed with ZeroDivisionError; nothing was judged"),
    (GOOD, ""),
    ("check(g)", "NameError"),  # the check's own cell: it judges again
    ("check(f)", "✔ Solved"),
    ("f = (", "SyntaxError"),
    ("f = 3; check(f)", "expected a function, got int"),  # the cell at hand makes a new one
    ("if True:\n    def f(x): retrun x", "SyntaxError"),
    ("check(f)", "`f` failed with SyntaxError; nothing was judged"),
    ("def f(x):\n    return [twice(y) for y in x]\ndef twice(y): return 2 * y", ""),
    ("check(f)", "✔ Solved"),
    ("def twice(y): return y +", "SyntaxError"),  # a helper in a cell of its own
    ("check(f)", "`twice` failed with SyntaxError; nothing was judged"),
    (INNER, ""),
    ("check(f)", "your code stopped with RuntimeError"),
]


@pytest.mark.slow
def test_an_older_version_is_not_judged_and_an_error_shows_the_learners_own_lines(session):
    shown = session(*(cell for cell, _ in SESSION))
    for (cell, words), said in zip(SESSION, shown, strict=True):
        assert words in said, cell
        assert ("✔ Solved" in said) == (words == "✔ Solved"), cell
    assert [line.strip() for line in shown[-1].splitlines()[1:3]] == [
        "your cell, line 4, in f: def f(x): return inner(x)",
        "your cell, line 3, in inner: return y.reshape(7)",
    ]


@pytest.mark.slow
def test_progress_survives_a_restart_until_its_file_is_deleted(session, tmp_path):
    cells = ("check(lambda x: 2 * x); progress()", "progress(all=True)", "check(...); progress()")
    one, every, again = session(*cells)
    assert "1 of 1 exercises" in one and "1 of 1 exercises" in again
    assert {line.split(".")[0].strip() for line in every.splitlines()[1:]} == {*"1234569"}
    assert "1 of 1" in session("check(lambda x: ...)", "check(lambda x: x)", "progress()")[-1]
    (tmp_path / ".progress.json").unlink()
    assert "0 of 1" in session("check(lambda x: ...)", "progress()")[-1]
    begun_again = session(cells[0], "import os; os.remove('.progress.json')", "progress()")[-1]
    assert "0 of 1" in begun_again and "Not solved yet" in begun_again
    (tmp_path / ".progress.json").mkdir()  # where nothing was kept; now nothing can be written
    assert "1 of 1" in session("check(lambda x: x + x)", "progress()")[-1]


def test_the_second_model_shares_the_tokenizer_and_nothing_else(model):
    other = grading.second_model(model)
    assert other is grading.second_model(model) and other.tokenizer is model.tokenizer
    assert other.cfg.d_vocab == model.cfg.d_vocab and other.cfg.d_model != model.cfg.d_model
    tokens = other.to_tokens("The capital of Italy is", prepend_bos=True)
    assert other(tokens).argmax(-1).tolist() != model(tokens).argmax(-1).tolist()


def test_a_hook_or_a_weight_that_stays_is_told_and_the_hook_taken_off(model):
    tokens = model.to_tokens("The capital of Italy is", prepend_bos=True)
    with unchanged(model):
        model.run_with_hooks(tokens, fwd_hooks=[("ln_final.hook_in", lambda x, hook: 2 * x)])
    for for_good in (False, True):
        with grading.firm(model, [("hook_embed", lambda x, hook: 0 * x)]):
            silent = model(tokens)
            with pytest.raises(Wrong, match="a hook stays on the model"), unchanged(model):
                model.reset_hooks()
                model.add_hook("ln_final.hook_in", lambda x, hook: x, is_permanent=for_good)
            assert_close(model(tokens), silent)
        assert not any(point.has_hooks() for point in model.hook_dict.values())
    weight = next(model.parameters())
    try:
        with pytest.raises(Wrong, match="stays changed"), unchanged(model):
            weight.data.mul_(1.1)
    finally:
        weight.data.div_(1.1)


def test_steps_wait_for_those_before_and_say_where_they_fail():
    with pytest.raises(Unsolved), step(1):
        answer(lambda: ...)
    with pytest.raises(Wrong, match="right up to here; step 2 is still to do"), step(2):
        answer(lambda: ...)
    for first, told in ((True, "step 3: too small"), (False, "step 3: right on the model at hand")):
        with pytest.raises(Wrong, match=told), step(3), grading.on_model(first):
            raise Wrong("too small")
