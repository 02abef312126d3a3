"""What all figures share."""

import matplotlib.pyplot as plt
from matplotlib import colormaps

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
    inner = [] if size.n_inner == 4 * size.n_embd else [f"{size.n_inner} inner"]
    return ", ".join([f"{size.n_embd} wide", *counts, *inner])
