"""The notebooks executed: they say the same when a cell runs twice, and on other models they run.

One run of each on the embedded model, every code cell doubled, serves all tests here. nbmake runs
them as they are, in `make test`, and `make run` does.
"""

import copy
import re

import families
import nbformat
import pytest
from books import NAMES, PATHS, ROOT

from helpers.claims import records
from helpers.models import EMBEDDED_DIRECTORY
from tools.run import main

pytestmark = pytest.mark.slow
each = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="session")
def doubled(tmp_path_factory):
    """Executed copies in which each code cell stood twice, by name."""
    base = tmp_path_factory.mktemp("doubled")
    for path in PATHS:
        notebook = nbformat.read(path, as_version=4)
        cells = []
        for cell in notebook.cells:
            cells.append(cell)
            if cell.cell_type == "code":
                again = copy.deepcopy(cell)
                again.id = f"{cell.id}-again"
                cells.append(again)
        notebook.cells = cells
        nbformat.write(notebook, base / path.name)
    main([*(str(base / path.name) for path in PATHS), "--out", str(base / "out")])
    return {name: nbformat.read(base / "out" / f"{name}.ipynb", 4) for name in NAMES}


def shown(cell) -> list[str]:
    """What a code cell printed and showed, but for the random name of a view's place.

    Printed text is joined first: it comes in pieces, cut by the clock.
    """
    printed = "".join(
        o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout"
    )
    data = [str(o.get("data", o)) for o in cell.outputs if o.output_type != "stream"]
    return [printed, *(re.sub(r"circuits-vis-[0-9a-f]{12}", "", text) for text in data)]


@each
def test_a_cell_run_twice_says_the_same(doubled, name):
    cells = {cell.id: cell for cell in doubled[name].cells if "outputs" in cell}
    pairs = [(i, i + "-again") for i in cells if not i.endswith("-again")]
    assert len(pairs) * 2 == len(cells)
    for first, again in pairs:
        if "setup" not in first:  # the first import has more to say
            assert shown(cells[first]) == shown(cells[again]), first


@each
def test_what_is_found_is_on_record(doubled, name):
    """In both directions, and an executed copy is small: circuitsvis' program comes once."""
    cells = [c for c in doubled[name].cells if not c.id.endswith("-again")]
    said = [o.metadata for cell in cells for o in cell.get("outputs", []) if "metadata" in o]
    found = {data.finding: data.holds for data in said if "finding" in data}
    record = records()["tutorial-4l"]["findings"]
    assert found == {k: v["holds"] for k, v in record.items() if v["notebook"] == name[:2]}
    assert len(found) >= 8 and sum("claim" in data for data in said) >= 3
    doubled[name].cells = cells
    assert len(nbformat.writes(doubled[name]).encode()) < 3_000_000


@pytest.mark.parametrize("family", ["Llama", "GPTNeoX"])
def test_all_run_to_the_end_on_a_model_that_knows_nothing(family, tmp_path, monkeypatch, capsys):
    """Identities are asserted there as everywhere; findings are shown, whatever they are."""
    tokenizer = families.transformers.AutoTokenizer.from_pretrained(EMBEDDED_DIRECTORY)
    special = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.bos_token_id)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 128, "hidden_size": 48}
    made = families.network.__wrapped__(family, **sizes, num_hidden_layers=5, **special)
    made.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("TUTORIAL_MODEL", str(tmp_path / "model"))
    monkeypatch.chdir(ROOT)
    assert main(["--out", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    for name in NAMES:
        executed = nbformat.read(tmp_path / "out" / f"{name}.ipynb", 4)
        outputs = [o for cell in executed.cells for o in cell.get("outputs", [])]
        assert any("claim" in o.get("metadata", {}) for o in outputs), name
        load = next(cell for cell in executed.cells if cell.id == "load")
        assert "5 layers of 4 heads" in "".join(o.get("text", "") for o in load.outputs)
