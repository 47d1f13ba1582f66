"""What a reader's session remembers: the exercises solved, and the cells that failed."""

import json
import re
from contextlib import suppress
from pathlib import Path

from IPython import get_ipython

FILE = ".progress.json"  # in the reader's folder, never sent; delete it to start again
_failed: dict[str, str] = {}  # names whose cell failed when it last ran, and the error's


def kept() -> set[str]:
    """The numbers in the reader's file; none where there is no such file."""
    with suppress(OSError, ValueError, TypeError):
        return set(map(str, json.loads(Path(FILE).read_text(encoding="utf-8"))))
    return set()


def keep(solved: set[str]) -> None:
    """Add to the reader's file: in a notebook only, and not where the folder is read-only."""
    if get_ipython() is None:
        return
    with suppress(OSError):
        unfinished = Path(f"{FILE}.tmp")
        unfinished.write_text(json.dumps(sorted(kept() | solved)), encoding="utf-8")
        unfinished.replace(FILE)


def _watch(result) -> None:
    """After each cell: note the names that it was to bind, where it failed."""
    error = result.error_before_exec or result.error_in_exec
    for name in _bound(result.info.raw_cell or ""):
        _failed.pop(name, None)
        if error is not None:
            _failed[name] = type(error).__name__


def _bound(source: str) -> set[str]:
    """The names that a cell defines or assigns, read from its text, since it may not parse."""
    found = re.findall(r"^(?:def|class) +(\w+)|^(\w[\w, ]*?) *(?::[^=\n]+)?=(?!=)", source, re.M)
    return {name for pair in found for name in re.findall(r"\w+", " ".join(pair))}


def stale() -> str:
    """Why what the cell at hand judges is an older version; empty where it is not."""
    shell = get_ipython()
    source = shell.history_manager.input_hist_raw[-1] if shell and _failed else ""
    for name in (set(re.findall(r"\w+", source)) & _failed.keys()) - _bound(source):
        why = f"the cell that makes `{name}` failed with {_failed[name]}"
        return f"{why}; nothing was judged. Fix it and run it again first."
    return ""


if (_shell := get_ipython()) is not None:
    _shell.events.register("post_run_cell", _watch)
