"""`python -m tools.run`: it counts, it fails when a cell does, and it stops what hangs."""

import os

import nbformat
import pytest

from tools.run import main


@pytest.fixture
def run(tmp_path, capfd):
    """Write notebooks of one cell each, run them, return (exit status, stdout, stderr, copies)."""

    def run(*codes: str, options=()):
        paths = []
        for i, code in enumerate(codes):
            cell = nbformat.v4.new_code_cell(code, id="only")
            paths.append(tmp_path / f"{i}.ipynb")
            nbformat.write(nbformat.v4.new_notebook(cells=[cell]), paths[-1])
        out = tmp_path / "out"
        status = main([*map(str, paths), "--out", str(out), *options])
        copies = {path.name: nbformat.read(path, 4) for path in out.glob("*")}
        return status, *capfd.readouterr(), copies

    return run


def test_claims_are_counted_and_copies_executed(run):
    code = """
from types import SimpleNamespace
from helpers.checks import claim
claim("a", True); claim("b", True)
claim("c", False, only_for="x", model=SimpleNamespace(cfg=SimpleNamespace(model_name="y")))
"""
    status, out, _, copies = run(code, "1 + 1")
    assert status == 0
    table = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert table["0"][:2] == ["2", "1"]
    assert table["1"][:2] == ["0", "0"]
    assert table["all"][:2] == ["2", "1"]
    assert copies["1.ipynb"].cells[0].outputs[0].data["text/plain"] == "2"


def test_a_false_claim_fails_the_run_but_not_the_other_notebooks(run):
    status, out, err, copies = run(
        "from helpers.checks import claim\nclaim('pigs fly', 1 > 2)", "print('went on')"
    )
    assert status == 1
    assert "pigs fly" in err and "FAILED" in out
    assert copies["1.ipynb"].cells[0].outputs[0].text == "went on\n"
    assert set(copies) == {"0.ipynb", "1.ipynb"}  # nothing half-written is left


def test_a_cell_that_hangs_is_stopped_and_named(run):
    status, _, err, _ = run("import time; time.sleep(60)", options=["--cell-seconds", "1"])
    assert status == 1
    assert "stopped after 1 s" in err and "time.sleep(60)" in err


def test_a_kernel_that_dies_is_told(run):
    status, _, err, _ = run("import os; os._exit(1)")
    assert status == 1
    assert "the kernel died" in err


def test_kernels_share_the_cores_and_leave_the_environment(run, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code = "import os; print(os.environ['OMP_NUM_THREADS'])"
    *_, copies = run(code, code)
    share = max(1, (os.cpu_count() or 1) // 2)  # two at a time
    assert [copy.cells[0].outputs[0].text for copy in copies.values()] == [f"{share}\n"] * 2
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    *_, copies = run(code)
    assert copies["0.ipynb"].cells[0].outputs[0].text == "7\n"


def test_a_model_directory_is_found_from_the_notebooks_folder(run, tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUTORIAL_MODEL", "weights")
    *_, copies = run("import os; print(os.environ['TUTORIAL_MODEL'])")
    assert copies["0.ipynb"].cells[0].outputs[0].text == f"{(tmp_path / 'weights').resolve()}\n"


def test_the_wrong_folder_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    assert "run from the project's root" in capsys.readouterr().err


def test_a_skipped_claim_fails_the_run_where_that_is_asked(run):
    code = """
from types import SimpleNamespace
from helpers.checks import claim
claim("c", False, only_for="x", model=SimpleNamespace(cfg=SimpleNamespace(model_name="y")))
"""
    assert run(code)[0] == 0
    status, _, err, _ = run(code, options=["--no-skips"])
    assert status == 1 and "1 claims were not checked" in err


def test_findings_that_hold_on_a_model_they_are_not_claimed_for_are_told(run):
    code = """
from types import SimpleNamespace
from helpers.checks import claim
here = SimpleNamespace(cfg=SimpleNamespace(model_name="y"))
claim("pigs: fly", {pigs}, only_for="x", model=here)
claim("cows fly", False, only_for="x", model=here)
claim("birds fly", True, only_for="y", model=here)
"""
    status, _, err, _ = run(code.format(pigs=True), options=["--unclaimed"])
    assert status == 1
    assert "0: holds, but is not claimed for this model: pigs: fly\n" in err
    assert "1 findings to be named" in err and "cows" not in err and "birds" not in err
    assert run(code.format(pigs=False), options=["--unclaimed"])[0] == 0
    assert run(code.format(pigs=True))[0] == 0  # only where that is asked
