"""The six notebooks as files: names, skeleton, size, nothing stored that a run should make."""

import ast
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


def test_there_are_six_notebooks_and_nothing_else():
    assert sorted((ROOT / "notebooks").glob("*.ipynb")) == PATHS
    others = {p.name for p in (ROOT / "notebooks").iterdir()} - {p.name for p in PATHS}
    assert others <= {".ipynb_checkpoints", ".progress.json"}


@each
def test_valid_stripped_and_small(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            assert len(cell.source.splitlines()) <= 25, cell.id
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}  # no version of ours
    assert PATHS[NAMES.index(name)].stat().st_size < 60_000


@each
def test_cell_ids_are_names(name):
    """Chosen names, not the random ids of an editor: they stay the same in every diff."""
    ids = [cell.id for cell in read(name).cells]
    assert len(set(ids)) == len(ids)
    assert not [i for i in ids if re.fullmatch(r"[0-9a-f]{8}(-.*)?", i)]


@each
def test_the_skeleton(name):
    """At a glance, setup, parts in order, controls, key points; exercises last."""
    first, second, *rest = headings(name)
    assert (first, second) == ("At a glance", "Setup")
    parts = [heading for heading in rest if heading.startswith("Part ")]
    assert len(parts) >= 3 and rest == [*parts, *ORDER]
    for number, heading in enumerate(parts, 1):
        assert re.fullmatch(rf"Part {number}( \(optional\))?: .+", heading), heading


@each
def test_the_title_and_what_it_promises(name):
    cells, number = read(name).cells, NAMES.index(name) + 1
    assert re.search(rf"^# {number}\. \w", cells[0].source, re.M)
    assert f"notebooks/{name}.ipynb)" in cells[0].source  # the Colab link opens this very notebook
    glance = next(s for s in sources(name, "markdown").values() if "## At a glance" in s)
    for part in ("Questions", "Objectives", "Prerequisites"):
        assert f"**{part}" in glance
    assert re.search(r"\d+ min", glance)


@each
def test_every_part_predicts_and_ends_in_what_could_have_been_false(name):
    text = "\n".join(
        cell.source if cell.cell_type == "markdown" else f"```\n{cell.source}\n```"
        for cell in read(name).cells
    )
    for part in re.split(r"^## ", text, flags=re.M):
        if re.match(r"Part \d+:|Controls", part):  # optional ones may only show
            assert re.search(r"\b(claim|finding)\(", part), part.splitlines()[0]
        if re.match(r"Part \d+:", part):
            assert "Predict" in part, part.splitlines()[0]


@each
def test_code_asks_nothing_of_an_architecture_and_names_no_model(name):
    """But in the one line where a reader picks a model. Text in quotes is code here, too."""
    for i, code in sources(name, "code").items():
        found = re.search(ARCHITECTURE, code)
        assert not found, f"{i}: {found[0]}"
        rest = re.sub(r"(?m)^MODEL = .*$", "", code)
        found = re.search(MODELS, rest)
        assert not found, f"{i}: {found[0]}"
    picks = [
        i for i, code in sources(name, "code").items() if re.search(r"(?m)^MODEL = None", code)
    ]
    assert picks == ["load"]


def test_every_finding_has_a_name_of_its_own():
    """That starts with the notebook's number: under it stands what is on record."""
    names = []
    for notebook in NAMES:
        for i, code in sources(notebook, "code").items():
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "finding":
                    given = [*node.args, *(keyword.value for keyword in node.keywords)][3]
                    start = given.left if isinstance(given, ast.BinOp) else given
                    assert isinstance(start, ast.Constant), f"{notebook}, {i}: no fixed name"
                    assert re.match(rf"{notebook[:2]}-[a-z0-9-]*$", start.value), start.value
                    names.append(ast.unparse(given))
    assert len(set(names)) == len(names) >= 60


@each
def test_no_notebook_hides_errors_or_moves_about(name):
    code = "\n".join(sources(name, "code").values())
    assert not re.search(r"except\s*:|except Exception|chdir|%cd|!pip|HookedTransformer\b", code)
    assert all("raises-exception" not in cell.metadata.get("tags", []) for cell in read(name).cells)


def test_the_setup_cell_is_the_same_everywhere():
    assert len({sources(name, "code")["setup"] for name in NAMES}) == 1


@each
def test_fold_outs_are_plain_html(name):
    """`<details>` renders in Jupyter and Colab; MyST directives do not."""
    for text in sources(name, "markdown").values():
        assert text.count("<details>") == text.count("</details>") == text.count("</summary>")
        assert not re.search(r"^:::|^```\{", text, re.M)
        assert not re.search(
            r"</summary>\n(?!\n)|</details>\n(?!\n|<details>|$)", text
        )  # else no Markdown
