"""Loss against cost, over shapes trained and untrained."""

from itertools import cycle

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from .style import new_axes


def frontier(groups, x="params", twins=None):
    """Loss against cost for several families of dolls in one picture.

    groups: {name: list of Points}; a line joins those of a family that are marked as its front. x: "params" or "flops".
    twins: optional list of Points trained alone.
    """
    names = {"params": "parameters of the doll", "flops": "FLOPs per token of the doll"}
    figure, ax = new_axes(
        "Which shape for which budget?", names[x], "validation loss, nats per token", 8, 4.6
    )
    colors = cycle(plt.rcParams["axes.prop_cycle"].by_key()["color"])
    for (name, points), color, marker in zip(groups.items(), colors, cycle("osD^vP*")):
        front = sorted((p for p in points if p.on_front), key=lambda p: getattr(p, x))
        ax.plot([getattr(p, x) for p in front], [p.loss for p in front], "-", color=color, alpha=0.7)
        ax.plot([getattr(p, x) for p in points], [p.loss for p in points], marker, color=color, label=name)
    if twins:
        ax.plot(
            [getattr(p, x) for p in twins],
            [p.loss for p in twins],
            "x",
            color="black",
            label="twins trained alone",
        )
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(fontsize=8, frameon=False)
    return figure


def loss_grid(points, title="Validation loss over width and depth"):
    """Heat map of the loss of a lattice's dolls: widths across, layers down; a frame marks the Pareto front."""
    widths = sorted({p.size.n_embd for p in points})
    depths = sorted({p.size.n_layer for p in points})
    best = {}  # where several dolls share width and depth, the best of them
    for p in sorted(points, key=lambda p: -p.loss):
        best[p.size.n_layer, p.size.n_embd] = p
    figure, ax = plt.subplots(figsize=(1.4 * len(widths) + 2, 0.9 * len(depths) + 1.2), layout="constrained")
    table = [[best[l, d].loss if (l, d) in best else float("nan") for d in widths] for l in depths]
    image = ax.imshow(table, cmap="viridis_r", aspect="auto")
    middle = (min(p.loss for p in points) + max(p.loss for p in points)) / 2
    for (l, d), p in best.items():
        at = widths.index(d), depths.index(l)
        ax.text(*at, f"{p.loss:.3f}", ha="center", va="center", color="black" if p.loss < middle else "white")
        if p.on_front:
            ax.add_patch(
                Rectangle(
                    (at[0] - 0.48, at[1] - 0.48), 0.96, 0.96, fill=False, edgecolor="red", linewidth=1.5
                )
            )
    ax.set_xticks(range(len(widths)), widths)
    ax.set_yticks(range(len(depths)), depths)
    ax.set(title=title, xlabel="width", ylabel="layers")
    figure.colorbar(image, ax=ax, label="nats per token")
    return figure


def interpolation(curves, title="Sizes between those that were trained"):
    """Loss along each axis. curves: {axis: (values, losses, the values that were trained)}."""
    figure, axes = plt.subplots(
        1, len(curves), figsize=(3.4 * len(curves), 3.2), sharey=True, layout="constrained"
    )
    for ax, (axis, (values, losses, trained)) in zip([axes] if len(curves) == 1 else axes, curves.items()):
        ax.plot(values, losses, "o-", markersize=4, markerfacecolor="white", label="never trained")
        known = [(v, loss) for v, loss in zip(values, losses) if v in trained]
        ax.plot(*zip(*known), "o", color="tab:blue", label="trained")
        ax.set_xlabel(axis)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.grid(alpha=0.25)
    figure.axes[0].set_ylabel("validation loss, nats per token")
    figure.axes[0].legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure
