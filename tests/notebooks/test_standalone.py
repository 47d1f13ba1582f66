"""A notebook opened alone, as in Colab: outside the project, in an environment without it.

The environment is this one without the project; git is told to take a clone from this working tree
where the setup cell names the public address. No network is used.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import requires
from pathlib import Path

import nbformat
import pytest
from books import NAMES, ROOT, sources
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from packaging.requirements import Requirement

from tools import links

REPO, TAG = links.repository()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A reader's folder, and variables that give a Python with the packages but not the project,
    and a local "GitHub"."""
    base = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", base / "venv"], check=True)
    python = base / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", query], capture_output=True, text=True, check=True).stdout
    # A path in a .pth file brings its packages, but not the .pth files in it, and so not this
    # project, whose editable install is one.
    Path(site.strip(), "packages.pth").write_text(sysconfig.get_path("purelib"))
    copied = shutil.ignore_patterns(".venv", "build", ".git", "__pycache__", ".*_cache")
    origin = shutil.copytree(ROOT, base / "origin", ignore=copied)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "as it is"], ["tag", TAG]):
        subprocess.run([*git, *command], cwd=origin, check=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "alone", "language": "python"}
    for folder in (base / "reader", base / "kernels" / "alone"):
        folder.mkdir(parents=True)
    (base / "kernels" / "alone" / "kernel.json").write_text(json.dumps(spec))
    return base / "reader", {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{origin.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"{links.GITHUB}{REPO}",
        "PIP_NO_INDEX": "1",
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "JUPYTER_PATH": str(base),
    }


@pytest.fixture
def execute(alone, monkeypatch):
    """A function: run cells in the reader's folder."""
    folder, variables = alone
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def execute(*codes: str) -> list:
        cells = [nbformat.v4.new_code_cell(code) for code in codes]
        notebook, where = nbformat.v4.new_notebook(cells=cells), {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=300, kernel_name="alone", resources=where).execute()
        return [output for cell in cells for output in cell.outputs]

    return execute


@pytest.mark.slow
def test_a_notebook_runs_alone(alone, execute):
    """And each finds what it imports: they differ in that, and in the model they load."""
    absent = "import torch, importlib.util as u; assert u.find_spec('helpers') is None"
    first, *others = (sources(name, "code") for name in NAMES)
    starts = [cells[i] for cells in others for i in ("setup", "load", "exercises-setup")]
    shown = execute(absent, *first.values(), *starts)
    assert (alone[0] / "tutorials" / "helpers" / "models.py").exists()
    assert sum("claim" in output.get("metadata", {}) for output in shown) >= 3
    printed = "".join(output.get("text", "") for output in shown)
    assert printed.count("tutorial-4l") >= len(NAMES)  # each has loaded it


def test_a_stray_file_that_hides_the_project_is_named(tmp_path, monkeypatch):
    """FIELD-CASES 16: it was an ImportError of another name in the first cell."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "helpers.py").touch()
    with pytest.raises(ImportError, match=r"helpers\.py in this folder hides .*; rename it"):
        exec(sources(NAMES[0], "code")["setup"], {})


@pytest.mark.slow
def test_a_clone_that_fails_is_told_in_a_sentence(execute, monkeypatch, tmp_path):
    """FIELD-CASES 19: it was a CalledProcessError."""
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{tmp_path.as_uri()}/nowhere.insteadOf")
    clean = "import shutil; shutil.rmtree('tutorials', ignore_errors=True)"
    with pytest.raises(CellExecutionError, match="is there a network"):
        execute(clean, sources(NAMES[0], "code")["setup"])


# What Colab has (runtime image of August 2026), of what the setup cell's packages ask for.
COLAB = {"python": "3.13.0", "torch": "2.11.0", "numpy": "2.1.0", "transformers": "5.15.0"}
COLAB |= {"plotly": "5.24.0", "ipython": "7.34.0"}
MARKERS = {"python_version": "3.13", "python_full_version": "3.13.0", "sys_platform": "linux"}
MARKERS |= {"platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}


def asked_for(names: list[str]) -> set[tuple[str, Requirement]]:
    """Every requirement that an install of these packages makes on Linux, at any depth.

    But not of a package that Colab has: pip keeps that where its version fits.
    """
    found = set()
    for name in names:  # which grows
        for asked in map(Requirement, requires(name) or []):
            if not asked.marker or asked.marker.evaluate(MARKERS | {"extra": ""}):
                found.add((name, asked))
                if asked.name.lower() not in COLAB and asked.name not in names:
                    names.append(asked.name)
    return found


def test_the_setup_cell_replaces_nothing_of_colabs():
    """Whatever is asked for, at any depth, of a package that Colab has admits Colab's version."""
    packages = re.search(r"packages = (\[.*\])", sources(NAMES[0], "code")["setup"])[1]
    named = [Requirement(text) for text in json.loads(packages)]
    bounds = asked_for([*(package.name for package in named), "transformerlens-tutorials"])
    bounds |= {("the setup cell", package) for package in named}
    checked = [(by, r) for by, r in bounds if r.name.lower() in COLAB]
    assert {"torch", "numpy", "transformers"} <= {r.name.lower() for _, r in checked}
    for by, requirement in checked:
        version = COLAB[requirement.name.lower()]
        assert requirement.specifier.contains(version), f"{by} asks for {requirement}"
