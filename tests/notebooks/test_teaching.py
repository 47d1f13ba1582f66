"""docs/: what it names exists, what it adds up adds up, and no figure is left out."""

import ast
import re
import string

import pytest
from books import NAMES, ROOT, headings, sources

from helpers import plots

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
ENTRY = re.compile(r'<a id="([\w-]+)"></a>\*\*(.+?)\*\*(?: \(also (.+?)\))?: (.+) \[.+?\]\((\S+)\)')
pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)


def text(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


@pytest.fixture(scope="module")
def minutes() -> dict[str, int]:
    """What each exercise says it takes."""
    pattern = r"### Exercise (\d\.\d): .*\n\nDifficulty \d of 5 · (\d+) minutes"
    cells = [source for name in NAMES for source in sources(name, "markdown").values()]
    found = [match.groups() for source in cells if (match := re.match(pattern, source))]
    assert len(found) == len(dict(found)) >= 26
    return {number: int(time) for number, time in found}


# Links, and what is named


@pages
def test_relative_links_point_to_files(page):
    prose = re.sub(r"```.*?```|`[^`]*`", "", page.read_text("utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not target.startswith(("https://", "#")):
            assert (DOCS / target.partition("#")[0]).exists(), target


def test_the_readme_names_every_page():
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", text("README.md")))
    assert linked == {path.name for path in PAGES} - {"README.md"}


@pages
def test_parts_that_are_named_exist(page):
    for number, *places in re.findall(
        r"[Nn]otebook (\d)\b(?:, Parts? (\d)(?: to (\d))?)?", page.read_text("utf-8")
    ):
        parts = re.findall(r"^Part (\d)", "\n".join(headings(NAMES[int(number) - 1])), re.M)
        assert set(filter(None, places)) <= set(parts), (number, places)


@pytest.mark.parametrize("page", ["instructor-guide.md", "timetables.md"])
def test_exercises_that_are_named_exist(page, minutes):
    named = set(re.findall(r"\b[1-6]\.\d\b", text(page)))
    assert named <= set(minutes)
    if page == "instructor-guide.md":
        assert named == set(minutes)  # each is said to suit pairs or not


def test_cells_that_the_guide_names_exist():
    parts = re.findall(r"(?ms)^## (\d)\. (.*?)(?=^## |\Z)", text("instructor-guide.md"))
    assert len(parts) == 6
    for number, part in parts:
        cells = sources(NAMES[int(number) - 1], "code") | sources(
            NAMES[int(number) - 1], "markdown"
        )
        for name in re.findall(r"`([a-z]+(?:-[a-z]+)+)`", part):
            assert name in cells, f"notebook {number} has no cell {name}"


# Timetables


def clock(time: str) -> int:
    hours, minutes = time.split(":")
    return 60 * int(hours) + int(minutes)


def days() -> list[list[tuple[int, int, int, str]]]:
    tables = re.findall(r"(?m)^\| start \|.*\n\|[-|]+\n((?:\|.*\n)+)", text("timetables.md"))
    rows = [[row.strip("| \n").split(" | ") for row in table.splitlines()] for table in tables]
    return [[(clock(a), clock(b), int(n), what) for a, b, n, what in day] for day in rows]


def test_every_minute_is_accounted_for_and_nobody_works_two_hours_without_a_break(minutes):
    assert len(days()) == 5
    for day in days():
        since = day[0][0]
        for start, end, n, what in day:
            assert end - start == n > 0, what
            exercises = re.findall(r"\b\d\.\d\b", what)
            assert sum(minutes[number] for number in exercises) <= n, what
            if what in ("Break", "Lunch"):
                assert start - since <= 120, what
                since = end
        ends, starts = [end for _, end, *_ in day], [start for start, *_ in day]
        assert ends[:-1] == starts[1:] and day[-1][1] - since <= 140  # no gap, no overlap


# Slides and glossary


def test_slides_hold_at_most_five_points():
    slides = re.split(r"(?m)^## ", text("slides.md"))[1:]
    assert len(slides) > 20
    for slide in slides:
        title, *rest = slide.strip().splitlines()
        points = [line for line in rest if line]
        assert 1 <= len(points) <= 5 and all(point.startswith("- ") for point in points), title


def test_glossary_entries_are_in_order_with_one_sentence_and_one_link():
    paragraphs = text("glossary.md").strip().split("\n\n")[2:]
    found = [ENTRY.fullmatch(paragraph) for paragraph in paragraphs]
    assert all(found), paragraphs[found.index(None)] if None in found else ""
    anchors, terms, _, meanings, links = zip(*(match.groups() for match in found), strict=True)
    plain = [re.sub(r"[^a-z0-9 ]", "", term.casefold()) for term in terms]
    assert plain == sorted(set(plain)) and len(set(anchors)) == len(terms) > 100
    for term, meaning, link in zip(terms, meanings, links, strict=True):
        assert link.startswith("https://"), term  # the site has this page without its neighbours
        assert meaning.endswith(".") and not re.search(r"[.!?] [A-Z]", meaning), term


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
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    given = [word.value for call in calls for word in call.keywords if word.arg == "title"]
    return {title for title in map(written, given) if title is not None}


def test_every_figure_is_told_in_words():
    """Those with a written title have a row, in which the claims that say the same stand below."""
    parts = re.split(r"(?m)^### Notebook ", text("accessibility.md"))[1:]
    assert len(parts) == 6
    for part, name in zip(parts, NAMES, strict=True):
        lines = [line for line in part.splitlines() if line.startswith("| ")][1:]
        rows = {row[0]: row[-1] for row in (line.strip("| ").split(" | ") for line in lines)}
        cells = sources(name, "code")
        for i, source in cells.items():
            assert titles(source) <= rows.keys(), i
        for claims in rows.values():
            for cell in claims.strip("`").split("`, `"):
                assert re.search(r"\b(claim|finding)\(", cells[cell]), cell


def test_the_numbers_of_a_figure_can_be_printed(capsys):
    code = re.search(r"```python\n(.*?)```", text("accessibility.md"), re.S)[1]
    names: dict = {}
    exec(code, names)
    axes = {"title": "t", "xlabel": "x", "ylabel": "y"}
    columns, said = list(string.ascii_lowercase[:2]), [["so", "then"]]
    names["numbers"](plots.heatmap([[1, 0.5]], x=columns, y=["r"], unit="u", text=said, **axes))
    names["numbers"](plots.lines({"one": [0.25, 0.5]}, **axes))
    names["numbers"](plots.bars([0.75, 0.5], ["p", "q"], **axes))
    names["numbers"](plots.scatter([1, 2], [3, 4], hover=["u", "v"], diagonal=True, **axes))
    out = capsys.readouterr().out
    assert "columns: a b" in out and "1.00 so 0.50 then" in out
    assert "one" in out and "(1, 0.50)" in out and "q (1, 0.50)" in out and "v (2.0, 4.00)" in out
