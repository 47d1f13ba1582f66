"""Build the static site of the executed notebooks: `make site`; it lands in build/site/html.

Sphinx makes the pages and the search, from files on this machine only.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "build" / "site"
PAGES = ["glossary.md", "migration.md"]  # of docs/
# Plotly would fetch a program for formulas with every figure; ours have none. (In JSON.)
MATHJAX = r'<script src=\\"https://[^>]*mathjax[^>]*></script>'


def gather() -> None:
    """The site's own pages, and the notebooks executed with figures that draw outside Jupyter."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / "docs" / "site", SOURCE)
    for page in PAGES:
        shutil.copy(ROOT / "docs" / page, SOURCE)
    # "notebook" puts plotly's program into the page once, from the installed package.
    environment = os.environ | {"PLOTLY_RENDERER": "plotly_mimetype+notebook"}
    run = [sys.executable, "-m", "tools.run", "--out", str(SOURCE / "notebooks")]
    subprocess.run(run, cwd=ROOT, env=environment, check=True)
    for path in (SOURCE / "notebooks").glob("*.ipynb"):
        text, n = re.subn(MATHJAX, "", path.read_text("utf-8"))
        if not n:
            raise RuntimeError(f"{path.name}: plotly's formula script was not found; look anew")
        path.write_text(text, "utf-8")


def main() -> int:
    gather()
    build = ["-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(SOURCE)]
    subprocess.run([sys.executable, *build, str(SOURCE / "html")], check=True)
    print(f"the site: {SOURCE / 'html' / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
