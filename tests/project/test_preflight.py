"""The preflight: it passes here, and each thing that can be wrong is named with its fix."""

import ast
import io
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

import helpers.patching
from helpers.models import EMBEDDED_DIRECTORY
from tools import preflight


@pytest.fixture
def verdict(monkeypatch, tmp_path, capsys):
    """Run it whole, and give its exit status and what it printed."""
    monkeypatch.delenv("TUTORIAL_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)

    def run():
        status = preflight.main(["--page", str(tmp_path / "page.html")])
        return status, capsys.readouterr().out

    return run


def test_this_machine_is_ready(verdict, tmp_path):
    status, out = verdict()
    assert (status, out.splitlines()[-1]) == (0, "Verdict: READY")
    assert "'The Eiffel Tower is in the city of' -> ' Paris'" in out
    assert len(out.splitlines()) <= 24 and max(map(len, out.splitlines())) <= 200  # one screen
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "Plotly.newPlot" in page and "CircuitsVis.render" in page
    assert 'src="http' not in page  # drawn with no network


def low(**values):
    return lambda *_: namedtuple("Fake", values)(**values)


WRONG = {
    "python": ((sys, "version_info", (3, 9, 1)), "-> install Python 3.11, 3.12 or 3.13"),
    "packages": (
        (preflight, "requires", lambda _: ["no-such-package>=1", "torch>=99", "numpy"]),
        "no-such-package is missing; torch 2",
    ),
    "memory": ((psutil, "virtual_memory", low(available=0.3e9)), "0.3 GB free"),
    "disk": ((preflight.shutil, "disk_usage", low(free=0.1e9)), "-> make room"),
    "lesson": (
        (helpers.patching, "patch_residual", lambda m, t, c, metric: metric(m(t)).expand(4, 11)),
        "the model says",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_with_its_fix(verdict, monkeypatch, name):
    patch, words = WRONG[name]
    monkeypatch.setattr(*patch)
    status, out = verdict()
    assert status == 1 and f"FAIL {name}" in out and words in out
    assert out.splitlines()[-1] == f"Verdict: NOT READY ({name})"


def test_a_model_that_is_not_there_is_named(verdict, monkeypatch):
    monkeypatch.setenv("TUTORIAL_MODEL", "./nowhere")
    _, out = verdict()
    assert "FAIL model" in out and "is no directory" in out and "-> unset TUTORIAL_MODEL" in out


def test_a_name_that_the_console_cannot_write_is_no_failure(verdict, monkeypatch, tmp_path):
    """FIELD-CASES 15: output redirected where the encoding is cp1252."""
    shutil.copytree(EMBEDDED_DIRECTORY, tmp_path / "Łukasz模型")
    monkeypatch.setenv("TUTORIAL_MODEL", str(tmp_path / "Łukasz模型"))
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "cp1252", write_through=True))
    preflight.main(["--page", str(tmp_path / "page.html")])
    assert b"\\u6a21" in written.getvalue() and b"Verdict: READY" in written.getvalue()


def test_one_broken_check_does_not_stop_the_others():
    def broken():
        raise KeyError("surprise")

    def absent():
        raise ImportError("No module named 'torch'")

    results = preflight.run_checks({"a": broken, "b": absent, "c": lambda: "fine"})
    assert [(name, bool(fix)) for name, _, fix in results] == [
        ("a", True),
        ("b", True),
        ("c", False),
    ]
    assert results[1][2] == preflight.AGAIN


def test_the_preflight_itself_needs_nothing_but_python():
    """Where packages are missing it must still be able to say so."""
    tree = ast.parse(Path(preflight.__file__).read_text("utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {a.name.split(".")[0] for n in top if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module.split(".")[0] for n in top if isinstance(n, ast.ImportFrom)}
    assert names <= sys.stdlib_module_names
