"""Each notebook as a reader sees it: JupyterLab in headless Chromium, and no network but loopback.

Needs Chromium and playwright's Python package (`pip install playwright`; its own browsers are not
used). Without them these tests are skipped; `.ci/run` installs both. Pictures of every page go to
`build/screenshots/`.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from books import NAMES, ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
SHOTS = ROOT / "build" / "screenshots"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# All cells in the page at once, and no question about news.
SETTINGS = {
    "notebook-extension/tracker": '{"windowingMode": "none"}',
    "apputils-extension/notification": '{"fetchNews": "false"}',
}
# The last cell has its number and no cell is waiting, or one has failed.
FINISHED = """() => {
  const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')];
  const texts = prompts.map(prompt => prompt.textContent);
  const failed = document.querySelector('[data-mime-type="application/vnd.jupyter.error"]');
  return !texts.some(text => text.includes('*')) && (failed || /\\d/.test(texts.at(-1)));
}"""
WHOLE_PAGE, PANEL = 1000, ".jp-WindowedPanel-outer"

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


BADGE = "<svg xmlns='http://www.w3.org/2000/svg'/>"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on copies of the notebooks."""
    base = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", base / "notebooks")
    for name, text in SETTINGS.items():
        path = base / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    options = [f"--port={port}", "--IdentityProvider.token=", f"--ServerApp.root_dir={base}"]
    folders = {
        "JUPYTERLAB_SETTINGS_DIR": str(base / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(base / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(base / "config"),
    }
    log = (base / "log").open("w")
    server = subprocess.Popen(
        [*command, *options], env=os.environ | folders, stdout=log, stderr=log
    )
    try:
        for _ in range(240):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (base / "log").read_text("utf-8")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as pw:
        browser = pw.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page that cannot leave the machine; what it tried, and what it complained of, is kept."""
    page = browser.new_page(viewport={"width": 1250, "height": WHOLE_PAGE})
    page.left_machine, page.complaints = [], []

    def guard(route):
        address = route.request.url
        if address.startswith(("http://127.0.0.1:", "data:", "blob:")):
            route.continue_()
        elif address.endswith("/colab-badge.svg"):  # the one picture that is elsewhere
            route.fulfill(content_type="image/svg+xml", body=BADGE)
        else:
            page.left_machine.append(address)
            route.abort()

    page.route("**/*", guard)
    page.on("console", lambda m: page.complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    yield page
    page.close()


def run_all(page, address: str) -> None:
    """Open a notebook, run every cell, and wait for the last."""
    page.goto(f"{address}?reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=90_000)
    page.wait_for_selector("text=/\\| Idle/", timeout=90_000)
    page.locator('.lm-MenuBar-itemLabel:text-is("Run")').click()
    page.locator('li[data-command="runmenu:run-all"]').click()
    page.wait_for_function(FINISHED, timeout=300_000)
    page.wait_for_timeout(1500)  # the last figure is drawn a moment after its cell


def sizes(page, selector: str) -> list[tuple[float, float]]:
    return page.eval_on_selector_all(
        selector,
        "all => all.map(e => e.getBoundingClientRect()).map(box => [box.width, box.height])",
    )


def shoot(page, folder: Path) -> None:
    """A screenshot of each screenful."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    height = page.evaluate(f"document.querySelector('{PANEL}').scrollHeight")
    for i, top in enumerate(range(0, height, WHOLE_PAGE - 150)):
        page.evaluate(f"document.querySelector('{PANEL}').scrollTop = {top}")
        page.wait_for_timeout(150)
        page.screenshot(path=folder / f"{i:02}.png")


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_drawn_and_nothing_leaves_the_machine(lab, page, name):
    run_all(page, f"{lab}/lab/tree/notebooks/{name}.ipynb")
    shoot(page, SHOTS / name)
    assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0
    said = page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').all_text_contents()
    assert not "".join(said).strip()  # a bar that was wiped away leaves spaces

    asked = page.locator('.jp-RenderedPlotly, [data-mime-type*="plotly"]').count()
    figures = sizes(page, ".js-plotly-plot .main-svg:first-of-type")
    assert asked and len(figures) >= asked
    assert all(width > 300 and height > 200 for width, height in figures)

    views = sizes(page, "[id^=circuits-vis]")
    source = (ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8")
    assert bool(views) == ("plots.attention(" in source)
    assert all(width > 100 and height > 20 for width, height in views)
    drawn = page.locator("[id^=circuits-vis] canvas, [id^=circuits-vis] span")
    assert drawn.count() >= len(views)

    assert page.left_machine == []
    assert page.complaints == []
