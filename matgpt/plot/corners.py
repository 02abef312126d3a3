"""Which corner of each weight a doll reads: the whole idea in one drawing."""

from matplotlib.patches import Patch, Rectangle

from ..sizes import inner_sizes
from .style import colors, label, new_figure


def _panels(config, size, output_only):
    """Return {title: what the doll reads of each matrix of the panel: the share of its rows and columns}."""
    d = size.n_embd / config.n_embd
    if output_only:
        return {
            "trunk: every weight\nalways at full size": [(1, 1)] * (size == config.full),
            "final residual x\n(T, D): the first d columns": [(1, d)],
            "readout = tied embedding, transposed\n(D, V): the first d rows": [(d, 1)],
        }
    s = config.head_size_of(size) / config.full_head_size
    most = max(inner_sizes(config.full.n_inner, config.n_layer))
    f = max(inner_sizes(size.n_inner, size.n_layer)) / most
    return {
        "token embedding = readout\n(V, D): every row, first d columns": [(1, d)],
        "position embedding\n(T, D): every row, first d columns": [(1, d)],
        "heads: queries; keys, values alike\n(H, S, D): first heads, rows, columns": [(s, d)] * size.n_head,
        "heads, concatenated → projection\n(D, H, S), drawn transposed": [(s, d)] * size.n_head,
        "feedforward in\n(F, D): first f rows, d columns": [(f, d)],
        "feedforward out\n(D, F): first d rows, f columns": [(d, f)],
        "norms and biases\n(D): the first d": [(1, d)],
        "blocks\nthe first l, at width d": [(1, d)] * size.n_layer,
    }


def nesting(config, sizes=None, output_only=False):
    """Draw which corner of each weight each doll reads, one colour a doll; areas are to scale.

    output_only: draw a MatryoshkaEmbeddingsGPT, where a doll cuts only the final residual and the readout.
    """
    sizes = list(config.sizes if sizes is None else sizes)
    shape = (
        dict(rows=1, columns=3, figsize=(9, 3.2)) if output_only else dict(rows=2, columns=4, figsize=(11, 6))
    )
    figure, axes = new_figure(**shape)
    for ax, (title, matrices) in zip(axes.flat, _panels(config, config.full, output_only).items()):
        for size, color in reversed(
            list(zip(sizes, colors(len(sizes))))
        ):  # the largest first, below the others
            for i, (rows, columns) in enumerate(_panels(config, size, output_only)[title]):
                ax.add_patch(Rectangle((0, 1.12 * i), columns, rows, color=color, ec="white", lw=0.7))
        n = len(matrices)  # drawn one below the other, and numbered
        ax.set(xlim=(-0.02, 1.02), ylim=(1.12 * n, -0.02), xticks=[])
        ax.set_yticks([1.12 * i + 0.5 for i in range(n)], range(1, n + 1) if n > 1 else [""])
        ax.set_title(title, fontsize=8)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0, labelsize=8)
    names = [f"first {size.n_embd} dimensions" if output_only else label(size) for size in sizes]
    keys = [Patch(color=color, label=name) for name, color in zip(names, colors(len(sizes)))]
    figure.legend(
        handles=keys, loc="outside lower center", ncols=min(4, len(keys)), fontsize=9, frameon=False
    )
    return figure
