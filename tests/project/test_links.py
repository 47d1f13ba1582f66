"""Owner, name and version stand in pyproject.toml; everything that repeats them agrees."""

import re
import shutil

import pytest

from tools import links

REPO, TAG = links.repository()


@pytest.mark.parametrize("path", links.files(), ids=lambda p: p.stem)
def test_every_link_says_what_pyproject_says(path):
    text = path.read_text("utf-8")
    assert REPO in text and TAG.removeprefix("v") in text
    name = REPO.split("/")[1]
    assert set(re.findall(rf"(?:github|github\.com|gh)/([\w.-]+/{name})\b", text)) == {REPO}
    assert set(re.findall(r"(?m)(?:/blob/|--branch=|^version: )(v?[\d.]+)", text)) <= {TAG, TAG[1:]}


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(links.ROOT / "notebooks", tmp_path / "notebooks")
    for name in ("pyproject.toml", "CITATION.cff", "README.md"):
        shutil.copy(links.ROOT / name, tmp_path)
    return tmp_path


def test_a_move_reaches_every_link(copy):
    assert links.main(["some-one/else.where"], copy) == 0
    assert links.repository(copy) == links.repeated(copy) == ("some-one/else.where", TAG)
    for path in links.files(copy):
        text = path.read_text("utf-8")
        assert "some-one/else.where" in text and REPO not in text and links.site(REPO) not in text
    assert links.main([REPO], copy) == 0  # and back again: nothing else was touched
    here = {path.name: path.read_bytes() for path in links.files()}
    assert {path.name: path.read_bytes() for path in links.files(copy)} == here


@pytest.mark.parametrize("bad", ["owner", "owner/name/more", "owner/na me", "https://x/owner/name"])
def test_what_is_no_repository_is_refused(copy, bad, capsys):
    assert links.main([bad], copy) == 2
    assert "is not owner/name" in capsys.readouterr().err
    assert links.repository(copy) == (REPO, TAG)
