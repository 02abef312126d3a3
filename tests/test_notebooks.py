"""Both notebooks run from top to bottom with small parameters, and the README's snippet does what it says."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import matgpt
from matgpt import plot

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "matryoshkaGPT.ipynb": "steps, compare_steps, new_tokens, n_embd, compare_embd, nesting, folder = "
    "4, 2, 20, 32, 32, (8, 16, 32), {folder!r}",
    "matryoshka_embeddings_gpt.ipynb": "source, vocab_size, lm_steps, steps, batch_size, n_embd, nesting, "
    "folder = "
    "__import__('asyncio').__path__[0], 400, 2, 4, 16, 32, (8, 16, 32), {folder!r} + '/model'",
}


def parameters_cell(notebook):
    cells = [i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1, "one cell tagged parameters"
    return cells[0]


@pytest.mark.parametrize("name", SMALL)
def test_notebook_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / name, as_version=4)
    small = SMALL[name].format(folder=str(tmp_path))
    notebook.cells.insert(parameters_cell(notebook) + 1, nbformat.v4.new_code_cell(small))
    NotebookClient(
        notebook, timeout=170, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert not any(o.output_type == "error" for o in outputs)
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 5


@pytest.mark.parametrize("name", SMALL)
def test_notebook_is_committed_as_run_and_defines_no_layers(name):
    notebook = nbformat.read(ROOT / name, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    assert not any(re.search(r"^\s*class ", c.source, re.M) for c in code)
    assert (ROOT / name).stat().st_size < 1_500_000


def test_readme_snippet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    assert "steps=1000" in snippet
    scope = {}
    exec(snippet.replace("steps=1000", "steps=3"), scope)
    assert scope["doll"].sizes == (scope["model"].sizes[0],)
    assert (tmp_path / "runs").exists()


def test_every_figure_of_the_readme_is_drawn_by_code(tmp_path):
    config = matgpt.GPTConfig(11, 8, 16, 2, 2, nesting=(8, matgpt.Size(8, 1, 1), 16))
    figure = plot.nesting(config)
    figure.savefig(tmp_path / "nesting.png")
    # one rectangle for each doll in a panel that all of them read
    assert len(figure.axes[0].patches) == len(config.sizes)
    # layer 2 is read by two of the three
    assert len(figure.axes[7].patches) == 3 + 2
    plot.close(figure)
