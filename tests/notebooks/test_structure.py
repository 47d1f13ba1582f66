"""The six notebooks as files: names, skeleton, size, nothing stored that a run should make."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NAMES = [
    "01_basic_activation_analysis",
    "02_activation_patching",
    "03_direct_logit_attribution",
    "04_induction_heads",
    "05_logit_lens",
    "06_steering",
]
SKELETON = [
    "At a glance",
    "Setup",
    "Round 1",
    "Round 2",
    "Round 3",
    "What would fool us",
    "Key points",
    "In practice",
    "Further reading",
]
PATHS = [ROOT / "notebooks" / f"{name}.ipynb" for name in NAMES]


@pytest.fixture(params=PATHS, ids=NAMES)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def sources(notebook, cell_type: str) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == cell_type]


def test_there_are_six_notebooks_and_nothing_else():
    assert sorted((ROOT / "notebooks").glob("*.ipynb")) == PATHS
    others = {p.name for p in (ROOT / "notebooks").iterdir()} - {p.name for p in PATHS}
    assert others <= {".ipynb_checkpoints"}


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_size(path):
    assert path.stat().st_size < 60_000


def test_valid_and_stripped(notebook):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}  # no version of ours


def test_cell_ids_are_names(notebook):
    """Chosen names, not the random ids of an editor: they stay the same in every diff."""
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert not [i for i in ids if re.fullmatch(r"[0-9a-f]{8}(-.*)?", i)]


def test_skeleton_headings_in_order(notebook):
    headings = re.findall(r"^## (.*)$", "\n".join(sources(notebook, "markdown")), re.M)
    places = []
    for wanted in SKELETON:
        found = [i for i, text in enumerate(headings) if text.split(":")[0] == wanted]
        assert len(found) == 1, f"{wanted!r} stands {len(found)} times in {headings}"
        places += found
    assert places == sorted(places)


@pytest.mark.parametrize(("number", "path"), list(enumerate(PATHS, 1)), ids=NAMES)
def test_title_is_numbered(number, path):
    first = nbformat.read(path, as_version=4).cells[0].source
    assert re.search(rf"^# {number}\. \w", first, re.M)
    assert f"notebooks/{path.name})" in first  # the Colab link opens this very notebook


def test_at_a_glance(notebook):
    glance = next(s for s in sources(notebook, "markdown") if s.startswith("## At a glance"))
    for part in ("Questions.", "Objectives.", "Prerequisites.", "Time."):
        assert f"**{part}**" in glance


def test_cells_are_short(notebook):
    long = [s for s in sources(notebook, "code") if len(s.splitlines()) > 25]
    assert not long


def test_every_round_predicts_and_claims(notebook):
    """Each round asks before it shows, and ends in something that could have been false."""
    text = "\n".join(
        cell.source if cell.cell_type == "markdown" else f"```\n{cell.source}\n```"
        for cell in notebook.cells
    )
    rounds = re.split(r"^## ", text, flags=re.M)
    for part in rounds:
        if part.startswith("Round"):
            assert "**Predict.**" in part, part.splitlines()[0]
            assert "claim(" in part, part.splitlines()[0]
        if part.startswith("What would fool us"):
            assert "claim(" in part


def test_no_notebook_hides_errors_or_moves_about(notebook):
    code = "\n".join(sources(notebook, "code"))
    assert not re.search(r"except\s*:|except Exception|chdir|%cd|!pip|HookedTransformer\b", code)
    assert all("raises-exception" not in c.metadata.get("tags", []) for c in notebook.cells)


def test_a_claim_tied_to_a_model_is_told_the_model(notebook):
    for code in sources(notebook, "code"):
        assert code.count("only_for=") <= code.count("model=model")


def test_setup_cell_is_the_same_everywhere():
    def setup(path: Path) -> str:
        cells = nbformat.read(path, as_version=4).cells
        return next(c.source for c in cells if c.id == "setup")

    assert len({setup(path) for path in PATHS}) == 1


def test_fold_outs_are_plain_html(notebook):
    """`<details>` renders in Jupyter and Colab; MyST directives do not."""
    for text in sources(notebook, "markdown"):
        assert text.count("<details>") == text.count("</details>") == text.count("</summary>")
        assert not re.search(r"^:::|^```\{", text, re.M)


@pytest.mark.parametrize(("number", "path"), list(enumerate(PATHS, 1)), ids=NAMES)
def test_the_readme_promises_the_notebooks_own_minutes(number, path):
    readme = (ROOT / "README.md").read_text("utf-8")
    promised = re.search(rf"^\| {number} \|.*\| (\d+) \(\+ (\d+)\) \|$", readme, re.M).groups()
    glance = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells[:3])
    assert promised == re.search(r"(\d+) minutes to read and run, (\d+) for", glance).groups()
