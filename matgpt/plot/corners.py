"""Which corner of each weight a doll reads: the whole idea in one drawing."""

from matplotlib.patches import Patch, Rectangle

from ..sizes import inner_sizes
from .style import colors, label, new_figure

# title, note, and whether there is one matrix for each head or layer
NESTED = [
    ("token embedding = readout", "(V, D): every row, first d columns", ""),
    ("position embedding", "(T, D): every row, first d columns", ""),
    ("queries; keys and values alike", "(H, S, D): first heads, rows and columns", "head"),
    ("concatenated heads → projection", "(D, H, S), drawn transposed", "head"),
    ("feedforward in", "(F, D): first f rows, d columns", ""),
    ("feedforward out", "(D, F): first d rows, f columns", ""),
    ("norms and biases", "(D): the first d", ""),
    ("blocks", "the first l, at width d", "layer"),
]
OUTPUT_ONLY = [
    ("trunk: every weight", "always at full size", ""),
    ("final residual x", "(T, D): the first d columns", ""),
    ("readout = tied embedding, transposed", "(D, V): the first d rows", ""),
]


def _shares(config, size, output_only):
    """Return what a doll reads, for each panel and each matrix in it: the share of its rows and columns."""
    d = size.n_embd / config.n_embd
    if output_only:
        return [(1, 1)] * (size == config.full), [(1, d)], [(d, 1)]
    s = config.head_size_of(size) / config.full_head_size
    most = max(inner_sizes(config.full.n_inner, config.n_layer))
    f = max(inner_sizes(size.n_inner, size.n_layer)) / most
    heads, layers = [(s, d)] * size.n_head, [(1, d)] * size.n_layer
    return [(1, d)], [(1, d)], heads, heads, [(f, d)], [(d, f)], [(1, d)], layers


def _panel(ax, title, note, unit, count, shares):
    """Draw `count` matrices, one below the other, and the corner of each doll in them, the largest first."""
    height = 0.92 / count if count > 1 else 1
    tops = [i * 1.12 / count for i in range(count)]
    for matrices, color in reversed(list(zip(shares, colors(len(shares))))):
        for top, (rows, columns) in zip(tops, matrices):
            ax.add_patch(Rectangle((0, top), columns, height * rows, color=color, ec="white", lw=0.7))
    for i, top in enumerate(tops if unit else ()):
        place = dict(ha="right", va="center", fontsize=8, color="0.35")
        ax.text(-0.03, top + height / 2, f"{unit} {i + 1}", **place)
    ax.set_title(title, fontsize=9)
    ax.text(0.5, tops[-1] + height + 0.07, note, ha="center", va="top", fontsize=8, color="0.35")
    ax.set(xlim=(-0.16 if unit else -0.02, 1.02), ylim=(1.36 if count > 1 else 1.22, -0.02))
    ax.axis("off")


def nesting(config, sizes=None, output_only=False):
    """Draw which corner of each weight each doll reads, one colour a doll; areas are to scale.

    output_only: draw a MatryoshkaEmbeddingsGPT, where a doll cuts only the final residual and the readout.
    """
    sizes = list(config.sizes if sizes is None else sizes)
    panels = OUTPUT_ONLY if output_only else NESTED
    figure, axes = new_figure(
        *((1, 3) if output_only else (2, 4)), figsize=(9, 3.2) if output_only else (11, 6)
    )
    shares = [_shares(config, size, output_only) for size in sizes]
    counts = {"": 1, "head": config.n_head, "layer": config.n_layer}
    for ax, (title, note, unit), panel in zip(axes.flat, panels, zip(*shares)):
        _panel(ax, title, note, unit, counts[unit], panel)
    names = [f"first {size.n_embd} dimensions" if output_only else label(size) for size in sizes]
    keys = [Patch(color=color, label=name) for name, color in zip(names, colors(len(sizes)))]
    figure.legend(
        handles=keys, loc="outside lower center", ncols=min(4, len(sizes)), fontsize=9, frameon=False
    )
    return figure
