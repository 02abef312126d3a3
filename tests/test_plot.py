"""Figures show the numbers that they are given, once; the slider starts at full size."""

import itertools
import math

import IPython.display
import ipywidgets
import matplotlib
import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

import matgpt
from matgpt import GPTConfig, History, Size, between, plot
from matgpt.measure.shapes import Point

from .conftest import assert_refused
from .test_notebooks import ROOT

matplotlib.use("agg")
CONFIG = GPTConfig(11, 8, 32, 4, 3, nesting=between(Size(8, 1, 1), Size(32, 4, 3)))
PARAMS = {size: CONFIG.num_params(size) for size in CONFIG.sizes}


def overlap(texts):
    """Whether any two of the texts overlap."""
    boxes = [text.get_window_extent() for text in texts]
    return any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_every_figure_is_listed():
    assert "losses" in dir(plot) and all(callable(getattr(plot, name)) for name in dir(plot))
    with pytest.raises(AttributeError, match="no attribute 'pie'"):
        plot.pie  # noqa: B018


@pytest.mark.parametrize("x", ["steps", "flops"])
def test_losses_are_lines_over_validation_and_dots_over_training_from_the_first_on(x):
    run = History(CONFIG.sizes, steps=[0, 5, 10], flops=[0, 300, 900])
    for i, size in enumerate(run.sizes):
        run.val[size] += [4.0, 3.0 - 0.1 * i, 2.0 - 0.1 * i]
        run.train[size] += [4.1, 2.5 - 0.1 * i, 1.5 - 0.1 * i]
    (ax,) = plot.losses(run, x).axes
    lines = [line for line in ax.lines if len(line.get_xdata())]
    assert all(list(line.get_xdata()) == getattr(run, x) for line in lines)
    drawn = {style: [list(l.get_ydata()) for l in lines if l.get_linestyle() == style] for style in "-:"}
    assert drawn["-"] == list(run.val.values()) and drawn[":"] == list(run.train.values())
    low, high = ax.get_ylim()
    assert low < 1.2 and high > 4.1, "the first losses are inside the picture"
    assert ax.get_xlabel() == {"steps": "training step", "flops": "training FLOPs"}[x]
    ends = [text.get_text().split(": ")[1] for text in ax.get_legend().get_texts()[:-1]]
    assert ends == [f"{run.val[size][-1]:.3f}" for size in run.sizes]
    assert_refused("x='time' must be one of", plot.losses, run, "time")


@pytest.mark.parametrize("last", [3.9, 1.5, 0.4, 0.002])
def test_the_axes_of_losses_have_ticks_from_end_to_end(last):
    run = History([Size(4, 1, 1)], steps=[0], flops=[0])
    run.val[run.sizes[0]] += [4.0]
    run.train[run.sizes[0]] += [4.0]
    (ax,) = plot.losses(run).axes
    ax.figure.draw_without_rendering()
    assert "m" not in "".join(text.get_text() for text in ax.get_xticklabels()), "thousandths of a step"
    run.steps.append(10)
    run.val[run.sizes[0]].append(last)
    run.train[run.sizes[0]].append(last)
    (ax,) = plot.losses(run).axes
    low, high = ax.get_ylim()
    ticks = [low, *(tick for tick in ax.get_yticks() if low < tick < high), high]
    gaps = np.diff(np.log(ticks)) / np.log(high / low)
    assert gaps[1:-1].min() > 0.01 and gaps.max() < 0.4


def test_slices_show_every_doll_coloured_by_its_width():
    points = [Point(s, n, 2 * n, 9.0 - i) for i, (s, n) in enumerate(PARAMS.items())]
    ax, bar = plot.slices(points).axes
    (dots,) = ax.collections
    assert dots.get_offsets().tolist() == [[p.flops, p.loss] for p in points]
    assert dots.get_array().tolist() == [p.size.n_embd for p in points] and bar.get_ylabel() == "width"


def test_baselines_show_every_family_and_no_number_covers_another():
    losses = {size: [9 - i, 9 - i, 9.3 - i] for i, size in enumerate(PARAMS)}
    close = {size: [loss + 0.01 for loss in seeds] for size, seeds in losses.items()}
    single = dict(alone={CONFIG.full: [4.4]}, lost={CONFIG.full: [math.nan]})
    figure = plot.baselines(PARAMS, dict(nested=losses, apart=close) | single)
    (ax,) = figure.axes
    assert [bars.get_label() for bars in ax.containers] == ["nested", "apart", "alone", "lost"]
    means = [[n, 9.1 - i] for i, n in enumerate(sorted(PARAMS.values()))]
    assert ax.containers[0].lines[0].get_xydata() == pytest.approx(np.array(means))
    assert [bars.lines[0].get_marker() for bars in ax.containers] == ["o", "s", "*", "*"]
    ends = ax.containers[0].lines[2][0].get_segments()[0][:, 1]
    assert ends.tolist() == pytest.approx([9, 9.3]), "bars reach from the lowest to the highest seed"
    figure.canvas.draw()
    assert len(ax.texts) == 2 * len(PARAMS) + 1 and not overlap(ax.texts)
    assert ax.get_xticklabels()[0].get_text() == f"{min(PARAMS.values()):,}\n8 wide\n1 head\n1 layer"


@pytest.mark.slow
def test_a_name_that_looks_like_a_formula_is_shown_as_it_is():
    """Read as mathtext, "$^$" is an error at the moment of drawing."""
    for figure in (
        plot.baselines(PARAMS, {"$^$": {CONFIG.full: [1.0]}}, title="$^$"),
        plot.retrieval([4], {"$^$": [[0.5]]}),
        plot.neighbours({0: {4: ([1], [0.5])}}, ["a", "$^$"]),
        plot.heat_maps(torch.ones(2, 4), {"$^$": [0, 1]}, [4], ["a", "$^$"]),
    ):
        figure.canvas.draw()
    assert matplotlib.rcParams["text.parse_math"], "the user's figures stay as they were"


def test_which_corner_each_doll_reads_is_drawn_to_scale():
    size, full = Size(8, 2, 2, (16, 32)), CONFIG.full

    def area(ax):
        return [p.get_width() * p.get_height() for p in ax.patches]

    axes = plot.nesting(CONFIG, [size, full]).axes
    assert [p.get_width() for p in axes[2].patches] == [1, 1, 1, 1, 0.25, 0.25], "two of four heads"
    assert area(axes[0]) == [1, 0.25] and area(axes[4]) == [1, 0.25 * 0.25]
    assert [len(ax.patches) for ax in axes] == [2, 2, 6, 6, 2, 2, 2, 5]
    trunk, residual, readout = plot.nesting(CONFIG, [size, full], output_only=True).axes
    assert area(residual) == area(readout) == [1, 0.25] and area(trunk) == [1]
    deep = GPTConfig(65, 64, 32, 4, 8, [Size(16, 2, 8), Size(32, 4, 1)])  # the wider one has fewer parameters
    assert area(plot.nesting(deep).axes[0]) == [1, 1, 0.5], "none covers a smaller corner"
    assert area(plot.nesting(deep, [16]).axes[0]) == [0.5], "a width names a doll"
    feedforwards = GPTConfig(65, 64, 128, 4, 4, nesting=[Size(128, 4, 4, f) for f in (64, 128, 256, 512)])
    figure = plot.nesting(feedforwards)
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().x0 > 0, "its legend fits"


def test_a_label_gives_the_width_alone_only_where_nothing_else_differs():
    def name(*sizes):
        return plot.label(Size(8, 4, 1), [Size(8, 4, 1), *sizes])

    whole = "8 wide, 4 heads, 1 layer"
    assert name() == name(Size(16, 4, 1)) == "8 dimensions"
    assert name(Size(16, 2, 1)) == name(Size(8, 4, 2)) == name(Size(8, 4, 1, 9)) == whole
    assert plot.label(Size(8, 4, 1)) == whole and plot.label(Size(8, 4, 1, 9)) == f"{whole}, 9 inner"


def test_a_slider_calls_at_once_with_the_last_options_and_again_at_each_move(monkeypatch):
    calls, boxes = [], []
    monkeypatch.setattr(IPython.display, "display", lambda *shown, **options: None)
    monkeypatch.setattr(ipywidgets, "VBox", lambda parts: boxes.append(parts) or ipywidgets.Box(parts))
    options = {"width": [8, 16], "layers": [("one", 1), ("two", 2)]}
    matgpt.slider(lambda *values: calls.append(values), options)
    width, layers, _ = boxes[0]
    assert (width.description, layers.description) == ("width", "layers")
    layers.value = 1
    width.value = 8
    assert calls == [(16, 2), (16, 1), (8, 1)]


@pytest.mark.slow
def test_in_a_kernel_a_figure_is_shown_once_and_a_slider_says_what_it_is(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cells = "import matgpt\nmatgpt.plot.nesting(matgpt.GPTConfig(9))", "matgpt.slider(print, [8, 16], 'size')"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (figure,), (slider,) = (cell.outputs for cell in notebook.cells)
    says = "A slider: run this cell in a live notebook to move it."
    assert "image/png" in figure.data and slider.data["text/plain"] == says
    widgets = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    assert [w["state"]["outputs"][0]["text"] for w in widgets if "outputs" in w["state"]] == ["16\n"]


def test_recall_is_drawn_in_percent_with_levels_across():
    levels = {"one": 0.05, "two": 0.35}
    (ax,) = plot.retrieval([2, 4, 8], {"a": [[0.1, 0.2, 0.3], [0.2, 0.2, 0.4]]}, levels).axes
    assert list(ax.lines[0].get_ydata()) == pytest.approx([15, 20, 35])
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert max(band) == pytest.approx(35 + math.sqrt(50)), "the deviation of a sample"
    assert {line.get_label() for line in ax.lines} == {"a", "one, 5 %", "two, 35 %"}


def test_neighbours_are_written_at_each_size_and_long_ones_cut():
    names = ["a", " b", "\n", "much too long", "d", "e"]
    tables = {
        0: {2: ([3, 1], [0.9, 0.1]), 4: ([2, 3], [0.5, 0.4])},
        1: {2: ([0, 3], [1, 0]), 4: ([4, 5], [1, 0])},
    }
    axes = plot.neighbours(tables, names).axes[:2]
    drawn = [[text.get_text() for text in ax.texts] for ax in axes]
    assert drawn == [["much␣too…", "␣b", "⏎", "much␣too…"], ["a", "much␣too…", "d", "e"]]
    assert [ax.get_title() for ax in axes] == ["nearest to  a", "nearest to  ␣b"]


def test_heat_maps_show_cosines_at_each_size_and_no_label_covers_another():
    embeddings, names = torch.randn(30, 8), [f"word{i}" for i in range(30)]
    figure = plot.heat_maps(embeddings, {"x": range(10), "y": range(10, 30)}, [2, 8], names)
    figure.canvas.draw()
    for ax, d in zip(figure.axes, (2, 8)):
        unit = torch.nn.functional.normalize(embeddings[:, :d])
        np.testing.assert_allclose(ax.images[0].get_array(), unit @ unit.T, atol=1e-6)
        for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
            assert [label.get_text() for label in labels] == names and not overlap(labels)


def test_a_table_of_answers_marks_the_right_one_and_cuts_long_names_at_their_end():
    assert plot.answers({"a": [0]}, ["two words\nin lines"]) == "  a\n  two words in lines"
    assert plot.answers({"a": [0, 1], "b": [1]}, ["f", "g"], width=4) == "  a   b\n  f   g\n  g"
    table = plot.answers({"8 dims": [1, 0], "BM25": [2, 1]}, ["f", "module.function", "g"], right=1, width=10)
    assert table.splitlines() == ["  8 dims    BM25", "✓ module…   g", "  f       ✓ module…"]
