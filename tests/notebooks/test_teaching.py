"""docs/: what it names exists, what it adds up adds up, and no figure is left out."""

import re
from datetime import datetime

import pytest
from books import NAMES, ROOT, headings, sources

from helpers import plots

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
ENTRY = r'<a id="([\w-]+)"></a>\*\*(.+?)\*\*(?: \(also .+?\))?: (.+) \[.+?\]\((\S+)\)'


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


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_and_parts_that_are_named_exist(page):
    source = page.read_text("utf-8")
    prose = re.sub(r"```.*?```|`[^`]*`", "", source, flags=re.S)
    for target in re.findall(r"\]\((?!https://|#)([^)\s]+)\)", prose):
        assert (DOCS / target.partition("#")[0]).exists(), target
    pattern = r"[Nn]otebook (\d)\b(?:, Parts? (\d)(?: to (\d))?)?"
    for number, *places in re.findall(pattern, source):
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


def passed(start: str, end: str) -> int:
    """Minutes."""
    one, other = (datetime.strptime(time, "%H:%M") for time in (start, end))
    return int((other - one).total_seconds()) // 60


def test_every_minute_is_accounted_for_and_nobody_works_two_hours_without_a_break(minutes):
    days = re.findall(r"(?m)^\| start \|.*\n\|[-|]+\n((?:\|.*\n)+)", text("timetables.md"))
    assert len(days) == 5
    for day in days:
        rows = [row.strip("| \n").split(" | ") for row in day.splitlines()]
        since = before = rows[0][0]
        for start, end, n, what in rows:
            assert start == before and passed(start, end) == int(n) > 0, what
            exercises = re.findall(r"\b\d\.\d\b", what)
            assert sum(minutes[number] for number in exercises) <= int(n), what
            if what in ("Break", "Lunch"):
                assert passed(since, start) <= 120, what
                since = end
            before = end
        assert passed(since, end) <= 140


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
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", text("accessibility.md"), re.S)[1], names)
    axes = {"title": "t", "xlabel": "x", "ylabel": "y"}
    said = {"x": ["a", "b"], "y": ["r"], "unit": "u", "text": [["so", "then"]]}
    for figure, words in (
        (plots.heatmap([[1, 0.5]], **said, **axes), ["columns: a b", "1.00 so 0.50 then"]),
        (plots.lines({"one": [0.25, 0.5]}, **axes), ["one", "(1, 0.50)"]),
        (plots.bars([0.75, 0.5], ["p", "q"], **axes), ["q (1, 0.50)"]),
        (plots.scatter([1, 2], [3, 4], hover=["u", "v"], **axes), ["v (2.0, 4.00)"]),
    ):
        names["numbers"](figure)
        out = capsys.readouterr().out
        assert all(word in out for word in words), out
