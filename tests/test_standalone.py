"""A notebook opened alone, as in Colab: outside the project, in an environment without it.

The environment is this one without the project; git is told to take a clone from this working tree
where the setup cell names the public address. No network is used.
"""

import json
import os
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

from tools import links

ROOT = Path(__file__).parents[1]
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


def test_a_notebook_runs_alone(alone, monkeypatch):
    python, reader, environment = alone
    name = "01_basic_activation_analysis.ipynb"
    shutil.copy(ROOT / "notebooks" / name, reader)
    notebook = nbformat.read(reader / name, as_version=4)
    spec = reader.parent / "share" / "kernels" / "alone"
    spec.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    text = json.dumps({"argv": argv, "display_name": "alone", "language": "python"})
    (spec / "kernel.json").write_text(text)
    monkeypatch.setenv("JUPYTER_PATH", str(reader.parent / "share"))
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    where = {"metadata": {"path": str(reader)}}
    NotebookClient(notebook, timeout=300, kernel_name="alone", resources=where).execute()
    assert (reader / "tutorials" / "helpers" / "models.py").exists()
    shown = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert sum(o.metadata.get("claim") == "checked" for o in shown if "metadata" in o) > 20


# What Colab has (runtime image of August 2026), of what the setup cell's packages ask for.
COLAB = {
    "python": "3.13.0",
    "torch": "2.11.0",
    "numpy": "2.1.0",
    "transformers": "5.15.0",
    "plotly": "5.24.0",
    "ipython": "7.34.0",
}
ADDED = 6  # packages that Colab lacks and the setup cell brings, found by experiment


@pytest.mark.parametrize("name", ["transformer_lens", "circuitsvis", "transformerlens-tutorials"])
def test_the_setup_cell_replaces_nothing_of_colabs(name):
    """Every requirement on a package whose version in Colab is known admits that version."""
    markers = {"python_version": "3.13", "python_full_version": "3.13.0", "extra": ""}
    seen = 0
    for requirement in map(Requirement, requires(name)):
        if requirement.marker and not requirement.marker.evaluate(markers):
            continue
        version = COLAB.get(requirement.name.lower())
        if version:
            seen += 1
            assert requirement.specifier.contains(version), requirement
    assert seen
