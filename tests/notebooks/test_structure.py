"""The six notebooks as files: names, skeleton, size, nothing stored that a run should make."""

import re

import nbformat
import pytest
from books import NAMES, PATHS, ROOT, headings, read, sources

each = pytest.mark.parametrize("name", NAMES)
ORDER = ["Controls and pitfalls", "Key points", "In practice", "Further reading", "Exercises"]
# What differs between model families is asked in helpers/architecture.py and nowhere else.
ARCHITECTURE = r"hook_pos_embed|W_pos|n_key_value_heads|normalization_type|\.b_O\b|\.b_in\b|rotary"
ARCHITECTURE += r"|[\"']RMS|cfg\.architecture|use_hook_mlp_in|positional_embedding"
MODELS = r"tutorial-4l|smollm2|gpt2|pythia|SmolLM"
HIDDEN = r"except\s*:|except Exception|chdir|%cd|!pip|HookedTransformer\b"


def test_there_are_six_notebooks_with_one_setup_and_nothing_else():
    assert sorted((ROOT / "notebooks").glob("*.ipynb")) == PATHS
    others = {p.name for p in (ROOT / "notebooks").iterdir()} - {p.name for p in PATHS}
    assert others <= {".ipynb_checkpoints", ".progress.json"}
    assert len({sources(name, "code")["setup"] for name in NAMES}) == 1


@each
def test_valid_stripped_and_small(name):
    """Cell ids are chosen names, not the random ones of an editor: the same in every diff."""
    notebook = read(name)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not re.fullmatch(r"[0-9a-f]{8}(-.*)?", cell.id)
        assert "raises-exception" not in cell.metadata.get("tags", [])
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            assert len(cell.source.splitlines()) <= 25, cell.id
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}  # no version of ours
    assert PATHS[NAMES.index(name)].stat().st_size < 60_000


@each
def test_the_skeleton(name):
    """At a glance, setup, parts in order, controls, key points; exercises last."""
    title = read(name).cells[0].source
    assert f"# {NAMES.index(name) + 1}. " in title and f"notebooks/{name}.ipynb)" in title  # Colab
    first, second, *rest = headings(name)
    assert (first, second) == ("At a glance", "Setup")
    parts = [heading for heading in rest if heading.startswith("Part ")]
    assert len(parts) >= 3 and rest == [*parts, *ORDER]
    for number, heading in enumerate(parts, 1):
        assert re.fullmatch(rf"Part {number}( \(optional\))?: .+", heading), heading


@each
def test_every_part_predicts_and_ends_in_what_could_have_been_false(name):
    """But optional ones may only show."""
    text = "\n".join(
        cell.source if cell.cell_type == "markdown" else f"```\n{cell.source}\n```"
        for cell in read(name).cells
    )
    for title, part in re.findall(r"(?ms)^## (Part \d+:|Controls)(.*?)(?=^## )", text):
        assert re.search(r"\b(claim|finding)\(", part), title
        assert "Predict" in part or title == "Controls", title


@each
def test_code_asks_nothing_of_an_architecture_and_names_no_model(name):
    """But in the one line where a reader picks a model. Text in quotes is code here, too."""
    picks = []
    for i, code in sources(name, "code").items():
        rest, picked = re.subn(r"(?m)^MODEL = None.*$", "", code)
        picks += [i] * picked
        found = re.search(f"{ARCHITECTURE}|{MODELS}|{HIDDEN}", rest)
        assert not found, f"{i}: {found[0]}"
    assert picks == ["load"]


@each
def test_fold_outs_are_plain_html(name):
    """`<details>` renders in Jupyter and Colab, with Markdown inside after an empty line."""
    for text in sources(name, "markdown").values():
        assert text.count("<details>") == text.count("</details>") == text.count("</summary>")
        assert not re.search(r"^:::|^```\{", text, re.M)
        assert not re.search(r"</summary>\n(?!\n)|</details>\n(?!\n|<details>|$)", text)
