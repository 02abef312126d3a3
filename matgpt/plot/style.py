"""What all figures share."""

import matplotlib.pyplot as plt
from matplotlib import colormaps


def close(figure):
    """Forget a figure that was shown, so that a notebook does not draw it a second time."""
    plt.close(figure)


def colors(n):
    """`n` colours, light for the smallest doll and dark for the largest."""
    return [colormaps["viridis_r"](0.08 + 0.92 * (i / (n - 1) if n > 1 else 1)) for i in range(n)]


def new_axes(title, xlabel, ylabel, width=7, height=4):
    """A figure with one plain, labelled pair of axes."""
    figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def label(size):
    """Short name of a doll for a legend."""
    inner = "" if size.n_inner == 4 * size.n_embd else f", {size.n_inner} inner"
    return (
        f"{size.n_embd} wide, {size.n_head} head{'s' * (size.n_head > 1)}, "
        f"{size.n_layer} layer{'s' * (size.n_layer > 1)}{inner}"
    )
