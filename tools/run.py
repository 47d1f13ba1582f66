"""Execute the notebooks and count their claims: `python -m tools.run`, what `make run` calls.

Run from the root of the project. Executed copies go to `build/notebooks/`; exit status 1 where a
cell or a claim fails.
"""

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from helpers.checks import PASSED, SKIPPED

CELL_SECONDS = 300  # a cell that takes longer is stopped and named


@dataclass
class Result:
    """What one notebook did; `error` is empty where it ran to the end."""

    name: str
    checked: int
    skipped: int
    seconds: float
    error: str = ""
    unclaimed: tuple[str, ...] = ()  # findings of other models that hold on this one


def outputs_of(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def unclaimed(notebook: nbformat.NotebookNode) -> tuple[str, ...]:
    """The skipped claims that would have held: findings not named for the model at hand."""
    return tuple(
        o["data"]["text/plain"].split(": ", 1)[1]
        for o in outputs_of(notebook)
        if o.get("metadata", {}).get("holds")
    )


def count_claims(notebook: nbformat.NotebookNode, status: str) -> int:
    """How many outputs of `helpers.checks.claim` have this status."""
    return sum(o.get("metadata", {}).get("claim") == status for o in outputs_of(notebook))


def execute(
    path: Path, out: Path, seconds: float = CELL_SECONDS, environment: dict[str, str] | None = None
) -> Result:
    """Run one notebook in its own folder and write the executed copy to `out`, failed or not.

    `environment` holds the variables that the kernel gets beside those of this process.
    """
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(
        notebook,
        timeout=seconds,
        kernel_name="python3",
        resources=where,
        extra_arguments=["--log-level=ERROR"],  # else each kernel warns of its local connection
        shutdown_kernel="immediate",  # nothing to save: graceful takes two seconds longer
    )
    start, error = time.perf_counter(), ""
    try:
        client.execute(env=os.environ | (environment or {}))
    except CellExecutionError as failure:
        error = str(failure)
    except CellTimeoutError as failure:
        error = f"a cell was stopped after {seconds:g} s: {failure}"
    except DeadKernelError:
        error = "the kernel died; is there enough memory?"
    took = time.perf_counter() - start
    unfinished = out.with_suffix(f".{os.getpid()}.tmp")  # renamed when whole, never half-written
    try:
        nbformat.write(notebook, unfinished)
        unfinished.replace(out)
    except OSError as failure:
        with suppress(OSError):
            unfinished.unlink()
        error = f"{error}\n{out} could not be written: {failure.strerror}".strip()
    counts = (count_claims(notebook, status) for status in (PASSED, SKIPPED))
    return Result(path.stem, *counts, took, error, unclaimed(notebook))


def table(results: list[Result]) -> str:
    """The closing table, one line a notebook and a sum."""
    row = "{:32} {:>7} {:>7} {:>7}  {}".format
    lines = [row("notebook", "checked", "skipped", "seconds", "").rstrip()]
    for r in results:
        mark = "FAILED" if r.error else ""
        lines.append(row(r.name, r.checked, r.skipped, f"{r.seconds:.1f}", mark))
    sums = (sum(getattr(r, key) for r in results) for key in ("checked", "skipped", "seconds"))
    checked, skipped, seconds = sums
    lines.append(row("all", checked, skipped, f"{seconds:.1f}", ""))
    return "\n".join(line.rstrip() for line in lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of notebooks/")
    parser.add_argument("--out", type=Path, default=Path("build/notebooks"))
    parser.add_argument("--cell-seconds", type=float, default=CELL_SECONDS)
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at a time (default 2)")
    parser.add_argument("--no-skips", action="store_true", help="fail where a claim is skipped")
    parser.add_argument(
        "--unclaimed",
        action="store_true",
        help="list the skipped claims that hold on this model, and fail where there are any",
    )
    options = parser.parse_args(arguments)
    paths = options.notebooks or sorted(Path("notebooks").glob("*.ipynb"))
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        found = ", ".join(missing) or "no notebooks/*.ipynb"
        print(f"{found}: not there; run from the project's root ({Path.cwd()})", file=sys.stderr)
        return 2
    # Kernels share the cores: two, each with a thread for every core, ran 8 times as long.
    threads = str(max(1, (os.cpu_count() or 1) // options.jobs))
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
    # A notebook runs in its own folder: a model directory named from here must be absolute there.
    model = os.environ.get("TUTORIAL_MODEL", "")
    reserved = {"", "tutorial-4l", "gpt2", "gpt2-small"}  # never directories, see load_model
    if model not in reserved and Path(model).is_dir():
        environment["TUTORIAL_MODEL"] = str(Path(model).resolve())

    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        print(f"--out {options.out} cannot be made: {failure.strerror}", file=sys.stderr)
        return 2
    print(f"executing {len(paths)} notebooks, {options.jobs} at a time", flush=True)
    results = []

    def one(path: Path) -> Result:
        out = options.out / path.name
        return execute(path.resolve(), out, options.cell_seconds, environment)

    with ThreadPoolExecutor(options.jobs) as pool:  # each kernel is a process of its own
        for i, result in enumerate(pool.map(one, paths), 1):
            results.append(result)
            state = "FAILED" if result.error else "done"
            print(f"[{i}/{len(paths)}] {result.name} {state} in {result.seconds:.1f} s", flush=True)
            if result.error:
                print(result.error, file=sys.stderr)
    print("\n" + table(results))
    skipped = sum(result.skipped for result in results)
    if options.no_skips and skipped:
        print(f"{skipped} claims were not checked on this model (--no-skips)", file=sys.stderr)
    hold = [(r.name, text) for r in results for text in r.unclaimed if options.unclaimed]
    for name, text in hold:
        print(f"{name}: holds, but is not claimed for this model: {text}", file=sys.stderr)
    if hold:
        print(f"{len(hold)} findings to be named for it in only_for=", file=sys.stderr)
    failed = any(result.error for result in results)
    return int(failed or (options.no_skips and skipped > 0) or bool(hold))


if __name__ == "__main__":
    sys.exit(main())
