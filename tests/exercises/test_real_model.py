"""Exercises on the real model: the solution and the first wrong answer of each; all of the tables
by `pytest -m exhaustive`, in some twenty minutes."""

import pytest
from test_exercises import answers, attempt, checks, code, each, entries, ids, solution, start, told

from helpers import models

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def begin():
    """A function: `start` on the real model, which is loaded once."""
    if not models.REAL.place().is_dir():
        pytest.skip(f"{models.REAL.name} is not on this machine; `make real` fetches it")
    real, load, made = models.load_model(models.REAL.name), models.load_model, {}
    with pytest.MonkeyPatch.context() as patch:
        read = lambda name=None, **k: load(name, **k) if name else real  # noqa: E731
        patch.setattr(models, "load_model", read)
        yield lambda name: dict(made.get(name) or made.setdefault(name, start(name)))


@each
def test_exercises_judge_alike_on_the_real_model(begin, name):
    for number in ids(name):
        status, shown = attempt(begin(name), name, number, solution(name, number))
        assert status == checks.SOLVED, shown
        change, words = entries(name, number, "MISTAKES")[0]
        told(attempt(begin(name), name, number, code(name, number, change)), words)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "number", "change"), list(answers("RIGHT", quick=0)))
def test_every_right_answer(begin, name, number, change):
    status, shown = attempt(begin(name), name, number, code(name, number, change))
    assert status == checks.SOLVED, shown


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "number", "change", "words"), list(answers("MISTAKES", quick=0)))
def test_every_wrong_answer(begin, name, number, change, words):
    told(attempt(begin(name), name, number, code(name, number, change)), words)
