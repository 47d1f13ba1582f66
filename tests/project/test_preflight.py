"""The preflight: it passes here, and each thing that can be wrong is named with its fix."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

import helpers.patching
from helpers.models import EMBEDDED_DIRECTORY
from tools import preflight

ROOT = Path(__file__).parents[2]


@pytest.fixture
def verdict(monkeypatch, tmp_path, capsys):
    """Run it whole where there is no real model, and give its exit status and what it printed."""
    monkeypatch.delenv("TUTORIAL_MODEL", raising=False)
    monkeypatch.setenv("TUTORIAL_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run():
        status = preflight.main(["--page", str(tmp_path / "page.html")])
        return status, capsys.readouterr().out

    return run


def test_this_machine_is_ready(verdict, tmp_path):
    status, out = verdict()
    assert (status, out.splitlines()[-1]) == (0, "Verdict: READY")
    assert "'The Eiffel Tower is in the city of' -> ' Paris'" in out
    assert "smollm2-135m is not here" in out and "`make real`" in out
    assert len(out.splitlines()) <= 24 and max(map(len, out.splitlines())) <= 200  # one screen
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "Plotly.newPlot" in page and 'src="http' not in page  # drawn with no network


WRONG = {
    "python": ((sys, "version_info", (3, 9, 1)), "-> install Python 3.11, 3.12 or 3.13"),
    "packages": (
        (preflight, "requires", lambda _: ["no-such-package>=1", "torch>=99", "numpy"]),
        "no-such-package is missing; torch 2",
    ),
    "memory": ((psutil, "virtual_memory", lambda: SimpleNamespace(available=0.3e9)), "0.3 GB free"),
    "disk": ((shutil, "disk_usage", lambda _: SimpleNamespace(free=0.1e9)), "-> make room"),
    "model": (
        (helpers.patching, "patch_residual", lambda m, t, c, metric: metric(m(t)).expand(4, 11)),
        "-> restore the model",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_with_its_fix(verdict, monkeypatch, name):
    patch, words = WRONG[name]
    monkeypatch.setattr(*patch)
    status, out = verdict()
    assert status == 1 and f"FAIL {name}" in out and words in out
    assert out.splitlines()[-1] == f"Verdict: NOT READY ({name})"


def test_a_model_that_is_not_there_is_named_and_a_browser_found_without_a_desktop(
    verdict, monkeypatch, tmp_path
):
    """On a machine without a display `webbrowser` knows none, Chromium or not."""
    monkeypatch.setenv("TUTORIAL_MODEL", "./nowhere")
    monkeypatch.setattr(preflight.webbrowser, "get", lambda: 1 / 0)
    (tmp_path / ("chromium.exe" if os.name == "nt" else "chromium")).touch(mode=0o755)
    monkeypatch.setattr(preflight.webbrowser, "Error", ZeroDivisionError)
    for path, words in ((str(tmp_path), "with chromium"), ("", "no browser on this machine")):
        monkeypatch.setenv("PATH", path)
        _, out = verdict()
        assert words in out and "FAIL model" in out and "is no directory" in out
    assert "-> unset TUTORIAL_MODEL" in out


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_name_that_the_console_cannot_write_is_no_failure(tmp_path, encoding):
    """FIELD-CASES 15: output redirected where the encoding is cp1252."""
    shutil.copytree(EMBEDDED_DIRECTORY, tmp_path / "Łukasz模型")
    given = {"TUTORIAL_MODEL": str(tmp_path / "Łukasz模型"), "TUTORIAL_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "tools.preflight", "--page", str(tmp_path / "page.html")]
    environment = os.environ | given | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert b"\\u6a21" in ran.stdout and b"Verdict: READY" in ran.stdout, ran.stderr


def test_the_preflight_itself_needs_nothing_but_python():
    # Where packages are missing it must still be able to say so; -S leaves them out.
    subprocess.run([sys.executable, "-S", "-c", "import tools.preflight"], cwd=ROOT, check=True)
