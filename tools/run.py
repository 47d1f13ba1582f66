"""Execute the notebooks and count what they say: `python -m tools.run`, what `make run` calls.

Run from the root of the project. Executed copies go to `build/notebooks/<model>/`. Exit status 1
where a cell fails, an identity is false, or a finding differs from the model's record in
`helpers/findings/`; a model without a record is reported.
"""

import argparse
import os
import re
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from helpers.claims import records
from tools import findings, speak

CELL_SECONDS = 300  # a cell that takes longer is stopped and named
# Names of models that are never a directory, see load_model.
RESERVED = ("", "tutorial-4l", "smollm2-135m", "gpt2", "gpt2-small")
BAR = re.compile(r"\r|\d%\|")  # of tqdm, in a terminal or as a widget
COLUMNS = ("identities", "hold", "do not hold", "differ", "seconds", "peak MB")


@dataclass
class Result:
    """What one notebook did; `error` is empty where it ran to the end."""

    name: str
    identities: int
    findings: list[dict]  # the metadata that `helpers.claims.finding` leaves: name, holds, text, …
    seconds: float
    megabytes: int  # the kernel's peak; 0 where the system does not tell
    error: str = ""

    def differ(self) -> list[dict]:
        return [f for f in self.findings if f["recorded"] not in (None, f["holds"])]

    def cells(self) -> tuple:
        """The numbers of the table, in the order of its columns."""
        hold = sum(f["holds"] for f in self.findings)
        counts = (self.identities, hold, len(self.findings) - hold, len(self.differ()))
        return *counts, self.seconds, self.megabytes


def execute(
    path: Path, out: Path, seconds: float = CELL_SECONDS, environment: dict[str, str] | None = None
) -> Result:
    """Run one notebook in its own folder and write the executed copy to `out`, failed or not.

    `environment` holds the variables that the kernel gets beside those of this process. A finding
    that differs from the record does not stop the notebook, so that all of them are seen.
    """
    notebook = nbformat.read(path, as_version=4)
    megabytes = 0

    def measure(**_) -> None:
        nonlocal megabytes
        megabytes = _peak(client.km.provisioner.pid) or megabytes

    client = NotebookClient(
        notebook,
        timeout=seconds,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--log-level=ERROR"],  # else each kernel warns of its local connection
        store_widget_state=False,  # of a slider, nothing is left to move
        shutdown_kernel="immediate",  # nothing to save: graceful takes two seconds longer
        on_cell_executed=measure,
    )
    start, error = time.perf_counter(), ""
    try:
        client.execute(env=os.environ | (environment or {}) | {"TUTORIAL_FINDINGS": ""})
    except CellExecutionError as failure:
        error = str(failure)
    except CellTimeoutError as failure:
        error = f"a cell was stopped after {seconds:g} s: {failure}"
    except DeadKernelError:
        error = "the kernel died; is there enough memory?"
    took = time.perf_counter() - start
    for cell in notebook.cells:
        if "outputs" in cell:  # a progress bar, which a reader's page wipes away by itself
            cell.outputs = [o for o in cell.outputs if not BAR.search(_text(o))]
            for output in cell.outputs:  # where the text beside it stands instead
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    unfinished = out.with_suffix(f".{os.getpid()}.tmp")  # renamed when whole, never half-written
    try:
        nbformat.write(notebook, unfinished)
        unfinished.replace(out)
    except OSError as failure:
        with suppress(OSError):
            unfinished.unlink()
        error = f"{error}\n{out} could not be written: {failure.strerror}".strip()
    said = [o.get("metadata", {}) for cell in notebook.cells for o in cell.get("outputs", [])]
    identities = sum("claim" in data for data in said)
    found = [dict(data) for data in said if "finding" in data]
    return Result(path.stem, identities, found, took, megabytes, error)


def _text(output: nbformat.NotebookNode) -> str:
    return output.get("text") or output.get("data", {}).get("text/plain", "")


def _peak(pid: int) -> int:
    """The most memory in MB that a process has held so far, where Linux tells it; else 0."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    return 0


def table(results: list[Result]) -> str:
    """The closing table, one line a notebook and a sum; of the memory, the largest."""
    rows = [(r.name, *r.cells(), "FAILED" if r.error else "") for r in results]
    if rows:
        *sums, peaks = zip(*(r.cells() for r in results), strict=True)
        rows.append(("all", *map(sum, sums), max(peaks), ""))
    line = "{:32}" + "".join(f" {{:>{len(column)}}}" for column in COLUMNS) + "  {}"
    lines = [line.format("notebook", *COLUMNS, "")]
    for *counts, seconds, peak, mark in rows:
        lines.append(line.format(*counts, f"{seconds:.1f}", peak or "", mark))
    return "\n".join(line.rstrip() for line in lines)


def against_the_record(results: list[Result]) -> list[str]:
    """What a model's record does not say as the notebooks do: one message each."""
    on_record, messages = records(), []
    for result in results:
        for f in result.findings:
            record = on_record.get(f["model"])
            if record and f["finding"] not in record["findings"]:
                messages.append(f"{f['finding']} is not in the record of {f['model']}: {f['text']}")
        for f in result.differ():
            was = on_record[f["model"]]["findings"][f["finding"]]
            messages.append(
                f"{f['finding']} differs from the record of {f['model']}\n"
                f"  here, it {_verb(f['holds'])}: {f['text']}\n"
                f"  on record, it {_verb(was['holds'])}: {was['text']}"
            )
        seen = Counter(f["finding"] for f in result.findings)
        messages += [f"{name} is the name of {n} findings" for name, n in seen.items() if n > 1]
        for model in {f["model"] for f in result.findings} if not result.error else ():
            record = on_record.get(model, {"findings": {}})["findings"]
            here = {name for name, f in record.items() if f["notebook"] == result.name[:2]}
            for name in sorted(here - seen.keys()):
                messages.append(f"{name} is in the record of {model}, and no longer in a notebook")
    return messages


def _verb(holds: bool) -> str:
    return "holds" if holds else "does not hold"


def kernel_environment(jobs: int) -> dict[str, str]:
    """What each kernel gets beside this process' variables; what the user has set stays."""
    # Kernels share the cores: two, each with a thread for every core, ran 8 times as long.
    threads = {"OMP_NUM_THREADS": "1"} if jobs > 1 else {}
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | threads  # threads that wait give the core away
    environment = {k: v for k, v in environment.items() if k not in os.environ}
    # A notebook runs in its own folder: a model's path given from here must be absolute there.
    model = os.environ.get("TUTORIAL_MODEL", "")
    if model not in RESERVED and Path(model).exists():
        environment["TUTORIAL_MODEL"] = str(Path(model).resolve())
    return environment


def folder(model: str) -> Path:
    """Where the executed copies of a model go."""
    name = re.sub(r"[^\w.-]+", "--", model or RESERVED[1]).strip("-.")
    return Path("build") / "notebooks" / name


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of notebooks/")
    parser.add_argument("--out", type=Path, default=folder(os.environ.get("TUTORIAL_MODEL", "")))
    parser.add_argument("--cell-seconds", type=float, default=CELL_SECONDS)
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at a time (default 2)")
    parser.add_argument("--record", action="store_true", help="write what is found on record")
    options = parser.parse_args(arguments)
    speak()
    paths = options.notebooks or sorted(Path("notebooks").glob("*.ipynb"))
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        found = ", ".join(missing) or "no notebooks/*.ipynb"
        print(f"{found}: not there; run from the project's root ({Path.cwd()})", file=sys.stderr)
        return 2
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        print(f"--out {options.out} cannot be made: {failure.strerror}", file=sys.stderr)
        return 2
    jobs = min(options.jobs, len(paths))
    environment = kernel_environment(jobs)
    print(f"executing {len(paths)} notebooks, {jobs} at a time", flush=True)
    results = []

    def one(path: Path) -> Result:
        out = options.out / path.name
        return execute(path.resolve(), out, options.cell_seconds, environment)

    with ThreadPoolExecutor(jobs) as pool:  # each kernel is a process of its own
        for i, result in enumerate(pool.map(one, paths), 1):
            results.append(result)
            state = "FAILED" if result.error else "done"
            print(f"[{i}/{len(paths)}] {result.name} {state} in {result.seconds:.1f} s", flush=True)
            if result.error:
                print(result.error, file=sys.stderr)
    print("\n" + table(results))
    failed = any(result.error for result in results)
    if options.record:
        return findings.write(results) if not failed else 1
    for model in sorted({f["model"] for r in results for f in r.findings} - records().keys()):
        print(f"no record for {model} yet; `python -m tools.findings {model}` writes one")
    messages = against_the_record(results)
    for message in messages:
        print(message, file=sys.stderr)
    return int(failed or bool(messages))


if __name__ == "__main__":
    sys.exit(main())
