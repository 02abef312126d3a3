"""Figures. Each function returns a matplotlib Figure; a notebook shows it, a program saves it."""
# ruff: noqa: F401

from matplotlib.pyplot import close  # so that a notebook does not draw again what was shown

from .corners import nesting
from .embeddings import heat_maps, neighbours, retrieval, searches
from .shapes import frontier, slices
from .style import colors, label
from .training import agreement, loss_against_params, losses
