"""What the package never does: run code that comes with data, or a shell."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(p for d in ("helpers", "exercises") for p in (ROOT / d).rglob("*.py"))
CALLS = {"eval", "exec", "compile", "__import__", "popen"}
MODULES = {"pickle", "dill", "joblib", "marshal", "shelve", "subprocess"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_no_code_is_made_from_text_and_no_shell_is_run(path):
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
            is_method = isinstance(node.func, ast.Attribute) and name in ("eval", "compile")
            assert name not in CALLS or is_method, f"line {node.lineno}: {name}"  # model.eval()
            asked = {keyword.arg for keyword in node.keywords}
            assert not asked & {"shell", "trust_remote_code"}, f"line {node.lineno}"
            called = ast.unparse(node.func)
            assert called not in ("torch.load", "os.system"), f"line {node.lineno}: {called}"
        if isinstance(node, ast.Import):
            pip = {"subprocess"} if path.stem == "smollm2" else set()  # which fetches the model
            assert not MODULES & {alias.name for alias in node.names} - pip
        if isinstance(node, ast.ImportFrom):
            assert node.module not in MODULES


def test_the_shipped_weights_are_safetensors_and_nothing_else():
    kinds = {path.suffix for path in (ROOT / "helpers" / "tutorial_4l").iterdir()}
    assert kinds == {".json", ".md", ".safetensors"}


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")))
def test_workflows_have_the_rights_they_need_only(path):
    text = path.read_text("utf-8")
    assert "\npermissions: {}\n" in text
    assert "contents: write" not in text and "pull_request_target" not in text
    assert text.count("uses: actions/checkout") == text.count("persist-credentials: false")
    assert "timeout-minutes:" in text and "concurrency:" in text
