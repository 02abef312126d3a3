"""Figures of embeddings at every size: recall, neighbours, similarity; and a table of search answers."""

from itertools import zip_longest

import numpy as np
import torch
from matplotlib.patches import Rectangle

from .dolls import new_axes, new_figure, plain_text


@plain_text
def retrieval(dims, curves, levels=None):
    """Draw recall@10 against dimensions, mean ± standard deviation over runs.

    curves: {method: runs}, each run a list of shares, one for each of dims.
    levels: {name: share}, such as BM25, drawn as horizontal lines.
    """
    title, ylabel = "Finding the function by what it does", "recall@10, % of the questions"
    figure, ax = new_axes(title, "dimensions", ylabel, width=7.5, height=4.6)
    for i, (name, runs) in enumerate(curves.items()):
        mean = 100 * np.mean(runs, 0)
        sd = 100 * np.std(runs, 0, ddof=1) if len(runs) > 1 else 0
        ax.plot(dims, mean, label=name, marker="osD^vPX"[i % 7], color=f"C{i}", markersize=5)
        ax.fill_between(dims, mean - sd, mean + sd, color=f"C{i}", alpha=0.15, linewidth=0)
    for name, share in (levels or {}).items():
        ax.axhline(100 * share, label=f"{name}, {100 * share:.0f} %", color="0.2", linewidth=1.2)
    ax.set_xscale("log", base=2)
    ax.set_xticks(dims, dims)
    ax.minorticks_off()
    ax.set_ylim(bottom=0)
    figure.legend(fontsize=9, frameon=False, loc="outside lower center", ncols=3)
    return figure


def shown(name):
    """Return a token as a reader can see it: blanks as ␣, newlines as ⏎."""
    return name.replace(" ", "␣").replace("\n", "⏎")


@plain_text
def neighbours(results, names):
    """Draw the nearest neighbours of some tokens at each size, nearest on top, shaded by cosine.

    results: {token: {dimensions: (positions, cosines)}}, as `search` returns them.
    names: the text of every token.
    """

    def short(name):
        name = shown(name)
        return name if len(name) < 10 else name[:8] + "…"

    tables = list(results.values())
    longest = max(len(short(names[i])) for table in tables for others, _ in table.values() for i in others)
    width = max(2.5, len(tables[0]) * max(0.5, 0.1 * longest))
    columns = max(1, min(len(tables), int(12 / width)))
    rows = -(-len(tables) // columns)
    figure, axes = new_figure(rows, columns, figsize=(width * columns + 1.4, 3.4 * rows), squeeze=False)
    for ax in axes.flat[len(tables) :]:
        ax.axis("off")
    style = dict(ha="center", va="center", fontsize=9, family="monospace")
    for ax, (token, table) in zip(axes.flat, results.items()):
        cosines = zip(*(values for _, values in table.values()))  # one column per size
        image = ax.imshow(list(cosines), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for x, (others, values) in enumerate(table.values()):
            for y, (other, value) in enumerate(zip(others, values)):
                ax.text(x, y, short(names[other]), color="white" if value > 0.6 else "black", **style)
        ax.set_xticks(range(len(table)), table)
        ax.set_yticks([])
        ax.set(title=f"nearest to  {shown(names[token])}", xlabel="dimensions")
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.8)
    return figure


@plain_text
def heat_maps(embeddings, groups, dims, names):
    """Draw the cosine of each pair of grouped tokens, one heat map for each number of dimensions.

    embeddings: (V, D). groups: {name: tokens}, which are framed. dims: how many of the D to read.
    names: the text of every token.
    """
    tokens = [token for group in groups.values() for token in group]
    labels = [shown(names[token]) for token in tokens]
    side = 1.2 + 0.17 * len(tokens)  # inches, so that labels do not overlap
    figure, axes = new_figure(1, len(dims), figsize=(side * len(dims) + 1.4, side + 0.4), squeeze=False)
    for ax, d in zip(axes[0], dims):
        unit = torch.nn.functional.normalize(embeddings[tokens, :d], dim=1)
        image = ax.imshow((unit @ unit.T).tolist(), cmap="RdBu_r", vmin=-1, vmax=1)
        start = -0.5
        for n in map(len, groups.values()):
            ax.add_patch(Rectangle((start, start), n, n, fill=False, edgecolor="black", linewidth=1))
            start += n
        ax.set_title(f"{d} dimension{'s' * (d > 1)}", fontsize=10)
        ax.set_xticks(range(len(tokens)), labels, rotation=90, fontsize=8)
        ax.set_yticks(range(len(tokens)), labels, fontsize=8)
        ax.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.8)
    return figure


def answers(columns, names, right=None, width=24):
    """Return search results as a table of text: a column for each method, the best answer at the top.

    columns: {method: positions of its answers, best first}. names: the name of every document; those too long
    for `width` characters are cut at their end. right: position of the right answer, which gets a ✓.
    """

    def cell(position):
        name, mark = " ".join(names[position].split()), "✓ " if position == right else "  "
        return mark + (name if len(name) <= width - 3 else name[: width - 4] + "…")

    columns = [[f"  {method}", *map(cell, positions)] for method, positions in columns.items()]
    rows = zip_longest(*columns, fillvalue="")
    return "\n".join("".join(text.ljust(width) for text in row).rstrip() for row in rows)
