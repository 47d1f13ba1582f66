"""Machines as they are: no home, a dead proxy, a broken cache, a full disk, a stop button."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch

from helpers import patching
from tools.run import main

ROOT = Path(__file__).parents[2]
LOAD = """
from helpers.models import load_model
model = load_model()
assert model.cfg.model_name == "tutorial-4l"
print(model.to_string(model(model.to_tokens("The capital of France is"))[0, -1].argmax()[None]))
"""


@pytest.fixture
def broken_cache(tmp_path):
    """A hub cache with half a model in it."""
    snapshot = tmp_path / "hub" / "models--gpt2" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "gp')
    return {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": None}


def run(code: str, tmp_path, changes: dict) -> subprocess.CompletedProcess:
    """In a fresh Python, with these environment variables changed; None for not there."""
    environment = {k: v for k, v in (os.environ | changes).items() if v is not None}
    command, options = [sys.executable, "-c", code], {"capture_output": True, "text": True}
    return subprocess.run(command, cwd=tmp_path, env=environment, timeout=300, **options)


def test_the_embedded_model_loads_with_nothing_at_all(broken_cache, tmp_path):
    """No network, half a model in the cache, a C locale, a file where the home directory should be:
    nothing can be written there, not even by root."""
    (tmp_path / "home").write_text("")
    home = {"HOME": str(tmp_path / "home"), "USERPROFILE": str(tmp_path / "home")}
    proxies = {f"{kind}_PROXY": "http://127.0.0.1:9" for kind in ("HTTP", "HTTPS", "ALL")}
    locale = {"LC_ALL": "C", "TUTORIAL_MODEL": ""}
    done = run(LOAD, tmp_path, locale | broken_cache | home | proxies)
    assert (done.returncode, done.stdout) == (0, " Paris\n"), done.stderr


@pytest.mark.slow
def test_a_broken_cache_is_an_error_that_says_what_was_tried(broken_cache, tmp_path):
    code = "from helpers.models import load_model; load_model('gpt2')"
    done = run(code, tmp_path, broken_cache | {"HF_ENDPOINT": "http://127.0.0.1:9"})
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ConnectionError: 'gpt2': no copy in") and "needs no network" in last


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
    (tmp_path / "file").write_text("")
    assert main([str(one_notebook), "--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be made: Not a directory" in capsys.readouterr().err


@pytest.mark.slow
def test_two_runs_at_once_do_not_harm_each_other(one_notebook, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tools.run", str(one_notebook), "--out", str(out)]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.wait(300) for process in both] == [0, 0]
    assert [path.name for path in out.iterdir()] == ["one.ipynb"]
    assert nbformat.read(out / "one.ipynb", 4).cells[0].outputs[0].text == "fine\n"


@pytest.mark.parametrize("engine", ["sparse", "hooks"])
def test_an_interrupted_sweep_leaves_nothing_behind(
    model, pair, hooks_in_place, monkeypatch, engine
):
    """As the stop button does it: KeyboardInterrupt, raised wherever the run is."""
    if engine == "hooks":
        monkeypatch.setattr(patching.sparse, "supports", lambda *_: False)
    arguments = model, pair.tokens.corrupted, pair.clean_cache
    expected = patching.patch_heads(*arguments, pair.tokens.logit_diff)

    def interrupted(logits):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        patching.patch_heads(*arguments, interrupted)
    assert hooks_in_place(model) == []
    assert torch.equal(model(pair.tokens.corrupted), pair.corrupted_logits)
    assert torch.equal(patching.patch_heads(*arguments, pair.tokens.logit_diff), expected)
