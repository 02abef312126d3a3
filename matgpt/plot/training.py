"""How good the dolls of one model are, and how alike."""

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator, NullFormatter

from .style import colors, label, new_axes


def losses(history):
    """Loss of every doll against the step: validation as lines, training dotted."""
    figure, ax = new_axes("Loss of every doll in one run", "training step", "cross-entropy, nats per token")
    for size, color in zip(history.sizes, colors(len(history.sizes))):
        last = f"{label(size)}: {history.val[size][-1]:.3f}" if history.steps else label(size)
        ax.plot(history.steps, history.val[size], "o-", color=color, markersize=3, label=last)
        ax.plot(history.steps, history.train[size], ":", color=color, linewidth=1)
    ax.plot([], [], ":", color="gray", label="dotted: training text")
    # the first entry, near ln V, would flatten all that follows
    later = [v for s in history.sizes for d in (history.val, history.train) for v in d[s][1:]]
    if len(history.steps) > 2:
        spread = max(later) - min(later)
        ax.set_ylim(min(later) - 0.1 * spread, max(later) + 0.15 * spread)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize=8, frameon=False)
    return figure


def loss_against_params(params, doll, twin=None, title="One nested model beside twins trained alone"):
    """Validation loss against parameters: dolls of one model, and optionally twins trained alone.

    params: {size: count}; doll, twin: {size: [one loss per seed]}.
    """
    figure, ax = new_axes(title, "parameters of the doll", "validation loss, nats per token")
    for name, runs, style, color in (
        ("twins trained alone", twin, "s--", "tab:orange"),
        ("dolls of one nested model", doll, "o-", "tab:blue"),
    ):
        if runs:
            sizes = sorted(runs, key=params.get)
            means = [sum(runs[s]) / len(runs[s]) for s in sizes]
            errors = [
                [m - min(runs[s]) for s, m in zip(sizes, means)],
                [max(runs[s]) - m for s, m in zip(sizes, means)],
            ]
            ax.errorbar(
                [params[s] for s in sizes], means, errors, fmt=style, color=color, capsize=3, label=name
            )
            below = runs is doll and twin  # labels beside the error bars: twins right of theirs, dolls left
            for size, mean in zip(sizes, means):
                ax.annotate(
                    f"{mean:.3f}",
                    (params[size], mean),
                    textcoords="offset points",
                    fontsize=8,
                    color=color,
                    xytext=(-7, -10) if below else (7, 5),
                    ha="right" if below else "left",
                )
    ax.set_xscale("log")
    ax.set_xticks([params[s] for s in doll], [f"{params[s]:,}\n{s.n_embd} wide" for s in doll], fontsize=8)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(0.12, 0.2)
    ax.legend(fontsize=8, frameon=False)
    return figure


def agreement(found):
    """How often each doll's likeliest token is the full one's, and the KL divergence; from `matgpt.agreement`."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for ax, title, ylabel, values, form in (
        (
            axes[0],
            "Same next token as the full doll",
            "% of positions",
            [100 * a.same for a in found.values()],
            "%.1f",
        ),
        (axes[1], "KL (full || doll)", "nats per token", [a.kl for a in found.values()], "%.3f"),
    ):
        ax.bar_label(ax.bar(range(len(found)), values, color=colors(len(found))), fmt=form, fontsize=8)
        ax.set_xticks(range(len(found)), map(str, found), fontsize=8)
        ax.set(title=title, xlabel="width, heads, layers of the doll", ylabel=ylabel)
        ax.spines[["top", "right"]].set_visible(False)
    return figure
