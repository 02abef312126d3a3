"""Which corner of each weight a doll reads: the whole idea in one drawing."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from ..config import inner_sizes
from .style import colors, label


def _panel(ax, sizes, title, note, names, part):
    """Matrices one behind the other, along an axis of heads or layers, and the corner of each doll in them.

    part(size, i): (rows, columns) that a doll reads of the i-th, as shares of the whole; or nothing.
    """
    n = len(names)
    height = 0.92 / n if n > 1 else 1
    for i, name in enumerate(names):
        y = i * 1.12 / n
        for size, color in zip(reversed(sizes), reversed(colors(len(sizes)))):
            if share := part(size, i):
                corner = (0, y), share[1], height * share[0]
                ax.add_patch(Rectangle(*corner, facecolor=color, edgecolor="white", linewidth=0.7))
        ax.text(-0.03, y + height / 2, name, ha="right", va="center", fontsize=8, color="0.35")
    ax.set_title(title, fontsize=9)
    ax.text(0.5, y + height + 0.07, note, ha="center", va="top", fontsize=8, color="0.35")
    ax.set(xlim=(-0.16 if n > 1 else -0.02, 1.02), ylim=(1.36 if n > 1 else 1.22, -0.02))
    ax.axis("off")


def nesting(config, sizes=None, output_only=False):
    """Which corner of each weight each doll reads, one colour a doll; areas are to scale.

    output_only: the drawing for MatryoshkaEmbeddingsGPT, which cuts the final residual and the readout alone.
    """
    sizes = list(config.sizes if sizes is None else sizes)
    D, S, L = config.n_embd, config.full_head_size, config.n_layer
    units = lambda s: max(inner_sizes(s.n_inner, s.n_layer)) / max(inner_sizes(config.full.n_inner, L))
    columns, one = lambda s, i: (1, s.n_embd / D), [""]
    if output_only:
        rows, names = lambda s, i: (s.n_embd / D, 1), [f"first {s.n_embd} dimensions" for s in sizes]
        full = lambda s, i: s == sizes[-1] and (1, 1)
        panels = [
            ("trunk: every weight", "always at full size", one, full),
            ("final residual x", "(T, D): the first d columns", one, columns),
            ("readout = tied embedding, transposed", "(D, V): the first d rows", one, rows),
        ]
    else:
        head = lambda s, i: i < s.n_head and (config.head_size_of(s) / S, s.n_embd / D)
        layer = lambda s, i: i < s.n_layer and (1, s.n_embd / D)
        heads, names = [f"head {i + 1}" for i in range(config.n_head)], [label(s) for s in sizes]
        into, out = (lambda s, i: (units(s), s.n_embd / D)), (lambda s, i: (s.n_embd / D, units(s)))
        panels = [
            ("token embedding = readout", "(V, D): every row, first d columns", one, columns),
            ("position embedding", "(T, D): every row, first d columns", one, columns),
            ("queries; keys and values alike", "(H, S, D): first heads, rows and columns", heads, head),
            ("concatenated heads → projection", "(D, H, S), drawn transposed", heads, head),
            ("feedforward in", "(F, D): first f rows, d columns", one, into),
            ("feedforward out", "(D, F): first d rows, f columns", one, out),
            ("norms and biases", "(D): the first d", one, columns),
            ("blocks", "the first l, at width d", [f"layer {i + 1}" for i in range(L)], layer),
        ]
    shape, figsize = ((1, 3), (9, 3.2)) if output_only else ((2, 4), (11, 6))
    figure, axes = plt.subplots(*shape, figsize=figsize, layout="constrained")
    for ax, panel in zip(axes.flat, panels):
        _panel(ax, sizes, *panel)
    square = lambda color: plt.Line2D([], [], marker="s", linestyle="", markersize=9, color=color)
    keys, place = [square(color) for color in colors(len(sizes))], "outside lower center"
    figure.legend(keys, names, loc=place, ncols=min(4, len(sizes)), fontsize=9, frameon=False)
    return figure
