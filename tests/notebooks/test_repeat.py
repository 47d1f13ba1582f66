"""The notebooks are deterministic: run again they say the same, and so does each cell run twice."""

import copy
import re

import nbformat
import pytest
from test_structure import NAMES, PATHS

from tools.run import main


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Executed copies, plain and with every code cell doubled: `[kind][name]`."""
    base = tmp_path_factory.mktemp("repeat")
    paths = []
    for path in PATHS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.write(notebook, base / f"plain-{path.name}")
        cells = []
        for cell in notebook.cells:
            cells.append(cell)
            if cell.cell_type == "code":
                again = copy.deepcopy(cell)
                again.id = f"{cell.id}-again"
                cells.append(again)
        notebook.cells = cells
        nbformat.write(notebook, base / f"doubled-{path.name}")
        paths += [base / f"{kind}-{path.name}" for kind in ("plain", "doubled")]
    assert main([*map(str, paths), "--out", str(base / "out")]) == 0
    return {
        kind: {name: nbformat.read(base / "out" / f"{kind}-{name}.ipynb", 4) for name in NAMES}
        for kind in ("plain", "doubled")
    }


def said(notebook) -> dict[str, list[str]]:
    """What each code cell printed and showed, but for the random name of a view's place.

    Printed text is joined first: it comes in pieces, cut by the clock.
    """
    return {cell.id: [printed(cell), *shown(cell)] for cell in notebook.cells if "outputs" in cell}


def printed(cell) -> str:
    return "".join(o.text for o in cell.outputs if o.output_type == "stream")


def shown(cell) -> list[str]:
    data = [str(o.data) for o in cell.outputs if o.output_type != "stream"]
    return [re.sub(r"circuits-vis-[0-9a-f]{12}", "", text) for text in data]


@pytest.mark.parametrize("name", NAMES)
def test_two_runs_say_the_same(executed, name):
    once, other = said(executed["plain"][name]), said(executed["doubled"][name])
    assert once == {i: output for i, output in other.items() if not i.endswith("-again")}


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_run_twice_in_a_row_says_the_same(executed, name):
    doubled = said(executed["doubled"][name])
    again = {i.removesuffix("-again"): doubled[i] for i in doubled if i.endswith("-again")}
    assert again == {i: doubled[i] for i in again}
    assert len(again) == len(doubled) / 2


@pytest.mark.parametrize("name", NAMES)
def test_an_executed_copy_is_small(executed, name):
    """The circuitsvis program (1.3 MB) comes once a notebook, not once a view."""
    assert len(nbformat.writes(executed["plain"][name]).encode()) < 3_000_000
