"""Is this machine ready for the tutorials? `python -m tools.preflight`, also `make preflight`.

Prints one line a check, a fix for each failure, and a verdict that can be pasted to an instructor.
Nothing is sent anywhere. Exit status 1 where something must be fixed.
"""

import argparse
import os
import platform
import shutil
import sys
import webbrowser
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from tools import speak

# No import of torch, plotly and the like here: their absence is what is to be found out.

PROJECT = "transformerlens-tutorials"
MEMORY_GB, DISK_GB = 2.0, 0.5  # a run of all notebooks, two at a time; executed copies and figures
BROWSERS = ("firefox", "chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
PYTHON = r".venv\Scripts\python" if os.name == "nt" else ".venv/bin/python"
AGAIN = f"in the project's folder, run `{PYTHON} -m pip install -r requirements.txt`"


class Problem(Exception):
    """Something must be fixed; the second argument says how."""


def check_python() -> str:
    found = platform.python_version()
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise Problem(found, "install Python 3.11, 3.12 or 3.13, remove .venv, and set up again")
    return found


def check_packages() -> str:
    """Every dependency is there, in a version that the project allows."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(line) for line in requires(PROJECT) or []]
    except PackageNotFoundError:
        raise Problem(f"{PROJECT} is not installed in {sys.prefix}", AGAIN) from None
    wrong = []
    for requirement in needed:
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found}, needed {requirement.specifier}")
    if wrong:
        raise Problem("; ".join(wrong), AGAIN)
    return f"{len(needed)} packages, transformer_lens {version('transformer_lens')}"


def check_memory() -> str:
    import psutil

    free = psutil.virtual_memory().available / 1e9
    if free < MEMORY_GB:
        raise Problem(f"{free:.1f} GB free", f"close programs until {MEMORY_GB:g} GB are free")
    return f"{free:.1f} GB free"


def check_disk() -> str:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < DISK_GB:
        raise Problem(f"{free:.1f} GB free", f"make room until {DISK_GB:g} GB are free")
    return f"{free:.1f} GB free"


def check_model() -> str:
    """The model that the notebooks will use loads, and a lesson in miniature works on it."""
    return _lesson("")


def check_real() -> str:
    """The same for the real model, where it is; the notebooks run without it."""
    from helpers.models import REAL

    if not (where := REAL.place()).is_dir():
        fetch = f"`make real` ({PYTHON} -m helpers.models {REAL.name})"
        return f"{REAL.name} is not here ({where}); {fetch} fetches 93 MB"
    return _lesson(REAL.name)


def _lesson(name: str) -> str:
    """A cache that adds up, a fact recalled, a patch that brings it back."""
    import torch

    from helpers.models import load_model
    from helpers.patching import patch_residual
    from helpers.prompts import CITY_PAIRS

    pair = CITY_PAIRS[0]
    try:
        model = load_model(name or None)
        tokens = pair.tokens(model)
    except (OSError, ValueError, RuntimeError) as error:
        fix = "unset TUTORIAL_MODEL" if os.environ.get("TUTORIAL_MODEL") and not name else AGAIN
        raise Problem(str(error), fix) from None
    damaged = "restore the model: the repository's, or remove the real one and fetch it again"
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens.clean)
        rebuilt = cache["resid_pre", 0] + cache["attn_out", 0] + cache["mlp_out", 0]
        if not torch.allclose(rebuilt, cache["resid_post", 0], rtol=1e-4, atol=1e-4):
            raise Problem("the residual stream does not add up", AGAIN)
        grid = patch_residual(model, tokens.corrupted, cache, tokens.logit_diff)
    top, clean = model.to_string(logits[0, -1].argmax()[None]), tokens.logit_diff(logits).item()
    ours = model.cfg.model_name in ("tutorial-4l", "smollm2-135m")  # the others may know less
    if ours and (top != pair.answer or not 0.5 * clean < grid.max().item() < 1.5 * clean):
        raise Problem(f"the model says {top!r}", damaged)
    return f"{model.cfg.model_name}, {model.cfg.n_layers} layers: {pair.clean!r} -> {top!r}"


def check_figures(page: Path) -> str:
    """JupyterLab can draw plotly figures; a page to look at is written."""
    import plotly.io

    from helpers import plots

    places = [Path(sys.prefix), *map(Path, os.environ.get("JUPYTER_PATH", "").split(os.pathsep))]
    if not any((p / "share/jupyter/labextensions/jupyterlab-plotly").is_dir() for p in places):
        raise Problem("JupyterLab's plotly extension is missing", AGAIN)
    title = "Four squares, red and blue: this machine can draw"
    axes = {"x": ["a", "b"], "y": ["1", "2"], "xlabel": "column", "ylabel": "row", "unit": "none"}
    figure = plots.heatmap([[1, -1], [-0.5, 0.5]], title=title, **axes)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(plotly.io.to_html(figure, config={"showSendToCloud": False}), encoding="utf-8")
    try:
        webbrowser.get()
    except webbrowser.Error:  # no default: a server, or a desktop that names none
        if not (found := next(filter(None, map(shutil.which, BROWSERS)), None)):
            return f"no browser on this machine; look at {page} with the one that you will use"
        return f"open {page} with {Path(found).name} and look"
    return f"open {page} and look"


def run_checks(checks: dict[str, Callable[[], str]]) -> list[tuple[str, str, str]]:
    """Name, what was found, and the fix (empty where all is well), in order."""
    results = []
    for name, check in checks.items():
        try:
            results.append((name, check(), ""))
        except Problem as problem:
            results.append((name, *problem.args))
        except ImportError as error:
            results.append((name, str(error), AGAIN))
        except Exception as error:  # a preflight that stops half-way would tell nothing
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            results.append((name, text, "report this line as a broken set-up"))
    return results


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, default=Path("build/preflight.html"))
    page = parser.parse_args(arguments).page
    speak()
    results = run_checks(
        {
            "python": check_python,
            "packages": check_packages,
            "memory": check_memory,
            "disk": check_disk,
            "model": check_model,
            "real": check_real,
            "figures": lambda: check_figures(page),
        }
    )
    print(f"Preflight on {platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    for name, found, fix in results:
        print(f"{'FAIL' if fix else 'ok':5}{name:10}{found}")
        if fix:
            print(f"{'':15}-> {fix}")
    failed = [name for name, _, fix in results if fix]
    print(f"Verdict: NOT READY ({', '.join(failed)})" if failed else "Verdict: READY")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
