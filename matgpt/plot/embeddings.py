"""Embeddings at every size: what a search finds, neighbours, similarity."""

from statistics import mean, stdev

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter, NullLocator

from .style import new_axes


def _dimensions(ax, dims):
    """A log2 axis with a tick at each number of dimensions."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(dims), [str(d) for d in dims])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("dimensions")


def _mean_sd(runs):
    """Mean and standard deviation over runs, point by point; the latter 0 for one run."""
    columns = list(zip(*runs))
    return [mean(c) for c in columns], [stdev(c) if len(c) > 1 else 0 for c in columns]


def retrieval(dims, curves, levels=None, title="Finding the function by what it does", what="recall@10"):
    """A measure against dimensions, mean ± sd over runs. curves: {method: runs, a share for each
    of dims}; levels: {method without dimensions: share} drawn across, such as BM25."""
    figure, ax = new_axes(title, "", f"{what}, % of the questions", width=7.5, height=4.6)
    for i, (name, runs) in enumerate(curves.items()):
        middle, sd = _mean_sd(runs)
        style = dict(marker="osD^vPX"[i % 7], linestyle=("-", "--")[i >= 7], color=f"C{i % 10}", markersize=5)
        ax.plot(dims, [100 * m for m in middle], label=name, **style)
        low, high = ([100 * (m + sign * s) for m, s in zip(middle, sd)] for sign in (-1, 1))
        ax.fill_between(dims, low, high, color=f"C{i % 10}", alpha=0.15, linewidth=0)
    for i, (name, share) in enumerate((levels or {}).items()):
        grey, style = str(0.2 + 0.15 * (i % 4)), ("-", "--", "-.", ":")[i % 4]
        ax.axhline(
            100 * share, color=grey, linestyle=style, label=f"{name}, {100 * share:.0f} %", linewidth=1.2
        )
    _dimensions(ax, dims)
    ax.set_ylim(bottom=0)
    figure.legend(fontsize=9, frameon=False, loc="outside lower center", ncols=3)
    return figure


def searches(curves, full, title="A first look at few numbers, then a shortlist with all", what="recall@10"):
    """A measure against bytes of a document that the first look reads, and against multiply-adds of a query.

    curves: {precision: {dimensions: (bytes a document, multiply-adds a query, share)}}; full: these of all.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharey=True)
    for ax, column, name in zip(axes, (0, 1), ("bytes read of each document", "multiply-adds per query")):
        for i, (precision, points) in enumerate(curves.items()):
            line = [p[column] for p in points.values()], [100 * p[2] for p in points.values()]
            ax.plot(*line, "osD"[i % 3] + "-", color=f"C{i}", markersize=5, label=f"first look: {precision}")
            for d, x, y in zip(points, *line):
                ax.annotate(str(d), (x, y), (0, -11), textcoords="offset points", fontsize=7, ha="center")
        ax.axhline(100 * full[2], color="0.6", linestyle=":", linewidth=1, zorder=0)
        ax.plot(
            full[column], 100 * full[2], "*", color="black", markersize=12, label="all dimensions at once"
        )
        ax.set_xscale("log", base=2 if column == 0 else 10)
        if column == 0:
            ax.xaxis.set_major_formatter("{x:g}")
        ax.set_xlabel(name)
        ax.grid(alpha=0.25)
        ax.margins(0.06, 0.12)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(f"{what}, % of the questions")
    axes[1].legend(
        fontsize=8, frameon=False, loc="lower right", title="small numbers: dimensions", title_fontsize=8
    )
    figure.suptitle(title)
    return figure


def shown(name):
    """A token as people can read it: blanks as ␣, line ends as ⏎."""
    return name.replace(" ", "␣").replace("\n", "⏎")


def neighbours(found, names, tokens):
    """Nearest neighbours of some tokens at each size, nearest on top, shaded by cosine.

    found: {token: {dimensions: (neighbours, their cosines)}}, as `similarity.nearest_tokens` gives them.
    """

    def short(name):
        name = shown(name)
        return name if len(name) < 10 else name[:8] + "…"

    longest = max(
        len(short(names[other]))
        for table in found.values()
        for others, _ in table.values()
        for other in others
    )
    width = len(found[tokens[0]]) * max(0.5, 0.1 * longest)
    columns = max(1, min(len(tokens), int(12 / width)))
    rows = -(-len(tokens) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns + 1.4, 3.4 * rows), layout="constrained", squeeze=False
    )
    for ax in axes.flat[len(tokens) :]:
        ax.axis("off")
    for ax, token in zip(axes.flat, tokens):
        table = [values for _, values in found[token].values()]  # a column for each size
        image = ax.imshow(list(zip(*table)), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for x, (others, values) in enumerate(found[token].values()):
            for y, (other, value) in enumerate(zip(others, values)):
                ax.text(
                    x,
                    y,
                    short(names[other]),
                    ha="center",
                    va="center",
                    fontsize=9,
                    family="monospace",
                    color="white" if value > 0.6 else "black",
                )
        ax.set_xticks(range(len(table)), found[token])
        ax.set_yticks([])
        ax.set(title=f"nearest to  {shown(names[token])}", xlabel="dimensions")
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.8)
    return figure


def heat_maps(embeddings, names, groups, dims):
    """Cosine similarity of grouped tokens, one heat map for each number of dimensions.

    embeddings: (V, D); names: V labels; groups: {name: tokens}; dims: how many of the D to look at.
    """
    tokens = [token for group in groups.values() for token in group]
    figure, axes = plt.subplots(
        1, len(dims), figsize=(2.6 * len(dims) + 1.6, 3.1), layout="constrained", squeeze=False
    )
    for ax, d in zip(axes[0], dims):
        unit = embeddings[tokens, :d] / embeddings[tokens, :d].norm(dim=-1, keepdim=True)
        image = ax.imshow((unit @ unit.T).tolist(), cmap="RdBu_r", vmin=-1, vmax=1)
        start = 0
        for group in groups.values():
            ax.add_patch(
                Rectangle(
                    (start - 0.5,) * 2, len(group), len(group), fill=False, edgecolor="black", linewidth=1
                )
            )
            start += len(group)
        edges = [
            sum(map(len, list(groups.values())[:i])) + len(g) / 2 - 0.5 for i, g in enumerate(groups.values())
        ]
        ax.set_title(f"{d} dimensions", fontsize=10)
        ax.set_xticks([])
        ax.set_yticks(edges if ax is axes[0, 0] else [], groups if ax is axes[0, 0] else [], fontsize=9)
        ax.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.8)
    return figure
