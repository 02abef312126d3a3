"""Figures show the numbers that they were given."""

import matplotlib
import pytest
import torch

from matgpt import GPTConfig, History, Size, between, plot
from matgpt.measure.shapes import Point, mark_front

matplotlib.use("agg")
CONFIG = GPTConfig(11, 8, 32, 4, 3, nesting=between(Size(8, 1, 1), Size(32, 4, 3)))


@pytest.fixture(autouse=True)
def closed():
    yield
    matplotlib.pyplot.close("all")


def history():
    found = History(CONFIG.sizes, steps=[0, 5, 10], flops=[0, 300, 900])
    for i, size in enumerate(found.sizes):
        found.val[size] += [4.0, 3.0 - 0.1 * i, 2.0 - 0.1 * i]
        found.train[size] += [4.1, 2.5 - 0.1 * i, 1.5 - 0.1 * i]
    return found


@pytest.mark.parametrize("x", ["steps", "flops"])
def test_losses_are_lines_over_validation_and_dots_over_training(x):
    found = history()
    (ax,) = plot.losses(found, x).axes
    lines = [line for line in ax.lines if len(line.get_xdata())]
    assert all(list(line.get_xdata()) == getattr(found, x) for line in lines)
    drawn = {style: [list(l.get_ydata()) for l in lines if l.get_linestyle() == style] for style in "-:"}
    assert drawn["-"] == list(found.val.values()) and drawn[":"] == list(found.train.values())
    assert ax.get_xlabel() == {"steps": "training step", "flops": "training FLOPs"}[x]
    assert [t.get_text().split(": ")[1] for t in ax.get_legend().get_texts()[:-1]] == [
        f"{found.val[size][-1]:.3f}" for size in found.sizes
    ]


def points(shift=0.0):
    cost = CONFIG.num_params
    return mark_front([Point(s, cost(s), 2 * cost(s), 9 + shift - i) for i, s in enumerate(CONFIG.sizes)])


@pytest.mark.parametrize("x", ["params", "flops"])
def test_slices_show_every_doll_the_named_ones_and_those_alone(x):
    everywhere, named, twins = points(), points()[::2], points(0.5)
    ax, bar = plot.slices(everywhere, named, twins, x).axes
    offsets = [part.get_offsets().tolist() for part in ax.collections]
    at = lambda some: [[getattr(p, x), p.loss] for p in some]
    assert offsets == [at([*everywhere, *named]), at(named), at(twins)]
    assert ax.collections[0].get_array().tolist() == [p.size.n_embd for p in [*everywhere, *named]]
    assert ax.get_xscale() == "log" and bar.get_ylabel() == "width"
    (ax, _) = plot.slices(everywhere).axes
    assert len(ax.collections) == 1


def test_losses_against_parameters_of_dolls_and_twins():
    params = {size: CONFIG.num_params(size) for size in CONFIG.sizes}
    doll, twin = ({size: [loss, loss + 0.2] for size in params} for loss in (2.0, 3.0))
    (ax,) = plot.loss_against_params(params, doll, twin).axes
    found = {bars.get_label(): bars.lines[0].get_xydata().tolist() for bars in ax.containers}
    expected = lambda loss: [[n, pytest.approx(loss)] for n in sorted(params.values())]
    assert found == {"twins trained alone": expected(3.1), "dolls of one nested model": expected(2.1)}
    assert {text.get_text() for text in ax.texts} == {"3.100", "2.100"}
    (ax,) = plot.loss_against_params(params, doll).axes
    assert len(ax.containers) == 1


@pytest.mark.slow
def test_a_name_that_looks_like_a_formula_is_shown_as_it_is():
    """Read as mathtext, "$^$" is an error at the moment of drawing."""
    params = {CONFIG.full: 10}
    for figure in (
        plot.frontier({"$^$": points()}),
        plot.loss_against_params(params, {CONFIG.full: [1.0]}, title="$^$"),
        plot.retrieval([4], {"$^$": [[0.5]]}),
        plot.neighbours({0: {4: ([1], [0.5])}}, ["a", "$^$"]),
        plot.heat_maps(torch.ones(2, 4), {"$^$": [0, 1]}, [4]),
    ):
        figure.canvas.draw()
    assert matplotlib.rcParams["text.parse_math"], "the user's figures stay as they were"


def test_a_cost_that_was_not_measured_is_named():
    for draw in (plot.slices, lambda some, x: plot.frontier({"a": some}, x)):
        with pytest.raises(ValueError, match=r"x='ms': points hold no ms; frontier\(..., latency=True\)"):
            draw(points(), x="ms")


def test_an_axis_that_is_not_known_is_named():
    for draw in (
        lambda: plot.losses(history(), "time"),
        lambda: plot.frontier({"a": points()}, "time"),
        lambda: plot.slices(points(), x="time"),
    ):
        with pytest.raises(ValueError, match="x='time' must be one of"):
            draw()


def test_which_corner_each_doll_reads_is_drawn_to_scale():
    size, full = Size(8, 2, 1, 32), CONFIG.full
    axes = plot.nesting(CONFIG, [size, full]).axes
    area = lambda ax: [p.get_width() * p.get_height() for p in ax.patches]
    heads = [p.get_width() for p in axes[2].patches]
    assert heads == [1, 0.25, 1, 0.25, 1, 1], "two of four heads, a quarter of the width"
    assert area(axes[0]) == [1, 0.25] and area(axes[4]) == [1, 0.25 * 0.25]
    assert [len(ax.patches) for ax in axes] == [2, 2, 6, 6, 2, 2, 2, 4]
    trunk, residual, readout = plot.nesting(CONFIG, [size, full], output_only=True).axes
    assert area(residual) == area(readout) == [1, 0.25] and area(trunk) == [1]


def test_a_label_says_what_tells_sizes_apart():
    name = lambda *sizes: plot.label(Size(8, 4, 1), [Size(8, 4, 1), *sizes])
    assert name() == name(Size(16, 4, 1)) == "8 wide"
    whole = "8 wide, 4 heads, 1 layer"
    assert name(Size(16, 2, 1)) == name(Size(8, 4, 2)) == name(Size(8, 4, 1, 9)) == whole
    assert plot.label(Size(8, 4, 1)) == whole
