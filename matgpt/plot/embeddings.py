"""Embeddings at every size: similarity, neighbours, retrieval."""

from statistics import mean, stdev

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter, NullLocator

from .style import colors, new_axes


def token_similarity(embeddings, names, title="", groups=None):
    """Heat map of the cosine similarity between tokens.

    embeddings: (V, d); names: V labels; groups: optional {name: how many tokens in a row}, framed and named.
    """
    unit = embeddings / embeddings.norm(dim=-1, keepdim=True)
    figure, ax = plt.subplots(figsize=(6.2, 5.4), layout="constrained")
    image = ax.imshow((unit @ unit.T).cpu(), cmap="RdBu_r", vmin=-1, vmax=1)
    ax.set_title(title)
    ax.set_xticks(range(len(names)), names, fontsize=5)
    ax.set_yticks(range(len(names)), names, fontsize=5)
    start = 0
    for name, count in (groups or {}).items():
        ax.add_patch(
            Rectangle((start - 0.5, start - 0.5), count, count, fill=False, edgecolor="black", linewidth=1.2)
        )
        ax.text(len(names), start + count / 2 - 0.5, name, fontsize=7, va="center")
        start += count
    figure.colorbar(image, ax=ax, label="cosine similarity", shrink=0.8, pad=0.12 if groups else 0.04)
    return figure


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


def retrieval(dims, curves, levels=None, title="Nearest neighbour among passages of the documentation"):
    """Accuracy against dimensions, mean ± sd over runs. curves: {method: runs, each with a share for each of dims};
    levels: {name: share} drawn across, such as chance."""
    figure, ax = new_axes(title, "", "passages given the right topic, %")
    for i, (name, runs) in enumerate(curves.items()):
        middle, sd = _mean_sd(runs)
        color = f"C{i}"
        ax.plot(dims, [100 * m for m in middle], "osD^v"[i % 5] + "-", color=color, markersize=5, label=name)
        ax.fill_between(
            dims,
            [100 * (m - s) for m, s in zip(middle, sd)],
            [100 * (m + s) for m, s in zip(middle, sd)],
            color=color,
            alpha=0.15,
            linewidth=0,
        )
    for (name, share), style in zip((levels or {}).items(), (":", "--", "-.")):
        ax.axhline(
            100 * share, color="0.4", linestyle=style, linewidth=1.2, label=f"{name}, {100 * share:.0f} %"
        )
    _dimensions(ax, dims)
    ax.set_ylim(bottom=0)
    figure.legend(fontsize=9, frameon=False, loc="outside lower center", ncols=3)
    return figure


def adaptive(curves, full, title="Shortlist with few dimensions, rank again with all"):
    """Accuracy against multiply-adds of one query, as a share of those of a full search.

    curves: {first dimensions: (multiply-adds, shares right, shortlist lengths)}; full: (multiply-adds, share right) of
    searching with every dimension.
    """
    figure, ax = new_axes(
        title,
        f"multiply-adds per query, % of the {full[0]:,} of a full search",
        "passages given the right topic, %",
    )
    for (d, (costs, shares, lengths)), color in zip(curves.items(), colors(len(curves))):
        ax.plot(
            [100 * c / full[0] for c in costs],
            [100 * s for s in shares],
            "o-",
            color=color,
            markersize=5,
            alpha=0.8,
            label=f"shortlist by {d} dimensions",
        )
    ax.axhline(100 * full[1], color="0.6", linestyle=":", linewidth=1, zorder=0)
    ax.plot(100, 100 * full[1], "*", color="black", markersize=12, label="search with all dimensions")
    ax.set_xscale("log")
    ax.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(0.05, 0.12)
    ax.legend(
        fontsize=8,
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        title_fontsize=8,
        title="dots, left to right: the best\n" + ", ".join(map(str, lengths)) + "\nare ranked again",
    )
    return figure


def pair_trends(trends, dims, title="Which pairs of tokens grow closer as dimensions are added?"):
    """Mean cosine of each kind of pair over sizes, and the same in standard deviations above all pairs.

    trends: as `similarity.pair_trends` gives them. Bars: a standard error over the pairs.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    for i, (kind, trend) in enumerate(trends.items()):
        whole = kind == "all pairs"
        style = dict(
            color="black" if whole else f"C{i - 1}",
            linestyle="--" if whole else "-",
            linewidth=1.8,
            marker=None if whole else "osD^v"[i % 5],
            markersize=5,
            capsize=3,
            label=f"{kind} ({trend['pairs']})",
        )
        spread = [
            e / s if s else 1 for e, s in zip(trend["excess"], trend["standing"])
        ]  # sd of all pairs at this size
        axes[0].errorbar(dims, trend["mean"], None if whole else trend["se"], **style)
        axes[1].errorbar(
            dims, trend["standing"], None if whole else [e / s for e, s in zip(trend["se"], spread)], **style
        )
    axes[0].set(title="as it is", ylabel="mean cosine similarity")
    axes[1].set(title="beside all pairs", ylabel="standard deviations above all pairs")
    for ax in axes:
        _dimensions(ax, dims)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False
    )
    return figure


def overlap(tables, dims, k=10):
    """Share of the k nearest neighbours that two sizes have in common. tables: {model: rows of shares, dims x dims}."""
    figure, axes = plt.subplots(
        1, len(tables), figsize=(4.4 * len(tables) + 0.8, 4.2), layout="constrained", squeeze=False
    )
    for ax, (name, table) in zip(axes[0], tables.items()):
        image = ax.imshow(table, cmap="viridis", vmin=0, vmax=1)
        for i, row in enumerate(table):
            for j, share in enumerate(row):
                ax.text(
                    j,
                    i,
                    f"{share:.2f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="black" if share > 0.6 else "white",
                )
        ax.set_xticks(range(len(dims)), dims)
        ax.set_yticks(range(len(dims)), dims)
        ax.set(title=name, xlabel="dimensions", ylabel="dimensions")
    figure.colorbar(image, ax=axes, label=f"common share of the {k} nearest", shrink=0.8)
    return figure


def in_between(dims, trained, losses, curves, title="Sizes that were never trained"):
    """Loss and retrieval at every size: filled where trained, hollow between.

    trained: {model: its trained sizes}; losses, curves: {model: runs, each with a number for each of dims}, the loss
    in nats per token, retrieval as a share.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for ax, values, scale, ylabel in (
        (axes[0], losses, 1, "validation loss, nats per token"),
        (axes[1], curves, 100, "passages given the right topic, %"),
    ):
        for i, (name, runs) in enumerate(values.items()):
            middle, sd = _mean_sd(runs)
            ax.errorbar(
                dims,
                [scale * m for m in middle],
                [scale * s for s in sd],
                color=f"C{i}",
                capsize=3,
                label=name,
            )
            for d, m in zip(dims, middle):
                ax.plot(
                    d,
                    scale * m,
                    "o",
                    color=f"C{i}",
                    markersize=6,
                    markerfacecolor=f"C{i}" if d in trained[name] else "white",
                )
        _dimensions(ax, dims)
        ax.tick_params(axis="x", labelsize=8)
        ax.set_ylabel(ylabel)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].plot([], [], "o", color="0.4", label="trained")
    axes[0].plot([], [], "o", color="0.4", markerfacecolor="white", label="never trained")
    axes[0].legend(fontsize=8, frameon=False)
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
