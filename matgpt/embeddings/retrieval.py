"""Search among embeddings; BM25, PCA and rank fusion to compare it with; and the measures of retrieval.

Where answers are known, document i answers question i: their scores (Q, N) are on the diagonal.
"""

from collections import namedtuple

import torch

from ..sizes import positive
from .pairs import words
from .pooling import cut

Found = namedtuple("Found", "positions scores")  # of the k best documents, best first: (Q, k) or (k,) each


@torch.no_grad()
def search(embeddings, query, k=10, dims=None, shortlist=None):
    """Find the k documents nearest to each query by cosine; returns a `Found` of (positions, scores).

    embeddings: (N, D), one row per document. query: (Q, D), or (D,) for one query.
    dims: rank by the first `dims` dimensions; None: by all D.
    shortlist: rank the best `shortlist` documents again by all D (2205.13147, section 4.3.1); None: do not.
    For int8 or binary embeddings use `quantize_embeddings` of sentence-transformers; for an index, faiss.
    Raises ValueError unless the arrays are finite and of one width, and k, dims and shortlist at least 1.
    """
    try:
        embeddings, query = (torch.as_tensor(x, dtype=torch.float32) for x in (embeddings, query))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"embeddings and query must be arrays of numbers: {error}") from None
    queries = torch.atleast_2d(query).to(embeddings.device)
    two_axes = embeddings.dim() == queries.dim() == 2
    if not two_axes or not len(embeddings) or queries.size(1) != embeddings.size(1):
        shapes = f"embeddings {tuple(embeddings.shape)} and query {tuple(query.shape)}"
        raise ValueError(f"{shapes} must have shapes (N, D) and (Q, D) or (D,)")
    if not embeddings.isfinite().all() or not queries.isfinite().all():
        raise ValueError("embeddings and query must hold finite numbers, without NaN")
    N, D = embeddings.shape
    k, dims = min(positive("k", k), N), D if dims is None else dims
    scores = cut(queries, dims) @ cut(embeddings, dims).T  # (Q, N)
    if shortlist is None:
        scores, positions = scores.topk(k)
    else:
        positions = scores.topk(min(max(k, positive("shortlist", shortlist)), N)).indices
        scores, order = torch.einsum("qnd,qd->qn", cut(embeddings[positions], D), cut(queries, D)).topk(k)
        positions = positions.gather(1, order)
    return Found(positions.view(*query.shape[:-1], k), scores.view(*query.shape[:-1], k))


class BM25:
    """Okapi BM25 (Robertson and Zaragoza 2009) over the `words` of N documents, with Lucene's idf."""

    def __init__(self, documents, k1=1.2, b=0.75):
        texts = [words(document) for document in documents]
        self.ids = {word: i for i, word in enumerate(sorted(set().union(*texts)))}
        rows = [torch.tensor([self.ids[word] for word in text], dtype=torch.long) for text in texts]
        counts = torch.stack([row.bincount(minlength=len(self.ids)) for row in rows], 1).float()  # (words, N)
        lengths, df = counts.sum(0), (counts > 0).sum(1, keepdim=True)
        idf = torch.log1p((len(texts) - df + 0.5) / (df + 0.5))
        saturation = k1 * (1 - b + b * lengths / lengths.mean().clamp(min=1))
        self.weights = counts * (idf * (k1 + 1) / (counts + saturation))  # what a word of a query adds

    def __call__(self, queries):
        """Return the scores (Q, N) of the documents for each question."""
        rows = [[self.ids[word] for word in words(query) if word in self.ids] for query in queries]
        return torch.stack([self.weights[row].sum(0) for row in rows])


def places(scores):
    """Return the rank (Q, N), from 1, of each document; among equals the earlier one leads."""
    return 1 + scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def ranks(scores):
    """Return the rank (Q,), from 1, of document i for question i."""
    return places(scores).diagonal()


def shortlist_ranks(documents, queries, dims, shortlist):
    """Return the ranks (Q,) of the right answers in a `search` with a shortlist; 11 means later than 10."""
    positions = search(documents, queries, 10, dims, shortlist).positions  # (Q, 10)
    hits = positions == torch.arange(len(queries), device=positions.device)[:, None]
    return torch.where(hits.any(1), 1 + hits.int().argmax(1), 11)


def measures(ranks):
    """Return recall@1, recall@10, MRR@10 and nDCG@10 of the ranks (Q,) of the right answers."""
    ranks = ranks.double()
    in_ten = (ranks <= 10).double()
    means = [(ranks <= 1).double(), in_ten, in_ten / ranks, in_ten / torch.log2(1 + ranks)]
    names = "recall@1", "recall@10", "MRR@10", "nDCG@10"
    return {name: each.mean().item() for name, each in zip(names, means)}


def fuse(*scores, k=60):
    """Fuse several scores (Q, N) by reciprocal ranks (Cormack 2009): the sum of 1 / (k + rank), (Q, N)."""
    return sum(1 / (k + places(each).double()) for each in scores)


def pca(documents, queries):
    """Rotate both (N, D) to the principal axes of the documents, most variance first, ready for `cut`."""
    mean = documents.mean(0)
    axes = torch.linalg.eigh((documents - mean).T @ (documents - mean)).eigenvectors.flip(1)  # (D, D)
    return tuple((x - mean) @ axes for x in (documents, queries))


def by_dimension(documents, queries, dims, measure="recall@10"):
    """Return a measure of embeddings (N, D) and (N, D), each cut to its first d dimensions, for d in dims."""
    return [measures(ranks(cut(queries, d) @ cut(documents, d).T))[measure] for d in dims]
