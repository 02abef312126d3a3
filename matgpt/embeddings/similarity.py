"""Which tokens are close at each size.

Token embeddings are (V, d), as `model.token_embeddings(size)` gives them.
"""

import torch

from ..config import positive
from .pooling import cut


def nearest_tokens(embeddings, token, d=None, k=8):
    """The k tokens nearest to one by cosine, itself left out, and their cosines: two lists, nearest first."""
    unit = cut(embeddings, embeddings.size(1) if d is None else d)
    row = unit @ unit[token]
    row[token] = -torch.inf
    values, found = row.topk(min(positive("k", k), len(row) - 1))
    return found.tolist(), values.tolist()
