"""Both notebooks run from top to bottom with small parameters, and the README's snippet does what it says."""

import re
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
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert not any(o.output_type == "error" for o in outputs)
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 4


def faults(notebook):
    """What a reader of the page would stumble over, where nothing runs."""
    code = [c for c in notebook.cells if c.cell_type == "code"]
    if [c.execution_count for c in code] != list(range(1, len(code) + 1)):
        yield "not executed from top to bottom"
    if "widgets" in notebook.metadata:
        yield "holds the state of widgets"
    for i, cell in enumerate(code, 1):
        kinds = [(o.output_type, o.get("name")) for o in cell.outputs]
        if any(a == b and a[0] == "stream" for a, b in zip(kinds, kinds[1:])):
            yield f"cell {i}: a stream in pieces, which a page shows as blocks"
        if ("stream", "stderr") in kinds or "error" in dict(kinds):
            yield f"cell {i}: an error or a warning"
        if "execution" in cell.metadata:
            yield f"cell {i}: times of day, which differ at every run"
        if any(len(line) > 110 for line in cell.source.splitlines()):
            yield f"cell {i}: code that is cut off at the right edge"
        if len(cell.source.splitlines()) > 20:
            yield f"cell {i}: more than 20 lines, which belong into a function of matgpt"
        for o in cell.outputs:
            shown = o.text if o.output_type == "stream" else o.get("data", {}).get("text/plain", "")
            if len(shown.splitlines()) > 40:
                yield f"cell {i}: an output of {len(shown.splitlines())} lines"
            if WIDGET.match(shown):
                yield f"cell {i}: the repr of a widget, {shown[:40]}"
            if "\r" in shown or "%|" in shown and not re.fullmatch(r"100%\|.*\n?", shown):
                yield f"cell {i}: a bar that is not one finished line"


@pytest.mark.parametrize("name", SMALL)
def test_notebook_is_committed_as_run_and_reads_well_where_nothing_runs(name):
    notebook = nbformat.read(ROOT / name, as_version=4)
    assert list(faults(notebook)) == [] and (ROOT / name).stat().st_size < 1_000_000
    assert not any(re.search(r"^\s*class ", cell.source, re.M) for cell in notebook.cells), "defines a layer"


@pytest.mark.slow
def test_readme_snippet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    assert "steps=300" in snippet
    scope = {}
    for _ in range(2):  # it can be run twice
        exec(snippet.replace("steps=300", "steps=3"), scope)
    doll, tokenizer = matgpt.load(tmp_path / "runs" / "small")
    assert doll.sizes == (scope["model"].sizes[0],) and tokenizer == scope["tokenizer"]
