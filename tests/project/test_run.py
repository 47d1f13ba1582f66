"""`python -m tools.run` and `tools.findings`: they count, compare, record, and stop what hangs."""

import errno
import os
from pathlib import Path

import nbformat
import pytest

from helpers import claims
from tools import findings
from tools.run import kernel_environment, main


@pytest.fixture
def run(tmp_path, capfd, monkeypatch):
    """Write notebooks of one cell each, run them, return (exit status, stdout, stderr, copies).

    Records are kept in a folder of the test's own, in this process and in the kernels.
    """
    records = tmp_path / "records"
    for folder in (records, tmp_path / "docs"):
        folder.mkdir()
    for name in ("README.md", "docs/replication.md"):
        (tmp_path / name).write_text("before " + " ".join(findings.MARKS) + " after")
    monkeypatch.setattr(claims, "RECORDS", records)
    monkeypatch.setattr(findings, "ROOT", tmp_path)
    monkeypatch.setattr(findings, "_identity", lambda name: {"name": name, "layers": 4})  # no model
    for variable in ("TUTORIAL_MODEL", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(variable, raising=False)
    start = f"""
from pathlib import Path
from types import SimpleNamespace
from helpers import claims
from helpers.claims import claim
claims.RECORDS = Path({str(records)!r})
def finding(text, holds, name, model="x/y"):
    model = SimpleNamespace(cfg=SimpleNamespace(model_name=model))
    claims.finding(text, holds, model, name)
"""

    def run(*codes: str, options=()):
        paths = [tmp_path / f"0{i}.ipynb" for i in range(1, len(codes) + 1)]
        for path, code in zip(paths, codes, strict=True):
            code = start + code if "claim" in code or "finding" in code else code
            cell = nbformat.v4.new_code_cell(code, id="only")
            nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
        out = tmp_path / "out"
        status = main([*map(str, paths), "--out", str(out), *options])
        copies = {path.name: nbformat.read(path, 4).cells[0].outputs for path in out.glob("*")}
        return status, *capfd.readouterr(), copies

    return run


SAYS = 'claim("a", True); claim("b", True); finding("moved {n}", {holds}, "01-moves")'
RAN = SAYS.format(n=1, holds=True) + '; finding("sinks", False, "01-sinks")'


def test_what_is_said_is_counted_and_copies_executed_with_their_variables(run):
    bars = "import os\nfrom tqdm import auto, std\nfor bar in (auto, std):\n"  # not in a copy
    bars += "    for _ in bar.tqdm(range(2), leave=False): ...\n"
    status, out, _, copies = run(RAN, f"{bars}os.environ['OMP_WAIT_POLICY']")
    assert status == 0 and "no record for x/y yet" in out
    table = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert table["01"][:4] == table["all"][:4] == ["2", "1", "1", "0"]
    assert table["02"][:4] == ["0", "0", "0", "0"]
    assert copies["02.ipynb"][0].data["text/plain"] == "'PASSIVE'"
    assert "OMP_WAIT_POLICY" not in os.environ  # the runner keeps its own


def test_a_record_is_written_and_read_again(run):
    status, out, _, _ = run(RAN, options=["--record"])
    assert status == 0 and "1 findings hold, 1 do not" in out
    assert [path.name for path in claims.RECORDS.iterdir()] == ["x--y.json"]
    record = claims.records()["x/y"]["findings"]
    assert record["01-moves"] == {"holds": True, "notebook": "01", "text": "moved 1"}
    status, out, err, _ = run(RAN.replace("moved 1", "moved 1.001"))
    assert (status, err) == (0, "") and "no record" not in out
    rows = ["| 01-moves | ✔ | moved 1 |", "| 01-sinks | ✘ | sinks |", "| **hold** | 1 of 2 |  |"]
    assert findings.table().splitlines()[2:] == rows
    for _ in range(2):  # written between the marks, and again in the same place
        findings.publish()
        page = (findings.ROOT / "docs" / "replication.md").read_text(encoding="utf-8")
        assert page.startswith("before <!--") and page.endswith("--> after")
        assert page.count("01-moves") == 1
    assert "| notebook 1 | 1 of 2 |" in (findings.ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_finding_that_turns_and_a_stale_record_fail_the_run(run):
    run(RAN, 'finding("c", True, "02-other")', options=["--record"])
    turned = SAYS.format(n=9, holds=False) + '; finding("d", True, "01-new"); print("went on")'
    status, _, err, copies = run(turned)
    assert status == 1
    assert "01-moves differs from the record of x/y" in err
    assert "moved 9" in err and "moved 1" in err
    assert "01-new is not in the record of x/y: d" in err
    assert "01-sinks is in the record of x/y, and no longer in a notebook" in err
    assert "02-other" not in err  # its notebook was not run
    assert copies["01.ipynb"][-1].text == "went on\n"  # all of them are seen
    run(SAYS.format(n=1, holds=True), options=["--record"])
    assert set(claims.records()["x/y"]["findings"]) == {"01-moves", "02-other"}
    assert run(SAYS.format(n=1, holds=False))[0] == 1  # and the other way round


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (RAN + "; 1 / 0", "ZeroDivisionError"),
        (RAN + '; finding("again", True, "01-moves")', "two findings have one name"),
        (RAN + '; finding("other", True, "01-z", "z")', "one model can be recorded"),
        ('finding("a", True, "01-a", "./mine")', "a path means nothing elsewhere"),
        ("1 + 1", "one model can be recorded"),
    ],
)
def test_what_is_no_record_is_not_written(run, code, words):
    status, _, err, _ = run(code, options=["--record"])
    assert status == 1 and words in err
    assert not list(claims.RECORDS.iterdir())


STOPS = [
    ("claim('pigs fly', 1 > 2)", "pigs fly", []),
    ("import time; time.sleep(60)", "stopped after 3 s", ["--cell-seconds=3"]),
    ("import os; os._exit(1)", "the kernel died", []),
]


@pytest.mark.slow
@pytest.mark.parametrize(("code", "words", "options"), STOPS)
def test_what_stops_a_notebook_is_named_and_the_others_go_on(run, code, words, options):
    status, out, err, copies = run(code, "print('went on')", options=options)
    assert status == 1 and "FAILED" in out and words in err
    assert copies["02.ipynb"][0].text == "went on\n"
    assert set(copies) == {"01.ipynb", "02.ipynb"}  # nothing half-written is left


def test_kernels_share_the_cores_and_find_a_models_path(tmp_path, monkeypatch):
    """Two kernels, each with a thread for every core, would wait for each other."""
    for variable in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "TUTORIAL_MODEL"):
        monkeypatch.delenv(variable, raising=False)
    passive = {"OMP_WAIT_POLICY": "PASSIVE"}
    assert kernel_environment(1) == passive
    assert kernel_environment(2) == passive | {"OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.chdir(tmp_path)  # a kernel runs in the notebooks' folder
    for path in ("weights", "model.gguf", "gpt2"):
        (tmp_path / path).mkdir()
        monkeypatch.setenv("TUTORIAL_MODEL", path)
        absolute = {"TUTORIAL_MODEL": str((tmp_path / path).resolve())}
        expected = {} if path == "gpt2" else absolute  # this name keeps its meaning
        assert kernel_environment(2) == passive | expected


def test_the_wrong_folder_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    assert "run from the project's root" in capsys.readouterr().err


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
