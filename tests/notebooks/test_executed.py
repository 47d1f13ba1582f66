"""The notebooks executed: they say the same when a cell runs twice, and on other models they run.

One run of each on the embedded model, every code cell doubled, serves all tests but the last.
"""

import base64
import copy
import json
import re
from itertools import takewhile

import families
import nbformat
import numpy as np
import pytest
from books import NAMES, PATHS

from helpers.claims import records
from helpers.models import EMBEDDED_DIRECTORY
from tools.run import main

pytestmark = pytest.mark.slow
each = pytest.mark.parametrize("name", NAMES)


def execute(paths, out) -> dict[str, list]:
    """The code cells of the executed copies, by notebook, two notebooks at a time."""
    main([*map(str, paths), "--out", str(out)])
    copies = {name: nbformat.read(out / f"{name}.ipynb", 4).cells for name in NAMES}
    return {name: [c for c in cells if c.cell_type == "code"] for name, cells in copies.items()}


def failures(executed: dict[str, list]) -> list[str]:
    """Where a notebook stopped: its cell, and the error."""
    return [
        f"{name}, cell `{cell.id}`: {output.ename}: {output.evalue}"
        for name, cells in executed.items()
        for cell in cells
        for output in cell.outputs
        if output.output_type == "error"
    ]


@pytest.fixture(scope="session")
def doubled(tmp_path_factory):
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
    return execute([base / path.name for path in PATHS], base / "out")


def shown(cell) -> list:
    """What a cell printed, in one piece (it comes in pieces, cut by the clock), and showed."""
    printed = "".join(o.text for o in cell.outputs if o.get("name") == "stdout")
    data = [o.data for o in cell.outputs if "data" in o]
    return [printed, *(d for d in data if not any("widget" in kind for kind in d))]  # named anew


def leaves(value, path: str = ""):
    """Every text and number of an output, with its place; a figure's numbers are packed."""
    if isinstance(value, dict) and "bdata" in value:
        value = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"]).tolist()
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{path}.{key}")
    elif isinstance(value, str):  # a view's place has a random name
        yield path, re.sub(r"circuits-vis-[0-9a-f]{12}", "", value)
    else:
        yield path, value


def difference(one: list, again: list) -> str:
    """The first place where two cells' outputs differ, and what stands there; empty where none."""
    one, again = dict(leaves(one)), dict(leaves(again))
    for path in one | again:
        a, b = one.get(path), again.get(path)
        if a != b:
            if isinstance(a, str) and isinstance(b, str):  # from a little before they part
                same = len(
                    list(takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
                )
                a, b = (text[max(0, same - 30) :][:80] for text in (a, b))
            return f"output {path[1:]}: first {a!r}, then {b!r}"
    return ""


@each
def test_a_cell_run_twice_says_the_same(doubled, name):
    cells = doubled[name]
    assert failures({name: cells}) == []
    for cell, again in zip(cells[::2], cells[1::2], strict=True):
        if cell.id != "setup":  # the first import has more to say
            differ = difference(shown(cell), shown(again))
            assert not differ, f"{name}, cell `{cell.id}`, {differ}"


@each
def test_what_is_found_is_on_record(doubled, name):
    """In both directions, and an executed copy is small: circuitsvis' program comes once."""
    outputs = [output for cell in doubled[name][::2] for output in cell.outputs]
    said = [output.get("metadata", {}) for output in outputs]
    found = {data["finding"]: data["holds"] for data in said if "finding" in data}
    record = records()["tutorial-4l"]["findings"]
    assert found == {k: v["holds"] for k, v in record.items() if v["notebook"] == name[:2]}
    assert len(found) >= 8 and sum("claim" in data for data in said) >= 3
    assert len(json.dumps(outputs)) < 3_000_000


@pytest.mark.parametrize("family", ["Llama", "GPTNeoX"])
def test_all_run_to_the_end_on_a_model_that_knows_nothing(family, tmp_path, monkeypatch):
    """Identities are asserted there as everywhere; findings are shown, whatever they are."""
    tokenizer = families.transformers.AutoTokenizer.from_pretrained(EMBEDDED_DIRECTORY)
    special = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.bos_token_id)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 128, "hidden_size": 48}
    made = families.network.__wrapped__(family, **sizes, num_hidden_layers=5, **special)
    for part in (made, tokenizer):
        part.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("TUTORIAL_MODEL", str(tmp_path / "model"))
    executed = execute(PATHS, tmp_path / "out")
    assert failures(executed) == []
    for name, cells in executed.items():
        assert any("claim" in o.get("metadata", {}) for cell in cells for o in cell.outputs), name
        load = next(cell for cell in cells if cell.id == "load")
        assert "5 layers of 4 heads" in shown(load)[0]
