"""Search among embeddings: rank by the first dimensions, then rank a shortlist by all of them."""

from typing import NamedTuple

import torch

from ..config import positive
from .pooling import cut


class Found(NamedTuple):
    """The k best documents of each query, best first: their positions and their cosines, (Q, k) or (k,)."""

    positions: torch.Tensor
    scores: torch.Tensor


@torch.no_grad()
def search(embeddings, query, k=10, dims=None, shortlist=None):
    """Find the k documents nearest to each query by cosine; returns a `Found` of (positions, scores).

    embeddings: (N, D), one row per document. query: (Q, D), or (D,) for one query.
    dims: rank by the first `dims` dimensions; None: by all D.
    shortlist: rank the best `shortlist` documents again by all D (2205.13147, section 4.3.1, adaptive
        retrieval); None: rank once.
    For int8 or binary embeddings use `quantize_embeddings` of sentence-transformers; for an index, faiss.
    Raises ValueError unless the arrays are finite and of one width, and k, dims and shortlist at least 1.
    """
    embeddings, query = _floats("embeddings", embeddings), _floats("query", query)
    if embeddings.dim() != 2 or not len(embeddings):
        raise ValueError(f"embeddings has shape {tuple(embeddings.shape)}: it must be (N, D)")
    N, D = embeddings.shape
    if query.dim() not in (1, 2) or query.size(-1) != D:
        raise ValueError(f"query has shape {tuple(query.shape)}: it must be (Q, D) or (D,) with D={D}")
    queries, k = query.reshape(-1, D).to(embeddings.device), min(positive("k", k), N)
    dims = D if dims is None else positive("dims", dims)
    if dims > D:
        raise ValueError(f"dims={dims} must be at most {D}, the dimensions of the embeddings")
    scores = cut(queries, dims) @ cut(embeddings, dims).T  # (Q, N)
    if shortlist is None:
        scores, positions = scores.topk(k)
    else:
        positions = scores.topk(min(max(k, positive("shortlist", shortlist)), N)).indices
        scores, order = torch.einsum("qnd,qd->qn", cut(embeddings[positions], D), cut(queries, D)).topk(k)
        positions = positions.gather(1, order)
    return Found(positions.view(*query.shape[:-1], k), scores.view(*query.shape[:-1], k))


def _floats(name, values):
    """Return values as a float32 tensor. Raises ValueError, naming them, unless they are finite numbers."""
    try:
        values = torch.as_tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name}={values!r:.40} must be numbers") from None
    if not values.isfinite().all():
        raise ValueError(f"{name} must hold finite numbers, without NaN")
    return values
