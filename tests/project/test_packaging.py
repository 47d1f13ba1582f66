"""What the set-up files say to each other, and what is in the repository."""

import os
import re
import shutil
import subprocess
import time
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REQUIREMENTS = [
    line
    for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_conda_and_pip_get_the_same_pins():
    environment = (ROOT / "environment.yml").read_text("utf-8")
    nested = re.findall(r"^      - (.*)$", environment, re.M)
    assert nested == REQUIREMENTS
    assert f"python{PROJECT['requires-python']}" in environment


def test_every_requirement_is_pinned_and_installed():
    pins = dict(line.split("==") for line in REQUIREMENTS if line != "-e .")
    assert len(pins) == len(REQUIREMENTS) - 1
    installed = {name: version(name).split("+")[0] for name in pins}
    assert installed == pins


def test_the_package_allows_what_is_pinned():
    """Ranges in pyproject.toml, for environments like Colab's that have these already."""
    from packaging.requirements import Requirement

    pins = dict(line.split("==") for line in REQUIREMENTS if line != "-e .")
    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        assert "==" not in text, text
        if requirement.name in pins:
            assert requirement.specifier.contains(pins[requirement.name]), text


def test_the_setup_cell_installs_the_pinned_versions():
    cell = (ROOT / "notebooks" / "01_basic_activation_analysis.ipynb").read_text("utf-8")
    for name in ("transformer_lens", "circuitsvis"):
        pin = next(line for line in REQUIREMENTS if line.startswith(f"{name}=="))
        assert pin in cell
    assert f"--branch=v{PROJECT['version']}" in cell
    assert PROJECT["urls"]["Repository"] in cell


def test_no_path_of_a_machine_is_tracked():
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    for name in filter(None, tracked.decode().split("\0")):
        path = ROOT / name
        if path.suffix not in (".safetensors", ".png") and path.exists():
            found = re.search(r"[\"' (=](/(home|root|work|Users|tmp)/\w+)", path.read_text("utf-8"))
            assert not found, f"{name}: {found[1]}"


def test_the_lock_holds_the_pins_and_a_hash_for_everything():
    text = (ROOT / "requirements.lock").read_text("utf-8").replace("\\\n", "")
    locked = {}
    for line in text.splitlines():
        name, version = re.match(r"([\w.-]+)==(\S+)", line).groups()
        assert re.search(r" --hash=sha256:[0-9a-f]{64}$", line), name
        locked[name.lower().replace("_", "-")] = version
    pins = dict(line.split("==") for line in REQUIREMENTS if line != "-e .")
    assert {name: locked[name.lower().replace("_", "-")] for name in pins} == pins


def test_the_helpers_stay_readable():
    """All of them in an afternoon, each on a few screens."""
    lines = {
        path.parent.name + "/" + path.name: len(path.read_text("utf-8").splitlines())
        for path in (ROOT / "helpers").rglob("*.py")
    }
    assert max(lines.values()) <= 240, lines
    assert sum(lines.values()) <= 2190, lines  # 2,050 is what we want


def test_dependencies_point_one_way():
    """Claims and plots know nothing of models; no helper knows of a tool, an exercise or a test."""
    for path in (ROOT / "helpers").rglob("*.py"):
        text = path.read_text("utf-8")
        assert not re.search(r"^ *(from|import) (tools|exercises|tests|families)\b", text, re.M)
        if path.stem in ("claims", "plots"):
            assert not re.search(r"^ *(from|import) (helpers|torch|transformer)", text, re.M), path


FAKE = """#!/bin/sh
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
  "-m pip install"*) echo begin >> log; sleep 1; [ ! -e broken ] || exit 1; echo end >> log;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """The Makefile beside a Python that only notes down what it is asked for."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "fake").write_text(FAKE)
    (tmp_path / "fake").chmod(0o755)
    (tmp_path / "log").touch()
    return tmp_path


def start(clone) -> subprocess.Popen:
    command = ["make", ".venv/installed", "PYTHON=./fake"]
    return subprocess.Popen(command, cwd=clone, stdout=subprocess.DEVNULL, start_new_session=True)


needs_make = pytest.mark.skipif(
    os.name == "nt" or not shutil.which("make"), reason="no make on this machine"
)


@needs_make
def test_two_set_ups_at_once_are_one(clone):
    both = [start(clone), start(clone)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert (clone / "log").read_text("utf-8").split() == ["begin", "end"]
    assert start(clone).wait(60) == 0  # and later there is nothing to do
    assert (clone / "log").read_text("utf-8").split() == ["begin", "end"]


@needs_make
@pytest.mark.parametrize("way", ["fails", "is interrupted"])
def test_a_set_up_that_fails_leaves_no_lock_and_is_done_again(clone, way):
    (clone / "broken").touch()
    first = start(clone)
    if way == "is interrupted":
        while "begin" not in (clone / "log").read_text("utf-8"):
            time.sleep(0.05)
        os.killpg(first.pid, 2)
    assert first.wait(60) != 0
    assert not (clone / ".venv" / "installed").exists()
    (clone / "broken").unlink()
    assert start(clone).wait(60) == 0
    assert (clone / "log").read_text("utf-8").split()[-1] == "end"
