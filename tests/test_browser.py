"""Both notebooks as people use them: in JupyterLab, in a real browser, every cell run, the slider moved."""

import os
import re
import shutil
import subprocess
import sys
import threading

import nbformat
import pytest

from .test_notebooks import ROOT, SMALL, with_small_parameters

sync_api = pytest.importorskip("playwright.sync_api", reason="no browser driver: pip install playwright")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: apt-get install chromium"),
]
ADDRESS = re.compile(r"(http://127\.0\.0\.1:\d+)/lab\?token=(\w+)")
OPTIONS = (
    "--no-browser --allow-root --expose-app-in-browser --ServerApp.ip=127.0.0.1 "
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"
)
READY = """name => {
    const panel = window.jupyterapp?.shell.currentWidget;
    return panel?.context?.path == name && panel.context.isReady && panel.sessionContext.isReady &&
        panel.sessionContext.session?.kernel?.status == "idle"
}"""
RUN_ALL = """() => {
    window.all_ran = false;
    window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.all_ran = true; });
}"""
CELLS = "() => window.jupyterapp.shell.currentWidget.content.model.toJSON().cells"
# the area of the slider shows something else than before
CHANGED = "([area, html]) => area.innerHTML != html && (area.innerText.trim() || area.querySelector('img'))"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a notebook in a JupyterLab that serves copies of both, with settings of its own."""
    home = tmp_path_factory.mktemp("lab")
    for name in SMALL:
        nbformat.write(with_small_parameters(name, folder=str(home / "runs")), home / name)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(home)}
    command = [sys.executable, "-m", "jupyterlab", *OPTIONS.split(), f"--ServerApp.root_dir={home}"]
    streams = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with subprocess.Popen(command, cwd=home, env=environment, **streams) as server:
        try:
            log = ""
            while not (address := ADDRESS.search(log)):
                line = server.stdout.readline()
                assert line, f"JupyterLab did not start:\n{log}"
                log += line
            threading.Thread(target=server.stdout.read).start()  # a full pipe would stop the server
            host, token = address.groups()
            yield lambda name: f"{host}/lab/workspaces/{name[:-6]}/tree/{name}?token={token}"
        finally:
            server.terminate()  # it ends its kernels first


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, headless=True)
        yield chromium
        chromium.close()


def errors(cells):
    outputs = [o for c in cells for o in c.get("outputs", [])]
    return [f"{o['ename']}: {o['evalue']}" for o in outputs if o["output_type"] == "error"]


@pytest.mark.parametrize("name", SMALL)
def test_all_cells_run_and_the_slider_shows_what_it_is_moved_to(name, lab, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(60_000)
    page.goto(lab(name))
    page.wait_for_function(READY, arg=name)
    page.evaluate(RUN_ALL)
    page.wait_for_function("window.all_ran", timeout=300_000)
    assert errors(page.evaluate(CELLS)) == []
    slider = page.get_by_role("slider").first
    slider.scroll_into_view_if_needed()
    cell = page.locator(".jp-CodeCell", has=slider)
    written = cell.locator(".widget-output")
    largest = cell.locator(".widget-readout").first.inner_text()
    shown = written.inner_html()
    assert written.inner_text().strip() or written.locator("img").count()  # the full size, before any move
    for key in ("ArrowLeft", "ArrowLeft", "ArrowRight"):
        slider.focus()
        slider.press(key)
        page.wait_for_function(CHANGED, arg=[written.element_handle(), shown])
        assert cell.locator(".widget-readout").first.inner_text() != largest
        shown = written.inner_html()
    assert errors(page.evaluate(CELLS)) == [] and "Traceback" not in written.inner_text()
