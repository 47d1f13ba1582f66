"""docs/: what it names exists, what it adds up adds up, and no figure is left out."""

import re
import string
from datetime import datetime

import pytest
from books import NAMES, ROOT, headings, sources

from helpers import plots

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
ENTRY = r'<a id="([\w-]+)"></a>\*\*(.+?)\*\*(?: \(also .+?\))?: (.+) \[.+?\]\((\S+)\)'
pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)


def text(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


@pytest.fixture(scope="module")
def minutes() -> dict[str, int]:
    """What each exercise says it takes."""
    pattern = r"### Exercise (\d\.\d): .*\n\nDifficulty \d of 5 · (\d+) minutes"
    cells = "\n".join(source for name in NAMES for source in sources(name, "markdown").values())
    found = re.findall(pattern, cells)
    assert len(found) == len(dict(found)) >= 26
    return {number: int(time) for number, time in found}


@pages
def test_links_and_parts_that_are_named_exist(page):
    prose = re.sub(r"```.*?```|`[^`]*`", "", page.read_text("utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not target.startswith(("https://", "#")):
            assert (DOCS / target.partition("#")[0]).exists(), target
    for number, *places in re.findall(
        r"[Nn]otebook (\d)\b(?:, Parts? (\d)(?: to (\d))?)?", page.read_text("utf-8")
    ):
        parts = re.findall(r"^Part (\d)", "\n".join(headings(NAMES[int(number) - 1])), re.M)
        assert set(filter(None, places)) <= set(parts), (number, places)


def test_the_readme_names_every_page():
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", text("README.md")))
    assert linked == {path.name for path in PAGES} - {"README.md"}


def test_exercises_and_cells_that_are_named_exist(minutes):
    guide = text("instructor-guide.md")
    assert set(re.findall(r"\b[1-6]\.\d\b", text("timetables.md"))) <= set(minutes)
    assert set(re.findall(r"\b[1-6]\.\d\b", guide)) == set(minutes)  # each suits pairs or not
    parts = re.findall(r"(?ms)^## (\d)\. (.*?)(?=^## |\Z)", guide)
    for (_, part), name in zip(parts, NAMES, strict=True):
        cells = sources(name, "code") | sources(name, "markdown")
        named = re.findall(r"`([a-z]+(?:-[a-z]+)+)`", part)
        assert set(named) <= cells.keys(), name


def test_every_minute_is_accounted_for_and_nobody_works_two_hours_without_a_break(minutes):
    days = re.findall(r"(?m)^\| start \|.*\n\|[-|]+\n((?:\|.*\n)+)", text("timetables.md"))
    assert len(days) == 5
    for day in days:
        rows = [row.strip("| \n").split(" | ") for row in day.splitlines()]
        since = before = rows[0][0]
        for start, end, n, what in rows:
            assert start == before and passed(start, end) == int(n) > 0, what  # no gap, no overlap
            exercises = re.findall(r"\b\d\.\d\b", what)
            assert sum(minutes[number] for number in exercises) <= int(n), what
            if what in ("Break", "Lunch"):
                assert passed(since, start) <= 120, what
                since = end
            before = end
        assert passed(since, end) <= 140


def passed(start: str, end: str) -> int:
    """Minutes."""
    one, other = (datetime.strptime(time, "%H:%M") for time in (start, end))
    return int((other - one).total_seconds()) // 60


def test_glossary_entries_are_in_order_with_one_sentence_and_one_link():
    terms = []
    for paragraph in text("glossary.md").strip().split("\n\n")[2:]:
        entry = re.fullmatch(ENTRY, paragraph)
        assert entry, paragraph
        _, term, meaning, link = entry.groups()
        assert link.startswith("https://"), term  # the site has this page without its neighbours
        assert meaning.endswith(".") and not re.search(r"[.!?] [A-Z]", meaning), term
        terms.append(re.sub(r"[^a-z0-9 ]", "", term.casefold()))
    assert terms == sorted(set(terms)) and len(terms) > 100


def test_every_figure_is_told_in_words():
    """Those with a written title have a row, in which the claims that say the same stand below."""
    parts = re.split(r"(?m)^### Notebook ", text("accessibility.md"))[1:]
    for part, name in zip(parts, NAMES, strict=True):
        lines = [line for line in part.splitlines() if line.startswith("| ")][1:]
        rows = {row[0]: row[-1] for row in (line.strip("| ").split(" | ") for line in lines)}
        cells = sources(name, "code")
        for i, source in cells.items():
            titles = re.findall(r'\btitle=f?"(.*?)"[,)]', source)  # what a run fills in is …
            assert {re.sub(r"\{.*?\}", "…", title) for title in titles} <= rows.keys(), i
        for cell in re.findall(r"`([\w-]+)`", " ".join(rows.values())):
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
