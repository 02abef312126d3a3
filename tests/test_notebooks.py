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
    "matryoshkaGPT.ipynb": "budget, range_budget, test_blocks, new_tokens, n_embd = 4, 2, 8, 20, 32\n"
    "folder = {folder!r}",
    "matryoshka_embeddings_gpt.ipynb": "source, vocab_size, lm_steps, steps, batch_size, n_embd, nesting = "
    "__import__('asyncio').__path__[0], 400, 2, 4, 16, 32, (8, 16, 32)\nfolder = {folder!r} + '/model'",
}
WIDGET = re.compile(r"(\w*(Slider|Box|Output|Layout|Button|Dropdown)|interactive)\(")


def parameters_cell(notebook):
    cells = [i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1, "one cell tagged parameters"
    return cells[0]


def with_small_parameters(name, folder, dial=""):
    """The notebook with a cell after `parameters` that makes the run short and turns a dial."""
    notebook = nbformat.read(ROOT / name, as_version=4)
    cell = nbformat.v4.new_code_cell(SMALL[name].format(folder=folder) + "\n" + dial)
    notebook.cells.insert(parameters_cell(notebook) + 1, cell)
    return notebook


@pytest.mark.slow
@pytest.mark.parametrize("name, dial", [*zip(SMALL, ["", ""]), ("matryoshkaGPT.ipynb", "block_size = 1")])
def test_notebook_runs_from_top_to_bottom(name, dial, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = with_small_parameters(name, str(tmp_path), dial)
    NotebookClient(
        notebook, timeout=170, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert not any(o.output_type == "error" for o in outputs)
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 4


def text(output):
    """What a page without a kernel, a widget or colours prints of an output."""
    return output.text if output.output_type == "stream" else output.get("data", {}).get("text/plain", "")


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
        for shown in map(text, cell.outputs):
            if len(shown.splitlines()) > 40:
                yield f"cell {i}: an output of {len(shown.splitlines())} lines"
            if WIDGET.match(shown):
                yield f"cell {i}: the repr of a widget, {shown[:40]}"
            if "\r" in shown or "%|" in shown and not re.fullmatch(r"100%\|.*\n?", shown):
                yield f"cell {i}: a bar that is not one finished line"


@pytest.mark.parametrize("name", SMALL)
def test_notebook_is_committed_as_run_and_reads_well_where_nothing_runs(name):
    assert list(faults(nbformat.read(ROOT / name, as_version=4))) == []
    assert (ROOT / name).stat().st_size < 1_000_000


@pytest.mark.parametrize("name", SMALL)
def test_notebook_defines_no_layers(name):
    notebook = nbformat.read(ROOT / name, as_version=4)
    assert not any(re.search(r"^\s*class ", c.source, re.M) for c in notebook.cells if c.cell_type == "code")


def stream(text, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def shown(text):
    return nbformat.v4.new_output("display_data", {"text/plain": text})


@pytest.mark.parametrize(
    "outputs, said",
    [
        ([stream("a"), stream("b\n")], "in pieces"),
        ([stream("line\n" * 41)], "41 lines"),
        ([stream("Warning", "stderr")], "warning"),
        ([nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])], "error"),
        ([shown("SelectionSlider(continuous_update=False, …")], "repr"),
        ([shown("Output()")], "repr"),
        ([shown(" 50%|████    | 1/2 [00:00<00:01,  1.00step/s]")], "bar"),
        ([shown("100%|████████| 2/2 [00:01<00:00,  1.00step/s]")], None),
        ([stream("a\n"), shown("<Figure size 700x400 with 1 Axes>"), stream("b\n")], None),
    ],
)
def test_what_a_reader_would_stumble_over_is_found(outputs, said):
    cell = nbformat.v4.new_code_cell("run()", execution_count=1, outputs=outputs)
    found = list(faults(nbformat.v4.new_notebook(cells=[cell])))
    assert not found if said is None else len(found) == 1 and said in found[0]


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


def test_every_figure_of_the_readme_is_drawn_by_code(tmp_path):
    config = matgpt.GPTConfig(11, 8, 16, 2, 2, nesting=(8, matgpt.Size(8, 1, 1), 16))
    figure = plot.nesting(config)
    figure.savefig(tmp_path / "nesting.png")
    # one rectangle for each doll in a panel that all of them read
    assert len(figure.axes[0].patches) == len(config.sizes)
    # layer 2 is read by two of the three
    assert len(figure.axes[7].patches) == 3 + 2
