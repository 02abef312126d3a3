"""Figures of dolls: which corner of each weight they read, and their losses; and what all figures share."""

import math
from statistics import mean

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import AutoLocator, EngFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

# a decorator: a name that a user or a tokenizer gave, such as "$^$", is shown as it is, not read as a formula
plain_text = plt.rc_context({"text.parse_math": False})


def colors(n):
    """Return `n` colours, light for the smallest doll and dark for the largest."""
    return [colormaps["viridis_r"](0.08 + 0.92 * (i / (n - 1) if n > 1 else 1)) for i in range(n)]


def new_figure(rows=1, columns=1, **options):
    """Return a figure and its axes, as pyplot's `subplots` does, but closed."""
    figure, axes = plt.subplots(rows, columns, layout="constrained", **options)
    plt.close(figure)  # else a notebook shows it again at the end of the cell
    return figure, axes


def new_axes(title, xlabel, ylabel="validation loss, nats per token", width=7, height=4):
    """Return a figure with one plain, labelled pair of axes."""
    figure, ax = new_figure(figsize=(width, height))
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def label(size, among=()):
    """Return the name of a doll: its width if the sizes in `among` differ in width alone, else every axis."""
    if len({(s.n_head, s.n_layer) for s in among}) == 1 and all(s.n_inner == 4 * s.n_embd for s in among):
        return f"{size.n_embd} dimensions"
    counts = [f"{n} {unit}{'s' * (n > 1)}" for n, unit in ((size.n_head, "head"), (size.n_layer, "layer"))]
    inner = [] if size.n_inner == 4 * size.n_embd else [f"{str(size).split(',')[3]} inner"]
    return ", ".join([f"{size.n_embd} wide", *counts, *inner])


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
    f = max(size.inner) / max(config.full.inner)
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

    Of a feedforward whose layers differ, the widest one is drawn.
    output_only: draw a MatryoshkaEmbeddingsGPT, where a doll cuts only the final residual and the readout.
    """
    sizes = [config.resolve(size) for size in (config.sizes if sizes is None else sizes)]
    dolls = list(zip(sizes, colors(len(sizes))))
    rows, columns, figsize = (1, 3, (9, 3.2)) if output_only else (2, 4, (11, 6))
    figure, axes = new_figure(rows, columns, figsize=figsize)
    for ax, (title, matrices) in zip(axes.flat, _panels(config, config.full, output_only).items()):
        read = [(_panels(config, size, output_only)[title], color) for size, color in reversed(dolls)]
        read.sort(key=lambda doll: -sum(map(math.prod, doll[0])))  # the largest first, below the others
        for corners, color in read:
            for i, (rows, columns) in enumerate(corners):
                ax.add_patch(Rectangle((0, 1.12 * i), columns, rows, color=color, ec="white", lw=0.7))
        n = len(matrices)  # drawn one below the other, and numbered
        ax.set(xlim=(-0.02, 1.02), ylim=(1.12 * n, -0.02), xticks=[])
        ax.set_yticks([1.12 * i + 0.5 for i in range(n)], range(1, n + 1) if n > 1 else [""])
        ax.set_title(title, fontsize=8)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0, labelsize=8)
    names = [f"first {size.n_embd} dimensions" if output_only else label(size) for size in sizes]
    keys = [Patch(color=color, label=name) for name, (_, color) in zip(names, dolls)]
    ncols = min(4, max(1, 120 // max(map(len, names))))  # so that it is no wider than the figure
    figure.legend(handles=keys, loc="outside lower center", ncols=ncols, fontsize=9, frameon=False)
    return figure


def losses(history, x="steps"):
    """Draw the loss of every doll in one run: validation as lines, training dotted. x: "steps" or "flops"."""
    if x not in ("steps", "flops"):
        raise ValueError(f"x={x!r} must be one of 'steps', 'flops'")
    xlabel = "training step" if x == "steps" else "training FLOPs"
    title = "Loss at every size of one run" if len(history.sizes) > 1 else "Loss of one run"
    figure, ax = new_axes(title, xlabel, "cross-entropy, nats")
    for size, color in zip(history.sizes, colors(len(history.sizes))):
        name = label(size, history.sizes) + "".join(f": {loss:.3f}" for loss in history.val[size][-1:])
        ax.plot(getattr(history, x), history.val[size], "o-", color=color, markersize=3, label=name)
        ax.plot(getattr(history, x), history.train[size], ":", color=color, linewidth=1)
    ax.plot([], [], ":", color="gray", label="dotted: training text")
    ax.set_yscale("log")  # holds the first loss, near ln V, and spreads the last ones
    low, high = ax.get_ylim()
    ticks = AutoLocator() if high < 10 * low else LogLocator(subs=(1, 2, 5))
    ax.yaxis.set(major_locator=ticks, major_formatter="{x:g}", minor_locator=NullLocator())
    whole = MaxNLocator(integer=True, min_n_ticks=1)
    ax.xaxis.set(major_locator=whole, major_formatter=EngFormatter(sep=""))
    ax.legend(fontsize=8, frameon=False)
    return figure


def slices(points):
    """Draw loss against FLOPs of many dolls of one model, as `frontier` measured them, coloured by width."""
    figure, ax = new_axes("Every doll of one model", "FLOPs per token of the doll", width=8, height=4.6)
    places = [p.flops for p in points], [p.loss for p in points]
    dots = ax.scatter(*places, s=28, c=[p.size.n_embd for p in points], cmap="viridis_r", zorder=3)
    figure.colorbar(dots, ax=ax, label="width")
    ax.set_xscale("log")
    ax.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=EngFormatter(sep=""))
    ax.xaxis.set_minor_formatter(NullFormatter())
    return figure


@plain_text
def baselines(params, families, title="What nesting costs and gains"):
    """Draw validation loss against parameters: a line for each family, a star for one of a single size.

    params: {size: count}; families: {name: {size: [loss of each seed]}}. A marker is the mean of
    the seeds, and its bar reaches from the lowest to the highest.
    """
    figure, ax = new_axes(title, "parameters of the doll", width=8, height=4.8)
    numbers = []
    for i, (name, runs) in enumerate(families.items()):
        rows = [(params[s], min(runs[s]), mean(runs[s]), max(runs[s])) for s in sorted(runs, key=params.get)]
        counts, least, means, most = np.array(rows, float).T
        marker = dict(marker="osD^vPX"[i % 7], ms=5) if len(rows) > 1 else dict(marker="*", ms=12, ls="")
        bars = means - least, most - means
        ax.errorbar(counts, means, bars, color=f"C{i}", capsize=3, label=name, **marker)
        numbers += [(m, n, f"C{i}") for m, n in zip(means, counts) if np.isfinite(m)]
    names = [f"{n:,}\n" + label(s, params).replace(", ", "\n") for s, n in params.items()]
    ax.set_xscale("log")
    ax.set_xticks(list(params.values()), names, fontsize=8)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(0.12, 0.15)
    ax.legend(fontsize=8, frameon=False)
    figure.draw_without_rendering()  # places everything, so that a number knows whether it covers another
    taken = []
    for loss, n, color in sorted(numbers):
        place = dict(xytext=(8, 2), textcoords="offset points", fontsize=8, color=color)
        number = ax.annotate(f"{loss:.3f}", (n, loss), **place)
        while any(number.get_window_extent().overlaps(box) for box in taken):
            number.xyann = 8, number.xyann[1] + 1
        taken.append(number.get_window_extent().padded(1))
    return figure
