"""A full disk, and two runs of the notebooks at once."""

import errno
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools.run import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def one_notebook(tmp_path):
    path = tmp_path / "one.ipynb"
    cell = nbformat.v4.new_code_cell("print('fine')", id="only")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


def test_a_full_disk_is_told_and_nothing_half_written_stays(
    one_notebook, tmp_path, monkeypatch, capsys
):
    def full(notebook, path):
        Path(path).write_text('{"cells": [')
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tools.run.nbformat.write", full)
    out = tmp_path / "out"
    assert main([str(one_notebook), "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert "could not be written: No space left on device" in said.err and "FAILED" in said.out
    assert list(out.iterdir()) == []


@pytest.mark.slow
def test_two_runs_at_once_do_not_harm_each_other(one_notebook, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tools.run", str(one_notebook), "--out", str(out)]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.wait(300) for process in both] == [0, 0]
    assert [path.name for path in out.iterdir()] == ["one.ipynb"]
    assert nbformat.read(out / "one.ipynb", 4).cells[0].outputs[0].text == "fine\n"
