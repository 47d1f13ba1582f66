"""The built site in a browser with no network: figures drawn, links alive, pages small.

Needs `make site` first, and what test_browser.py needs; skipped without.
"""

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


@pytest.fixture(scope="module")
def site():
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=HTML)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_the_six_and_their_companions_are_there():
    there = {path.relative_to(HTML).as_posix() for path in PAGES}
    wanted = {f"notebooks/{model}/{name}.html" for name in NAMES for model in MODELS}
    assert wanted | {"index.html", "glossary.html", "migration.html", "search.html"} <= there


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_a_page_is_small_and_its_links_are_alive(path):
    assert path.stat().st_size < 2_500_000
    text = re.sub(r"<script.*?</script>", "", path.read_text("utf-8"), flags=re.S)
    for target in re.findall(r'(?:href|src)="([^"]+)"', text):
        if re.match(r"(https?|mailto|data):", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file.partition("?")[0]).resolve() if file else path
        assert there.exists(), target
        if anchor and there.suffix == ".html":
            assert f'id="{anchor}"' in there.read_text("utf-8"), target


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_figures_are_drawn_with_no_network(site, page, name, model):  # noqa: F811
    page.goto(f"{site}/notebooks/{model}/{name}.html", wait_until="load")
    page.wait_for_timeout(2500)
    figures = sizes(page, ".js-plotly-plot .main-svg:first-of-type")
    assert len(figures) >= 3
    assert all(width > 300 and height > 200 for width, height in figures)
    views = sizes(page, "[id^=circuits-vis]")
    assert all(width > 100 and height > 20 for width, height in views)
    assert page.left_machine == []
    assert page.complaints == []


def test_the_search_finds_a_term_with_no_network(site, page):  # noqa: F811
    page.goto(f"{site}/search.html?q=induction")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    found = page.locator("#search-results li a").all_text_contents()
    assert any("continue a pattern" in text for text in found)
    assert page.left_machine == []
