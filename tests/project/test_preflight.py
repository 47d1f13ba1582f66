"""The preflight: it passes here, and each thing that can be wrong is named with its mend."""

import sys
from collections import namedtuple

import psutil
import pytest

from helpers import preflight


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
    page = (tmp_path / "page.html").read_text()
    assert "Plotly.newPlot" in page and "CircuitsVis.render" in page
    assert 'src="http' not in page  # drawn with no network


def low(**values):
    return lambda *_: namedtuple("Fake", values)(**values)


def test_an_old_python_is_named(verdict, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    status, out = verdict()
    assert status == 1 and "-> install Python 3.11, 3.12 or 3.13" in out
    assert out.splitlines()[-1] == "Verdict: NOT READY (python)"


def test_missing_and_old_packages_are_named(verdict, monkeypatch):
    lines = ["no-such-package>=1", "torch>=99", "numpy"]
    monkeypatch.setattr(preflight, "requires", lambda _: lines)
    status, out = verdict()
    assert status == 1 and "no-such-package is missing; torch 2" in out
    assert "needed >=99" in out and "-> run `make run` once" in out


def test_little_memory_and_disk_are_named(verdict, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", low(available=0.3e9))
    monkeypatch.setattr(preflight.shutil, "disk_usage", low(free=0.1e9))
    _, out = verdict()
    assert "FAIL memory    0.3 GB free" in out and "-> close programs" in out
    assert "FAIL disk      0.1 GB free" in out and "-> make room" in out


def test_a_model_that_is_not_there_is_named(verdict, monkeypatch):
    monkeypatch.setenv("TUTORIAL_MODEL", "./nowhere")
    _, out = verdict()
    assert "FAIL model" in out and "is no directory" in out and "-> unset TUTORIAL_MODEL" in out


def test_a_lesson_that_goes_wrong_is_named(verdict, monkeypatch):
    import helpers.patching

    def unpatched(model, tokens, cache, metric):
        return metric(model(tokens)).expand(4, 11)

    monkeypatch.setattr(helpers.patching, "patch_residual", unpatched)
    _, out = verdict()
    assert "FAIL lesson" in out and "Verdict: NOT READY (lesson)" in out


def test_one_broken_check_does_not_stop_the_others():
    def broken():
        raise KeyError("surprise")

    def absent():
        raise ImportError("No module named 'torch'")

    results = preflight.run_checks({"a": broken, "b": absent, "c": lambda: "fine"})
    assert [(name, bool(mend)) for name, _, mend in results] == [
        ("a", True),
        ("b", True),
        ("c", False),
    ]
    assert results[1][2] == preflight.AGAIN


def test_the_preflight_itself_needs_nothing_but_python(monkeypatch):
    """Where packages are missing it must still be able to say so."""
    import ast
    from pathlib import Path

    tree = ast.parse(Path(preflight.__file__).read_text())
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {a.name.split(".")[0] for n in top if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module.split(".")[0] for n in top if isinstance(n, ast.ImportFrom)}
    assert names <= sys.stdlib_module_names
