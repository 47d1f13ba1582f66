"""The built site in a browser with no network: figures drawn, links alive, nothing cut.
Needs `make site` first, and what test_browser.py needs; skipped without."""

import functools
import http.server
import re
import threading
from pathlib import Path

import pytest
from books import NAMES
from test_browser import browser, page, playwright, pytestmark, sizes  # noqa: F401

MODELS = ["smollm2-135m", "tutorial-4l"]
HTML = Path(__file__).parents[2] / "build" / "site" / "html"
PAGES = sorted(HTML.rglob("*.html"))
if not PAGES:
    pytest.skip("no site here: `make site`", allow_module_level=True)
DRAWN = """() => [...document.querySelectorAll('.figure')].every(
  (figure) => figure.querySelector('.main-svg'))"""
# The parts of a figure that stand beyond its frame.
CUT = """frame => {
  const box = frame.getBoundingClientRect(), parts = '.gtitle, .xtitle, .ytitle, .legend, .cbaxis';
  return [...frame.querySelectorAll(parts)].map(part => part.getBoundingClientRect()).filter(at =>
    at.width && (at.left < box.left - 2 || at.right > box.right + 2 || at.top < box.top - 2 ||
      at.bottom > box.bottom + 2)).map(at => at.toJSON());
}"""


@pytest.fixture(scope="module")
def site():
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=HTML)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def visit(page, address: str, width=1366, height=768) -> None:  # noqa: F811
    page.set_viewport_size({"width": width, "height": height})
    page.goto(address, wait_until="load")
    page.wait_for_function(DRAWN, timeout=60_000)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_a_page_is_small_and_its_links_are_alive(path):
    assert path.stat().st_size < 2_500_000
    text = re.sub(r"<script.*?</script>", "", path.read_text("utf-8"), flags=re.S)
    for target in re.findall(r'(?:href|src)="((?!https?:|mailto:|data:)[^"]+)"', text):
        file, _, anchor = target.partition("#")
        there = (path.parent / file.partition("?")[0]).resolve() if file else path
        assert there.exists(), target
        if anchor and there.suffix == ".html":
            assert f'id="{anchor}"' in there.read_text("utf-8"), target


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_figures_are_drawn_whole_with_no_network(site, page, name, model):  # noqa: F811
    for width in (390, 1366):
        visit(page, f"{site}/notebooks/{model}/{name}.html", width)
        figures = sizes(page, ".js-plotly-plot .main-svg:first-of-type")
        assert len(figures) >= 3 and all(w > 300 and h > 140 for w, h in figures)
        cut = [frame.evaluate(CUT) for frame in page.query_selector_all(".js-plotly-plot")]
        assert not any(cut), (width, cut)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    other = MODELS[1 - MODELS.index(model)]
    assert page.locator(f".switch a[href*='{other}/{name}']").count() == 1
    assert page.left_machine == page.complaints == []


def test_menus_and_figures_by_keyboard(site, page):  # noqa: F811
    visit(page, f"{site}/notebooks/{MODELS[0]}/{NAMES[0]}.html", width=900)
    for key in ("Tab", "Tab", "Enter"):  # past "Skip to content"
        page.keyboard.press(key)
    assert page.locator(".sidebar-drawer :focus").count() == 1
    page.keyboard.press("Escape")
    for _ in range(9):  # nothing that has the focus is out of sight
        assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
        page.keyboard.press("Tab")
    page.locator(".choice select").first.focus()
    page.keyboard.press("ArrowDown")
    shown = "document.querySelector('.choice + .figure').data.map(head => head.visible)"
    assert page.evaluate(shown).index(True) == 1


def test_the_front_page_leads_to_the_six_on_the_real_model(site, page):  # noqa: F811
    visit(page, f"{site}/index.html")
    cards = page.locator(".sd-card").all()
    assert len(cards) == 6
    for card, name in zip(cards, NAMES, strict=True):
        assert card.locator(f"a[href*='smollm2-135m/{name}']").count() == 1
        assert card.locator(".main-svg").count() and "minutes" in card.text_content()
    assert page.left_machine == page.complaints == []


def test_every_slide_fits_its_screen(site, page):  # noqa: F811
    visit(page, f"{site}/slides.html")
    heights = {round(height) for _, height in sizes(page, "section")}
    assert heights == {768} and page.locator(".js-plotly-plot").count() >= 6
    page.keyboard.press("ArrowRight")
    page.wait_for_function("scrollY === 768")
    assert page.left_machine == page.complaints == []


def test_the_search_finds_a_term_with_no_network(site, page):  # noqa: F811
    page.goto(f"{site}/search.html?q=induction")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    assert "continue a pattern" in " ".join(page.locator("#search-results").all_text_contents())
    assert page.left_machine == []
