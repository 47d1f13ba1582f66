"""Every exercise as a learner meets it: untouched, solved, and solved wrongly.

The stub, the solution and the check are taken from the notebook itself; other answers are in
`mistakes_*.py`, each in the shortest of these forms:

    "def f(x): ..."            the whole answer
    ("old", "new")             the notebook's solution with `old`, which stands there once, replaced
    [("old", "new"), ...]      several such changes
    ".numpy()"                 the solution, with this after what its last function returns

A wrong answer is one of them and words that the learner must be told: ("old", "new", "words").
"""

import ast
import re
from functools import cache, partial, wraps
from importlib import import_module

import nbformat
import pytest
import torch
from books import NAMES, read
from elsewhere import DEVICE, away, second_device
from IPython.utils.capture import capture_output

from exercises import grading as checks
from helpers import models

MODULES = "activations patching attribution induction lens steering".split()
TABLES = {name: import_module(f"mistakes_{m}") for name, m in zip(NAMES, MODULES, strict=True)}


def cells(name: str) -> dict[str, nbformat.NotebookNode]:
    return {cell.id: cell for cell in read(name).cells}


def ids(name: str) -> list[str]:
    tagged = [cell.id for cell in read(name).cells if "exercise" in cell.metadata.get("tags", [])]
    return [i.removesuffix("-stub") for i in tagged]


EXERCISES = [(name, number) for name in NAMES for number in ids(name)]
each = pytest.mark.parametrize("name", NAMES)
every = pytest.mark.parametrize(
    ("name", "number"), EXERCISES, ids=[f"{name[:2]}-{number}" for name, number in EXERCISES]
)


@pytest.fixture(scope="module")
def prepared():
    """A function: the names a notebook has when its exercises begin, made once."""
    made = cache(start)
    return lambda name: dict(made(name))


def start(name: str) -> dict:
    space: dict = {}
    run([cells(name)["load"].source, cells(name)["exercises-setup"].source], space)
    return space


def run(sources: list[str], space: dict) -> str:
    """Execute, and give what was shown."""
    with capture_output() as shown:
        for source in sources:
            exec(compile(source, "<cell>", "exec"), space)
    return shown.stdout + "".join(repr(output.data) for output in shown.outputs)


def heading(name: str, number: str) -> tuple[str, str]:
    text = cells(name)[number].source
    return re.match(r"### Exercise (\d\.\d): (.*)", text).groups()


def solution(name: str, number: str) -> str:
    text = cells(name)[number].source
    found = re.findall(
        r"<details><summary>Solution</summary>\n\n```python\n(.*?)```\n\n</details>", text, re.S
    )
    assert len(found) == 1, f"{name} {number}: {len(found)} solutions"
    return found[0]


def code(name: str, number: str, change) -> str:
    """The answer that an entry of a table stands for."""
    if isinstance(change, str) and not change.startswith("."):
        return change
    text = solution(name, number)
    if isinstance(change, str):
        last = list(defined(cells(name)[f"{number}-stub"].source))[-1]
        wrapped = f"(lambda f: lambda *a, **k: f(*a, **k){change})({last})"
        return f"{text}\n{last} = {wrapped if f'def {last}(' in text else last + change}\n"
    for old, new in [change] if isinstance(change, tuple) else change:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the solution"
        text = text.replace(old, new)
    return text


def defined(source: str) -> dict[str, None]:
    """The functions and variables that a cell defines at its top level, in order."""
    names = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            names[node.name] = None
        if isinstance(node, ast.Assign):
            named = (n for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name))
            names |= {n.id: None for n in named}
    return names


def attempt(space: dict, name: str, number: str, answer: str | None = None) -> tuple[str, str]:
    """Status and text after the stub, or `answer` in its place, and the check have run."""
    stub = cells(name)[f"{number}-stub"].source
    if answer is not None:
        assert answer.strip() != stub.strip()
        assert defined(stub).keys() <= defined(answer).keys(), "define what the stub defines"
    key = heading(name, number)[0]
    checks._tally.pop(key, None)
    shown = run([stub if answer is None else answer, cells(name)[f"{number}-check"].source], space)
    assert key in checks._tally, "the check did not run"
    return checks._tally[key], shown


@every
def test_an_untouched_stub_is_not_solved_and_stops_nothing(prepared, name, number):
    status, shown = attempt(prepared(name), name, number)
    assert status == checks.UNSOLVED
    assert "Not solved yet: Exercise {} ({})".format(*heading(name, number)) in shown


@every
def test_the_notebooks_own_solution_passes(prepared, name, number):
    status, shown = attempt(prepared(name), name, number, solution(name, number))
    assert status == checks.SOLVED, shown


def entries(name: str, number: str, table: str) -> list[tuple]:
    """The entries of a table for an exercise: (change,), and (change, words) of a wrong answer."""
    found = getattr(TABLES[name], table)[heading(name, number)[0]]
    if table == "RIGHT":
        return [(change,) for change in found]
    return [(change[0] if len(change) == 1 else tuple(change), words) for *change, words in found]


def answers(table: str, quick: int):
    """The answers of a table, for every exercise; all but the first few of each are slow tests."""
    for name, number in EXERCISES:
        for i, values in enumerate(entries(name, number, table)):
            marks = () if i < quick else pytest.mark.slow
            yield pytest.param(name, number, *values, id=f"{name[:2]}-{number}-{i}", marks=marks)


@pytest.mark.parametrize(("name", "number", "change"), list(answers("RIGHT", quick=0)))
def test_a_right_answer_of_another_form_passes(prepared, name, number, change):
    status, shown = attempt(prepared(name), name, number, code(name, number, change))
    assert status == checks.SOLVED, shown


@pytest.mark.parametrize(("name", "number", "change", "words"), list(answers("MISTAKES", quick=2)))
def test_a_wrong_answer_is_told_what_is_wrong(prepared, name, number, change, words):
    told(attempt(prepared(name), name, number, code(name, number, change)), words)


def told(judged: tuple[str, str], words: str) -> None:
    """The answer was refused, in one of these wordings, with bars between them."""
    status, shown = judged
    assert status == checks.WRONG, shown
    assert any(each in shown for each in words.split("|")), shown


@pytest.mark.slow
@every
def test_a_step_to_do_is_named_and_a_hook_that_stays_refused(prepared, name, number):
    """Of each function of an answer that is right otherwise; and what is right at the first and the
    last layer only."""
    stub, answer = cells(name)[f"{number}-stub"].source, solution(name, number)
    for place, function in enumerate(ast.parse(stub).body, 1):
        undone = f"{answer}\n{ast.get_source_segment(stub, function)}"
        status, shown = attempt(prepared(name), name, number, undone)
        assert status == (checks.UNSOLVED if place == 1 else checks.WRONG)
        assert place == 1 or f"right up to here; step {place} is still to do" in shown
        n, takes = function.name, [each.arg for each in function.args.args]
        wrong = {"model.add_hook('ln_final.hook_in', lambda x, hook: x)": "a hook stays"}
        if "layer" in takes and heading(name, number)[0] != "2.3":  # its toys have two layers
            layer = f"a[{takes.index('layer') - 1}]"
            wrong[f"a = [*a]; {layer} = {layer} and model.cfg.n_layers - 1"] = ""
        for change, words in wrong.items() if takes[0] == "model" else ():
            changed = f"{answer}\ndef {n}(model, *a, right={n}): {change}; return right(model, *a)"
            told(attempt(prepared(name), name, number, changed), words)


FORMS = {
    "elsewhere": away,
    "other numbers": lambda x: x.double() if x.is_floating_point() else x.int(),
    "numpy": lambda x: x.numpy(force=True),
    "lists": lambda x: x.tolist(),
}


def given_as(form, given):
    """The same with every tensor in this form; a function with all that it gives."""
    if callable(given) and not isinstance(given, torch.Tensor):
        return wraps(given)(lambda *args, **kwargs: given_as(form, given(*args, **kwargs)))
    if isinstance(given, list | tuple):
        return type(given)(given_as(form, each) for each in given)
    return form(given) if isinstance(given, torch.Tensor) else given


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@every
def test_a_right_answer_passes_in_any_form(prepared, name, number, form):
    space, key, changed = prepared(name), heading(name, number)[0], []
    stub, check = (cells(name)[f"{number}-{part}"].source for part in ("stub", "check"))
    call = re.compile(rf"\b({'|'.join(defined(stub))})(?=[,)])")
    space["given"] = partial(given_as, lambda x: changed.append(x) or FORMS[form](x))
    checks._tally.pop(key, None)
    run([solution(name, number), call.sub(r"given(\1)", check)], space)
    assert checks._tally[key] == checks.SOLVED
    assert changed or len(TABLES[name].RIGHT[key]) >= 8  # else the form counts for nothing


@pytest.mark.slow
@each
def test_solutions_pass_with_the_model_on_another_device(name, monkeypatch):
    load = models.load_model
    monkeypatch.setattr(models, "load_model", lambda *a, **k: load(*a, **{"device": DEVICE} | k))
    with second_device():
        space = start(name)
        for number in ids(name):
            status, shown = attempt(dict(space), name, number, solution(name, number))
            assert status == checks.SOLVED, shown


@each
def test_each_exercise_has_mistakes_of_its_own(name):
    module = TABLES[name]
    numbers = {heading(name, number)[0] for number in ids(name)}
    assert set(module.MISTAKES) == set(module.RIGHT) == numbers
    assert min(map(len, module.RIGHT.values())) + len(FORMS) >= 8  # those of every exercise, too
    assert min(map(len, module.MISTAKES.values())) >= 8
    for wrong in module.MISTAKES.values():
        assert len({answer[-1] for answer in wrong}) >= 2


@each
def test_exercises_are_numbered_graded_and_hinted(name):
    for place, number in enumerate(ids(name), 1):
        text = cells(name)[number].source
        key, title = heading(name, number)
        assert (number, key) == (f"ex-{place}", f"{int(name[:2])}.{place}")
        assert re.search(r"^Difficulty [1-5] of 5 · \d+ minutes · Objective: .+\.$", text, re.M)
        folds = re.findall(r"<summary>(.*?)</summary>", text)
        assert folds in (["Hint 1", "Solution"], ["Hint 1", "Hint 2", "Solution"]), title


@each
def test_there_are_enough_and_one_open_investigation_with_a_rubric_and_no_solution(name):
    assert len(EXERCISES) >= 26 and len(ids(name)) >= 4
    text = cells(name)["investigation"].source
    assert text.startswith("### Open investigation: ")
    assert "A good report" in text and "Solution" not in text
