"""Loss against cost, over shapes trained and untrained."""

from itertools import cycle

import matplotlib.pyplot as plt

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
