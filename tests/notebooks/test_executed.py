"""The notebooks executed, each code cell twice: it says the same, and what it says is on record."""

import copy
import json

import nbformat
import pytest
from books import NAMES, PATHS

from helpers.claims import records
from tools.run import main

pytestmark = pytest.mark.slow
each = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def doubled(tmp_path_factory) -> dict[str, list]:
    """The code cells of the executed copies, by notebook."""
    base = tmp_path_factory.mktemp("doubled")
    for path in PATHS:
        notebook = nbformat.read(path, as_version=4)
        cells = []
        for cell in notebook.cells:
            cells.append(cell)
            if cell.cell_type == "code":
                cells.append(copy.deepcopy(cell))
                cells[-1].id += "-again"
        notebook.cells = cells
        nbformat.write(notebook, base / path.name)
    main([*(str(base / path.name) for path in PATHS), "--out", str(base / "out")])
    copies = {name: nbformat.read(base / "out" / f"{name}.ipynb", 4).cells for name in NAMES}
    return {name: [c for c in cells if c.cell_type == "code"] for name, cells in copies.items()}


def shown(cell) -> str:
    """What a cell printed, in one piece (it comes in pieces, cut by the clock), and showed.

    Controls are left out: each has a random name. The picture beside them stays.
    """
    printed = "".join(o.text for o in cell.outputs if o.get("name") == "stdout")
    data = [o.data for o in cell.outputs if "data" in o]
    data = [{kind: d[kind] for kind in d if "widget" not in kind} for d in data]
    return json.dumps([printed, *data], sort_keys=True)


@each
def test_a_cell_run_twice_says_the_same(doubled, name):
    cells = doubled[name]
    outputs = [(cell.id, o) for cell in cells for o in cell.outputs]
    assert not [(i, o.ename, o.evalue) for i, o in outputs if o.output_type == "error"]
    for cell, again in zip(cells[::2], cells[1::2], strict=True):
        if cell.id != "setup":  # the first import has more to say
            one, other = shown(cell), shown(again)
            pairs = enumerate(zip(one, other, strict=False))
            near = max(0, next((i for i, (a, b) in pairs if a != b), len(one)) - 60)
            assert one[near:][:200] == other[near:][:200], cell.id


@each
def test_what_is_found_is_on_record(doubled, name):
    """In both directions, and an executed copy is small."""
    outputs = [output for cell in doubled[name][::2] for output in cell.outputs]
    said = [output.get("metadata", {}) for output in outputs]
    found = {data["finding"]: data["holds"] for data in said if "finding" in data}
    record = records()["tutorial-4l"]["findings"]
    assert found == {k: v["holds"] for k, v in record.items() if v["notebook"] == name[:2]}
    assert len(found) >= 8 and sum("claim" in data for data in said) >= 3
    assert len(json.dumps(outputs)) < 3_000_000
