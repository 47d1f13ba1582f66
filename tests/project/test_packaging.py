"""What the set-up files say to each other, what is in the repository, and how large it may grow."""

import os
import re
import shutil
import subprocess
import time
import tomllib
from importlib.metadata import version

import pytest
from books import ROOT, sources
from packaging.requirements import Requirement

LINES = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
REQUIREMENTS = [line for line in LINES if line and not line.startswith("#")]
PINS = dict(line.split("==") for line in REQUIREMENTS if line != "-e .")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_what_is_pinned_is_installed_by_pip_and_conda_and_allowed():
    """The package gives ranges, for environments like Colab's that have these already."""
    environment = (ROOT / "environment.yml").read_text("utf-8")
    assert re.findall(r"^      - (.*)$", environment, re.M) == REQUIREMENTS
    assert f"python{PROJECT['requires-python']}" in environment
    assert {name: version(name).split("+")[0] for name in PINS} == PINS
    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert "==" not in str(requirement)
        if requirement.name in PINS:
            assert requirement.specifier.contains(PINS[requirement.name]), requirement
    cell = sources("01_basic_activation_analysis", "code")["setup"]
    for name in ("transformer_lens",):
        assert f"{name}=={PINS[name]}" in cell


def test_the_lock_holds_the_pins_and_a_hash_for_everything():
    text = (ROOT / "requirements.lock").read_text("utf-8").replace("\\\n", "")
    found = re.findall(r"^([\w.-]+)==(\S+).* --hash=sha256:[0-9a-f]{64}$", text, re.M)
    assert len(found) == len(text.splitlines())
    locked = {name.lower().replace("_", "-"): number for name, number in found}
    assert {name: locked[name.lower().replace("_", "-")] for name in PINS} == PINS


def test_no_path_of_a_machine_is_tracked_and_no_weights_but_safetensors():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for path in (ROOT / name for name in filter(None, listed.stdout.decode().split("\0"))):
        assert path.suffix not in (".pt", ".pth", ".bin", ".pkl", ".gguf"), path
        if path.suffix not in (".safetensors", ".png", ".gif") and path.exists():
            found = re.search(r"[\"' (=](/(home|root|work|Users|tmp)/\w+)", path.read_text("utf-8"))
            assert not found, f"{path}: {found[1]}"


def lines(folder: str) -> dict[str, int]:
    """Of each module."""
    modules = (ROOT / folder).rglob("*.py")
    return {str(path): len(path.read_text("utf-8").splitlines()) for path in modules}


def test_it_stays_readable():
    """The helpers in an afternoon, each on a few screens; the tests are no larger than they are."""
    helpers = lines("helpers")
    assert max(helpers.values()) <= 240, max(helpers, key=helpers.get)
    assert sum(helpers.values()) <= 2_050
    assert sum(lines("tests").values()) <= 6_500


def test_dependencies_point_one_way_and_no_code_comes_with_data():
    """Claims and plots know nothing of models; no helper knows of a tool, an exercise or a test."""
    for path in (ROOT / "helpers").rglob("*.py"):
        text = path.read_text("utf-8")
        assert not re.search(r"^ *(from|import) (tools|exercises|tests|families)\b", text, re.M)
        assert not re.search(r"trust_remote_code=|torch\.load\(", text), path
        if path.stem in ("claims", "plots"):
            assert not re.search(r"^ *(from|import) (helpers|torch|transformer)", text, re.M), path


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")))
def test_workflows_have_the_rights_they_need_only(path):
    text = path.read_text("utf-8")
    assert "\npermissions: {}\n" in text
    assert "contents: write" not in text and "pull_request_target" not in text
    assert text.count("uses: actions/checkout") == text.count("persist-credentials: false")
    assert "timeout-minutes:" in text and "concurrency:" in text


FAKE = """#!/bin/sh
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
  "-m pip install"*) echo begin >> log; sleep 1; [ ! -e broken ] || exit 1; echo end >> log;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    """The Makefile beside a Python that only notes down what it is asked for."""
    if os.name == "nt" or not shutil.which("make"):
        pytest.skip("no make on this machine")
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "fake").write_text(FAKE)
    (tmp_path / "fake").chmod(0o755)
    (tmp_path / "log").touch()
    return tmp_path


def start(clone) -> subprocess.Popen:
    command = ["make", ".venv/installed", "PYTHON=./fake"]
    return subprocess.Popen(command, cwd=clone, stdout=subprocess.DEVNULL, start_new_session=True)


def log(clone) -> list[str]:
    return (clone / "log").read_text("utf-8").split()


def test_two_set_ups_at_once_are_one(clone):
    both = [start(clone), start(clone)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert log(clone) == ["begin", "end"]
    assert start(clone).wait(60) == 0  # and later there is nothing to do
    assert log(clone) == ["begin", "end"]


@pytest.mark.parametrize("way", ["fails", "is interrupted"])
def test_a_set_up_that_fails_leaves_no_lock_and_is_done_again(clone, way):
    (clone / "broken").touch()
    first = start(clone)
    if way == "is interrupted":
        while not log(clone):
            time.sleep(0.05)
        os.killpg(first.pid, 2)
    assert first.wait(60) != 0
    assert not (clone / ".venv" / "installed").exists()
    (clone / "broken").unlink()
    assert start(clone).wait(60) == 0
    assert log(clone)[-1] == "end"
