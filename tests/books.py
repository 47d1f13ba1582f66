"""The six notebooks, for the tests of what is in them and of what refers to them."""

import re
from functools import cache
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
NAMES = [
    "01_basic_activation_analysis",
    "02_activation_patching",
    "03_direct_logit_attribution",
    "04_induction_heads",
    "05_logit_lens",
    "06_steering",
]
PATHS = [ROOT / "notebooks" / f"{name}.ipynb" for name in NAMES]


@cache
def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def sources(name: str, kind: str) -> dict[str, str]:
    """The text of the cells of a kind, "code" or "markdown", by id."""
    return {cell.id: cell.source for cell in read(name).cells if cell.cell_type == kind}


def headings(name: str) -> list[str]:
    return re.findall(r"^## (.*)$", "\n".join(sources(name, "markdown").values()), re.M)
