"""Loss against cost, over shapes trained and untrained."""

from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from ..sizes import UNITS
from .style import name_of, new_axes, plain_text


def _axes(title, x):
    """Axes for losses over a cost, which grows by factors: ticks at 1, 2 and 5 of each power of ten."""
    figure, ax = new_axes(title, f"{name_of(x, UNITS)} of the doll", width=8, height=4.6)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_minor_formatter(NullFormatter())
    return figure, ax


def _at(points, x):
    """Costs and losses of points, as a plot takes them. ValueError where a cost was not measured."""
    if any(getattr(p, x) is None for p in points):
        raise ValueError(f"x={x!r}: points hold no {x}; frontier(..., latency=True) measures it")
    return [getattr(p, x) for p in points], [p.loss for p in points]


@plain_text
def frontier(groups, x="params", twins=()):
    """Loss against cost for several families of dolls in one picture.

    groups: {name: list of Points}; a line joins those of a family that are marked as its front. x: a cost.
    twins: Points of models trained alone.
    """
    figure, ax = _axes("Which shape for which budget?", x)
    for i, (name, points) in enumerate(groups.items()):
        dots, front = _at(points, x), [p for p in points if p.on_front]
        ax.plot(*_at(sorted(front, key=lambda p: getattr(p, x)), x), "-", color=f"C{i}", alpha=0.7)
        ax.plot(*dots, "osD^vP*"[i % 7], color=f"C{i}", label=name)
    if twins:
        ax.plot(*_at(twins, x), "x", color="black", label="twins trained alone")
    ax.legend(fontsize=8, frameon=False)
    return figure


def slices(points, named=(), twins=(), x="flops"):
    """Loss against cost of many dolls of one model, coloured by width.

    points, named, twins: Points, of dolls anywhere in the range, of those with a name (ringed), and of models
    trained alone (crosses). x: a cost.
    """
    figure, ax = _axes("Every doll of one model", x)
    dots = [*points, *named]
    widths = [p.size.n_embd for p in dots]
    shown = ax.scatter(*_at(dots, x), c=widths, cmap="viridis_r", s=22, label="sliced out of it")
    if named:
        ring = dict(facecolors="none", edgecolors="tab:red", linewidths=1.4)
        ax.scatter(*_at(named, x), s=110, label="the named ones", **ring)
    if twins:
        ax.scatter(*_at(twins, x), marker="x", color="black", s=45, label="trained alone")
    figure.colorbar(shown, ax=ax, label="width")
    ax.legend(fontsize=8, frameon=False)
    return figure
