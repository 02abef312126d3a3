"""Which corner of each weight a doll reads: the whole idea in one drawing."""

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from ..config import inner_sizes
from .style import colors, label


def _corners(ax, title, rows, columns, cuts, note=""):
    """One matrix as a rectangle, rows x columns, with the corner of each doll (largest first) in it."""
    for (r, c), color in zip(cuts, reversed(colors(len(cuts)))):
        ax.add_patch(
            Rectangle((0, 0), c / columns, r / rows, facecolor=color, edgecolor="white", linewidth=0.8)
        )
    ax.set_title(title, fontsize=9)
    ax.text(0.5, 1.05, note, ha="center", va="top", fontsize=8, color="0.35")
    ax.set(xlim=(-0.02, 1.02), ylim=(1.22, -0.02))
    ax.axis("off")


def _stack(ax, title, names, config, sizes, rows, note):
    """Matrices one behind the other along an axis of heads or layers, of which a doll reads the first."""
    n = len(names)
    for i, name in enumerate(names):
        y = i * 1.12 / n
        height = 1 / n * 0.92
        for size, color in zip(reversed(sizes), reversed(colors(len(sizes)))):
            part = rows(size, i)
            if part:
                ax.add_patch(
                    Rectangle(
                        (0, y), part[1], height * part[0], facecolor=color, edgecolor="white", linewidth=0.6
                    )
                )
        ax.text(-0.03, y + height / 2, name, ha="right", va="center", fontsize=8, color="0.35")
    ax.set_title(title, fontsize=9)
    ax.text(0.5, 1.19, note, ha="center", va="top", fontsize=8, color="0.35")
    ax.set(xlim=(-0.16, 1.02), ylim=(1.36, -0.02))
    ax.axis("off")


def nesting(config, sizes=None, output_only=False):
    """Which corner of each weight each doll reads, one colour a doll; areas are to scale.

    output_only: the drawing for MatryoshkaEmbeddingsGPT, which cuts the final residual and the readout alone.
    """
    sizes = list(config.sizes if sizes is None else sizes)
    D, H, S, L = config.n_embd, config.n_head, config.head_size, config.n_layer
    legend = [plt.Line2D([], [], marker="s", linestyle="", markersize=9, color=c) for c in colors(len(sizes))]
    widths = [s.n_embd for s in reversed(sizes)]
    if output_only:
        figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
        _corners(axes[0], "trunk: every weight", 1, 1, [(1, 1)], "always at full size")
        _corners(axes[1], "final residual x", 1, D, [(1, d) for d in widths], "(T, D): the first d columns")
        _corners(
            axes[2],
            "readout = tied embedding, transposed",
            D,
            1,
            [(d, 1) for d in widths],
            "(D, V): the first d rows",
        )
        names = [f"first {s.n_embd} dimensions" for s in sizes]
    else:
        figure, axes = plt.subplots(2, 4, figsize=(11, 6), layout="constrained")
        F = max(inner_sizes(config.n_inner, L))
        inner = [max(inner_sizes(s.n_inner, s.n_layer)) for s in reversed(sizes)]
        head = config.head_size_of
        _corners(
            axes[0, 0],
            "token embedding = readout",
            1,
            D,
            [(1, d) for d in widths],
            "(V, D): every row, first d columns",
        )
        _corners(
            axes[0, 1],
            "position embedding",
            1,
            D,
            [(1, d) for d in widths],
            "(T, D): every row, first d columns",
        )
        _stack(
            axes[0, 2],
            "queries; keys and values alike",
            [f"head {i + 1}" for i in range(H)],
            config,
            sizes,
            lambda s, i: i < s.n_head and (head(s) / S, s.n_embd / D),
            "(H, S, D): first heads, rows and columns",
        )
        _stack(
            axes[0, 3],
            "concatenated heads → projection",
            [f"head {i + 1}" for i in range(H)],
            config,
            sizes,
            lambda s, i: i < s.n_head and (head(s) / S, s.n_embd / D),
            "(D, H, S), drawn transposed",
        )
        _corners(
            axes[1, 0], "feedforward in", F, D, list(zip(inner, widths)), "(F, D): first f rows, d columns"
        )
        _corners(
            axes[1, 1], "feedforward out", D, F, list(zip(widths, inner)), "(D, F): first d rows, f columns"
        )
        _corners(axes[1, 2], "norms and biases", 1, D, [(1, d) for d in widths], "(D): the first d")
        _stack(
            axes[1, 3],
            "blocks",
            [f"layer {i + 1}" for i in range(L)],
            config,
            sizes,
            lambda s, i: i < s.n_layer and (1, s.n_embd / D),
            "the first l, at width d",
        )
        names = [label(s) for s in sizes]
    figure.legend(
        legend, names, loc="outside lower center", ncols=min(4, len(sizes)), fontsize=9, frameon=False
    )
    return figure
