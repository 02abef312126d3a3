"""How good the dolls of one model are, and how alike."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter

from .style import colors, label, name_of, new_axes, plain_text

SPENT = {"steps": "training step", "flops": "training FLOPs"}


def losses(history, x="steps"):
    """Loss of every doll in one run: validation as lines, training dotted. x: "steps" or "flops"."""
    figure, ax = new_axes("Loss at every size of one run", name_of(x, SPENT), "cross-entropy, nats")
    spent = getattr(history, x)
    for size, color in zip(history.sizes, colors(len(history.sizes))):
        name = label(size, history.sizes)
        last = f"{name}: {history.val[size][-1]:.3f}" if spent else name
        ax.plot(spent, history.val[size], "o-", color=color, markersize=3, label=last)
        ax.plot(spent, history.train[size], ":", color=color, linewidth=1)
    ax.plot([], [], ":", color="gray", label="dotted: training text")
    # the first entry, near ln V, would flatten all that follows
    later = [v for s in history.sizes for d in (history.val, history.train) for v in d[s][1:]]
    if len(spent) > 2:
        spread = max(later) - min(later)
        ax.set_ylim(min(later) - 0.1 * spread, max(later) + 0.15 * spread)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if x == "flops":
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.legend(fontsize=8, frameon=False)
    return figure


@plain_text
def loss_against_params(params, doll, twin=None, title="One nested model beside twins trained alone"):
    """Validation loss against parameters: the dolls of one model, and twins trained alone.

    params: {size: count}; doll, twin: {size: [one loss per seed]}.
    """
    figure, ax = new_axes(title, "parameters of the doll")
    families = (
        ("twins trained alone", twin, "s--", "tab:orange", doll),
        ("dolls of one nested model", doll, "o-", "tab:blue", twin or {}),
    )
    for name, runs, style, color, other in families:
        sizes = sorted(runs or {}, key=params.get)
        counts = [params[s] for s in sizes]
        means = [sum(runs[s]) / len(runs[s]) for s in sizes]
        below = [m - min(runs[s]) for s, m in zip(sizes, means)]
        above = [max(runs[s]) - m for s, m in zip(sizes, means)]
        if sizes:
            ax.errorbar(counts, means, [below, above], fmt=style, color=color, capsize=3, label=name)
        for s, at in zip(sizes, zip(counts, means)):  # lines fall: the higher of two has room on the right
            higher = at[1] >= np.mean(other.get(s, -np.inf))
            place = dict(xytext=(7, 5), ha="left") if higher else dict(xytext=(-7, -10), ha="right")
            ax.annotate(f"{at[1]:.3f}", at, textcoords="offset points", fontsize=8, color=color, **place)
    ax.set_xscale("log")
    ax.set_xticks([params[s] for s in doll], [f"{params[s]:,}\n{s.n_embd} wide" for s in doll], fontsize=8)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(0.12, 0.2)
    ax.legend(fontsize=8, frameon=False)
    return figure


def agreement(found):
    """How often each doll's likeliest token is the full one's, and the KL divergence: `matgpt.agreement`."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    same, kl = [100 * a.same for a in found.values()], [a.kl for a in found.values()]
    panels = (
        ("Same next token as the full doll", "% of positions", same, "%.1f"),
        ("KL (full || doll)", "nats per token", kl, "%.3f"),
    )
    for ax, (title, ylabel, values, form) in zip(axes, panels):
        ax.bar_label(ax.bar(range(len(found)), values, color=colors(len(found))), fmt=form, fontsize=8)
        ax.set_xticks(range(len(found)), map(str, found), fontsize=8)
        ax.set(title=title, xlabel="width, heads, layers of the doll", ylabel=ylabel)
        ax.spines[["top", "right"]].set_visible(False)
    return figure
