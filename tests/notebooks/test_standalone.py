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
from nbclient import NotebookClient
from packaging.requirements import Requirement
from test_structure import NAMES, PATHS

from tools import links

ROOT = Path(__file__).parents[2]
REPO, TAG = links.repository()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """An empty directory, a Python that has the packages but not the project, a local "GitHub"."""
    base = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", base / "venv"], check=True)
    python = base / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", query], capture_output=True, text=True, check=True).stdout
    # A path in a .pth file brings its packages, but not the .pth files in it, and so not this
    # project, whose editable install is one.
    Path(site.strip(), "packages.pth").write_text(sysconfig.get_path("purelib"))

    origin = base / "origin"
    copied = shutil.ignore_patterns(".venv", "build", ".git", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, origin, ignore=copied)
    config = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "as it is"], ["tag", TAG]):
        subprocess.run(["git", *config, *command], cwd=origin, check=True)

    reader = base / "reader"
    reader.mkdir()
    environment = os.environ | {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{origin.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"{links.GITHUB}{REPO}",
        "PIP_NO_INDEX": "1",
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
    }
    environment.pop("PYTHONPATH", None)
    return python, reader, environment


def test_the_project_is_not_there_yet(alone):
    python, reader, environment = alone
    code = "import torch, importlib.util as u; assert u.find_spec('helpers') is None"
    subprocess.run([python, "-c", code], cwd=reader, env=environment, check=True)


@pytest.fixture
def execute(alone, monkeypatch):
    """A function: run some cells of a notebook alone in the reader's directory; all by default."""
    python, reader, environment = alone
    spec = reader.parent / "share" / "kernels" / "alone"
    spec.mkdir(parents=True, exist_ok=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    text = json.dumps({"argv": argv, "display_name": "alone", "language": "python"})
    (spec / "kernel.json").write_text(text)
    monkeypatch.setenv("JUPYTER_PATH", str(reader.parent / "share"))
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def execute(name: str, cells: tuple[str, ...] = ()):
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", reader)
        notebook = nbformat.read(reader / f"{name}.ipynb", as_version=4)
        if cells:
            notebook.cells = [cell for cell in notebook.cells if cell.id in cells]
            assert len(notebook.cells) == len(cells)
        where = {"metadata": {"path": str(reader)}}
        NotebookClient(
            notebook,
            timeout=300,
            kernel_name="alone",
            resources=where,
            shutdown_kernel="immediate",
        ).execute()
        return notebook

    return execute


def test_a_notebook_runs_alone(alone, execute):
    notebook = execute(NAMES[0])
    assert (alone[1] / "tutorials" / "helpers" / "models.py").exists()
    shown = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert sum(o.metadata.get("claim") == "checked" for o in shown if "metadata" in o) > 20


@pytest.mark.parametrize("name", NAMES[1:])
def test_every_notebook_finds_all_it_imports_alone(execute, name):
    """What differs between them outside the project: their imports, and the model they load."""
    load = execute(name, ("setup", "load", "exercises-setup")).cells[1]  # raises where a cell fails
    assert "tutorial-4l" in "".join(output.get("text", "") for output in load.outputs)


# What Colab has (runtime image of August 2026), of what the setup cell's packages ask for.
COLAB = {
    "python": "3.13.0",
    "torch": "2.11.0",
    "numpy": "2.1.0",
    "transformers": "5.15.0",
    "plotly": "5.24.0",
    "ipython": "7.34.0",
}
MARKERS = {"python_version": "3.13", "python_full_version": "3.13.0", "sys_platform": "linux"}
MARKERS |= {"platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}


def asked_for(names: list[str]) -> list[tuple[str, Requirement]]:
    """Every requirement that an install of these packages makes on Linux, at any depth.

    What is said of a package that Colab has is a bound on Colab's version, and goes no deeper: pip
    keeps that version where it fits.
    """
    found, seen, waiting = [], set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for requirement in map(Requirement, requires(name) or []):
            if requirement.marker and not requirement.marker.evaluate(MARKERS | {"extra": ""}):
                continue
            found.append((name, requirement))
            if requirement.name.lower() not in COLAB:
                waiting.append(requirement.name)
    return found


def test_the_setup_cell_replaces_nothing_of_colabs():
    """Whatever is asked for, at any depth, of a package that Colab has admits Colab's version."""
    source = next(c.source for c in nbformat.read(PATHS[0], as_version=4).cells if c.id == "setup")
    packages = re.search(r"packages = (\[.*\])", source)[1]
    named = [Requirement(text) for text in json.loads(packages)]
    assert {package.name for package in named}.isdisjoint(COLAB)
    bounds = asked_for([package.name for package in named])
    bounds += [("the project", Requirement(text)) for text in requires("transformerlens-tutorials")]
    checked = [(by, r) for by, r in bounds if r.name.lower() in COLAB]
    assert {"torch", "numpy", "transformers"} <= {r.name.lower() for _, r in checked}
    for by, requirement in checked:
        version = COLAB[requirement.name.lower()]
        assert requirement.specifier.contains(version), f"{by} asks for {requirement}"
