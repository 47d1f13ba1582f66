"""What a reader's session remembers: the exercises solved, and the cells that failed."""

import json
import re
from contextlib import suppress
from dis import get_instructions
from pathlib import Path
from types import CodeType, FunctionType

from IPython import get_ipython

FILE = ".progress.json"  # in the reader's folder, never sent; delete it to start again
_file = Path(FILE).absolute()
_unwritten: set[str] = set()  # solved in this kernel, where the file cannot be written
_failed: dict[str, str] = {}  # names whose cell failed when it last ran, and the error's


def solved() -> set[str]:
    """The numbers in the reader's file, and those that could not be written there."""
    with suppress(OSError, ValueError):
        return _unwritten.union(re.findall(r'"(\d+\.\d+)"', _file.read_text(encoding="utf-8")))
    return set(_unwritten)


def keep(number: str) -> None:
    """Add to the reader's file: in a notebook only, and not where the folder is read-only."""
    every = solved() | {number}
    if get_ipython() is not None:
        with suppress(OSError):
            unfinished = _file.with_name(f"{FILE}.tmp")
            unfinished.write_text(json.dumps(sorted(every)), encoding="utf-8")
            unfinished.replace(_file)
            _unwritten.clear()
            return
    _unwritten.add(number)


def _watch(result) -> None:
    """After each cell: note the names that it was to bind, where it failed."""
    error = result.error_before_exec or result.error_in_exec
    for name in _bound(result.info.raw_cell or ""):
        _failed.pop(name, None)
        if error is not None:
            _failed[name] = type(error).__name__


def _bound(source: str) -> set[str]:
    """The names that a cell defines or assigns, read from its text, since it may not parse."""
    defines = r"^[ \t]*(?:async +)?(?:def|class) +(\w+)"
    found = re.findall(defines + r"|^(\w[\w, ]*?) *(?::[^=\n]+)?=(?!=)", source, re.M)
    return {name for pair in found for name in re.findall(r"\w+", " ".join(pair))}


def _reads(code: CodeType) -> set[str]:
    """The global names that a function reads, those within it too."""
    read = {each.argval for each in get_instructions(code) if each.opname == "LOAD_GLOBAL"}
    return read.union(*(_reads(each) for each in code.co_consts if isinstance(each, CodeType)))


def stale(attempts: tuple) -> str:
    """Why what the cell at hand judges is an older version; empty where it is not."""
    if not _failed or (shell := get_ipython()) is None:
        return ""
    source = shell.history_manager.input_hist_raw[-1]
    mine = (each for each in attempts if isinstance(each, FunctionType))
    codes = [each.__code__ for each in mine if each.__globals__ is shell.user_ns]
    named = set(re.findall(r"\w+", source)).union(*map(_reads, codes))
    for name in (named & _failed.keys()) - _bound(source):
        why = f"the cell that makes `{name}` failed with {_failed[name]}"
        return f"{why}; nothing was judged. Fix it and run it again first."
    return ""


if (_shell := get_ipython()) is not None:
    _shell.events.register("post_run_cell", _watch)
