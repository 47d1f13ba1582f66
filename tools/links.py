"""Make every link to the project say what pyproject.toml says: `make links [REPO=owner/name]`.

Owner, name and version stand in pyproject.toml alone. The notebooks, README.md and CITATION.cff
repeat them, because they must work where pyproject.toml is not at hand; CITATION.cff tells what
they say at present.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = r"[\w.-]+/[\w.-]+"
COLAB = "https://colab.research.google.com/github/"
GITHUB = "https://github.com/"


def repository(root: Path = ROOT) -> tuple[str, str]:
    """`owner/name` and the version's tag, from pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    return project["urls"]["Repository"].removeprefix(GITHUB), f"v{project['version']}"


def repeated(root: Path = ROOT) -> tuple[str, str]:
    """The same, as the links say it."""
    text = (root / "CITATION.cff").read_text("utf-8")
    repo = re.search(rf"(?m)^repository-code: {re.escape(GITHUB)}({NAME})$", text)[1]
    return repo, "v" + re.search(r"(?m)^version: (\S+)$", text)[1]


def site(repo: str) -> str:
    """Where the built pages are read."""
    owner, name = repo.split("/")
    return f"https://{owner}.github.io/{name}/"


def rewritten(text: str, old: tuple[str, str], new: tuple[str, str]) -> str:
    text = text.replace(site(old[0]), site(new[0])).replace(old[0], new[0])
    return text.replace(old[1], new[1]).replace(f"version: {old[1][1:]}", f"version: {new[1][1:]}")


def files(root: Path = ROOT) -> list[Path]:
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    return [*notebooks, root / "README.md", root / "CITATION.cff"]


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repo", nargs="?", help="owner/name; default: as in pyproject.toml")
    repo, old = parser.parse_args(arguments).repo, repeated(root)
    if repo:
        if not re.fullmatch(NAME, repo):
            print(f"{repo!r} is not owner/name", file=sys.stderr)
            return 2
        path, line = root / "pyproject.toml", f'Repository = "{GITHUB}'
        text = path.read_text("utf-8").replace(f"{line}{repository(root)[0]}", line + repo)
        path.write_text(text, "utf-8")
    for path in files(root):
        text = path.read_text("utf-8")
        if (new := rewritten(text, old, repository(root))) != text:
            path.write_text(new, "utf-8")
            print(f"rewritten: {path.relative_to(root)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
