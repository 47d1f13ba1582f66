"""Build the static site of the executed notebooks: `make site`; it lands in build/site/html.

Each notebook stands there executed on both models, the real one first, with a switch on top; the
front page's cards and the slides are made from the same copies. Sphinx makes the pages and the
search, from files on this machine only; plotly's program is put beside the pages once, and each
figure is a call of it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path
from uuid import uuid4

import nbformat
from markdown_it import MarkdownIt
from plotly.offline import get_plotlyjs

from tools.findings import sums
from tools.links import COLAB, GITHUB, repository
from tools.run import folder

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "build" / "site"
MODELS = ["smollm2-135m", "tutorial-4l"]
# The figure behind a slide: its notebook and cell. A notebook's first one stands on its card.
FIGURES = {
    "1. Attention": ("01", "sink"),
    "1. Changing": ("01", "resample"),
    "2. What put it there?": ("02", "pos"),
    "2. What the map depends on": ("02", "gate-picture"),
    "3. Direct is not total": ("03", "ablation-grid"),
    "3. Who speaks, on many prompts?": ("03", "rows-picture"),
    "4. How high is high?": ("04", "copy-picture"),
    "4. What is lost without them?": ("04", "sets"),
    "5. Read is not decided": ("05", "decides-picture"),
    "5. The tuned lens": ("05", "tuned-picture"),
    "6. Effect and cost": ("06", "cost-picture"),
    "6. Steering, or a logit bias?": ("06", "direct"),
}
FIGURE = "application/vnd.plotly.v1+json"


def executed(model: str) -> list[Path]:
    """The notebooks executed on a model; run where a copy is missing or older than its sources."""
    sources = sorted((ROOT / "notebooks").glob("*.ipynb"))
    copies = [ROOT / folder(model) / source.name for source in sources]
    made_by = [*sources, *(ROOT / "helpers").rglob("*.py")]
    newest = max(path.stat().st_mtime for path in made_by)
    if not all(copy.exists() and copy.stat().st_mtime > newest for copy in copies):
        environment = os.environ | {"TUTORIAL_MODEL": model}
        subprocess.run([sys.executable, "-m", "tools.run"], cwd=ROOT, env=environment, check=True)
    return copies


def relinked(text: str, folder: str, up: str = "", model: str = MODELS[0]) -> str:
    """Links of a Markdown text that stands in `folder` of the repository, as they are on the site.

    What is no page of the site is linked in the repository; `up` leads from the page to the root.
    """
    repo, _ = repository()

    def target(match: re.Match) -> str:
        name, _, anchor = match[1].partition("#")
        path = Path(os.path.normpath(Path(folder, name))).as_posix()
        anchor = anchor and f"#{anchor}"
        if path in ("README.md", "docs/README.md"):
            return f"]({up}index.md{anchor})"
        if path == "docs/slides.md":
            return f"]({GITHUB}{repo}/blob/main/{path})"
        if re.fullmatch(r"docs/[\w-]+\.md", path):
            return f"]({up}{Path(path).name}{anchor})"
        if path.startswith("notebooks/"):
            return f"]({up}notebooks/{model}/{Path(path).name}{anchor})"
        return f"]({GITHUB}{repo}/blob/main/{path}{anchor})"

    return re.sub(r"\]\((?!https?:|#)([\w./-]+\.\w+(?:#[\w-]+)?)\)", target, text)


def page(notebook: nbformat.NotebookNode, name: str, model: str) -> nbformat.NotebookNode:
    """An executed notebook as a page: a switch on top, figures as calls of the shared program."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = relinked(cell.source, "notebooks", "../../", model)
        if cell.id == "setup" or cell.metadata.get("jupyter", {}).get("source_hidden"):
            cell.metadata.setdefault("tags", []).append("hide-input")  # plumbing, a click away
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if FIGURE in data:
                data["text/html"] = drawn(data.pop(FIGURE))
    repo, tag = repository()
    switch = "".join(
        f'<b aria-current="page">{each}</b>'
        if each == model
        else f'<a href="../{each}/{name}.html">{each}</a>'
        for each in MODELS
    )
    title = notebook.cells[0]
    heading, _, text = title.source.partition("\n# ")[2].partition("\n")
    title.source = (
        f'# {heading}\n\n<nav class="switch" aria-label="Model"><span>Executed on</span>{switch}'
        f'<a href="{COLAB}{repo}/blob/{tag}/notebooks/{name}.ipynb">Open in Colab</a>'
        f'<a href="{GITHUB}{repo}/edit/main/notebooks/{name}.ipynb">Edit</a></nav>\n{text}'
    )
    return notebook


def drawn(spec: dict, still: bool = False) -> str:
    """A plotly figure as a call of the program that the page has loaded (static/figures.js)."""
    place = f"figure-{uuid4().hex[:12]}"
    layout = spec["layout"]
    title = re.sub(r"<[^>]*>", " ", layout.get("title", {}).get("text", ""))
    arguments = [json.dumps(each).replace("<", "\\u003c") for each in (spec["data"], layout, still)]
    height, role = (150, "img") if still else (layout.get("height", 400), "figure")
    return (
        f'<div id="{place}" class="figure" role="{role}" aria-label="{escape(title)}" '
        f'style="height: {height}px"></div>'
        f'<script>addEventListener("load", () => draw({place!r}, {", ".join(arguments)}))</script>'
    )


def figures(notebook: nbformat.NotebookNode) -> dict[str, dict]:
    """The first figure of each cell that has one."""
    return {
        cell.id: spec
        for cell in notebook.cells
        for output in reversed(cell.get("outputs", []))
        if (spec := output.get("data", {}).get(FIGURE))
    }


def cards(notebooks: dict[str, nbformat.NotebookNode]) -> str:
    """The six on the front page: picture, question and minutes, as the notebooks say them."""
    found = []
    for name, notebook in notebooks.items():
        number = name[:2]
        cell = next(cell for notebook_number, cell in FIGURES.values() if notebook_number == number)
        title = re.search(r"(?m)^# (.*)$", notebook.cells[0].source)[1]
        glance = "\n".join(cell.source for cell in notebook.cells[:3])
        question = re.search(r"\*\*Questions\.\*\* (.*?\?)(?:\s|$)", glance)[1]
        time = re.search(r"\*\*Time\.\*\* (.*)", glance)[1]
        found.append(
            f"::::{{grid-item-card}} {title}\n:link: notebooks/{MODELS[0]}/{name}\n"
            f":link-type: doc\n\n{drawn(figures(notebook)[cell], still=True)}\n\n"
            f"{question}\n\n:::{{card-footer}}\n{time}\n:::\n::::"
        )
    return "\n\n".join(found)


def slides(notebooks: dict[str, nbformat.NotebookNode]) -> str:
    """docs/slides.md as one page to show: a screen a heading, and the figures between them."""
    drawings = {name[:2]: figures(notebook) for name, notebook in notebooks.items()}
    markdown, found = MarkdownIt(), []
    for slide in re.split(r"(?m)^## ", (ROOT / "docs/slides.md").read_text("utf-8"))[1:]:
        title = slide.partition("\n")[0]
        found.append(f"<section>{markdown.render('## ' + slide)}</section>")
        if title in FIGURES:
            number, cell = FIGURES[title]
            found.append(f"<section>{drawn(drawings[number][cell])}</section>")
    frame = (ROOT / "docs" / "site" / "slides.html").read_text("utf-8")
    return frame.replace("<!-- slides -->", "\n".join(found))


def gather() -> None:
    """The site's own pages, those of docs/, and the executed notebooks."""
    copies = {model: executed(model) for model in MODELS}
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / "docs" / "site", SOURCE, ignore=shutil.ignore_patterns("slides.html"))
    for path in sorted((ROOT / "docs").glob("*.md")):
        if path.stem not in ("README", "slides"):
            text = relinked(path.read_text("utf-8"), "docs")
            (SOURCE / path.name).write_text(text, "utf-8")
    real = {path.stem: nbformat.read(path, as_version=4) for path in copies[MODELS[0]]}
    url = GITHUB + repository()[0]
    filled = {"<!-- cards -->": cards(real), "<!-- sums -->": sums(), "{repository}": url}
    index = (SOURCE / "index.md").read_text("utf-8")
    for mark, text in filled.items():
        index = index.replace(mark, text)
    (SOURCE / "index.md").write_text(index, "utf-8")
    (SOURCE / "extra").mkdir()
    (SOURCE / "extra" / "slides.html").write_text(slides(real), "utf-8")
    static = SOURCE / "static"
    (static / "plotly.min.js").write_text(get_plotlyjs(), "utf-8")
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
