"""Claims and findings: what a notebook says of a model, checked where it is said."""

import json
import os
import re
from html import escape
from importlib.resources import files
from math import prod

from IPython.display import display

RECORDS = files("helpers") / "findings"  # one JSON a model, written by `python -m tools.findings`
GREEN, BROWN, GREY = "#1a9850", "#b35806", "#9e9e9e"  # of a border: seen on white and on black


class Verdict:
    """A line under a cell, with smaller notes below it: rich in a notebook, plain elsewhere."""

    def __init__(self, label: str, colour: str, text: str, notes: list[str] | None = None):
        self.label, self.colour, self.text, self.notes = label, colour, text, notes or []

    def __repr__(self) -> str:
        return "\n    ".join([f"{self.label}: {self.text}", *self.notes])

    def _repr_html_(self) -> str:
        style = f"border-left: 4px solid {self.colour}; padding: 0.2em 0.8em"
        notes = "".join(f"<br><small>{escape(note)}</small>" for note in self.notes)
        return f'<div style="{style}"><b>{self.label}:</b> {escape(self.text)}{notes}</div>'


def claim(text: str, holds: bool) -> None:
    """Assert an identity (two routes to one answer), which must hold on every model, and show it.
    AssertionError where it is false. TypeError where `holds` is not one bool, also a tensor's or an
    array's (a list is always "true": such a claim could not fail), or `text` no string."""
    if not checked(text, holds):
        raise AssertionError(f"This claim is false here: {text}")
    display(Verdict("✔ Checked", GREEN, text), metadata={"claim": "checked"})


def finding(text: str, holds: bool, model: object, name: str) -> None:
    """Show a fact about `model`, whether it holds, and what is on record of other models. Where it
    differs from the record of `model.cfg.model_name` it says so, and stops only where the variable
    TUTORIAL_FINDINGS is "strict" (our tests): AssertionError. `name`, which stays when the text
    changes, is the notebook's number and lower-case words, "02-moves". Else raises as `claim`."""
    holds = checked(text, holds)
    if not isinstance(name, str) or not re.fullmatch(r"\d\d(-[a-z0-9]+)+", name):
        raise ValueError(f"a finding's name is like '02-moves' (notebook, words), got {name!r}")
    here = getattr(getattr(model, "cfg", None), "model_name", None)
    if not isinstance(here, str):
        raise TypeError(f"finding(..., model): {type(model).__name__} has no .cfg.model_name")
    models = records()
    entries = {m: r["findings"][name] for m, r in models.items() if name in r["findings"]}
    entry = entries.pop(here, None)
    recorded = entry and entry["holds"]
    notes = []
    for other, its in entries.items():
        same = f"also on {other}" if holds else f"not on {other} either"
        differs = f"{'not' if holds else 'holds'} on {other}: {its['text']}"
        notes.append(same if its["holds"] == holds else differs)
    if entry is None:
        missing = f"not in the record of {here} yet"
        notes.insert(0, missing if here in models else "no record for this model yet")
    elif recorded != holds:
        says = f"it {'holds' if recorded else 'does not hold'} on {here}"
        notes.insert(0, f"the record says that {says}: your own prompt, or something changed")
    metadata = {"finding": name, "holds": holds, "recorded": recorded, "model": here, "text": text}
    look = ("✔ Holds here", GREEN) if holds else ("✘ Does not hold here", BROWN)
    display(Verdict(*look, text, notes), metadata=metadata)
    if os.environ.get("TUTORIAL_FINDINGS") == "strict" and recorded not in (None, holds):
        raise AssertionError(f"{name}: {notes[0]}\nhere: {text}\nrecord: {entry['text']}")


def records() -> dict[str, dict]:
    """What is on record, by model name: its "model", the "versions", and its "findings" by name."""
    found = [f for f in RECORDS.iterdir() if f.name.endswith(".json")] if RECORDS.is_dir() else []
    read = [json.loads(f.read_text(encoding="utf-8")) for f in found]
    return {r["model"]["name"]: r for r in sorted(read, key=lambda r: r["model"]["name"])}


def checked(text: object, holds: object) -> bool:
    """`holds` as a bool, where it is one (also torch's and numpy's, of one element)."""
    if not isinstance(text, str):
        raise TypeError(f"text must be a sentence, got {type(text).__name__}; it comes first")
    if not text.strip():
        raise ValueError("text is empty; say what is claimed")
    item = holds.item() if hasattr(holds, "shape") and prod(holds.shape) == 1 else holds
    if not isinstance(item, bool):
        got, fix = type(holds).__name__, "compare, and join several comparisons with .all()"
        raise TypeError(f"holds must be one bool, got {got} {holds!r} for {text!r}; {fix}")
    return item
