"""Exercises on the real model: the solution and the first wrong answer of each."""

import pytest
from test_exercises import attempt, checks, code, each, entries, ids, solution, start

from helpers import models

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def real_model():
    if not models.REAL.place().is_dir():
        pytest.skip(f"{models.REAL.name} is not on this machine; `make real` fetches it")
    return models.load_model(models.REAL.name)


@each
def test_exercises_judge_alike_on_the_real_model(real_model, name, monkeypatch):
    load = models.load_model
    once = {None: real_model}  # the reader's model; checks may load others by name
    monkeypatch.setattr(models, "load_model", lambda name=None, **k: once.get(name) or load(name))
    space = start(name)
    for number in ids(name):
        status, shown = attempt(dict(space), name, number, solution(name, number))
        assert status == checks.SOLVED, shown
        change, words = entries(name, number, "MISTAKES")[0]
        status, shown = attempt(dict(space), name, number, code(name, number, change))
        assert status == checks.WRONG, f"{number}, {change}: {shown}"
        assert words in shown
