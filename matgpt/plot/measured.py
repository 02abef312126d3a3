"""The losses of dolls: over a run, against their cost, and beside those of the full one."""

import math
from statistics import mean

from matplotlib.ticker import AutoLocator, EngFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from ..measure.shapes import UNITS
from .style import colors, label, new_axes, new_figure, plain_text

SPENT = {"steps": "training step", "flops": "training FLOPs"}
MARKERS = "osD^vPX"


def _name_of(x, names):
    """Return the label of the axis that `x` asks for. Raises ValueError if it is not among `names`."""
    if x not in names:
        raise ValueError(f"x={x!r} must be one of {', '.join(map(repr, names))}")
    return names[x]


def losses(history, x="steps"):
    """Draw the loss of every doll in one run: validation as lines, training dotted. x: "steps" or "flops"."""
    title = "Loss at every size of one run" if len(history.sizes) > 1 else "Loss of one run"
    figure, ax = new_axes(title, _name_of(x, SPENT), "cross-entropy, nats")
    spent = getattr(history, x)
    for size, color in zip(history.sizes, colors(len(history.sizes))):
        name = label(size, history.sizes)
        last = f"{name}: {history.val[size][-1]:.3f}" if spent else name
        ax.plot(spent, history.val[size], "o-", color=color, markersize=3, label=last)
        ax.plot(spent, history.train[size], ":", color=color, linewidth=1)
    ax.plot([], [], ":", color="gray", label="dotted: training text")
    ax.set_yscale("log")  # holds the first loss, near ln V, and spreads the last ones
    ax.yaxis.set(major_locator=AutoLocator(), major_formatter="{x:g}", minor_locator=NullLocator())
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if x == "flops":
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.legend(fontsize=8, frameon=False)
    return figure


def _cost_axes(title, x):
    """Return a figure and axes for losses over a cost on a log scale, with ticks at 1, 2 and 5 times 10^n."""
    figure, ax = new_axes(title, f"{_name_of(x, UNITS)} of the doll", width=8, height=4.6)
    ax.set_xscale("log")
    ax.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=EngFormatter(sep=""))
    ax.xaxis.set_minor_formatter(NullFormatter())
    return figure, ax


def _at(points, x):
    """Return the costs and losses of points. Raises ValueError if a cost was not measured."""
    if any(getattr(p, x) is None for p in points):
        raise ValueError(f"x={x!r}: points hold no {x}; frontier(..., latency=True) measures it")
    return [getattr(p, x) for p in points], [p.loss for p in points]


@plain_text
def frontier(groups, x="params", twins=()):
    """Draw loss against cost for several families of dolls.

    groups: {name: list of Points}; a line joins those of a family that are on its front. x: a cost.
    twins: Points of models trained alone.
    """
    figure, ax = _cost_axes("Which shape for which budget?", x)
    for i, (name, points) in enumerate(groups.items()):
        ax.plot(*_at(points, x), MARKERS[i % 7], color=f"C{i}", label=name)
        front = sorted((p for p in points if p.on_front), key=lambda p: getattr(p, x))
        ax.plot(*_at(front, x), "-", color=f"C{i}", alpha=0.7)
    if twins:
        ax.plot(*_at(twins, x), "x", color="black", label="twins trained alone")
    ax.legend(fontsize=8, frameon=False)
    return figure


def slices(points, listed=(), twins=(), x="flops"):
    """Draw loss against cost of many dolls of one model, coloured by width.

    points: Points of dolls anywhere in a range. listed: of those in `model.sizes`, ringed. twins: of models
    trained alone, as crosses. x: a cost.
    """
    figure, ax = _cost_axes("Every doll of one model", x)
    dots = [*points, *listed]
    widths = [p.size.n_embd for p in dots]
    dolls = ax.scatter(*_at(dots, x), c=widths, cmap="viridis_r", s=22, label="sliced out of it")
    if listed:
        ring = dict(facecolors="none", edgecolors="tab:red", linewidths=1.4)
        ax.scatter(*_at(listed, x), s=110, label="listed in model.sizes", **ring)
    if twins:
        ax.scatter(*_at(twins, x), marker="x", color="black", s=45, label="trained alone")
    figure.colorbar(dolls, ax=ax, label="width")
    ax.legend(fontsize=8, frameon=False)
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
        sizes = sorted(runs, key=params.get)
        counts, means = [params[s] for s in sizes], [mean(runs[s]) for s in sizes]
        bars = (
            [m - min(runs[s]) for s, m in zip(sizes, means)],
            [max(runs[s]) - m for s, m in zip(sizes, means)],
        )
        marker = dict(marker=MARKERS[i % 7], ms=5) if len(sizes) > 1 else dict(marker="*", ms=12, ls="")
        ax.errorbar(counts, means, bars, color=f"C{i}", capsize=3, label=name, **marker)
        numbers += [(m, n, f"C{i}") for m, n in zip(means, counts) if math.isfinite(m)]
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
    same, kl = [100 * a.same for a in agreements.values()], [a.kl for a in agreements.values()]
    panels = (
        ("Same next token as the full doll", "% of positions", same, "%.1f"),
        ("KL (full || doll)", "nats per token", kl, "%.3f"),
    )
    for ax, (title, ylabel, values, form) in zip(axes, panels):
        ax.bar_label(ax.bar(range(len(values)), values, color=colors(len(values))), fmt=form, fontsize=8)
        ax.set_xticks(range(len(values)), map(str, agreements), fontsize=8)
        ax.set(title=title, xlabel="width, heads, layers of the doll", ylabel=ylabel)
        ax.spines[["top", "right"]].set_visible(False)
    return figure
