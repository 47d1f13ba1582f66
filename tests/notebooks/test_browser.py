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
from nbformat import sign, v4, write

from helpers import plots

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
SETTINGS = {
    "notebook-extension/tracker": '{"windowingMode": "none"}',  # all cells in the page at once
    "apputils-extension/notification": '{"fetchNews": "false"}',  # no question about news
    "apputils-extension/themes": '{"theme": "JupyterLab Dark"}',
}
# The last cell has its number and no cell is waiting, or one has failed.
FINISHED = """() => {
  const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')];
  const texts = prompts.map(prompt => prompt.textContent);
  const failed = document.querySelector('[data-mime-type="application/vnd.jupyter.error"]');
  return !texts.some(text => text.includes('*')) && (failed || /\\d/.test(texts.at(-1)));
}"""
# A figure is drawn a moment after its cell.
FIGURE = ".jp-RenderedPlotly"
DRAWN = f"""number => [...document.querySelectorAll('{FIGURE}')].filter(figure => {{
  const box = figure.querySelector('.main-svg')?.getBoundingClientRect();
  return box && box.width > 300 && box.height > 200;
}}).length === number"""
ERROR, SAID = (f'[data-mime-type="application/vnd.jupyter.{kind}"]' for kind in ("error", "stderr"))
PANEL, BADGE = ".jp-WindowedPanel-outer", "<svg xmlns='http://www.w3.org/2000/svg'/>"
UPLOAD = ".modebar-btn[data-title*='Share'], .modebar-btn[data-title*='loud']"
CONTROL, HEIGHT = ".noUi-handle, .widget-dropdown select", 1000

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


def reopened():
    """A trusted notebook, saved with a picture and its control, which no kernel knows any more."""
    words = {"title": "a", "xlabel": "b", "ylabel": "c"}
    figure = plots.bars([1, 2], ["one", "two"], **words).to_plotly_json()
    control = {"model_id": "0" * 32, "version_major": 2, "version_minor": 0}
    saved = [
        {"text/html": plots.follow_theme().data},
        {"application/vnd.jupyter.widget-view+json": control},
        {"application/vnd.plotly.v1+json": figure},
    ]
    outputs = [v4.new_output("display_data", data) for data in saved]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    cell = v4.new_code_cell("1", outputs=outputs, execution_count=1)
    notebook = v4.new_notebook(cells=[cell], metadata=kernel)
    sign.NotebookNotary().sign(notebook)
    return notebook


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on copies of the notebooks."""
    base = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", base / "notebooks")
    write(reopened(), base / "notebooks" / "reopened.ipynb")
    for name, text in SETTINGS.items():
        path = base / f"settings/@jupyterlab/{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    options = [f"--port={port}", "--IdentityProvider.token=", f"--ServerApp.root_dir={base}"]
    names = {"LAB_SETTINGS": "settings", "LAB_WORKSPACES": "workspaces", "_CONFIG": "config"}
    folders = {f"JUPYTER{kind}_DIR": str(base / name) for kind, name in names.items()}
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
    page = browser.new_page(viewport={"width": 1250, "height": HEIGHT})
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


def sizes(page, selector: str) -> list[tuple[float, float]]:
    box = "e.getBoundingClientRect().width, e.getBoundingClientRect().height"
    return page.eval_on_selector_all(selector, f"all => all.map(e => [{box}])")


def shoot(page, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    height = page.evaluate(f"document.querySelector('{PANEL}').scrollHeight")
    for i, top in enumerate(range(0, height, HEIGHT - 150)):
        page.evaluate(f"document.querySelector('{PANEL}').scrollTop = {top}")
        page.screenshot(path=folder / f"{i:02}.png")


def choose(page, control) -> None:
    """Choose another value in a control of `plots.explore`; wait until its picture is another."""
    shown = control.evaluate_handle("""e => [...e.closest('.jp-CodeCell').querySelectorAll(
        '.jp-OutputArea-output:not([data-mime-type$="stdout"])')].at(-1)""")
    now, most = (control.get_attribute(f"aria-value{which}") for which in ("now", "max"))
    if now is None:  # a menu
        control.select_option(index=control.evaluate("menu => +!menu.selectedIndex"))
    else:
        control.press("ArrowLeft" if now == most else "ArrowRight")
    page.wait_for_function("shown => !shown.isConnected", arg=shown, timeout=30_000)


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_drawn_and_nothing_leaves_the_machine(lab, page, name):
    page.goto(f"{lab}/lab/tree/notebooks/{name}.ipynb?reset")
    page.wait_for_selector("text=/\\| Idle/", timeout=90_000)
    page.locator('.lm-MenuBar-itemLabel:text-is("Run")').click()
    page.locator('li[data-command="runmenu:run-all"]').click()
    page.wait_for_function(FINISHED, timeout=300_000)
    figures = page.locator(FIGURE).count()
    page.wait_for_function(DRAWN, arg=figures, timeout=60_000)
    for control in page.locator(CONTROL).all():
        choose(page, control)
    page.wait_for_function(DRAWN, arg=figures, timeout=60_000)
    shoot(page, ROOT / "build" / "screenshots" / name)
    assert page.locator(ERROR).count() == 0 and figures >= 4
    assert page.locator(SAID).count() == 0  # nor a red box, empty, where a bar was
    assert page.locator(".modebar-btn").count() > 0 == page.locator(UPLOAD).count()
    assert page.left_machine == page.complaints == []


def test_a_picture_stands_alone_where_its_control_is_lost(lab, page):
    page.goto(f"{lab}/lab/tree/notebooks/reopened.ipynb?reset")
    lost = page.locator('.jp-OutputArea-output:text("model not found")')
    lost.wait_for(state="attached", timeout=90_000)
    page.wait_for_function(DRAWN, arg=1, timeout=60_000)
    assert not lost.is_visible()
