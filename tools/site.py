"""Build the static site of the executed notebooks: `make site`; it lands in build/site/html.

Each notebook stands there executed on both models, the real one first, with a switch on top. Sphinx
makes the pages and the search, from files on this machine only; plotly's and circuitsvis' programs
are put beside the pages once, and each figure is a call of them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from uuid import uuid4

import nbformat
from plotly.offline import get_plotlyjs

from tools.links import COLAB, GITHUB, repository
from tools.run import folder

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "build" / "site"
PAGES = ["replication.md", "slides.md", "glossary.md", "migration.md"]  # of docs/
MODELS = ["smollm2-135m", "tutorial-4l"]
LINKS = {  # of the notebooks, to where the pages stand
    "../README.md": "../../index.md",
    **{f"../docs/{page}": f"../../{page}" for page in PAGES},
}
VIEW = r"<script>(if \(window\.CircuitsVis\).*?)</script>"
WHEN_LOADED = r'<script>addEventListener("load", () => {\1})</script>'
FIGURE = "application/vnd.plotly.v1+json"


def executed(model: str) -> list[Path]:
    """The notebooks executed on a model; run where a copy is missing or older than its source."""
    sources = sorted((ROOT / "notebooks").glob("*.ipynb"))
    copies = [ROOT / folder(model) / source.name for source in sources]
    fresh = [
        c.exists() and c.stat().st_mtime > s.stat().st_mtime
        for c, s in zip(copies, sources, strict=True)
    ]
    if not all(fresh):
        environment = os.environ | {"TUTORIAL_MODEL": model}
        subprocess.run([sys.executable, "-m", "tools.run"], cwd=ROOT, env=environment, check=True)
    return copies


def page(notebook: nbformat.NotebookNode, name: str, model: str) -> nbformat.NotebookNode:
    """An executed notebook as a page: a switch on top, figures as calls of the shared programs."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for source, target in LINKS.items():
                cell.source = cell.source.replace(f"]({source}", f"]({target}")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if FIGURE in data:
                data["text/html"] = figure(data.pop(FIGURE))
            if "window.CircuitsVis = CircuitsVis" in data.get("text/html", ""):
                data["text/html"] = ""  # the program itself, which stands beside the pages
            elif "text/html" in data:  # the programs come last on a page
                data["text/html"] = re.sub(VIEW, WHEN_LOADED, data["text/html"], flags=re.S)
    other = next(each for each in MODELS if each != model)
    repo, tag = repository()
    switch = (
        f"Executed on **{model}** · [the same on {other}](../{other}/{name}.ipynb) · "
        f"[open in Colab]({COLAB}{repo}/blob/{tag}/notebooks/{name}.ipynb) · "
        f"[edit]({GITHUB}{repo}/edit/main/notebooks/{name}.ipynb)"
    )
    title = notebook.cells[0]
    heading, _, text = title.source.partition("\n# ")[2].partition("\n")
    title.source = f"# {heading}\n\n{switch}\n{text}"
    return notebook


def figure(spec: dict) -> str:
    """A plotly figure as a call of the program that every page has loaded."""
    place = f"figure-{uuid4().hex[:12]}"
    height = spec["layout"].get("height", 400)
    arguments = [json.dumps(spec[key]).replace("<", "\\u003c") for key in ("data", "layout")]
    return (
        f'<div id="{place}" style="height: {height}px"></div>'
        '<script>addEventListener("load", () => '
        f"Plotly.newPlot({place!r}, {', '.join(arguments)}, {{responsive: true}}))</script>"
    )


def gather() -> None:
    """The site's own pages, and the executed notebooks."""
    copies = {model: executed(model) for model in MODELS}
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / "docs" / "site", SOURCE)
    for name in PAGES:
        shutil.copy(ROOT / "docs" / name, SOURCE)
    static = SOURCE / "static"
    static.mkdir(exist_ok=True)
    (static / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
    program = files("circuitsvis") / "dist" / "cdn" / "iife.js"
    views = program.read_text(encoding="utf-8") + "\nwindow.CircuitsVis = CircuitsVis"
    (static / "circuitsvis.js").write_text(views, encoding="utf-8")
    for model, paths in copies.items():
        (SOURCE / "notebooks" / model).mkdir(parents=True)
        for path in paths:
            notebook = page(nbformat.read(path, as_version=4), path.stem, model)
            nbformat.write(notebook, SOURCE / "notebooks" / model / path.name)


def main() -> int:
    gather()
    build = ["-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(SOURCE)]
    subprocess.run([sys.executable, *build, str(SOURCE / "html")], check=True)
    print(f"the site: {SOURCE / 'html' / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
