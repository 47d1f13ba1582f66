"""The other waits: to the first result in a new process, and cell by cell in each notebook."""

import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat

from tools.run import execute

ROOT = Path(__file__).parents[2]
FIRST = """
from helpers.models import load_model
model = load_model("tutorial-4l")
print(model.to_string(model(model.to_tokens("The capital of France is"))[0, -1].argmax()[None]))
"""


def first_result(runs: int = 5) -> float:
    """Median seconds from the start of Python to the first prediction of the embedded model."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        command = [sys.executable, "-c", FIRST]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        times.append(time.perf_counter() - start)
        assert said.strip() == "Paris", said
    return statistics.median(times)


def cell_seconds(notebook) -> dict[str, float]:
    """How long each code cell ran, by its id."""

    def at(cell, event: str) -> datetime:
        return datetime.fromisoformat(cell.metadata["execution"][event].replace("Z", "+00:00"))

    return {
        cell.id: (at(cell, "shell.execute_reply") - at(cell, "iopub.execute_input")).total_seconds()
        for cell in notebook.cells
        if "execution" in cell.metadata
    }


def by_notebook() -> list[str]:
    """A line a notebook: the whole, and what of it is the kernel, imports and model, and figures.

    The first figure has a column of its own: plotly then imports what checks notebooks' files.
    """
    lines = [
        "| notebook | seconds | kernel | import, load | first figure | the rest | of it, longest |",
        "|---|---|---|---|---|---|---|",
    ]
    with TemporaryDirectory() as out:
        for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
            result = execute(path, Path(out) / path.name)
            assert not result.error, result.error
            executed = nbformat.read(Path(out) / path.name, as_version=4)
            cells = cell_seconds(executed)
            kernel = result.seconds - sum(cells.values())
            load = cells.pop("setup") + cells.pop("load")
            figure = cells.pop(first_figure(executed))
            longest = max(cells, key=cells.get)
            row = [result.seconds, kernel, load, figure, sum(cells.values())]
            numbers = " | ".join(f"{value:.1f}" for value in row)
            lines.append(f"| {path.stem} | {numbers} | `{longest}` {cells[longest]:.1f} |")
    return lines


def first_figure(notebook) -> str:
    """The id of the first cell that shows a plotly figure."""
    return next(
        cell.id
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "application/vnd.plotly.v1+json" in output.get("data", {})
    )


if __name__ == "__main__":
    print(f"first result after {first_result():.1f} s", *by_notebook(), sep="\n")
