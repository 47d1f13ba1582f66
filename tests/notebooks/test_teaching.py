"""docs/: what it names exists, what it adds up adds up, and no figure or term is left out."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from test_structure import PATHS

from helpers import plots

ROOT = Path(__file__).parents[2]
TEACHING = ROOT / "docs"
PAGES = sorted(TEACHING.glob("*.md"))
ENTRY = re.compile(r'<a id="([\w-]+)"></a>\*\*(.+?)\*\*(?: \(also (.+?)\))?: (.+) \[.+?\]\((\S+)\)')

# Set in italics or bold for stress alone; a term belongs into docs/glossary.md instead.
STRESS = """adds, after, all, and, anew, another position, Back, before, can, cause, decides,
each, entering, every, extract, followed, fresh, from the unsteered to the steered, in front of
the MLP, is, last, lens, loss, model's own, new, next, Nothing reacts, of B, one, order, other,
outside, places, put, read, relied, returned, samples, size, small, terrible, The movie made me,
there, this, two, whatever the hook sees, where, wonderful, would, Your guess"""


def text(name: str) -> str:
    return (TEACHING / name).read_text("utf-8")


@pytest.fixture(scope="module")
def notebooks() -> dict[str, nbformat.NotebookNode]:
    """By number, as a string."""
    return {path.name[1]: nbformat.read(path, as_version=4) for path in PATHS}


def headings(notebook, pattern: str) -> list[str]:
    return [
        match
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for match in re.findall(pattern, cell.source, re.M)
    ]


@pytest.fixture(scope="module")
def minutes(notebooks) -> dict[str, int]:
    """What each exercise says it takes."""
    pattern = r"^### Exercise (\d\.\d): .*\n\nDifficulty \d of 5 · (\d+) minutes"
    found = [pair for notebook in notebooks.values() for pair in headings(notebook, pattern)]
    assert len(found) == len(dict(found)) >= 26
    return {number: int(time) for number, time in found}


# Links, and what is named


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_relative_links_point_to_files(page):
    prose = re.sub(r"```.*?```|`[^`]*`", "", page.read_text("utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not target.startswith(("https://", "#")):
            assert (TEACHING / target.partition("#")[0]).is_file(), target


def test_the_readme_names_every_page():
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", text("README.md")))
    assert linked == {path.name for path in PAGES} - {"README.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_rounds_that_are_named_exist(page, notebooks):
    rounds = {number: headings(book, r"^## Round (\d):") for number, book in notebooks.items()}
    name = r"[Nn]otebook (\d)\b(?:, Rounds? (\d)(?: to (\d))?)?"
    named = re.findall(name, page.read_text("utf-8"))
    for number, *places in named:
        assert set(filter(None, places)) <= set(rounds[number]), (number, places)


@pytest.mark.parametrize("page", ["instructor-guide.md", "timetables.md"])
def test_exercises_that_are_named_exist(page, minutes):
    named = set(re.findall(r"\b[1-6]\.\d\b", text(page)))
    assert named <= set(minutes)
    if page == "instructor-guide.md":
        assert named == set(minutes)  # each is said to suit pairs or not


def test_cells_that_the_guide_names_exist(notebooks):
    parts = re.findall(r"(?ms)^## (\d)\. (.*?)(?=^## |\Z)", text("instructor-guide.md"))
    for number, part in parts:
        cells = {cell.id: cell.source for cell in notebooks[number].cells}
        for name in re.findall(r"`([a-z]+(?:-[a-z]+)+)`", part):
            assert name in cells, f"notebook {number} has no cell {name}"
        for control in re.findall(r"(?:Control|Trap) \d", part):
            assert any(f"**{control}:" in source for source in cells.values()), control


# Timetables


def clock(time: str) -> int:
    hours, minutes = time.split(":")
    return 60 * int(hours) + int(minutes)


def days() -> list[list[tuple[int, int, int, str]]]:
    tables = re.findall(r"(?m)^\| start \|.*\n\|[-|]+\n((?:\|.*\n)+)", text("timetables.md"))
    rows = [[row.strip("| \n").split(" | ") for row in table.splitlines()] for table in tables]
    return [[(clock(a), clock(b), int(n), what) for a, b, n, what in day] for day in rows]


def test_every_minute_is_accounted_for():
    assert [sum(n for *_, n, _ in day) for day in days()] == [90, 210, 480, 480, 480]
    for day in days():
        for start, end, n, what in day:
            assert end - start == n > 0, what
        ends, starts = [end for _, end, *_ in day], [start for start, *_ in day]
        assert ends[:-1] == starts[1:]  # no gap, no overlap


def test_nobody_works_two_hours_without_a_break():
    for day in days():
        since = day[0][0]
        for start, end, _, what in day:
            if what in ("Break", "Lunch"):
                assert start - since <= 120, what
                since = end
        assert day[-1][1] - since <= 140


def test_exercises_fit_their_blocks(minutes):
    given = 0
    for day in days():
        for *_, n, what in day:
            if exercises := re.findall(r"\b\d\.\d\b", what):
                assert sum(minutes[number] for number in exercises) <= n, what
                given += 1
    assert given > 5


# Slides and glossary


def test_slides_hold_at_most_five_points():
    slides = re.split(r"(?m)^## ", text("slides.md"))[1:]
    assert len(slides) > 20
    for slide in slides:
        title, *rest = slide.strip().splitlines()
        points = [line for line in rest if line]
        assert 1 <= len(points) <= 5 and all(point.startswith("- ") for point in points), title


def entries() -> list[tuple[str, str, str, str, str]]:
    paragraphs = text("glossary.md").strip().split("\n\n")[2:]
    found = [ENTRY.fullmatch(paragraph) for paragraph in paragraphs]
    assert all(found), paragraphs[found.index(None)] if None in found else ""
    return [match.groups() for match in found]


def test_glossary_entries_have_one_sentence_and_one_link():
    for anchor, term, also, sentence, link in entries():
        assert anchor and "](" not in f"{term}{also}{sentence}", term
        assert link.startswith("https://"), term  # the site has this page without its neighbours
        assert sentence.endswith(".") and not re.search(r"[.!?] [A-Z]", sentence), term


def plain(term: str) -> str:
    return re.sub(r"[^a-z0-9 ]", "", term.casefold())


def test_glossary_is_in_alphabetical_order():
    terms = [term for _, term, *_ in entries()]
    assert [plain(term) for term in terms] == sorted({plain(term) for term in terms})
    assert len({anchor for anchor, *_ in entries()}) == len(terms) > 100


def stressed(source: str) -> set[str]:
    """Words set in italics, and in bold unless they open a paragraph as its heading."""
    prose = re.sub(r"```.*?```|`[^`]*`", "", source, flags=re.S)
    italic = re.findall(r"(?<![*\w])\*([^*\n]+)\*(?![*\w])", re.sub(r"\*\*[^*]*\*\*", "", prose))
    bold = [b for b in re.findall(r"\*\*([^*\n]+)\*\*", prose) if b[-1] not in ".:?,)"]
    return {word.strip(" .,:;?") for word in italic + bold}


def test_every_term_of_the_notebooks_is_in_the_glossary(notebooks):
    known = {plain(word) for word in " ".join(STRESS.split()).split(", ")}
    for _, term, also, *_ in entries():
        known |= {plain(name) for name in [term, *(also or "").split(", ")]}
    missing = {
        f"{number}: {word}"
        for number, notebook in notebooks.items()
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for word in stressed(cell.source)
        if not known & {plain(word), plain(word).removesuffix("s")}
    }
    assert not missing, sorted(missing)


# Figures


def written(node: ast.expr) -> str | None:
    """A string as written, "…" for what a run fills in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(written(part) or "…" for part in node.values)
    return None


def titles(source: str) -> set[str]:
    """The titles of the figures that a cell draws."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            found += [keyword.value for keyword in node.keywords if keyword.arg == "title"]
            if getattr(node.func, "id", "") == "over_blocks":
                found.append(node.args[1])
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "title":
            found.append(node.value)
    return {title for title in map(written, found) if title is not None}


def rows(part: str) -> list[list[str]]:
    lines = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
    return lines[1:]


@pytest.mark.parametrize("page", ["accessibility.md", "instructor-guide.md"])
def test_every_figure_has_its_row(page, notebooks):
    parts = re.split(r"(?m)^#+ (?:Notebook )?(?=\d)", text(page))[1:]
    assert [part[0] for part in parts] == list(notebooks)
    for part, notebook in zip(parts, notebooks.values(), strict=True):
        named = {row[0] for row in rows(part)}
        for cell in notebook.cells:
            if cell.cell_type == "code":
                wanted = titles(cell.source)
                if "plots.attention(" in cell.source or "plots.tokens(" in cell.source:
                    wanted.add(f"Attention view, cell `{cell.id}`")
                assert wanted <= named, cell.id


def test_every_figure_in_words_points_to_claims_at_or_below_it(notebooks):
    parts = re.split(r"(?m)^### Notebook ", text("accessibility.md"))[1:]
    for part, notebook in zip(parts, notebooks.values(), strict=True):
        ids = [cell.id for cell in notebook.cells]
        sources = {cell.id: cell.source for cell in notebook.cells}
        for title, _, claims in rows(part):
            drawn = [
                ids.index(cell.id)
                for cell in notebook.cells
                if cell.cell_type == "code"
                if title in titles(cell.source) or title.endswith(f"`{cell.id}`")
            ]
            assert len(drawn) == 1, f"{title}: drawn by {len(drawn)} cells"
            for name in claims.strip("`").split("`, `"):
                assert ids.index(name) >= drawn[0], f"{title}: {name} stands above it"
                assert re.search(r"\b(claim|finding)\(", sources[name]), name


def test_the_numbers_of_a_figure_can_be_printed(capsys):
    code = re.search(r"```python\n(.*?)```", text("accessibility.md"), re.S)[1]
    names = {}
    exec(code, names)
    axes = {"title": "t", "xlabel": "x", "ylabel": "y"}
    names["numbers"](plots.heatmap([[1, -1]], x=["a", "b"], y=["r"], unit="u", **axes))
    names["numbers"](
        plots.heatmap([[1, 0.5]], x=["a", "b"], y=["r"], unit="u", text=[["so", "then"]], **axes)
    )
    names["numbers"](plots.lines({"one": [0.25, 0.5]}, **axes))
    names["numbers"](plots.bars([0.75, 0.5], ["p", "q"], **axes))
    names["numbers"](plots.scatter([1, 2], [3, 4], hover=["u", "v"], diagonal=True, **axes))
    out = capsys.readouterr().out
    assert "columns: a b\nr 1.00  -1.00" in out and "1.00 so 0.50 then" in out
    assert "one" in out and "(1, 0.50)" in out and "q (1, 0.50)" in out and "v (2.0, 4.00)" in out
