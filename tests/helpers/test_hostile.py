"""A full disk."""

import errno
from pathlib import Path

import nbformat

from tools.run import main


def test_a_full_disk_is_told_and_nothing_half_written_stays(tmp_path, monkeypatch, capsys):
    path, out = tmp_path / "one.ipynb", tmp_path / "out"
    nbformat.write(nbformat.v4.new_notebook(), path)

    def full(notebook, path):
        Path(path).write_text('{"cells": [')
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tools.run.nbformat.write", full)
    assert main([str(path), "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert "could not be written: No space left on device" in said.err and "FAILED" in said.out
    assert list(out.iterdir()) == []
