"""Make every link to the repository say what pyproject.toml says: `make links [REPO=owner/name]`.

Owner, name and version stand in pyproject.toml alone; the notebooks' first cells and setup cells
README.md and CITATION.cff repeat them, because they must work where pyproject.toml is not at hand.
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


def rules(repo: str, tag: str) -> list[tuple[str, str]]:
    """Patterns and what replaces them."""
    owner, name = repo.split("/")
    return [
        (
            rf"({re.escape(COLAB)}){NAME}/blob/[\w.-]+/notebooks/",
            rf"\g<1>{repo}/blob/{tag}/notebooks/",
        ),
        (rf'(repository = \\?"{re.escape(GITHUB)}){NAME}(?=\\?")', rf"\g<1>{repo}"),
        (r'(--branch=)[\w.-]+(?=\\?")', rf"\g<1>{tag}"),
        (rf"(repository-code: {re.escape(GITHUB)}){NAME}", rf"\g<1>{repo}"),
        (r"(?m)^(version: )\S+$", rf"\g<1>{tag.removeprefix('v')}"),
        (rf"({re.escape(GITHUB)}){NAME}(?=/actions/| && cd )", rf"\g<1>{repo}"),
        (r"( && cd )[\w.-]+", rf"\g<1>{name}"),
        (
            r"(?<=the-site\]: )https://[\w-]+\.github\.io/[\w.-]+/",
            f"https://{owner}.github.io/{name}/",
        ),
    ]


def rewritten(text: str, repo: str, tag: str) -> str:
    for pattern, replacement in rules(repo, tag):
        text = re.sub(pattern, replacement, text)
    return text


def files(root: Path = ROOT) -> list[Path]:
    return [
        *sorted((root / "notebooks").glob("*.ipynb")),
        root / "CITATION.cff",
        root / "README.md",
    ]


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repo", nargs="?", help="owner/name; default: as in pyproject.toml")
    repo = parser.parse_args(arguments).repo
    if repo:
        if not re.fullmatch(NAME, repo):
            print(f"{repo!r} is not owner/name", file=sys.stderr)
            return 2
        path = root / "pyproject.toml"
        text, n = re.subn(
            rf'(?m)^(Repository = "{re.escape(GITHUB)}){NAME}"$',
            rf'\g<1>{repo}"',
            path.read_text("utf-8"),
        )
        if n != 1:
            print(f"{path}: expected one Repository line, found {n}", file=sys.stderr)
            return 1
        path.write_text(text, "utf-8")
    for path in files(root):
        text = path.read_text("utf-8")
        if (new := rewritten(text, *repository(root))) != text:
            path.write_text(new, "utf-8")
            print(f"rewritten: {path.relative_to(root)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
