"""README.md and the timetables give the minutes that the notebooks give."""

import re

import pytest
from books import NAMES, ROOT, sources

TIMETABLES = re.findall(
    r"(?m)^\| \d \| (\d+) \| (\d+) \| (\d+) \|$", (ROOT / "docs/timetables.md").read_text("utf-8")
)
README = re.findall(r"\| (\d+) \+ (\d+) \|", (ROOT / "README.md").read_text("utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_minutes_are_the_notebooks(name):
    number = NAMES.index(name)
    cells = "\n".join(sources(name, "markdown").values())
    core, optional, exercises = map(int, TIMETABLES[number])
    assert README[number] == (str(core), str(exercises))
    each = re.findall(r"(?m)^Difficulty \d of 5 · (\d+) minutes", cells)
    assert abs(sum(map(int, each)) - exercises) <= 3  # in steps of five
    stated = set(map(int, re.findall(r"\d+", re.search(r"\*\*Time\.\*\* (.*)", cells)[1])))
    assert {core, core + optional} & stated and optional in stated
    assert any(abs(exercises - minutes) <= 3 for minutes in stated)
