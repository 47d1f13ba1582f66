"""Put on record what the notebooks find on a model: `python -m tools.findings MODEL`.

It runs the notebooks on MODEL and writes `helpers/findings/<MODEL>.json`, with which every later
run is compared; `TUTORIAL_MODEL=MODEL python -m tools.run --record` does the same, with the options
of that. The replication table in docs/replication.md and its sums in README.md are written anew.
Commit these files, and read their difference first: each entry is a fact that changed. With
`--table` nothing is run, and the table alone is written anew.
"""

import argparse
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

from helpers import claims
from tools import speak

ROOT = Path(__file__).parents[1]
MARKS = "<!-- written by tools.findings -->", "<!-- to here -->"
LIBRARIES = ("transformer_lens", "transformers", "torch")


def file_of(model: str) -> Path:
    """Where the record of a model is kept; "owner/name" becomes "owner--name.json"."""
    return Path(str(claims.RECORDS)) / f"{model.replace('/', '--')}.json"


def write(results: list) -> int:
    """Record the findings of these runs (`tools.run.Result`), and tell what changed by it.

    What is on record of notebooks that were not run stays. Returns an exit status: 1 where nothing
    was written, since the findings are of no model, of several, or of one without a public name.
    """
    seen = [f for result in results for f in result.findings]
    if len(names := sorted({f["model"] for f in seen})) != 1:
        print(f"findings of one model can be recorded, got {names}", file=sys.stderr)
        return 1
    name = names[0]
    if name.startswith((".", "~")) or Path(name).is_absolute():
        print(f"{name}: a path means nothing elsewhere, so it gets no record", file=sys.stderr)
        return 1
    if len({f["finding"] for f in seen}) < len(seen):
        print("two findings have one name; nothing recorded", file=sys.stderr)
        return 1
    before = claims.records().get(name, {"findings": {}})["findings"]
    ran = {result.name[:2] for result in results}
    after = {key: f for key, f in before.items() if f["notebook"] not in ran}
    for f in seen:
        entry = {"holds": f["holds"], "notebook": f["finding"][:2], "text": f["text"]}
        after[f["finding"]] = entry
    record = {
        "findings": after,
        "model": _identity(name),
        "versions": {library: version(library) for library in LIBRARIES},
    }
    path = file_of(name)
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
    publish()
    turned = sorted(k for k in before.keys() & after if before[k]["holds"] != after[k]["holds"])
    hold = sum(f["holds"] for f in after.values())
    print(f"{path}: {hold} findings hold, {len(after) - hold} do not")
    changes = (("new", after.keys() - before), ("gone", before.keys() - after), ("turned", turned))
    for what, keys in changes:
        if keys and before:
            print(f"  {what}: {', '.join(sorted(keys))}")
    return 0


def _identity(name: str) -> dict:
    """The model by name, shape, and two numbers by which other weights would be noticed."""
    from helpers.models import load_model  # slow, and the runner imports this module

    model = load_model(name, device="cpu")
    squares = [p.double().square().sum().item() for p in model.original_model.parameters()]
    count = sum(p.numel() for p in model.original_model.parameters())
    cfg = model.cfg
    return {
        "name": name,
        "layers": cfg.n_layers,
        "heads": cfg.n_heads,
        "d_model": cfg.d_model,
        "weights": f"{count} as processed, root mean square {(sum(squares) / count) ** 0.5:.5g}",
    }


def table() -> str:
    """The replication table in Markdown: a row a finding, a column a model, and sums below. The
    sentence is the largest model's that has the finding, with its numbers."""
    models, notebook = _by_model()
    rows = [["finding", *models, "the sentence that is judged"]]
    rows.append(["---", *[":-:" for _ in models], "---"])
    for key in sorted(notebook):
        those = [found.get(key) for found in models.values()]
        text = [f["text"] for f in those if f][-1].replace("|", "\\|").replace("<", "&lt;")
        rows.append([key, *("" if f is None else "✔✘"[not f["holds"]] for f in those), text])
    rows.append(["**hold**", *(_sum(found) for found in models.values()), ""])
    return _markdown(rows)


def sums() -> str:
    """How many findings hold, a row a notebook, a column a model."""
    models, notebook = _by_model()
    rows = [["findings that hold", *models], ["---", *[":-:" for _ in models]]]
    for number in sorted(set(notebook.values())):
        mine = [
            {key: f for key, f in found.items() if f["notebook"] == number}
            for found in models.values()
        ]
        rows.append([f"notebook {int(number)}", *map(_sum, mine)])
    rows.append(["all", *(_sum(found) for found in models.values())])
    return _markdown(rows)


def publish() -> None:
    """Write the table and its sums where they are read, between two marks in each file."""
    for name, text in (("docs/replication.md", table()), ("README.md", sums())):
        path = ROOT / name
        before, _, rest = path.read_text(encoding="utf-8").partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        whole = f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}"
        path.write_text(whole, encoding="utf-8", newline="\n")


def _by_model() -> tuple[dict[str, dict], dict[str, str]]:
    """The findings of each model, the embedded one first, and each finding's notebook."""
    recorded = claims.records()
    names = sorted(recorded, key=lambda name: (recorded[name]["model"]["layers"], name))
    models = {name: recorded[name]["findings"] for name in names}
    return models, {key: f["notebook"] for found in models.values() for key, f in found.items()}


def _sum(found: dict) -> str:
    return f"{sum(f['holds'] for f in found.values())} of {len(found)}"


def _markdown(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="a model's name, as for load_model")
    parser.add_argument("--table", action="store_true", help="write the table alone")
    options = parser.parse_args(arguments)
    speak()
    if options.table:
        publish()
        return 0
    if not options.model:
        parser.error("name a model, or ask for --table")
    from tools import run  # which records through this module

    os.environ["TUTORIAL_MODEL"] = options.model
    return run.main(["--record"])


if __name__ == "__main__":
    sys.exit(main())
