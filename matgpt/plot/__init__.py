"""Figures. Each function returns a matplotlib Figure; a notebook shows it, a program saves it."""
# ruff: noqa: F401

from .corners import nesting
from .embeddings import heat_maps, neighbours, retrieval, searches, shown
from .shapes import frontier, slices
from .style import close, colors, label
from .training import agreement, loss_against_params, losses
