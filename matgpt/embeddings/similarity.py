"""Which tokens are close at each size.

Token embeddings are (V, d), as `model.token_embeddings(size)` gives them; names are the V tokens as text.
"""

import torch

from ..config import positive
from .pooling import cut


def token_names(tokenizer):
    """The text of every token, V strings; a token that is only part of a character shows as "\ufffd"."""
    return [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]


def nearest_tokens(embeddings, token, d=None, k=8, among=None):
    """The k tokens nearest to one by cosine, itself left out, and their cosines: two lists, nearest first."""
    unit = cut(embeddings, embeddings.size(1) if d is None else d)
    row = unit @ unit[token]
    keep = torch.zeros(len(row), dtype=torch.bool)
    keep[list(range(len(row))) if among is None else among] = True
    keep[token] = False
    values, found = row.masked_fill(~keep, -torch.inf).topk(min(positive("k", k), int(keep.sum())))
    return found.tolist(), values.tolist()
