"""Machines as they are: no home, a dead proxy, a broken cache, a full disk, an interrupted cell."""

import errno
import os
import queue
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

from tools.run import main

ROOT = Path(__file__).parents[2]
LOAD = """
from helpers.models import load_model
import torch
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
    return {"HF_HOME": str(tmp_path)}


@pytest.fixture
def read_only_home(tmp_path):
    """A file where the home directory should be: nothing can be written there, not even by root."""
    (tmp_path / "home").write_text("")
    return {"HOME": str(tmp_path / "home"), "USERPROFILE": str(tmp_path / "home")}


SURROUNDINGS = {
    "no home": {"HOME": None, "USERPROFILE": None},
    "dead proxy": {f"{kind}_PROXY": "http://127.0.0.1:9" for kind in ("HTTP", "HTTPS", "ALL")},
    "offline": {"HF_HUB_OFFLINE": "1"},
    "odd locale": {"LC_ALL": "C", "PYTHONIOENCODING": "utf-8"},
}


def surrounded(changes: dict) -> dict:
    environment = os.environ | {k: v for k, v in changes.items() if v is not None}
    return {k: v for k, v in environment.items() if changes.get(k, "") is not None}


def load_with(changes: dict, tmp_path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", LOAD],
        cwd=tmp_path,
        env=surrounded({"TUTORIAL_MODEL": "", **changes}),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_the_embedded_model_loads_anywhere(name, tmp_path):
    done = load_with(SURROUNDINGS[name], tmp_path)
    assert (done.returncode, done.stdout) == (0, " Paris\n"), done.stderr


def test_the_embedded_model_needs_no_home_and_no_cache(read_only_home, broken_cache, tmp_path):
    done = load_with(read_only_home | broken_cache, tmp_path)
    assert (done.returncode, done.stdout) == (0, " Paris\n"), done.stderr


def test_a_broken_cache_is_an_error_in_seconds_that_says_what_was_tried(broken_cache, tmp_path):
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", "from helpers.models import load_model; load_model('gpt2')"],
        env=surrounded(broken_cache | {"HF_ENDPOINT": "http://127.0.0.1:9"}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert time.monotonic() - start < 45  # imports on a busy machine included
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


def test_a_place_that_cannot_be_written_to_is_told(one_notebook, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([str(one_notebook), "--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be made: Not a directory" in capsys.readouterr().err


def test_two_runs_at_once_do_not_harm_each_other(one_notebook, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tools.run", str(one_notebook), "--out", str(out)]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert [path.name for path in out.iterdir()] == ["one.ipynb"]
    assert nbformat.read(out / "one.ipynb", 4).cells[0].outputs[0].text == "fine\n"


PREPARE = """
from helpers.models import load_model
from helpers.patching import patch_head_positions
from helpers.prompts import CITY_PAIRS
import torch

model = load_model()
tokens = CITY_PAIRS[0].tokens(model)
_, cache = model.run_with_cache(tokens.clean)
before = model(tokens.corrupted)

def slow(logits):
    import time
    print("measuring", flush=True)
    time.sleep(30)
    return tokens.logit_diff(logits)
"""
AFTER = """
print(torch.equal(model(tokens.corrupted), before))
print(sum(len(m._forward_hooks) for m in model.modules()) == hooks)
grid = patch_head_positions(model, tokens.corrupted, cache, tokens.logit_diff)
print(torch.isfinite(grid).all().item())
"""


@pytest.mark.skipif(os.name == "nt", reason="interrupts reach a Windows kernel another way")
def test_an_interrupted_sweep_leaves_no_hook():
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        hooks = "hooks = sum(len(m._forward_hooks) for m in model.modules())"
        assert execute(client, PREPARE + hooks) == ("ok", "")
        client.execute("patch_head_positions(model, tokens.corrupted, cache, slow)")
        while "measuring" not in str(client.get_iopub_msg(timeout=60)["content"]):
            pass
        manager.interrupt_kernel()
        assert client.get_shell_msg(timeout=60)["content"]["ename"] == "KeyboardInterrupt"
        assert execute(client, AFTER) == ("ok", "True\nTrue\nTrue\n")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def execute(client, code: str) -> tuple[str, str]:
    """Run to the end; give the status and what was printed."""
    printed = []

    def keep(message):
        if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
            printed.append(message["content"]["text"])

    try:
        reply = client.execute_interactive(code, output_hook=keep, timeout=120)
    except queue.Empty:
        return "no answer", ""
    return reply["content"]["status"], "".join(printed)
