"""Loss against cost, over shapes trained and untrained."""

from itertools import cycle

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from .style import cost_axis, name_of, new_axes, plain_text

COSTS = {
    "params": "parameters of the doll",
    "flops": "FLOPs per token of the doll",
    "ms": "milliseconds a token of the doll",
    "bytes": "bytes of the doll's weights",
}


def _at(points, x):
    """Costs and losses of points, as a plot takes them."""
    return [getattr(p, x) for p in points], [p.loss for p in points]


@plain_text
def frontier(groups, x="params", twins=()):
    """Loss against cost for several families of dolls in one picture.

    groups: {name: list of Points}; a line joins those of a family that are marked as its front. x: a cost.
    twins: Points of models trained alone.
    """
    figure, ax = new_axes("Which shape for which budget?", name_of(x, COSTS), width=8, height=4.6)
    colors = cycle(plt.rcParams["axes.prop_cycle"].by_key()["color"])
    for (name, points), color, marker in zip(groups.items(), colors, cycle("osD^vP*")):
        front = sorted((p for p in points if p.on_front), key=lambda p: getattr(p, x))
        ax.plot(*_at(front, x), "-", color=color, alpha=0.7)
        ax.plot(*_at(points, x), marker, color=color, label=name)
    if twins:
        ax.plot(*_at(twins, x), "x", color="black", label="twins trained alone")
    cost_axis(ax)
    ax.legend(fontsize=8, frameon=False)
    return figure


@plain_text
def slices(points, named=(), twins=(), x="flops", title="Every doll of one model"):
    """Loss against cost of many dolls of one model, coloured by width.

    points, named, twins: Points, of dolls anywhere in the range, of those with a name (ringed), and of models
    trained alone (crosses). x: a cost.
    """
    figure, ax = new_axes(title, name_of(x, COSTS), width=8, height=4.6)
    dots = [*points, *named]
    widths = [p.size.n_embd for p in dots]
    shown = ax.scatter(*_at(dots, x), c=widths, cmap="viridis_r", s=22, label="sliced out of it")
    if named:
        ring = dict(facecolors="none", edgecolors="tab:red", linewidths=1.4)
        ax.scatter(*_at(named, x), s=110, label="the named ones", **ring)
    if twins:
        ax.scatter(*_at(twins, x), marker="x", color="black", s=45, label="trained alone")
    cost_axis(ax)
    figure.colorbar(shown, ax=ax, label="width")
    ax.legend(fontsize=8, frameon=False)
    return figure


def loss_grid(points, title="Validation loss over width and depth"):
    """Heat map of the loss of a lattice's dolls: widths across, layers down; a frame marks the front."""
    widths, depths = (sorted({getattr(p.size, axis) for p in points}) for axis in ("n_embd", "n_layer"))
    best = {}  # where several dolls share width and depth, the best of them
    for p in sorted(points, key=lambda p: -p.loss):
        best[p.size.n_layer, p.size.n_embd] = p
    figure, ax = plt.subplots(figsize=(1.4 * len(widths) + 2, 0.9 * len(depths) + 1.2), layout="constrained")
    table = [[best[l, d].loss if (l, d) in best else float("nan") for d in widths] for l in depths]
    image = ax.imshow(table, cmap="viridis_r", aspect="auto")
    middle = (min(p.loss for p in points) + max(p.loss for p in points)) / 2
    for (l, d), p in best.items():
        x, y = widths.index(d), depths.index(l)
        color = "black" if p.loss < middle else "white"
        ax.text(x, y, f"{p.loss:.3f}", ha="center", va="center", color=color)
        if p.on_front:
            frame = (x - 0.48, y - 0.48), 0.96, 0.96
            ax.add_patch(Rectangle(*frame, fill=False, edgecolor="red", linewidth=1.5))
    ax.set_xticks(range(len(widths)), widths)
    ax.set_yticks(range(len(depths)), depths)
    ax.set(title=title, xlabel="width", ylabel="layers")
    figure.colorbar(image, ax=ax, label="nats per token")
    return figure


def interpolation(curves, title="Sizes between those that were trained"):
    """Loss along each axis. curves: {axis: (values, losses, the values that were trained)}."""
    shape = dict(figsize=(3.4 * len(curves), 3.2), sharey=True, squeeze=False, layout="constrained")
    figure, axes = plt.subplots(1, len(curves), **shape)
    for ax, (axis, (values, losses, trained)) in zip(axes.flat, curves.items()):
        ax.plot(values, losses, "o-", markersize=4, markerfacecolor="white", label="never trained")
        known = [(v, loss) for v, loss in zip(values, losses) if v in trained]
        ax.plot(*zip(*known), "o", color="tab:blue", label="trained")
        ax.set_xlabel(axis)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.grid(alpha=0.25)
    axes[0, 0].set_ylabel("validation loss, nats per token")
    axes[0, 0].legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure
