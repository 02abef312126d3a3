"""Figures. Each function returns a matplotlib Figure; a notebook shows it, a program saves it."""
from .embeddings import adaptive, heat_maps, in_between, neighbours, overlap, pair_trends, retrieval, shown, token_similarity
from .shapes import frontier, interpolation, loss_grid
from .training import agreement, loss_against_params, losses
from .corners import nesting
from .style import close, colors, label
