"""The losses of dolls: over a run, against their cost, and beside those of the full one."""

from statistics import mean

import numpy as np
from matplotlib.ticker import AutoLocator, EngFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from ..measure.shapes import UNITS, values
from .style import colors, label, new_axes, new_figure, plain_text

MARKERS = "osD^vPX"


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
    ax.yaxis.set(major_locator=AutoLocator(), major_formatter="{x:g}", minor_locator=NullLocator())
    ax.xaxis.set(major_locator=MaxNLocator(integer=True), major_formatter=EngFormatter(sep=""))
    ax.legend(fontsize=8, frameon=False)
    return figure


def _against_cost(title, x, families):
    """Return a figure and axes with losses against a cost; families: (Points, style of `plot`) each."""
    figure, ax = new_axes(title, f"{UNITS.get(x)} of the doll", width=8, height=4.6)
    for points, style in families:
        if points:
            ax.plot(values(points, x), [p.loss for p in points], **style)
    ax.set_xscale("log")
    ax.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=EngFormatter(sep=""))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(fontsize=8, frameon=False)
    return figure, ax


@plain_text
def frontier(groups, x="params", twins=()):
    """Draw loss against cost for several families of dolls.

    groups: {name: list of Points}; a line joins those of a family that are on its front. x: a cost.
    twins: Points of models trained alone.
    """
    families = []
    for i, (name, points) in enumerate(groups.items()):
        front = sorted((p for p in points if p.on_front), key=lambda p: values([p], x))
        families.append((points, dict(marker=MARKERS[i % 7], ls="", color=f"C{i}", label=name)))
        families.append((front, dict(color=f"C{i}", alpha=0.7)))
    families.append((twins, dict(marker="x", ls="", color="black", label="twins trained alone")))
    return _against_cost("Which shape for which budget?", x, families)[0]


def slices(points, listed=(), twins=(), x="flops"):
    """Draw loss against cost of many dolls of one model, coloured by width.

    points: Points of dolls anywhere in a range. listed: of those in `model.sizes`, ringed. twins: of models
    trained alone, as crosses. x: a cost.
    """
    dots = [*points, *listed]
    dot = dict(marker="o", ls="", ms=5, color="tab:green", label="sliced out of it")
    ring = dict(marker="o", ls="", ms=10, mfc="none", mec="tab:red", label="listed in model.sizes")
    cross = dict(marker="x", ls="", color="black", label="trained alone")
    figure, ax = _against_cost("Every doll of one model", x, [(dots, dot), (listed, ring), (twins, cross)])
    widths = [p.size.n_embd for p in dots]
    colored = ax.scatter(values(dots, x), [p.loss for p in dots], s=28, c=widths, cmap="viridis_r", zorder=3)
    figure.colorbar(colored, ax=ax, label="width")
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
        marker = dict(marker=MARKERS[i % 7], ms=5) if len(rows) > 1 else dict(marker="*", ms=12, ls="")
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


def agreement(agreements):
    """Draw what `matgpt.agreement` returns: how often the likeliest tokens agree, and the KL divergence."""
    figure, axes = new_figure(1, 2, figsize=(8, 3.4))
    same, kl = zip(*agreements.values())
    axes[0].set(title="Same next token as the full doll", ylabel="share of positions")
    axes[1].set(title="KL (full || doll)", ylabel="nats per token")
    for ax, shares in zip(axes, (same, kl)):
        bars = ax.bar(list(map(str, agreements)), shares, color=colors(len(shares)))
        ax.bar_label(bars, fmt="%.3f", fontsize=8)
        ax.set_xlabel("width, heads, layers of the doll")
        ax.tick_params(labelsize=8)
    return figure
