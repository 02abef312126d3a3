"""What all figures share."""

import matplotlib.pyplot as plt
from matplotlib import colormaps

# a decorator: what a user or a tokenizer named, "$^$" too, is shown as it is and never read as a formula
plain_text = plt.rc_context({"text.parse_math": False})


def colors(n):
    """`n` colours, light for the smallest doll and dark for the largest."""
    return [colormaps["viridis_r"](0.08 + 0.92 * (i / (n - 1) if n > 1 else 1)) for i in range(n)]


def new_axes(title, xlabel, ylabel="validation loss, nats per token", width=7, height=4):
    """A figure with one plain, labelled pair of axes."""
    figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def name_of(x, names):
    """The label of the axis that `x` asks for. ValueError for one that is not among `names`."""
    if x not in names:
        raise ValueError(f"x={x!r} must be one of {', '.join(map(repr, names))}")
    return names[x]


def label(size, among=()):
    """Short name of a doll for a legend: its width alone where it says which of several is meant."""
    inner = lambda s: "" if s.n_inner == 4 * s.n_embd else f", {s.n_inner} inner"
    if len({(s.n_head, s.n_layer) for s in among}) == 1 and not any(map(inner, among)):
        return f"{size.n_embd} wide"
    count = lambda n, what: f"{n} {what}{'s' * (n > 1)}"
    return f"{size.n_embd} wide, {count(size.n_head, 'head')}, {count(size.n_layer, 'layer')}{inner(size)}"
