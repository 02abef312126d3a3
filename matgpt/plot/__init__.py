"""Figures. Each function returns a matplotlib Figure; a notebook shows it, a program saves it."""
# ruff: noqa: F401

from .corners import nesting
from .embeddings import (
    adaptive,
    heat_maps,
    in_between,
    neighbours,
    overlap,
    pair_trends,
    retrieval,
    shown,
    token_similarity,
)
from .shapes import frontier, interpolation, loss_grid, slices
from .style import close, colors, label
from .training import agreement, loss_against_params, losses
