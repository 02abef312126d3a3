"""Both notebooks as people use them: in JupyterLab, in a real browser, every cell run, the slider moved."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import nbformat
import pytest

from .test_notebooks import ROOT, SMALL, with_small_parameters

sync_api = pytest.importorskip("playwright.sync_api", reason="no browser driver: pip install playwright")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: apt-get install chromium"),
]
NO_NEWS = '{"fetchNews": "false", "checkForUpdates": false}'  # a server that asks nobody for updates
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
OPTIONS = (
    "--no-browser --allow-root --expose-app-in-browser --ServerApp.ip=127.0.0.1 --ServerApp.port_retries=0"
)


def wait_for(url, server, log, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert server.poll() is None, f"JupyterLab did not start:\n{log.read_text()[-3000:]}"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.URLError:
            time.sleep(0.2)
    raise TimeoutError(f"no JupyterLab after {seconds} s:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a notebook in a JupyterLab that serves copies of both, with settings of its own."""
    home = tmp_path_factory.mktemp("lab")
    work = home / "notebooks"
    work.mkdir()
    for name in SMALL:
        notebook = with_small_parameters(name, folder=str(home / "runs"))
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, work / name)
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(NO_NEWS)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port, token = s.getsockname()[1], secrets.token_hex(16)  # a free port
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "JUPYTER_TOKEN": token}
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        environment[name] = str(home / name.lower())
    for name in ("settings", "workspaces"):
        environment[f"JUPYTERLAB_{name.upper()}_DIR"] = str(home / name)
    command = [sys.executable, "-m", "jupyterlab", *OPTIONS.split()]
    command += [f"--ServerApp.port={port}", f"--ServerApp.root_dir={work}"]
    log = home / "log"
    with log.open("w") as out:
        streams = dict(stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        server = subprocess.Popen(command, cwd=work, env=environment, **streams)
    try:
        wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, log)
        yield lambda name: f"http://127.0.0.1:{port}/lab/workspaces/{name[:-6]}/tree/{name}?token={token}"
    finally:
        server.terminate()  # it ends its kernels first
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


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
    cells = page.evaluate(CELLS)
    assert errors(cells) == []
    counts = [c["execution_count"] for c in cells if c["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))

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
    page.close()
