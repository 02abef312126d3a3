"""Both notebooks run from top to bottom with small parameters, and the README's snippet does what it says."""

import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import matgpt

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "matryoshkaGPT.ipynb": "budget, range_budget, test_blocks, new_tokens, n_embd = 4, 2, 8, 20, 32\n"
    "folder = {folder!r}",
    "matryoshka_embeddings_gpt.ipynb": "source, vocab_size, lm_steps, steps, batch_size, n_embd, nesting = "
    "__import__('asyncio').__path__[0], 400, 2, 4, 16, 32, (8, 16, 32)\nfolder = {folder!r} + '/model'",
}
FINISHED_BAR = re.compile(r"100%\|.*\n?")
WIDGET = re.compile(r"(\w*(Slider|Box|Output|Layout|Button|Dropdown)|interactive)\(")


def with_small_parameters(name, folder, dial=""):
    """The notebook with a cell after `parameters` that makes the run short and turns a dial."""
    notebook = nbformat.read(ROOT / name, as_version=4)
    (place,) = (i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", []))
    cell = nbformat.v4.new_code_cell(SMALL[name].format(folder=folder) + "\n" + dial)
    notebook.cells.insert(place + 1, cell)
    return notebook


@pytest.mark.slow
@pytest.mark.parametrize("name, dial", [*zip(SMALL, ["", ""]), ("matryoshkaGPT.ipynb", "block_size = 1")])
def test_notebook_runs_from_top_to_bottom(name, dial, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = with_small_parameters(name, str(tmp_path), dial)
    resources = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, timeout=170, kernel_name="python3", resources=resources).execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 4


def faults(notebook):
    """What a reader of the page would stumble over, where nothing runs."""
    code = [c for c in notebook.cells if c.cell_type == "code"]
    if [c.execution_count for c in code] != list(range(1, len(code) + 1)):
        yield "not executed from top to bottom"
    if "widgets" in notebook.metadata:
        yield "holds the state of widgets"
    for i, cell in enumerate(code, 1):
        lines = cell.source.splitlines()
        kinds = [(o.output_type, o.get("name")) for o in cell.outputs]
        texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs]
        bars = [text for text in texts if "\r" in text or "%|" in text]
        faulty = {
            "a stream in pieces": any(a == b and a[0] == "stream" for a, b in zip(kinds, kinds[1:])),
            "an error or a warning": ("stream", "stderr") in kinds or "error" in dict(kinds),
            "times of day, which differ at every run": "execution" in cell.metadata,
            "code that is cut off at the right edge": any(len(line) > 110 for line in lines),
            "more than 20 lines, which belong into a function of matgpt": len(lines) > 20,
            "a layer": any(line.lstrip().startswith("class ") for line in lines),
            "an output of more than 40 lines": any(len(text.splitlines()) > 40 for text in texts),
            "the repr of a widget": any(map(WIDGET.match, texts)),
            "a bar that is not one finished line": not all(map(FINISHED_BAR.fullmatch, bars)),
        }
        yield from (f"cell {i}: {fault}" for fault, found in faulty.items() if found)


@pytest.mark.parametrize("name", SMALL)
def test_notebook_is_committed_as_run_and_reads_well_where_nothing_runs(name):
    status = ["git", "status", "--porcelain", "--", name]  # prints nothing outside a repository
    if shutil.which("git") and subprocess.run(status, cwd=ROOT, capture_output=True).stdout:
        pytest.skip("changed since the last commit; .ci/notebooks executes it and cleans it for the next")
    notebook = nbformat.read(ROOT / name, as_version=4)
    assert list(faults(notebook)) == [] and (ROOT / name).stat().st_size < 1_000_000


@pytest.mark.slow
def test_readme_snippet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    assert "steps=300" in snippet
    scope = {}
    for _ in range(2):  # it can be run twice
        exec(snippet.replace("steps=300", "steps=3"), scope)
    doll, tokenizer = matgpt.load(tmp_path / "runs" / "doll")
    assert doll.sizes == (scope["model"].sizes[0],) and tokenizer == scope["tokenizer"]
